"""The benchmark's protocol: its split, its selection rule and its scores."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmark_files import load

pytestmark = pytest.mark.slow


@pytest.fixture
def tasks() -> ModuleType:
    return load("tasks")


@pytest.fixture
def protocol() -> ModuleType:
    return load("fairness.protocol")


def random_rows(tasks: ModuleType, n: int = 600, seed: int = 0) -> tuple[object, np.ndarray]:
    """Rows whose scores lean towards label 1 and towards group 1."""
    rng = np.random.default_rng(seed)
    y, g = rng.integers(2, size=n), rng.integers(2, size=n)
    return tasks.Rows(np.zeros((n, 1)), y, g), rng.normal(size=n) + 1.5 * y + g


def test_split_is_stratified_disjoint_and_repeatable(tasks: ModuleType) -> None:
    strata = np.repeat([0, 1, 2, 3], [400, 300, 200, 100])
    parts = tasks.split(strata, 3)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    for part, share in zip(parts, (0.49, 0.21, 0.30), strict=True):
        counts = np.bincount(strata[part])
        assert np.abs(counts - share * np.array([400, 300, 200, 100])).max() <= 1
    again, other = tasks.split(strata, 3), tasks.split(strata, 4)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not np.array_equal(parts[2], other[2])


def test_encoding_uses_training_rows_only(tasks: ModuleType) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"age": [1.0, 3.0, 100.0, np.nan], "job": ["a", None, "b", "a"]})
    X = tasks.encode(frame, np.array([0, 1]))
    assert X.dtype == np.float32
    assert X[:, 0].tolist() == [-1.0, 1.0, 98.0, 0.0]
    assert X[:, 1:].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_psi_and_phi(protocol: ModuleType) -> None:
    assert protocol.psi(0.7, 0.03) == 0.7
    assert protocol.psi(0.7, 0.15) == pytest.approx(0.6)
    assert protocol.phi(0.7, 0.049) == 0.7
    assert protocol.phi(0.7, 0.05) == 0.0


@pytest.mark.parametrize("name", ["equalized_odds", "demographic_parity"])
def test_measures_agree_with_fairlearn(tasks: ModuleType, protocol: ModuleType, name: str) -> None:
    metrics = pytest.importorskip("fairlearn.metrics")
    rows, scores = random_rows(tasks)
    predictions = (scores > 1).astype(int)
    measured = protocol.evaluate(predictions, rows, name)
    wanted = getattr(metrics, f"{name}_difference")(rows.y, predictions, sensitive_features=rows.g)
    assert measured[f"{name}_difference"] == pytest.approx(wanted, abs=1e-12)
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    balanced = sklearn_metrics.balanced_accuracy_score(rows.y, predictions)
    assert measured["balanced_accuracy"] == pytest.approx(balanced, abs=1e-12)
    assert measured["psi"] == pytest.approx(protocol.psi(balanced, wanted))


def test_change_of_rates_is_zero_against_itself(tasks: ModuleType, protocol: ModuleType) -> None:
    rows, scores = random_rows(tasks)
    predictions = (scores > 1).astype(int)
    same = protocol.evaluate(predictions, rows, "equalized_odds", predictions)
    assert same["tpr_change"] == same["fpr_change"] == [0.0, 0.0]
    stricter = protocol.evaluate((scores > 2).astype(int), rows, "equalized_odds", predictions)
    assert max(stricter["tpr_change"]) < 0
    assert same["harm"] == 0
    assert stricter["harm"] == pytest.approx(-min(stricter["tpr_change"]), abs=1e-12)
    summary = load("fairness.summary")
    assert summary.harm([same, stricter]) == stricter["harm"] / 2


def hand_made(tasks: ModuleType) -> tuple[object, list[np.ndarray]]:
    """Eighty rows, twenty a cell: an unfair perfect-for-one-group, a fair and a constant scorer."""
    y, g = np.repeat([0, 0, 1, 1], 20), np.repeat([0, 1, 0, 1], 20)
    inside = np.tile(np.arange(20), 4)
    unfair = np.where((y == 1) & ((g == 0) | (inside < 10)), 1.0, 0.0)
    fair = np.where((y == 1) & (inside < 16), 1.0, 0.0)
    constant = np.zeros(80)
    return tasks.Rows(np.zeros((80, 1)), y, g), [unfair, fair, constant]


def test_rule_prefers_the_best_utility_under_the_gap(
    tasks: ModuleType, protocol: ModuleType
) -> None:
    rows, scorers = hand_made(tasks)
    choice = protocol.choose([(s, s) for s in scorers], (rows, rows), "equalized_odds")
    assert (choice.candidate, choice.met) == (1, True)
    assert choice.threshold == 0.5
    assert choice.utility == pytest.approx(0.9)
    assert choice.gap == pytest.approx(0.0)


def test_rule_never_takes_a_collapsed_candidate(tasks: ModuleType, protocol: ModuleType) -> None:
    rows, (unfair, _, constant) = hand_made(tasks)
    choice = protocol.choose([(unfair, unfair), (constant,) * 2], (rows, rows), "equalized_odds")
    assert (choice.candidate, choice.met) == (0, False)
    assert choice.gap == pytest.approx(0.5)


def test_rule_gives_ties_to_the_earlier_candidate(tasks: ModuleType, protocol: ModuleType) -> None:
    rows, (unfair, fair, _) = hand_made(tasks)
    candidates = [(unfair, unfair), (fair, fair), (2 * fair, 2 * fair)]
    assert protocol.choose(candidates, (rows, rows), "equalized_odds").candidate == 1


def test_rule_can_leave_the_untouched_network_out(tasks: ModuleType, protocol: ModuleType) -> None:
    rows, (unfair, _, constant) = hand_made(tasks)
    candidates = [(unfair, unfair), (constant, constant)]
    choice = protocol.choose(candidates, (rows, rows), "equalized_odds", first=1)
    assert (choice.candidate, choice.met) == (1, False)


def test_rule_judges_the_sets_apart_where_overfitted(
    tasks: ModuleType, protocol: ModuleType
) -> None:
    rows, (_, fair, _) = hand_made(tasks)
    flipped = np.where(rows.g == 1, fair, np.roll(fair, 8))
    assert protocol.excess((np.roll(fair, 15), fair), (rows, rows), "balanced_accuracy") > 0.1
    assert protocol.excess((fair, fair), (rows, rows), "balanced_accuracy") == 0
    apart = protocol.sweep((flipped, fair), (rows, rows), "equalized_odds", "accuracy", True)
    together = protocol.sweep((flipped, fair), (rows, rows), "equalized_odds", "accuracy", False)
    assert apart.gap[0] == pytest.approx(2 * together.gap[0])


def test_interval_holds_the_mean_and_table_names_failures() -> None:
    summary = load("fairness.summary")
    values = {"a": np.array([0.6, 0.7, 0.8]), "b": np.array([0.5, 0.5, 0.6])}
    low, high = summary.bootstrap_interval(values)
    assert low < summary.task_mean(values) < high
    row = {"task": "a", "form": "blind", "seed": 0, "constraint": "equalized_odds"}
    failed = {**row, "method": "m", "needs_group": False, "error": "ValueError: no | luck"}
    assert "1 failed: ValueError: no / luck" in summary.markdown([failed], {"m": "method m"})


def test_the_verdict_pairs_our_best_with_the_best_rival() -> None:
    verdict = load("fairness.verdict")

    def row(method: str, form: str, task: str, seed: int, psi: float) -> dict[str, object]:
        here = {"constraint": "equalized_odds", "form": form, "task": task, "seed": seed}
        return {**here, "method": method, "psi": psi, "error": None}

    rows = [row("a", "blind", "t", seed, 0.6 + 0.1 * seed) for seed in range(2)]
    rows += [row("b", "blind", "t", seed, 0.5) for seed in range(2)]
    rows += [row("oxonfair-inferred", "blind", "t", 0, 0.58)]
    rows += [row("threshold-optimizer", "blind", "t", 0, 0.9)]  # is told the group
    rows += [row("a", "with-group", "t", 0, 0.6), row("oxonfair-inferred", "with-group", "t", 0, 1)]
    rows += [row("reject-option", "with-group", "t", 0, 0.7)]
    rows += [row("threshold-optimizer", "with-group", "t", 0, 0.65)]
    labels = {r["method"]: str(r["method"]).upper() for r in rows}
    lines = verdict.verdicts(rows, ["a", "b"], labels).splitlines()
    blind, seen = (line.split(" | ") for line in lines[4:6])
    assert blind[:5] == ["| equalized odds, blind", "A", "0.650", "OXONFAIR-INFERRED", "0.580"]
    assert blind[5].startswith("**+0.020**")  # on the seed that both have
    assert seen[3] == "REJECT-OPTION"
    assert seen[5].startswith("**-0.100**")
    lines = verdict.against(rows, labels, "b").splitlines()
    assert lines[0] == "### Psi less that of B"
    # A is .1 and .2 ahead blind, and B was not measured with the group.
    assert lines[4] == "| A | +0.150 (+0.100 to +0.200) | - | 2 |"
    assert lines[5] == "| OXONFAIR-INFERRED | +0.080 | - | 1 |"
    assert not any(line.startswith(("| B ", "| REJECT")) for line in lines)


def test_removal_as_it_is_leaves_the_network_alone_and_removes() -> None:
    nets, ours = load("nets"), load("fairness.ours")
    network, X = nets.mlp(5, 0), np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    before = nets.margins(network, X)
    identity = ours.rebuilt(network, share=0.0, rank=1.0, seed=0)
    assert np.abs(nets.margins(identity, X) - before).max() < 1e-5
    empty = ours.rebuilt(network, share=1.0, rank=1.0, seed=0)
    assert [bool(empty[i].weight.detach().any()) for i in (0, 2, 4)] == [False, False, True]
    halved = ours.rebuilt(network, share=0.0, rank=0.5, seed=0)
    assert np.linalg.matrix_rank(halved[2].weight.detach().numpy(), tol=1e-4) == 32
    assert np.array_equal(nets.margins(network, X), before)


def test_runs_in_pieces(tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("fairness.bench_methods")

    def broken(context: object, constraint: str) -> None:
        raise RuntimeError("out of luck")

    def small(name: str, form: str, seed: int, *, dev: bool) -> object:
        rng = np.random.default_rng(seed)
        parts = []
        for n in (300, 150, 150):
            X = rng.normal(size=(n, 4)).astype(np.float32)
            g = rng.integers(2, size=n)
            y = (X[:, 0] + 0.5 * g + rng.normal(size=n) > 0).astype(np.int64)
            parts.append(tasks.Rows(X, y, g))
        return tasks.Problem(name, form, seed, ("a", "b"), *parts)

    monkeypatch.setattr(bench, "load_problem", small)
    monkeypatch.setitem(bench.METHODS, "reweighing", bench.Method(broken, False, "broken"))
    out = tmp_path / "rows.jsonl"
    base = ["--tasks", "compas-race", "--forms", "blind", "--seeds", "1", "--out", str(out)]
    base += ["--constraints", "equalized_odds", "--table", str(tmp_path / "table.md"), "--resume"]
    base += ["--plot", str(tmp_path / "figure.svg")]
    bench.main([*base, "--methods", "untouched-utility"])
    bench.main([*base, "--methods", "untouched-utility,untouched-gap,reweighing"])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["method"] for row in rows] == ["untouched-utility", "untouched-gap", "reweighing"]
    assert rows[2]["error"] == "RuntimeError: out of luck"
    assert rows[0]["tpr_change"] == [0.0, 0.0]
    assert "1 failed: RuntimeError: out of luck" in (tmp_path / "table.md").read_text()
    drawn = (tmp_path / "figure.svg").read_bytes()
    bench.main([*base, "--methods", "untouched-utility"])
    assert (tmp_path / "figure.svg").read_bytes() == drawn  # equal figures are equal files


def test_baselines_of_the_curvature_measure_the_same() -> None:
    bench = load("speed.bench_curvature")
    for kind, n_rows in (("mlp", 40), ("convnet", 6)):
        module, rows = bench.network(kind, 0), bench.draw(kind, n_rows, 3, 0)
        factors = bench.factorise(module, 0.5)
        wanted = bench.measure_curvature(module, rows, 8, factors, 3)
        for found in (
            bench.loop_curvature(module, rows, factors, 3),
            bench.func_curvature(module, rows, 8, factors, 3),
        ):
            for name, pair in wanted.items():
                for mine, other in zip(pair, found[name], strict=True):
                    assert mine.shape == other.shape
                    assert (mine - other).abs().max() < 1e-4 * mine.max()


def test_ratios_and_bars() -> None:
    timing = load("speed.timing")
    times = [[1.0, 2.0, 4.0], [2.0, 2.0, 2.0]]
    line = timing.compare("mlp", "a", times, 0.9)
    assert (line.median, line.low, line.high, line.met) == (1.0, 0.5, 2.0, False)
    assert timing.compare("mlp", "a", times, None).met
    scaled = timing.compare("loop", "a", times, 0.05, base_share=0.01)
    assert (scaled.median, scaled.base, scaled.met) == (0.01, "200000 ms", True)
    assert scaled.cells()[2:5] == ("0.0100", "0.0050 to 0.0200", "0.05")


def test_curvature_benchmark_writes_a_table_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = load("speed.bench_curvature")
    for name in ("ROWS", "FUNC_ROWS", "LOOP_ROWS", "BATCH"):
        monkeypatch.setattr(bench, name, {"mlp": 4, "convnet": 4})
    out = tmp_path / "found.json"
    status = bench.main(["--threads", "1", "--repeats", "1", "--out", str(out)])
    found = json.loads(out.read_text())["results"]
    assert status == int(not all(line["met"] for line in found))
    assert {line["section"] for line in found} == set(bench.SECTIONS)
    bars = {(line["section"], line["bar"]) for line in found if line["bar"] is not None}
    assert {("mlp", 2.4), ("mlp", 1.6), ("convnet", 4.0), ("groups", 1.3)} <= bars
    assert {("loop", 0.05), ("func", 1.0)} <= bars
    table = capsys.readouterr().out.splitlines()
    assert table[0].startswith("| section |") and len(table) == 2 + len(found)
