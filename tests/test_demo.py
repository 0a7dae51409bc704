"""The demo: what it prints, draws and refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import (
    equalized_odds_difference,
)
from sklearn.metrics import balanced_accuracy_score

from cli_output import RATES, run, tables
from fairsvd import FairLRFTransformer
from fairsvd._rng import stage_rng
from fairsvd.cli import _demo
from fairsvd.cli._tasks import Rows, Task, load_task
from fairsvd.datasets import load_biased_digits
from fairsvd.objective import GAPS, count_table
from fairsvd.report import gap_estimates

pytestmark = pytest.mark.slow


@pytest.fixture
def small_task(monkeypatch) -> Task:
    """Put rows on which one group is labelled positive more often in the place of the demo's."""
    rng = np.random.default_rng(3)
    group = rng.integers(2, size=3000)
    X = rng.normal(size=(3000, 4)).astype(np.float32)
    X[:, 1] += group
    labels = (X[:, 0] + group + rng.normal(size=3000) > 0.5).astype(np.int64)
    y = pd.Series(labels, index=pd.Index(np.array(["p", "q"])[group], name="kind"))
    task = Task(("Data     drawn",), Rows(X[:1500], y[:1500]), Rows(X[1500:], y[1500:]), [])
    monkeypatch.setattr(_demo, "load_task", lambda name, seed: task)
    return task


@pytest.fixture
def demo(capsys, small_task, tmp_path):
    """Run the demo on the small task."""
    return lambda *argv: run(
        capsys,
        "demo",
        "--plot",
        tmp_path / "plots" / "p.png",
        "--report",
        tmp_path / "r.html",
        "--max-steps",
        40,
        *argv,
    )


def test_the_demo_shows_and_draws_what_changed(demo, small_task, tmp_path):
    status, out, err = demo("--constraint", "demographic_parity", "--tolerance", "0.2")
    assert (status, err) == (0, "")
    found = tables(out)
    path = tmp_path / "plots" / "p.png"
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    for text in ("FairLRF-style", str(path), "MLP", "Chosen: candidate", "Time: training"):
        assert text in out
    said = re.search(r"Chosen: candidate (\d+) of \d+, stage (masks|settle), ", out)
    assert said and re.search(r"alpha 0\.\d+, step\s\d+", out)
    held = small_task.held_out.y
    assert [row[:2] for row in found["kind"][1:]] == [
        [name, f"{(held.index == name).sum():,}"] for name in "pq"
    ]
    assert len(found["gap"]) == 1 + len(GAPS)
    assert [row[0] for row in found["layer"][1:]] == ["hidden.0", "hidden.2"]
    untouched, _, edited = found[""][1:]
    assert float(edited[-1]) < float(untouched[-1])
    line, parity = verdict(out, "demographic parity")
    assert line == (
        f"Asked for: demographic parity of at most 0.2; on the held-out rows {parity}, met"
    )


def verdict(out, name):
    """The line that says whether the gap was met, and the gap on which it says so."""
    (line,) = [line for line in out.splitlines() if line.startswith("Asked for")]
    return line, next(row for row in tables(out)["gap"] if row[0] == name)[3]


@pytest.mark.filterwarnings("ignore::fairsvd.exceptions.FairsvdWarning")
def test_the_demos_numbers_are_those_of_the_estimator(demo, small_task):
    out = demo("--seed", "4", "--tolerance", "0.001")[1]
    line, odds = verdict(out, "equalized odds")
    assert line == (
        f"Asked for: equalized odds of at most 0.001; on the held-out rows {odds}, not met"
    )
    found = tables(out)
    fit, held = small_task.fit, small_task.held_out.y
    shared = {"sensitive_columns": "kind", "random_state": 4, "tolerance": 0.001}
    plain = FairLRFTransformer(sparsity=0, refine=None, threshold=0.5, **shared)
    plain.fit(fit.X, fit.y)
    edited = FairLRFTransformer(plain.module_, max_steps=40, **shared).fit(fit.X, fit.y)
    X = small_task.held_out.X
    before, after = plain.predict(X), edited.predict(X)
    for k, (name, metric) in enumerate(RATES.items(), start=2):
        for row in found["kind"][1:]:
            own = held.index == row[0]
            values = [metric(held[own], predicted[own]) for predicted in (before, after)]
            assert row[k] == " -> ".join(f"{value:.3f}" for value in values), name
    tuned = FairLRFTransformer(plain.module_, sparsity=0, refine=None, **shared)
    moved = tuned.fit(fit.X, fit.y).predict(X)
    assert (moved != before).any()
    for row, p in zip(found[""][1:], (before, moved, after), strict=True):
        odds = equalized_odds_difference(held, p, sensitive_features=held.index)
        worst = min(
            (p == held)[(held == k) & (held.index == g)].mean() for k in (0, 1) for g in "pq"
        )
        values = [(p == held).mean(), balanced_accuracy_score(held, p), worst, odds]
        assert row[1:] == [f"{value:.3f}" for value in values]
    assert [row[0] for row in found[""][1:]] == [
        "untouched network", "only its threshold tuned", "edited network",
    ]  # fmt: skip
    group = (held.index == "q").astype(int)
    rng = stage_rng(4, "bootstrap")
    first, second = (
        gap_estimates(count_table(held.to_numpy(), p, group, 2, 2), 1, rng) for p in (before, after)
    )
    for row, name in zip(found["gap"][1:], GAPS, strict=True):
        one, two = first.loc[name], second.loc[name]
        assert row == [
            name.replace("_", " "),
            f"{one['difference']:.3f}",
            f"{one['low']:.3f} to {one['high']:.3f}",
            f"{two['difference']:.3f}",
            f"{two['low']:.3f} to {two['high']:.3f}",
            f"{two['noise_floor']:.3f}",
        ]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--plot", "plot.txt"], "plot.txt must end in one of"),
        (["--tolerance", "2"], "'tolerance'"),
        (["--max-steps", "0"], "'max_steps'"),
    ],
)
def test_the_demo_refuses_options_out_of_range(demo, argv, complaint):
    status, _, err = demo(*argv)
    assert status == 2
    assert complaint in err and err.count("\n") == 1


