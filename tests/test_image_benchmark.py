"""The benchmark of images: its rows, its measures of ten classes, its controls and tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark_files import load
from fairsvd.metrics import fairness_score


def drawn_rows(n: int = 600, n_classes: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    y, g = rng.integers(n_classes, size=n), rng.integers(3, size=n)
    X = rng.random((n, 3, 8, 8)).astype(np.float32)
    return load("tasks").Rows(X, y, g), rng.integers(n_classes, size=n)


def test_digits_are_split_once_and_tinted_as_the_form_says() -> None:
    tasks = load("fairness.image_tasks")
    biased, even = (tasks.load_problem("tinted-digits", form, 3) for form in tasks.FORMS[:2])
    sizes = [len(part.y) for part in (biased.base, biased.train, biased.validation, biased.test)]
    assert sum(sizes) == 1797
    assert biased.n_classes == 10 and len(biased.groups) == 3
    for rows, share in ((biased.base, 0.9), (biased.train, 0.9), (biased.test, 1 / 3)):
        assert np.mean(rows.g == rows.y % 3) == pytest.approx(share, abs=0.03)
    assert np.mean(even.train.g == even.train.y % 3) == pytest.approx(1 / 3, abs=0.03)
    np.testing.assert_array_equal(even.base.X, biased.base.X)
    np.testing.assert_array_equal(biased.unbiased.X.max(axis=1), biased.base.X.max(axis=1))
    dev = tasks.load_problem("tinted-digits", "biased", 3, dev=True)
    tested = {row.tobytes() for row in biased.test.X.max(axis=1)}
    assert not tested & {row.tobytes() for row in dev.test.X.max(axis=1)}


def test_pairs_show_every_image_in_both_colours() -> None:
    tasks, grey = load("fairness.image_tasks"), np.random.default_rng(0).random((6, 4, 4))
    labels = np.array([0, 1] * 3)
    rows = tasks.tinted(grey, labels, 0.5, 0)
    pairs = tasks.in_both_colours(rows)
    assert len(pairs.y) == 12 and not np.array_equal(pairs.X[:6], pairs.X[6:])
    for code in (0, 1):
        shown = pairs.X[pairs.g == code]
        order = np.argsort(pairs.y[pairs.g == code], kind="stable")
        lit = shown[order].max(axis=(2, 3)) > 0
        np.testing.assert_array_equal(lit[:, [0, 2]], np.tile([code == 0, code == 1], (6, 1)))
        assert sorted(pairs.y[pairs.g == code]) == sorted(labels)
    brightest = np.sort(pairs.X.max(axis=1).reshape(12, -1), axis=0)
    twice = np.sort(np.concatenate([grey, grey]).reshape(12, -1), axis=0)
    np.testing.assert_allclose(brightest, twice, atol=1e-6)


@pytest.mark.parametrize("constraint", ["equalized_odds", "demographic_parity"])
def test_the_gap_of_many_classes_is_the_package_s(constraint: str) -> None:
    many = load("fairness.many")
    rows, predicted = drawn_rows()
    measured = many.evaluate(predicted, rows, constraint)
    name = f"{constraint}_difference"
    assert measured[name] == pytest.approx(
        fairness_score(name, rows.y, predicted, sensitive_features=rows.g)
    )
    worst = min(
        np.mean(predicted[(rows.y == y) & (rows.g == g)] == y) for y in range(4) for g in range(3)
    )
    assert measured["worst_cell"] == pytest.approx(worst)
    assert measured["accuracy"] == np.mean(predicted == rows.y)


def test_the_soft_gap_of_certain_predictions_is_the_hard_one() -> None:
    many = load("fairness.many")
    y = torch.arange(4).repeat_interleave(30)
    g = torch.arange(120) % 3
    rng = np.random.default_rng(0)
    predicted = torch.from_numpy(rng.integers(4, size=120))
    certain = torch.nn.functional.one_hot(predicted, 4).double()
    counts = many.counted(predicted.numpy(), load("tasks").Rows(None, y.numpy(), g.numpy()))
    hits, own = np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2)
    rates = hits / own, (counts.sum(axis=1) - hits) / (40 - own)
    wanted = sum(np.ptp(rate, axis=0).mean() for rate in rates)
    assert float(many.soft_gap(certain, y, g)) == pytest.approx(wanted)


def test_scarce_cells_decide_how_controls_weigh() -> None:
    bench, rows = load("fairness.bench_images"), load("tasks").Rows
    cells = np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], [90, 10, 10, 90], axis=0)
    assert bench.is_scarce(rows(None, cells[:, 0], cells[:, 1]))
    cells = np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], [60, 40, 40, 60], axis=0)
    assert not bench.is_scarce(rows(None, cells[:, 0], cells[:, 1]))


def test_larger_images_get_a_residual_network() -> None:
    bench, tasks = load("fairness.bench_images"), load("fairness.image_tasks")
    rows, _ = drawn_rows(n=4)
    large = tasks.enlarged(rows)
    assert large.X.shape == (4, 3, 64, 64) and large.X.dtype == np.float32
    assert large.y is rows.y and large.g is rows.g
    # Between pixels: eight times as many each way leave the mean where it is.
    np.testing.assert_allclose(large.X.mean(axis=(2, 3)), rows.X.mean(axis=(2, 3)), atol=0.03)
    small, deep = (bench.network_like(part, 0, 2) for part in (rows, large))
    convolutions = [
        sum(isinstance(part, torch.nn.Conv2d) for part in net.modules()) for net in (small, deep)
    ]
    assert convolutions == [3, 20]
    for net, part in ((small, rows), (deep, large)):
        assert net.eval()(torch.from_numpy(part.X)).shape == (4, 2)
    again = bench.network_like(large, 0, 2).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in deep.state_dict().items())


def test_selection_leaves_the_untouched_network_only_for_something_better() -> None:
    many = load("fairness.many")
    rows, _ = drawn_rows(n=240, n_classes=3)
    network = load("nets").convnet(3, 0, 8, 3)
    context = many.ManyContext(network, rows, rows, rows.X, rows.g, ("a", "b", "c"), 0)
    truth = {row.tobytes(): y for row, y in zip(rows.X, rows.y, strict=True)}

    def perfect(X: np.ndarray) -> np.ndarray:
        return np.eye(3)[[truth[row.tobytes()] for row in X]]

    def constant(X: np.ndarray) -> np.ndarray:
        return np.eye(3)[np.zeros(len(X), int)]

    outcome, winner = context.select([constant, perfect], "equalized_odds")
    assert winner == 2 and outcome.notes["met"]
    np.testing.assert_array_equal(outcome.predictions, rows.y)


@pytest.mark.slow
def test_runs_in_pieces_and_writes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("fairness.bench_images")
    out, table = tmp_path / "rows.jsonl", tmp_path / "table.md"
    base = ["--quick", "--seeds", "1", "--tasks", "tinted-digits", "--forms", "biased"]
    base += ["--out", str(out), "--table", str(table), "--resume"]

    def broken(context: object, constraint: str) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setitem(bench.MANY_CLASSES, "gap", bench.Method(broken, False, "broken"))
    bench.main([*base, "--methods", "untouched"])
    bench.main([*base, "--methods", "untouched,last-layer,fairlrf-curvature,gap"])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    names = ["untouched", "last-layer", "gap", "fairlrf-curvature"]
    assert [row["method"] for row in rows] == names
    assert rows[2]["error"] == "RuntimeError: out of luck"
    assert all(row["balance"] == "cells" for row in rows)
    text = table.read_text()
    assert "### tinted-digits, editing rows biased" in text
    assert f"| untouched | {rows[0]['accuracy']:.3f} |" in text
    assert "failed: RuntimeError: out of luck" in text
