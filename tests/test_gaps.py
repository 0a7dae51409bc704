"""Hard gaps against fairlearn, AIF360 and a plain loop; the soft gap against the hard one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairsvd.objective import GAPS, count_table, gap, rates, ratio, soft_gap
from helpers import EXACT, draw


def counts_of(y, predictions, group):
    return count_table(y, predictions, group, 2, group.max() + 1)


@pytest.mark.parametrize("n_groups", [2, 3, 5])
@pytest.mark.parametrize("kind", ["difference", "ratio"])
@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("demographic_parity", "demographic_parity", {}),
        ("equal_opportunity", "equal_opportunity", {}),
        ("equalized_odds", "equalized_odds", {"agg": "worst_case"}),
        ("average_odds", "equalized_odds", {"agg": "mean"}),
    ],
)
def test_equal_to_fairlearn(name, theirs, options, kind, n_groups):
    import fairlearn.metrics

    y, predictions, group = draw(n_groups, n_groups=n_groups)
    expected = getattr(fairlearn.metrics, f"{theirs}_{kind}")(
        y, predictions, sensitive_features=group, **options
    )
    ours = {"difference": gap, "ratio": ratio}[kind]
    np.testing.assert_allclose(ours(counts_of(y, predictions, group), name, 1), expected, **EXACT)
    assert 0.01 < expected < 0.99  # a comparison with 0 or 1 would show nothing


@pytest.mark.parametrize("pos", [0, 1])
@pytest.mark.parametrize("n_groups", [2, 4])
def test_accuracy_parity_equal_to_fairlearn(n_groups, pos):
    from fairlearn.metrics import MetricFrame
    from sklearn.metrics import accuracy_score

    y, predictions, group = draw(7, n_groups=n_groups)
    frame = MetricFrame(
        metrics=accuracy_score, y_true=y, y_pred=predictions, sensitive_features=group
    )
    counts = counts_of(y, predictions, group)
    np.testing.assert_allclose(gap(counts, "accuracy_parity", pos), frame.difference(), **EXACT)
    np.testing.assert_allclose(ratio(counts, "accuracy_parity", pos), frame.ratio(), **EXACT)


@pytest.mark.parametrize("pos", [0, 1])
def test_equal_to_aif360(pos):
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its optional dependencies, on import
        from aif360.sklearn import metrics as aif

    y, predictions, group = draw(3)
    truth = pd.Series(y, index=pd.Index(group, name="sex"))
    options = {"prot_attr": "sex", "priv_group": 1, "pos_label": pos}
    counts = counts_of(y, predictions, group)
    for name, theirs in (
        ("demographic_parity", aif.statistical_parity_difference),
        ("equal_opportunity", aif.equal_opportunity_difference),
        ("average_odds", aif.average_odds_error),
    ):
        expected = abs(theirs(truth, predictions, **options))
        assert expected > 0.01
        np.testing.assert_allclose(gap(counts, name, pos), expected, **EXACT)


def test_equal_to_aif360_classic_metric():
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from aif360.datasets import BinaryLabelDataset
        from aif360.metrics import ClassificationMetric

    y, predictions, group = draw(4)
    sets = [
        BinaryLabelDataset(
            df=pd.DataFrame({"sex": group, "y": labels}, dtype=float),
            label_names=["y"],
            protected_attribute_names=["sex"],
        )
        for labels in (y, predictions)
    ]
    metric = ClassificationMetric(
        *sets, unprivileged_groups=[{"sex": 0}], privileged_groups=[{"sex": 1}]
    )
    counts = counts_of(y, predictions, group)
    np.testing.assert_allclose(
        gap(counts, "average_odds", 1), metric.average_abs_odds_difference(), **EXACT
    )
    np.testing.assert_allclose(
        gap(counts, "equalized_odds", 1), metric.equalized_odds_difference(), **EXACT
    )
    signed = metric.average_odds_difference()
    assert abs(signed) > 0.01
    np.testing.assert_allclose(gap(counts, "signed_average_odds", 1), abs(signed), **EXACT)


@pytest.mark.parametrize("seed", range(4))
def test_signed_average_odds_equal_to_aif360(seed):
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from aif360.sklearn import metrics as aif

    rng = np.random.default_rng(seed)
    y, predictions, group = rng.integers(2, size=(3, 90))
    truth = pd.Series(y, index=pd.Index(group, name="sex"))
    for pos in (0, 1):
        options = {"prot_attr": "sex", "priv_group": 1, "pos_label": pos}
        expected = abs(aif.average_odds_difference(truth, predictions, **options))
        counts = counts_of(y, predictions, group)
        np.testing.assert_allclose(gap(counts, "signed_average_odds", pos), expected, **EXACT)


def test_signed_average_odds_cancel():
    """TPR .8 and .4, FPR .1 and .5: two gaps of .4 that point opposite ways."""
    counts = np.array([[[9, 1], [2, 8]], [[5, 5], [6, 4]]])
    assert gap(counts, "average_odds", 1) == pytest.approx(0.4)
    assert gap(counts, "signed_average_odds", 1) == pytest.approx(0, abs=1e-15)
    assert ratio(counts, "signed_average_odds", 1) == pytest.approx(1)
    third = np.concatenate([counts, [[[10, 0], [5, 5]]]])
    assert gap(third, "signed_average_odds", 1) == pytest.approx(0.45 - 0.25)
    assert ratio(third, "signed_average_odds", 1) == pytest.approx(0.25 / 0.45)


def loop_rates(y, predictions, group, positive):
    """Selection, TPR and FPR of each group, one boolean mask at a time; None where no row is."""
    out = []
    for g in np.unique(group):
        p, t = predictions[group == g] == positive, y[group == g] == positive
        out.append(
            [p.mean(), p[t].mean() if t.any() else None, p[~t].mean() if (~t).any() else None]
        )
    return list(zip(*out, strict=True))


def loop_spread_of_means(rates_of):
    """Spread of each group's mean rate; None where fewer than two have those that are compared."""
    used = [values for values in rates_of if sum(v is not None for v in values) > 1]
    rows = [row for row in zip(*used, strict=True) if None not in row]
    means = [sum(row) / len(row) for row in rows]
    return max(means) - min(means) if len(means) > 1 else None