@pytest.fixture
def nothing_there(monkeypatch, tmp_path):
    """No data in the user's folder, none in the cache, and no network."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("FAIRSVD_DATA", str(tmp_path))
    monkeypatch.setenv("FAIRSVD_CACHE", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.usefixtures("nothing_there")
def test_the_demo_says_where_adult_would_have_to_be(capsys, tmp_path):
    status, _, err = run(capsys, "demo", "--data", "adult", "--plot", tmp_path / "p.png")
    assert status == 2
    assert "adult/adult.data was not found" in err and err.count("\n") == 1


@pytest.mark.usefixtures("nothing_there")
def test_digits_stand_in_where_adult_is_not(monkeypatch):
    task = load_task("auto", 0)
    assert "digits" in task.about[0]
    monkeypatch.delenv("FAIRSVD_DATA")
    assert "digits" in load_task("auto", 0).about[0]


def test_held_out_digits_are_shown_in_both_colours():
    task = load_task("digits", 0)
    colors = np.asarray(task.held_out.y.index)
    grey = task.held_out.X.sum(axis=1)
    red, blue = (grey[colors == color] for color in ("red", "blue"))
    np.testing.assert_array_equal(red, blue)
    assert task.held_out.X[colors == "red", 2].max() == 0
    assert task.held_out.X[colors == "blue", 0].max() == 0
    np.testing.assert_array_equal(
        task.held_out.y[colors == "red"].to_numpy(), task.held_out.y[colors == "blue"].to_numpy()
    )
    assert len(task.fit.y) + len(red) == len(load_biased_digits().target)
    seen = {image.tobytes() for image in task.fit.X.sum(axis=1)}
    assert sum(image.tobytes() in seen for image in red) == 0
    aligned = (np.asarray(task.fit.y.index) == "blue") == (task.fit.y.to_numpy() == 1)
    assert aligned.mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.usefixtures("data_folder")
def test_adult_is_split_within_cells_and_sex_is_no_feature():
    task = load_task("auto", 0)
    assert "Adult" in task.about[0]
    assert "sex" not in task.fit.X.columns and "race" in task.fit.X.columns
    assert not set(task.fit.X.index) & set(task.held_out.X.index)
    shares = [
        rows.y.groupby(rows.y.index).agg(["mean", "size"]) for rows in (task.fit, task.held_out)
    ]
    np.testing.assert_allclose(shares[0]["mean"], shares[1]["mean"], atol=1e-3)
    np.testing.assert_allclose(shares[1]["size"] / 3, shares[0]["size"] / 7, rtol=1e-3)


@pytest.mark.slow
def test_the_demo_on_digits(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("fairsvd.networks._default.MAX_STEPS", 300)
    plot = tmp_path / "digits.png"
    status, out, err = run(capsys, "demo", "--data", "digits", "--plot", plot, "--max-steps", 80)
    assert (status, err) == (0, "")
    assert plot.stat().st_size > 10_000
    untouched, _, edited = tables(out)[""][1:]
    assert float(edited[-1]) < float(untouched[-1])
    assert float(edited[3]) > float(untouched[3])  # the worst cell


@pytest.mark.slow
@pytest.mark.usefixtures("data_folder")
def test_the_demo_on_adult_in_its_own_process(tmp_path):
    command = [sys.executable, "-W", "error", "-c", "from fairsvd.cli import main; exit(main())"]
    done = subprocess.run(
        [*command, "demo", "--data", "adult", "--plot", "a.png", "--max-steps", "60"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MPLBACKEND": "TkAgg"},  # no window is there, and none is needed
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    untouched, _, edited = tables(done.stdout)[""][1:]
    assert float(edited[-1]) < 0.8 * float(untouched[-1])
    assert float(edited[3]) > float(untouched[3])  # the worst cell
