"""The examples run from beginning to end, with fewer rows and steps."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fairsvd.base import EDITORS, QUICK
from fairsvd.datasets import load_biased_digits
from fairsvd.exceptions import DatasetNotFoundError
from helpers import last_wins, mlp, table

FOLDER = Path(__file__).parents[1] / "examples"
SMALL = {"EPOCHS": 2, "MAX_STEPS": 30, "N_EDIT": 200, "N_TEST": 100, "N_TRAIN": 200}

pytestmark = pytest.mark.filterwarnings("ignore::fairsvd.exceptions.FairsvdWarning")


def shrunk(source: str, small: dict[str, int] = SMALL) -> str:
    """Replace the settings at the top of an example by small ones."""
    settings = re.compile(r"^([A-Z_, ]+) = ([\d_, ]+)$", re.MULTILINE)
    found: list[str] = []

    def smaller(match: re.Match[str]) -> str:
        names = [name.strip() for name in match[1].split(",")]
        found.extend(set(names) & set(small))
        values = [value.strip() for value in match[2].split(",")]
        pairs = zip(names, values, strict=True)
        return f"{match[1]} = {', '.join(str(small.get(n, v)) for n, v in pairs)}"

    made = settings.sub(smaller, source)
    assert "MAX_STEPS" in found
    return made


def run(name: str, small: dict[str, int] = SMALL) -> dict[str, object]:
    path = FOLDER / name
    space: dict[str, object] = {"__name__": "__main__"}
    exec(compile(shrunk(path.read_text(), small), str(path), "exec"), space)
    return space


# Those that have a test of their own below.
LOOKED_AT = {"compare_mitigators", "own_editor", "skin_lesions", "tinted_fashion"}
OTHERS = sorted({p.stem.removeprefix("plot_") for p in FOLDER.glob("plot_*.py")} - LOOKED_AT)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_example_prints_and_draws(name: str, capsys: pytest.CaptureFixture[str]):
    from matplotlib import pyplot

    run(f"plot_{name}.py", SMALL | {"N_TRAIN": 1000, "MAX_STEPS": 10})
    assert capsys.readouterr().out
    assert pyplot.get_fignums()


def test_the_gallery_is_as_large_as_the_documentation_says():
    assert len(OTHERS) + len(LOOKED_AT) == len(list(FOLDER.glob("plot_*.py"))) >= 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [("given_network", "drawn bars and a network"), ("text", "MiniLM is not installed")],
)
def test_what_stands_in_is_said(name, said, monkeypatch, tmp_path, capsys):
    """Where a network's weights or an encoder are missing, the script says what it takes."""
    monkeypatch.setenv("FAIRSVD_DATA", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    run(f"plot_{name}.py", SMALL | {"MAX_STEPS": 10})
    assert said in capsys.readouterr().out


def digits_for_clothes(*, subset: str, classes: tuple[int, ...]) -> object:
    """Give digits, doubled in size, in the place of Fashion-MNIST."""
    digits = load_biased_digits(classes=(3, 8))
    images = (digits.images.max(axis=1) * 255).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    digits.images, digits.target = images, np.where(digits.target == 8, classes[1], classes[0])
    return digits


@pytest.mark.slow
def test_tinted_fashion(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    import fairsvd.datasets

    monkeypatch.setattr(fairsvd.datasets, "load_fashion_mnist", digits_for_clothes)
    space = run("plot_tinted_fashion.py")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["weighs", "before:", "after:"]
    assert len(space["sheet"].images) == 32
    assert len(space["candidates"].collections) > 3


@pytest.mark.slow
def test_skin_lesions(capsys: pytest.CaptureFixture[str]):
    try:
        space = run("plot_skin_lesions.py")
    except DatasetNotFoundError as missing:
        pytest.skip(str(missing))
    text = capsys.readouterr().out
    assert "Exactly equal treatment would show" in text
    assert text.index("before\n") < text.index("after\n")
    assert len(space["sheet"].get_yticklabels()) == 8
    assert len(space["candidates"].collections) > 3


@pytest.mark.slow
def test_compare_mitigators(capsys: pytest.CaptureFixture[str]):
    try:
        space = run("plot_compare_mitigators.py")
    except DatasetNotFoundError as missing:
        pytest.skip(str(missing))
    text = capsys.readouterr().out
    assert not space["found"].failed.any()
    assert "psi" in text and "tpr change Caucasian" in text
    assert len(space["ax"].containers) == 7


def test_own_editor(capsys: pytest.CaptureFixture[str]):
    try:
        space = run("plot_own_editor.py")
    finally:
        # The example registers its editor, which is none of the package's.
        kind = EDITORS.pop("AnchoredFineTuner")
        del QUICK["AnchoredFineTuner"]
    assert sorted(space["table"]["method"].unique()) == ["free", "held", "untouched"]
    assert "psi" in capsys.readouterr().out
    ones, zeros = {"w": torch.ones(3)}, {"w": torch.zeros(3)}
    assert float(space["penalise_change"](2.0, zeros, ones)) == 3.0
    rows, network = table(), mlp()
    settings = {"gap_weight": 1.0, "max_steps": 40, "random_state": 0}
    moved = []
    for strength in (1e3, 0.0):
        editor = last_wins(kind)(network, strength=strength, **settings)
        edited = editor.fit(rows.X, rows.y, sensitive_features=rows.group).module_
        pairs = zip(edited.parameters(), network.parameters(), strict=True)
        moved.append(sum(float((a - b).detach().square().sum()) for a, b in pairs))
    assert moved[0] < moved[1] / 100