def loop_gap(y, predictions, group, name, classes):
    spreads = []
    for c in classes:
        parts, rates_of = [], loop_rates(y, predictions, group, c)
        for values in rates_of:
            known = [v for v in values if v is not None]
            parts.append(max(known) - min(known) if len(known) > 1 else None)
        selection, tpr, fpr = parts
        odds = [v for v in (tpr, fpr) if v is not None]
        spreads.append(
            {
                "demographic_parity": selection,
                "equal_opportunity": tpr,
                "equalized_odds": max(odds, default=None),
                "average_odds": sum(odds) / len(odds) if odds else None,
                "signed_average_odds": loop_spread_of_means(rates_of[1:]),
            }[name]
        )
    known = [v for v in spreads if v is not None]
    return sum(known) / len(known) if known else np.nan


@pytest.mark.parametrize("name", [name for name in GAPS if name != "accuracy_parity"])
@pytest.mark.parametrize("seed", range(6))
def test_several_classes_and_empty_cells_equal_a_loop(name, seed):
    rng = np.random.default_rng(seed)
    y, predictions, group = rng.integers(4, size=12), rng.integers(4, size=12), np.arange(12) % 3
    counts = count_table(y, predictions, group, 4, 3)
    assert (counts.sum(axis=2) == 0).any()
    expected = loop_gap(y, predictions, group, name, range(4))
    np.testing.assert_allclose(gap(counts, name), expected, **EXACT)
    np.testing.assert_allclose(gap(counts, name, 1), expected, **EXACT)  # pos is for two classes


