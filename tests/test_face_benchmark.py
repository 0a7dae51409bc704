"""The benchmark of images on a network that was trained elsewhere, and its short controls."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark_files import load
from fairsvd.exceptions import DatasetNotFoundError

RACES = ("Black", "East Asian", "Indian", "Latino_Hispanic", "Middle Eastern", "South", "White")
RANGES = ("0-2", "10-19", "20-29", "3-9", "30-39", "40-49", "50-59", "60-69", "more than 70")
AGES = ("0-9", "10-19", "20-29", "30-49", "50+")
NETWORK = """
from torch import nn
def gender_net():
    return nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(12, 2))
"""


@pytest.fixture
def coloured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A FAIRSVD_DATA of plain images: red and green number the row, blue is 200 in ``val``."""
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setenv("FAIRSVD_DATA", str(tmp_path))
    for folder in ("fairface", "nets"):
        (tmp_path / folder).mkdir()
    (tmp_path / "nets" / "gender_net.py").write_text(NETWORK)
    lines = ["path,age,sex,race,service_test"]
    with zipfile.ZipFile(tmp_path / "fairface" / "images.zip", "w") as archive:
        for row in range(700):
            folder, sex = "val" if row >= 560 else "train", ("Male", "Female")[row // 7 % 2]
            age = RANGES[row // 14 % 9]
            lines.append(f"{folder}/{row}.png,{age},{sex},{RACES[row % 7]},True")
            color = row % 256, row // 256, 200 if folder == "val" else 0
            buffer = io.BytesIO()
            image.new("RGB", (64, 64), color).save(buffer, format="PNG")
            archive.writestr(f"{folder}/{row}.png", buffer.getvalue())
    (tmp_path / "fairface" / "labels.csv").write_text("\n".join(lines))
    return tmp_path


def numbers(rows: object) -> np.ndarray:
    """Read the row numbers off the colours."""
    return (rows.X[:, 0, 0, 0] + 256 * rows.X[:, 1, 0, 0]).astype(int)


def quick_problem(seed: int = 3, dev: bool = False):
    tasks = load("fairness.image_tasks")
    return tasks.load_problem("faces-gender", "as-is", seed, dev=dev, quick=True)


@pytest.mark.parametrize("dev", [False, True])
def test_faces_are_read_and_parted_by_folder(coloured: Path, dev: bool) -> None:
    problem = quick_problem(dev=dev)
    parts = problem.train, problem.validation, problem.test
    assert problem.groups == RACES and problem.n_classes == 2 and problem.base is None
    assert [len(part.y) for part in parts] == [180, 60, 200 if dev else 140]
    for part, blue in zip(parts, (0, 0, 0 if dev else 200), strict=True):
        assert part.X.shape[1:] == (3, 32, 32) and part.X.dtype == np.float32
        assert (part.X[:, 2] == blue).all()
        np.testing.assert_array_equal(part.y, numbers(part) // 7 % 2 == 0)  # a man is 1
        np.testing.assert_array_equal(part.g, numbers(part) % 7)
    found = np.concatenate([numbers(part) for part in parts])
    assert len(np.unique(found)) == len(found)
    # As many rows of every cell, up to rounding: 240 of 14 cells that are equally large.
    cells = np.concatenate([part.y * 7 + part.g for part in parts[:2]])
    assert set(np.bincount(cells)) <= {17, 18}


def test_faces_have_groups_of_age(coloured: Path) -> None:
    problem = load("fairness.image_tasks").load_problem("faces-gender-age", "as-is", 3, quick=True)
    assert problem.groups == AGES
    of_range = np.array([0, 1, 2, 0, 3, 3, 4, 4, 4])
    for part in (problem.train, problem.validation, problem.test):
        np.testing.assert_array_equal(part.g, of_range[numbers(part) // 14 % 9])
        np.testing.assert_array_equal(part.y, numbers(part) // 7 % 2 == 0)


def test_the_seed_draws_the_editing_rows_and_development_keeps_them(coloured: Path) -> None:
    one, dev, other = quick_problem(3), quick_problem(3, dev=True), quick_problem(4)
    np.testing.assert_array_equal(one.train.X, dev.train.X)
    np.testing.assert_array_equal(one.validation.X, dev.validation.X)
    assert set(numbers(one.train)) != set(numbers(other.train))


def test_a_side_is_halved_by_interpolation(coloured: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(256, size=(64, 64, 3)).astype(np.uint8)
    with zipfile.ZipFile(coloured / "fairface" / "images.zip", "a") as archive:
        buffer = io.BytesIO()
        image.fromarray(pixels).save(buffer, format="PNG")
        archive.writestr("train/drawn.png", buffer.getvalue())
    (X,) = load("fairness.faces").decoded(["train/drawn.png"])
    image_now = torch.from_numpy(pixels).permute(2, 0, 1).float()[None]
    settings = {"mode": "bilinear", "antialias": True}
    (wanted,) = torch.nn.functional.interpolate(image_now, (32, 32), **settings)
    np.testing.assert_allclose(X, wanted, atol=1)  # Pillow rounds


def test_what_is_missing_is_named(coloured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (coloured / "nets" / "gender_net.py").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"needs nets/gender_net\.py; looked for /"):
        quick_problem()
    monkeypatch.delenv("FAIRSVD_DATA")
    with pytest.raises(DatasetNotFoundError, match=r"fairface/labels\.csv.*not set"):
        quick_problem()


def test_the_given_network_is_the_base_network(coloured: Path) -> None:
    problem = quick_problem()
    before = [p.clone() for p in problem.network.parameters()]
    context = load("fairness.bench_images").prepare(problem)
    assert context.network is problem.network and not context.network.training
    load("fairness.controls").SHORT["short-soft-gap"].run(context, "equalized_odds")
    assert all(map(torch.equal, before, problem.network.parameters()))


def test_dlib_s_network_knows_most_faces(data_folder: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("PIL")
    for path in ("fairface/labels.csv", "nets/gender_net.py"):
        if not (data_folder / path).is_file():
            pytest.skip(f"FAIRSVD_DATA has no {path}")
    problem = quick_problem(dev=True)
    scores = load("nets").margins(problem.network, problem.test.X)
    assert np.mean((scores > 0) == problem.test.y) > 0.75


def test_the_gap_of_a_batch_is_its_equalized_odds() -> None:
    passes = load("passes")
    rng = np.random.default_rng(0)
    positive, y, g = rng.random(60), rng.integers(2, size=60), rng.integers(3, size=60)
    y[g == 2] = 0  # the batch has no row of this cell
    rates = [
        [positive[(y == label) & (g == k)].mean() for k in range(3 - label)] for label in (0, 1)
    ]
    tensors = [torch.from_numpy(column) for column in (positive, y, g)]
    assert float(passes.batch_gap(*tensors)) == pytest.approx(sum(map(np.ptp, rates)))
    negatives = [column[y == 0] for column in tensors]
    assert float(passes.batch_gap(*negatives)) == pytest.approx(np.ptp(rates[0]))


def test_the_penalty_of_short_fine_tuning_narrows_the_gap() -> None:
    passes, nets = load("passes"), load("nets")
    rng = np.random.default_rng(0)
    y, g = rng.integers(2, size=(2, 600))
    X = np.stack([y + rng.normal(size=600), g - 0.5], axis=1).astype(np.float32)
    network = torch.nn.Linear(2, 2)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
    rows = load("tasks").Rows(X, y, g)
    gaps = []
    for penalty in (0.0, 5.0):
        tuned = passes.short_fine_tune(network, rows, penalty=penalty, seed=0, rate=1e-2)
        probability = torch.from_numpy(nets.margins(tuned, X)).sigmoid()
        gaps.append(float(passes.batch_gap(probability, torch.from_numpy(y), torch.from_numpy(g))))
    assert gaps[1] < 0.8 * gaps[0]


def test_the_table_has_psi(coloured: Path, tmp_path: Path) -> None:
    bench, out, table = load("fairness.bench_images"), tmp_path / "r.jsonl", tmp_path / "t.md"
    names = ["untouched", "short-fine-tuning", "short-soft-gap"]
    place = ["--out", str(out), "--table", str(table)]
    picked = ["--tasks", "faces-gender", "--methods", ",".join(names)]
    bench.main(["--quick", "--dev", "--seeds", "1", *picked, *place])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["method"] for row in rows] == names and not any(row["error"] for row in rows)
    head, line = (
        next(text for text in table.read_text().splitlines() if text.startswith(f"| {first} |"))
        for first in ("method", "five epochs, soft gap")
    )
    at = head.split(" | ").index("psi")
    assert line.split(" | ")[at] == f"{rows[2]['psi']:.3f}"
    assert bench.completed(rows[2])["psi"] == rows[2]["psi"]
    assert bench.completed({**rows[2], "notes": {"epochs": 7.5}})["epochs"] == 7.5
