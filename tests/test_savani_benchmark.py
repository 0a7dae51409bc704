"""The rerun of Savani et al.: its data, its measures, its table."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from benchmark_files import load


@pytest.fixture
def bench() -> ModuleType:
    return load("savani.bench_savani")


def small_problem(tasks: ModuleType, name: str = "compas-race", seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    parts = []
    for n in (320, 160, 160):
        X = rng.normal(size=(n, 4)).astype(np.float32)
        g = rng.integers(2, size=n)
        y = (X[:, 0] + g + rng.normal(size=n) > 0.5).astype(np.int64)
        parts.append(tasks.Rows(X, y, g))
    return tasks.Problem(name, "with-group", seed, ("others", "Caucasian"), *parts)


def test_a_table_is_split_60_20_20_and_standardised_by_its_training_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pd = pytest.importorskip("pandas")
    data = load("savani.data")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"number": rng.normal(5, 2, 105), "job": rng.choice(["a", "b"], 105)})
    frame.loc[:4, "job"] = None
    names = np.where(rng.random(105) < 0.5, "Male", "Female")
    y = rng.integers(2, size=105)
    monkeypatch.setattr(data, "load_table", lambda task, form: (frame, y, names))
    problem = data.load_paper_problem("adult-sex", 3)
    parts = (problem.train, problem.validation, problem.test)
    assert [len(part.y) for part in parts] == [60, 20, 20]  # five rows lack a value
    assert np.abs(problem.train.X.mean(axis=0)).max() < 1e-5
    assert np.abs(problem.train.X.std(axis=0) - 1).max() < 1e-5
    assert problem.groups == ("Female", "Male")
    assert sum(part.g.sum() for part in parts) == (names[5:] == "Male").sum()
    again, other = (data.load_paper_problem("adult-sex", seed) for seed in (3, 4))
    assert np.array_equal(again.test.X, problem.test.X)
    assert not np.array_equal(other.test.y, problem.test.y)


def test_signed_measures_equal_aif360(bench: ModuleType) -> None:
    import warnings

    pd = pytest.importorskip("pandas")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from aif360.sklearn import metrics as aif

    tasks = load("tasks")
    rng = np.random.default_rng(1)
    y, g, predictions = rng.integers(2, size=(3, 200))
    rows = tasks.Rows(np.zeros((200, 1)), y, g)
    truth = pd.Series(y, index=pd.Index(g, name="sex"))
    for name, theirs in (
        ("demographic_parity", aif.statistical_parity_difference),
        ("equal_opportunity", aif.equal_opportunity_difference),
        ("signed_average_odds", aif.average_odds_difference),
    ):
        expected = theirs(truth, predictions, prot_attr="sex", priv_group=1)
        found = bench.evaluate(predictions, rows, name)
        assert found["bias"] == pytest.approx(expected, abs=1e-12)
        recalls = [(predictions == y)[y == k].mean() for k in (0, 1)]
        assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
        assert found["phi"] == (pytest.approx(np.mean(recalls)) if abs(expected) < 0.05 else 0)
        assert not found["constant"]
    assert bench.evaluate(np.ones(200, int), rows, "demographic_parity")["constant"]


def test_the_network_is_the_papers_and_training_keeps_its_best_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    net, tasks = load("savani.net"), load("tasks")
    made = net.made_network(7, 0)
    kinds = [type(part).__name__ for part in made]
    assert kinds == ["Linear", "ReLU", "Dropout", "BatchNorm1d"] * 11 + ["Linear"]
    widths = {p.shape for p in made.parameters() if p.ndim == 2}
    assert widths == {(32, 7), (32, 32), (2, 32)}
    assert (net.epochs_for(64 * 57), net.epochs_for(64 * 424)) == (62, 20)
    problem, state = small_problem(tasks), torch.get_rng_state()
    monkeypatch.setattr(net, "UPDATES", 30)
    monkeypatch.setattr(net, "EPOCHS", 3)
    network = net.made_network(4, 0)
    losses = net.train_network(network, problem.train, problem.validation, seed=0)
    assert len(losses) == 6  # five updates an epoch
    assert net.validation_loss(network, problem.validation) == min(losses)
    assert not network.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_default_threshold_is_that_of_balanced_accuracy(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, net = load("tasks"), load("savani.net")
    monkeypatch.setattr(net, "UPDATES", 10)
    monkeypatch.setattr(net, "EPOCHS", 1)
    problem = small_problem(tasks)
    context = bench.prepare(problem)
    outcome = bench.default_network(context, "demographic_parity")
    shares = 1 / (1 + np.exp(-bench.margins(context.network, problem.validation.X)))
    y = problem.validation.y
    balanced = [
        ((shares > t)[y == 1].mean() + (shares <= t)[y == 0].mean()) / 2
        for t in np.linspace(0, 1, 1001)[1:-1]
    ]
    assert outcome.notes["threshold"] == pytest.approx((1 + np.argmax(balanced)) / 1000)


def test_runs_in_pieces_and_writes_both_tables(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, net = load("tasks"), load("savani.net")
    monkeypatch.setattr(net, "UPDATES", 10)
    monkeypatch.setattr(net, "EPOCHS", 1)
    trained: list[str] = []

    def small(name: str, seed: int) -> Any:
        trained.append(name)
        return small_problem(tasks, name, seed)

    def broken(context: object, measure: str) -> None:
        raise RuntimeError("out of | luck")

    monkeypatch.setattr(bench, "load_paper_problem", small)
    few = bench.method("few trials", "RandomPerturbation", n_trials=3)
    methods = {"default": bench.METHODS["default"], "random": few}
    methods["gap"] = bench.Method(broken, False, "broken")
    for name, each in methods.items():
        monkeypatch.setitem(bench.METHODS, name, each)
    out, page = tmp_path / "rows.jsonl", tmp_path / "table.md"
    base = ["--tasks", "compas-race", "--seeds", "2", "--out", str(out), "--table", str(page)]
    base += ["--measures", "demographic_parity,signed_average_odds", "--resume"]
    bench.main([*base, "--methods", "default"])
    bench.main([*base, "--methods", "default,random,gap"])
    assert trained == ["compas-race"] * 4  # once for each seed and call
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2 * 2 * 3
    random = [row for row in rows if row["method"] == "random"]
    assert {row["notes"]["candidates"] for row in random} == {4}
    assert all(0 <= row["notes"]["phi"] <= 1 for row in random)
    text = page.read_text()
    assert "### SPD (demographic_parity)" in text and "### AOD" in text and "EOD" not in text
    line = next(each for each in text.splitlines() if each.startswith("| few trials"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    spd = [row["bias"] for row in random if row["constraint"] == "demographic_parity"]
    assert cells[1:7] == ["-"] * 6
    assert cells[7] == f"{np.mean(spd):.2f}±{np.std(spd):.2f}"
    assert cells[-1] == "2"
    assert "2 failed: RuntimeError: out of / luck" in text
    assert "| *published: Random (Savani et al.)* | -.04±.01 |" in text


def test_quick_is_one_small_cell(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(bench, "run_cell", lambda *cell, out: seen.append(cell))
    monkeypatch.setattr(bench, "start_over", lambda args: None)
    monkeypatch.setattr(bench, "read_rows", lambda path: [])
    monkeypatch.setattr(bench, "hand_over", lambda text, table: None)
    bench.main(["--quick"])
    assert [cell[:2] for cell in seen] == [("compas-race", 0)]
    assert {name for _, name in seen[0][2]} == set(bench.METHODS) - {"adversarial"}
