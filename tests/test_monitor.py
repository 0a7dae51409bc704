"""Assertions for test suites, and the monitor of gaps over windows of time."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import binom

from fairsvd import CountLimit, MinimumRate, NoHarm, RatioLimit
from fairsvd.monitor import GapMonitor
from fairsvd.monitor._evidence import log_evidence, nearest_allowed
from fairsvd.monitor._watch import Watch
from fairsvd.objective import bound_gap, count_table
from fairsvd.testing import assert_gap_below, assert_met


class Fixed:
    def __init__(self, predicted):
        self.predicted = np.asarray(predicted)

    def predict(self, X):
        return self.predicted


def rows(n=2000, miss=0.0, seed=0):
    """Labels and groups, and predictions that miss more positives of group 1."""
    rng = np.random.default_rng(seed)
    y, group = rng.integers(2, size=n), rng.integers(2, size=n)
    wrong = rng.random(n) < 0.1 + miss * group * y
    return y, np.where(wrong, 1 - y, y), group


def test_a_small_gap_passes_and_a_large_one_fails():
    y, predicted, group = rows()
    call = (Fixed(predicted), y, y, group)
    upper = bound_gap(count_table(y, predicted, group, 2, 2), "equalized_odds", 1, 0.95)
    assert_gap_below(*call, limit=upper + 1e-9)
    with pytest.raises(AssertionError, match=r"at most .*About [\d,]+ rows"):
        assert_gap_below(*call, limit=upper - 1e-9)
    y, predicted, group = rows(miss=0.3)
    with pytest.raises(AssertionError, match=r"with 95% confidence.*No number of rows"):
        assert_gap_below(Fixed(predicted), y, y, group, limit=0.1)
    assert_gap_below(Fixed(predicted), y, y, group, limit=0.1, gap="fpr")
    # Rows whose group is unknown are an error unless they are to be left out.
    unknown = np.where(np.arange(2000) < 3, None, group.astype(object))
    with pytest.raises(ValueError, match="missing_group"):
        assert_gap_below(Fixed(predicted), y, y, unknown, limit=0.1, gap="fpr")
    options = {"gap": "fpr", "missing_group": "ignore"}
    assert_gap_below(Fixed(predicted), y, y, unknown, limit=0.1, **options)


def test_without_a_confidence_the_measured_gap_decides():
    y, predicted, group = rows(miss=0.05, seed=1)
    measured = 0.0
    with pytest.raises(AssertionError, match=r"is [\d.]+ on 2,000 rows, more than") as error:
        assert_gap_below(Fixed(predicted), y, y, group, limit=0.0, confidence=None)
    measured = float(str(error.value).split(" is ")[1].split()[0])
    options = {"confidence": None}
    assert_gap_below(Fixed(predicted), y, y, group, limit=measured + 1e-3, **options)


def test_other_requirements_are_asserted():
    y, predicted, group = rows(miss=0.3)
    model = Fixed(predicted)
    assert_met(model, y, y, group, MinimumRate("tnr", 0.8))
    assert_met(model, y, y, group, RatioLimit("tpr", 0.5))
    with pytest.raises(AssertionError, match="smallest tpr"):
        assert_met(model, y, y, group, MinimumRate("tpr", 0.8))
    with pytest.raises(AssertionError, match="errors_of_one"):
        assert_met(model, y, y, group, CountLimit(errors_of_one, 0.2))
    with pytest.raises(ValueError, match="NoHarm compares"):
        assert_met(model, y, y, group, NoHarm())
    with pytest.raises(ValueError, match=r"confidence=95"):
        assert_met(model, y, y, group, MinimumRate("tpr", 0.1), 95)


def errors_of_one(counts):
    return float(counts[1, 1, 0] / counts[1, 1].sum())


@pytest.mark.parametrize(
    ("rates", "allowed"), [((0.8, 0.3), 0.1), ((0.9, 0.1), 0.0), ((0.5, 0.45), 0.1)]
)
def test_the_nearest_allowed_rates_are_those_of_a_general_optimiser(rates, allowed):
    n = np.array([40.0, 90.0])

    def divergence(p):
        q = np.array(rates)
        return float((n * (q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p)))).sum())

    found = minimize(
        divergence,
        [0.5, 0.5],
        bounds=[(1e-6, 1 - 1e-6)] * 2,
        constraints={"type": "ineq", "fun": lambda p: allowed - p[0] + p[1]},
        options={"ftol": 1e-14},
    )
    assert nearest_allowed(rates, tuple(n), allowed) == pytest.approx(tuple(found.x), abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    guess=st.tuples(st.floats(0.02, 0.98), st.floats(0.02, 0.98)),
    true=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    tolerance=st.floats(0, 0.5),
)
def test_evidence_has_a_mean_of_at_most_1_under_all_allowed_rates(guess, true, sizes, tolerance):
    """Summed over every outcome of two binomial counts: what the false-alarm rate rests on."""
    a, b = true
    a = min(a, b + tolerance)
    n = np.array(sizes, dtype=float)
    total = 0.0
    for i in range(sizes[0] + 1):
        for j in range(sizes[1] + 1):
            chance = binom.pmf(i, sizes[0], a) * binom.pmf(j, sizes[1], b)
            total += chance * np.exp(log_evidence(np.array([i, j]), n, guess, tolerance))
    assert total <= 1 + 1e-7
    if guess[0] - guess[1] <= tolerance:
        assert total == pytest.approx(1)


def watch(monitor, windows, miss, n=300, seed=0):
    for k in range(windows):
        monitor.update(*rows(n, miss(k), seed=1000 * seed + k), window=f"week {k}")
    return monitor


def test_an_alarm_rings_after_a_change_and_says_when():
    monitor = GapMonitor("equal_opportunity", 0.1, labels=[0, 1])
    watch(monitor, 14, lambda k: 0.3 * (k >= 6))
    table = monitor.table
    assert monitor.alarm
    first = table["alarm"].to_numpy().argmax()
    assert 7 <= first <= 10
    assert table["alarm"].iloc[first:].all()  # it does not go off
    assert table["window"].iloc[first] == f"week {first}"
    assert (table["n"] == 300).all()
    assert ((table["low"] <= table["gap"]) & (table["gap"] <= table["high"])).mean() > 0.8
    y, predicted, group = rows(300, 0.0, seed=3)
    own = np.abs(np.diff([predicted[(y == 1) & (group == g)].mean() for g in (0, 1)]))[0]
    assert table["gap"].iloc[3] == pytest.approx(own)


def test_at_the_tolerance_itself_the_alarm_hardly_ever_rings():
    """Ten windows each of 60 models whose true difference is the tolerance: at most 10 % ring."""
    rung = 0
    for seed in range(60):
        watch = Watch(0.1, 0.7)
        for k in range(10):
            y, predicted, group = rows(200, 0.1, seed=100 * seed + k)
            # Only the evidence is needed here, not the intervals.
            hits, n = (
                np.array([float((mask & (group == g)).sum()) for g in (0, 1)])
                for mask in ((y == 1) & (predicted == 1), y == 1)
            )
            watch.weigh({"tpr": (hits, n)}, [0, 1])
        rung += watch.evidence >= 10
    assert rung <= 6


def test_groups_that_come_later_are_watched_too():
    monitor = GapMonitor("equal_opportunity", 0.1)
    for k in range(16):
        y, predicted, group = rows(600, 0.0, seed=k)
        if k >= 4:  # a third group appears, of which half of the positives are missed
            group = np.where(np.arange(600) % 3 == 0, 2, group)
            lost = (group == 2) & (y == 1) & (np.random.default_rng(k).random(600) < 0.5)
            predicted = np.where(lost, 0, predicted)
        monitor.update(y, predicted, group)
    assert monitor.alarm
    assert not monitor.table["alarm"].iloc[:4].any()
    (watched,) = monitor._watches.values()
    weights = [weight for weight, _ in watched.pairs.values()]
    assert sum(weights) <= 1
    assert len(weights) == 6


def test_windows_are_read_from_files_and_drawn(tmp_path):
    paths = []
    for k in range(3):
        y, predicted, group = rows(200, 0.2, seed=k)
        frame = pd.DataFrame({"label": y, "guess": predicted, "sex": np.array(["f", "m"])[group]})
        paths.append(tmp_path / f"{k}.csv")
        frame.to_csv(paths[-1], index=False)
    monitor = GapMonitor().read(paths, target="label", pred="guess", sensitive="sex")
    assert monitor.table["window"].tolist() == [str(path) for path in paths]
    direct = GapMonitor()
    for k in range(3):
        direct.update(*rows(200, 0.2, seed=k))
    np.testing.assert_allclose(monitor.table["gap"], direct.table["gap"])
    np.testing.assert_allclose(monitor.table["evidence"], direct.table["evidence"])
    with mpl.rc_context({"backend": "agg"}):
        ax = monitor.plot()
        drawn = ax.get_lines()[0].get_ydata()
        mpl.pyplot.close(ax.figure)
    np.testing.assert_allclose(drawn, monitor.table["gap"])
    with pytest.raises(ValueError, match=r"has no column 'race', it has \['label'"):
        GapMonitor().read(paths, target="label", pred="guess", sensitive=["race"])


def watch_two(windows, miss, n=400, **options):
    """Groups of two attributes, of which the second alone is treated worse from a window on."""
    monitor = GapMonitor("equal_opportunity", 0.1, each_attribute=True, labels=[0, 1], **options)
    for k in range(windows):
        y, predicted, race = rows(n, miss(k), seed=k)
        sex = np.random.default_rng(100 + k).integers(2, size=n)
        monitor.update(y, predicted, pd.DataFrame({"sex": sex, "race": race}))
    return monitor


def test_each_attribute_has_an_alarm_of_its_own():
    alone = GapMonitor("equal_opportunity", 0.1, labels=[0, 1])
    for k in range(14):
        alone.update(*rows(400, 0.3 * (k >= 4), seed=k))
    found = alone.table["evidence"]
    first = int((found > 50).to_numpy().argmax())
    # What rings one alarm here does not ring one of two, which share its chance of being false.
    monitor = watch_two(14, lambda k: 0.3 * (k >= 4), false_alarm=1.5 / found[first])
    assert monitor.alarms == {"sex": False, "race": True}
    assert monitor.alarm
    table = monitor.table
    assert table["attribute"].tolist() == ["sex", "race"] * 14
    assert table["window"].tolist() == np.repeat(np.arange(14), 2).tolist()
    race = table[table["attribute"] == "race"].reset_index(drop=True)
    np.testing.assert_allclose(race["evidence"], found)
    assert not race["alarm"][first]
    assert race["alarm"][first + 1 :].any()
    with mpl.rc_context({"backend": "agg"}):
        ax = monitor.plot()
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        np.testing.assert_array_equal(ax.get_lines()[2].get_ydata(), race["gap"])
        mpl.pyplot.close(ax.figure)
    assert labels == ["sex", "alarm", "race", "tolerance"]


def test_a_row_without_one_attribute_counts_for_the_other():
    y, predicted, group = rows(300)
    sex = np.where(np.arange(300) < 100, None, group.astype(object))
    monitor = GapMonitor(each_attribute=True)
    monitor.update(y, predicted, {"sex": sex, "race": group})
    assert monitor.table["n"].tolist() == [200, 300]
    with pytest.raises(ValueError, match=r"by sex, and were by sex, race in the first"):
        monitor.update(y, predicted, {"sex": sex})
    assert len(monitor.table) == 2
    # Unnamed columns are named by their place.
    other = GapMonitor(each_attribute=True).update(y, predicted, np.column_stack([group, y]))
    assert list(other.alarms) == ["column 0", "column 1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gap": "f1"}, "gap='f1'"),
        ({"gap": "average_odds"}, "gap='average_odds'"),
        ({"tolerance": 1}, "tolerance=1"),
        ({"false_alarm": 0}, "false_alarm=0"),
        ({"memory": 2}, "memory=2"),
    ],
)
def test_what_cannot_be_watched(options, message):
    with pytest.raises(ValueError, match=message):
        GapMonitor(**options)


def test_a_monitor_watches_two_classes():
    with pytest.raises(ValueError, match="3 classes"):
        GapMonitor().update([0, 1, 2, 0], [0, 1, 2, 1], ["a", "b", "a", "b"])
    with pytest.raises(ValueError, match="one label only"):
        GapMonitor().update([0, 0, 0, 0], [0, 1, 0, 1], ["a", "b", "a", "b"])
    late = GapMonitor(labels=[0, 1]).update([0, 0, 0, 0], [0, 1, 0, 1], ["a", "b", "a", "b"])
    assert late.table["gap"].iloc[0] == 1.0  # of the false positive rate, the only one known
