"""The benchmark of generators: its simulators, its verdicts and its table."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from benchmark_files import load

pytestmark = pytest.mark.slow


@pytest.fixture
def bench():
    return load("fairness.bench_generators")


def test_simulated_sets_differ_in_mean_and_variance(bench):
    sets = bench.gaussians(np.random.default_rng(0), 500, 400)
    assert sets.shape == (500, 400, 1)
    means, variances = sets.mean(axis=1), sets.var(axis=1)
    assert means.std() == pytest.approx(1, abs=0.15)
    assert 0.2 < variances.min() < 0.3 and 3.5 < variances.max() < 5
    batches = bench.one_table(np.random.default_rng(0), 5, 9)
    assert batches.shape == (5, 9, 1) and len(np.unique(batches)) <= 45


@pytest.mark.parametrize(("conditions", "code"), [("fixed", 0), ("joint", 1)])
def test_the_bar_of_the_loops(bench, monkeypatch, tmp_path, conditions, code):
    case = ("a mixture", lambda: GaussianMixture(1), conditions, True)
    monkeypatch.setattr(bench, "loops", lambda: (case,))
    path = tmp_path / "table.md"
    arguments = ["--sections", "loops", "--loops", "2", "--generations", "4", "--table", str(path)]
    assert bench.main(arguments) == code
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("### Fully synthetic loops")
    line = lines[-2]
    assert line.startswith("| a mixture | 0.")
    assert line.endswith("MISSED |" if code else "met |")
    assert ("0.100 (0.100, 0.100)" in line) == (conditions == "fixed")