def test_count_table_counts_and_leaves_missing_groups_out():
    y, predictions, group = np.array([0, 1, 1, 0]), np.array([1, 1, 0, 0]), np.array([0, 1, -1, 1])
    table = count_table(y, predictions, group, 2, 2)
    assert table.dtype == np.int64
    assert table.tolist() == [[[0, 1], [0, 0]], [[1, 0], [0, 1]]]
    empty = np.array([], dtype=int)
    assert count_table(empty, empty, empty, 3, 2).shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("changed", "what"), [(0, "^y holds"), (1, "^predictions holds"), (2, "^groups holds")]
)
def test_count_table_refuses_codes_out_of_range(changed, what):
    arrays = [np.array([0, 1]) for _ in range(3)]
    arrays[changed] = np.array([0, 2])
    with pytest.raises(ValueError, match=what):
        count_table(*arrays, 2, 2)


def test_rates_have_the_documented_shapes_and_values():
    counts = np.array([[[3, 1], [1, 3]], [[2, 0], [0, 0]]])
    binary = rates(counts, 1)
    assert [r.shape for r in binary] == [(2, 1)] * 4
    assert binary.selection[:, 0].tolist() == [0.5, 0.0]
    np.testing.assert_array_equal(binary.tpr[:, 0], [0.75, np.nan])
    assert binary.fpr[:, 0].tolist() == [0.25, 0.0]
    assert binary.accuracy[:, 0].tolist() == [0.75, 1.0]
    assert rates(counts).tpr.shape == (2, 2)
    several = rates(np.ones((7, 5, 2, 3, 3), dtype=int), 1)
    assert several.fpr.shape == (7, 5, 2, 3)
    assert several.accuracy.shape == (7, 5, 2, 1)


@pytest.mark.parametrize("name", GAPS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_leading_dimensions_equal_a_loop(name, n_classes):
    counts = np.random.default_rng(0).integers(0, 4, size=(4, 3, 3, n_classes, n_classes))
    for measure in (gap, ratio):
        together = measure(counts, name, 1)
        one_by_one = [[measure(table, name, 1) for table in row] for row in counts]
        np.testing.assert_array_equal(together, one_by_one)


def exact_gap(table, name):
    """The gap of two classes, the positive one 1, in the arithmetic of Python's numbers."""
    if name == "signed_average_odds":
        tpr = [d / (c + d) if c + d else None for _, (c, d) in table]
        fpr = [b / (a + b) if a + b else None for (a, b), _ in table]
        found = loop_spread_of_means([tpr, fpr])
        return np.nan if found is None else found
    parts = []
    for which in {
        "demographic_parity": ["selection"],
        "equal_opportunity": ["tpr"],
        "equalized_odds": ["tpr", "fpr"],
        "average_odds": ["tpr", "fpr"],
        "accuracy_parity": ["accuracy"],
    }[name]:
        known = []
        for (a, b), (c, d) in table:
            top, bottom = {
                "selection": (b + d, a + b + c + d),
                "tpr": (d, c + d),
                "fpr": (b, a + b),
                "accuracy": (a + d, a + b + c + d),
            }[which]
            known += [top / bottom] if bottom else []
        parts += [max(known) - min(known)] if len(known) > 1 else []
    if not parts:
        return np.nan
    return max(parts) if name == "equalized_odds" else sum(parts) / len(parts)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(0, 3), st.sampled_from(GAPS))
