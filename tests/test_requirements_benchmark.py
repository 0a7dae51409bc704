"""The benchmark that holds what is reported as met against test rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import beta

from benchmark_files import load
from fairsvd import MinimumRate, NoHarm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench():
    return load("fairness.bench_requirements")


def test_an_excess_is_over_the_closest_limit(bench):
    y, g = np.array([1] * 10 + [0] * 10), np.array([0, 1] * 10)
    before = np.array([1] * 8 + [0] * 12)
    after = np.array([1] * 4 + [0] * 14 + [1] * 2)
    rows = load("tasks").Rows(np.zeros((20, 1)), y, g)
    counts = bench.moves(before, after, rows, 2)
    assert counts.shape == (2, 2, 2, 2) and counts.sum() == 20
    # Of five positives each group finds two, four before, and loses one of five negatives.
    assert counts[0, 1].tolist() == [[1, 0], [2, 2]]
    assert bench.excess([NoHarm(0.1)], counts) == pytest.approx(0.4 - 0.1)
    # MinimumRate measures the shortfall from 1, so .6 allows .4.
    shortfall = float(MinimumRate("tpr", 0.6).measure(counts.sum(axis=-2), 1, None))
    limit = MinimumRate("tpr", 0.6).limit
    assert shortfall - limit == pytest.approx(0.6 - 0.4)
    both = [MinimumRate("tpr", 0.6), NoHarm(0.1)]
    assert bench.excess(both, np.stack([counts, counts])) == pytest.approx([0.3, 0.3])


def test_it_runs_and_is_resumed(bench, tmp_path, monkeypatch):
    monkeypatch.delenv("FAIRSVD_DATA", raising=False)
    rows = [
        {
            "task": task,
            "form": "blind",
            "seed": seed,
            "dev": False,
            "constraint": "equalized odds at most .05",
            "method": "fairlrf",
            "given": given,
            "broken": given,
            "broken_beyond_noise": False,
            "psi": 0.5 + 0.2 * seed,
            "balanced_accuracy": 0.75,
        }
        for task, seed, given in [("adult-sex", 0, True), ("adult-sex", 1, False)]
    ]
    out, table = tmp_path / "rows.jsonl", tmp_path / "table.md"
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["--tasks", "adult-sex", "--asked", "equalized odds at most .05"]
    # Both splits are there: no table is loaded, which could not be found.
    bench.main([*asked, "--seeds", "2", "--out", str(out), "--table", str(table), "--resume"])
    lines = table.read_text().splitlines()
    figures = "2 | 1 | 1 | 0 |  |  | 0.600 | 0.750"
    assert lines[2] == f"| equalized odds at most .05 | adult-sex | {figures} |"
    assert lines[3].split(" | ")[1] == "all"


def test_a_fall_beyond_noise_is_one_of_any_rate(bench):
    counts = np.zeros((2, 2, 2, 2))
    counts[:, 0, 0, 0] = counts[:, 1, 1, 1] = 900
    counts[1, 1, 1, 0] = 100  # a tenth of the positives of the second group are lost
    low = bench.lower_bound(counts)
    alone = beta.ppf(0.05 / 4, 100, 901)
    back = beta.isf(0.05 / 4, 1, 1000)
    assert low == pytest.approx(0.1 - np.hypot(0.1 - alone, back))
    assert 0.07 < low < 0.1
    # The same shares of a tenth of the rows tell less.
    assert bench.lower_bound(counts / 10) < low
    # What a group gains is no fall.
    assert bench.lower_bound(counts.swapaxes(2, 3)) <= 0