def test_gaps_of_many_cuts_equal_pythons_numbers_to_the_bit(seed, n_groups, n_holes, name):
    """As a sweep lays them out: cuts last in memory; empty cells are empty at every cut."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 50, size=(n_groups, 2, 2, 7))
    for _ in range(n_holes):
        counts[rng.integers(n_groups), rng.integers(2)] = 0
    counts = np.moveaxis(counts, -1, 0)
    expected = [exact_gap(table, name) for table in counts.tolist()]
    np.testing.assert_array_equal(gap(counts, name, 1), expected)
    for measure in (gap, ratio):
        np.testing.assert_array_equal(
            measure(counts, name, 1), measure(counts.copy(order="C"), name, 1)
        )


@pytest.mark.parametrize("name", GAPS)
def test_one_group_is_missing_and_not_perfect(name):
    counts = np.array([[[3, 1], [1, 3]], [[0, 0], [0, 0]]])
    assert np.isnan(gap(counts, name, 1))
    assert np.isnan(ratio(counts, name, 1))


def test_odds_use_the_rate_that_can_be_compared():
    counts = np.array([[[3, 1], [1, 3]], [[4, 0], [0, 0]]])  # no positive row in group 1
    assert np.isnan(gap(counts, "equal_opportunity", 1))
    for name in ("equalized_odds", "average_odds", "signed_average_odds"):
        assert gap(counts, name, 1) == 0.25


def test_signed_odds_leave_out_a_group_that_lacks_one_of_two_rates():
    """A mean of both rates is not compared with one of them."""
    counts = np.array([[[3, 1], [1, 3]], [[4, 0], [0, 0]], [[2, 2], [2, 2]]])
    assert gap(counts, "signed_average_odds", 1) == 0
    assert np.isnan(gap(counts[[0, 1, 1]] * [[[1]], [[1]], [[0]]], "equal_opportunity", 1))
    assert gap(counts[:2], "signed_average_odds", 1) == 0.25


def test_ratio_of_zeros_is_nan_as_in_fairlearn():
    from fairlearn.metrics import demographic_parity_ratio, equalized_odds_ratio

    y, predictions, group = np.array([0, 1, 0, 1]), np.zeros(4, dtype=int), np.array([0, 0, 1, 1])
    for name, theirs in (
        ("demographic_parity", demographic_parity_ratio),
        ("equalized_odds", equalized_odds_ratio),
    ):
        assert np.isnan(theirs(y, predictions, sensitive_features=group))
        assert np.isnan(ratio(counts_of(y, predictions, group), name, 1))


def test_unknown_gap_lists_the_gaps():
    for call in (
        lambda: gap(np.ones((2, 2, 2)), "parity", 1),
        lambda: ratio(np.ones((2, 2, 2)), "parity", 1),
        lambda: soft_gap(torch.ones(1, 2), torch.zeros(1), torch.zeros(1), None, "parity", 1, 2),
    ):
        with pytest.raises(ValueError, match=r"'parity'.*demographic_parity.*accuracy_parity"):
            call()


tables = st.integers(1, 4).flatmap(
    lambda n_groups: st.integers(2, 4).flatmap(
        lambda n_classes: st.lists(
            st.integers(0, 5),
            min_size=n_groups * n_classes**2,
            max_size=n_groups * n_classes**2,
        ).map(lambda cells: np.array(cells).reshape(n_groups, n_classes, n_classes))
    )
)


@given(tables, st.sampled_from(GAPS), st.randoms(use_true_random=False))
def test_bounds_and_group_relabelling(counts, name, random):
    order = list(range(len(counts)))
    random.shuffle(order)
    for measure in (gap, ratio):
        value = measure(counts, name, 1)
        assert np.isnan(value) or 0 <= value <= 1
        np.testing.assert_allclose(measure(counts[order], name, 1), value, **EXACT)


@given(st.integers(0, 2**32 - 1), st.sampled_from(GAPS))
def test_row_order_and_copies_of_rows_do_not_matter(seed, name):
    rng = np.random.default_rng(seed)
    rows = rng.integers(2, size=(3, 30))
    expected = gap(count_table(*rows, 2, 2), name, 1)
    for other in (rows[:, rng.permutation(30)], np.repeat(rows, 3, axis=1)):
        np.testing.assert_allclose(gap(count_table(*other, 2, 2), name, 1), expected, **EXACT)


def test_swapping_the_positive_class_keeps_odds_gaps():
    counts = counts_of(*draw(1))
    for name in ("equalized_odds", "average_odds", "signed_average_odds", "demographic_parity"):
        np.testing.assert_allclose(gap(counts, name, 0), gap(counts, name, 1), **EXACT)
    assert abs(gap(counts, "equal_opportunity", 0) - gap(counts, "equal_opportunity", 1)) > 0.01
