"""Tables as text, what a fit says about itself, and the trade-off plot."""

from __future__ import annotations

import functools
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from matplotlib.image import imread
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import PredefinedSplit

from fairsvd import FairLRFTransformer, PhiObjective, RandomPerturbation, group_table
from fairsvd.exceptions import FairsvdWarning
from fairsvd.objective import GAPS, count_table
from fairsvd.report import (
    before_after,
    chosen_candidate,
    format_table,
    gap_estimates,
    plot_tradeoff,
    removed_frame,
    small_cells,
    utility_name,
)
from helpers import mlp, table, trained
from uncertainty_reference import UNEQUAL, check_uncertainty

pytestmark = pytest.mark.slow

# Tables


def test_numbers_are_aligned_right_and_texts_left():
    frame = pd.DataFrame(
        {"n": [12345, 7], "true_rate": [0.5, np.nan], "met": [True, False], "how": ["a -> b", "c"]},
        index=pd.Index(["female", "m"], name="sex"),
    )
    assert format_table(frame).splitlines() == [
        "sex          n  true rate  met  how",
        "------  ------  ---------  ---  ------",
        "female  12,345      0.500  yes  a -> b",
        "m            7          -   no  c",
    ]


def test_every_level_of_the_index_is_a_column():
    index = pd.MultiIndex.from_tuples([("f", 1), ("m", 20)], names=["sex", "age"])
    lines = format_table(pd.DataFrame({"x": [0.25, 1.0]}, index=index), decimals=1).splitlines()
    assert [line.split() for line in lines] == [
        ["sex", "age", "x"],
        ["---", "---", "---"],
        ["f", "1", "0.2"],
        ["m", "20", "1.0"],
    ]


def test_before_and_after_stand_side_by_side():
    before = pd.DataFrame({"n": [3], "tpr": [0.25]}, index=["f"])
    after = pd.DataFrame({"n": [3], "tpr": [np.nan]}, index=["f"])
    both = before_after(before, after)
    assert both.loc["f"].tolist() == [3, "0.250 -> -"]
    assert np.isnan(after.loc["f", "tpr"])  # what came in is not changed
    more = before_after(before, after.assign(n=[5], tpr=[0.5]), decimals=1)
    assert more.loc["f"].tolist() == [5, "0.2 -> 0.5"]


@pytest.fixture
def labelled(biased_arrays):
    predictions = (biased_arrays.X[:, 0] + biased_arrays.X[:, 1] > 0.5).astype(np.int64)
    return biased_arrays.y, predictions, biased_arrays.group


def test_gaps_are_fairlearns_and_lie_in_their_intervals(labelled):
    y, predictions, group = labelled
    table = gap_estimates(count_table(*labelled, 2, 2), 1, np.random.default_rng(0))
    assert tuple(table.index) == GAPS
    found = table["difference"]
    expected = demographic_parity_difference(y, predictions, sensitive_features=group)
    assert found["demographic_parity"] == pytest.approx(expected, abs=1e-12)
    expected = equalized_odds_difference(y, predictions, sensitive_features=group)
    assert found["equalized_odds"] == pytest.approx(expected, abs=1e-12)
    assert (table["low"] <= found).all() and (found <= table["high"]).all()
    # The predictions lean on the group far beyond chance.
    assert table["noise_floor"]["demographic_parity"] < table["low"]["demographic_parity"]


@pytest.mark.parametrize("pos", [0, 1])
def test_every_gap_has_its_own_interval_and_floor(pos):
    check_uncertainty(gap_estimates(UNEQUAL, pos, np.random.default_rng(0)), pos)


def test_a_gap_that_cannot_be_measured_is_nan_without_a_warning():
    counts = np.array([[[30, 5], [0, 0]], [[20, 5], [4, 9]]])  # the first group has no positives
    table = gap_estimates(counts, 1, np.random.default_rng(0))
    assert table.loc["equal_opportunity"].isna().all()
    assert table.loc["demographic_parity"].notna().all()


def test_small_cells_of_equal_size_come_by_label_then_by_group():
    counts = np.full((2, 2, 2), 600)
    counts[0, 1] = counts[1, 0] = [1000, 200]
    assert small_cells(counts, ["no", "yes"], ["f", "m"], 1201) == [
        "(label no, group f): 1,200",
        "(label no, group m): 1,200",
        "(label yes, group f): 1,200",
        "(label yes, group m): 1,200",
    ]
    assert small_cells(counts, ["no", "yes"], ["f", "m"], 1200) == []  # fewer, not as many


def test_small_cells_are_named_smallest_first():
    counts = np.zeros((2, 2, 2), dtype=np.int64)
    counts[0] = [[60, 60], [5, 4]]
    counts[1] = [[0, 0], [99, 1]]
    labels = [("f", "a"), ("m", "b")]
    assert small_cells(counts, ["no", "yes"], labels, 100) == [
        "(label no, group m/b): 0",
        "(label yes, group f/a): 9",
    ]
    assert small_cells(counts, ["no", "yes"], labels, 0) == []


# What a fit says about itself


@pytest.fixture
def fitted():
    return fit()


@functools.cache
def fit(**options):
    rng = np.random.default_rng(5)
    group = rng.integers(2, size=1200)
    X = rng.normal(size=(1200, 4)).astype(np.float32)
    X[:, 1] += group
    y = (X[:, 0] + group + rng.normal(size=1200) > 0.5).astype(np.int64)
    options = {"constraint": "demographic_parity", "max_steps": 60, "random_state": 0, **options}
    editor = FairLRFTransformer(**{"objective": "soft_gap", **options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)  # what the fit is worth plays no part here
        return editor.fit(X, y, sensitive_features=group)


def test_the_chosen_candidate_is_the_one_that_became_the_network(fitted):
    row = fitted.history_.iloc[chosen_candidate(fitted.history_)]
    assert row["threshold"] == pytest.approx(fitted.threshold_, abs=1e-12)
    assert row["removed_fraction"] == pytest.approx(fitted.removed_fraction_, abs=1e-12)


def test_one_row_is_chosen_feasible_then_by_value_then_the_earlier_candidate(fitted):
    history = fitted.history_
    assert history["chosen"].dtype == bool and history["chosen"].sum() == 1
    ranks = list(zip(history["feasible"], history["value"], strict=True))
    assert history["chosen"].tolist().index(True) == ranks.index(max(ranks))


def test_the_threshold_alone_is_that_of_the_edit_on_the_untouched_network():
    rows = table(400)
    network = trained(mlp(), rows)
    held = np.arange(400) % 2 == 0
    editor = RandomPerturbation(
        network,
        n_trials=4,
        threshold=0.7,
        validation=PredefinedSplit(np.where(held, 0, -1)),
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    with torch.no_grad():
        shares = network(torch.tensor(rows.X[held])).softmax(dim=1)[:, 1].numpy()
    row = editor.report_.groups.loc["threshold only"]
    for state, threshold in (("before", 0.5), ("after", 0.7)):
        assert row["selection_rate", state] == (shares > threshold).mean()
        assert row["tpr", state] == (shares > threshold)[rows.y[held] == 1].mean()


@pytest.mark.parametrize("place", [0, 2])
def test_the_chosen_candidate_is_the_row_that_says_so(place):
    chosen = [k == place for k in range(3)]
    assert chosen_candidate(pd.DataFrame({"value": [0.9, 0.9, 0.1], "chosen": chosen})) == place


@pytest.mark.parametrize("options", [{"refine": None}, {}], ids=str)
def test_removed_shares_add_up_to_the_removed_fraction(options):
    fitted = fit(**options)
    table = removed_frame(fitted)
    assert list(table.index) == list(fitted.masks_)
    removed = total = 0
    for name, masks in fitted.masks_.items():
        for side in "UV":
            removed += table.loc[name, f"{side}_removed"] * masks[side].size
            total += masks[side].size
    assert removed / total == pytest.approx(fitted.removed_fraction_, abs=1e-12)
    assert not options or removed > 0


def test_a_grouped_convolution_has_the_rank_of_one_block():
    module = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(6, 8, 3, groups=2)})
    U, V = np.ones((2, 4, 3), dtype=bool), np.ones((2, 27, 3), dtype=bool)
    U[0, 0, 0] = False
    editor = SimpleNamespace(module_=module, masks_={"conv": {"U": U, "V": V}}, ranks_={"conv": 3})
    row = removed_frame(editor).loc["conv"]
    assert row.tolist() == ["8 x 3 x 3 x 3", "3 of 4", pytest.approx(1 / 24), 0.0]


@pytest.mark.parametrize(
    ("utility", "balance", "resolved", "name"),
    [
        ("accuracy", "auto", "cells", "accuracy"),
        ("auto", "auto", "cells", "mean_and_worst_cell_accuracy"),
        ("auto", "auto", "classes", "balanced_accuracy"),
        ("auto", "classes", "classes", None),
        (len, "auto", "cells", None),
    ],
)
def test_the_utility_is_named_only_where_it_is_known(utility, balance, resolved, name):
    editor = SimpleNamespace(utility=utility, balance=balance, balance_=resolved)
    assert utility_name(editor) == name


@pytest.mark.parametrize(
    ("utility", "constraint", "name"),
    [("auto", PhiObjective(), "balanced_accuracy"), ("accuracy", PhiObjective(), "accuracy")],
)
def test_by_phi_the_utility_is_balanced_accuracy_unless_one_is_named(utility, constraint, name):
    editor = SimpleNamespace(utility=utility, constraint=constraint, balance_="cells")
    assert utility_name(editor) == name


def test_before_is_the_network_as_it_came_and_after_the_edited_one_at_its_threshold():
    """On the validation rows alone; the network's positives are rare until the threshold moves."""
    rows = table(300, seed=3)
    network = trained(mlp(), rows)
    with torch.no_grad():
        network[-1].bias += torch.tensor([1.5, 0.0])
    held = np.arange(300) % 3 == 0
    editor = RandomPerturbation(
        network,
        n_trials=8,
        constraint="demographic_parity",
        validation=PredefinedSplit(np.where(held, 0, -1)),
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    X, y, group = torch.tensor(rows.X[held]), rows.y[held], rows.group[held]
    assert abs(editor.threshold_ - 0.5) > 0.1
    with torch.no_grad():
        shares = [each(X).softmax(dim=1)[:, 1].numpy() for each in (network, editor.module_)]
    predicted = {"before": shares[0] > 0.5, "after": shares[1] > editor.threshold_}
    assert np.array_equal(editor.predict(rows.X[held]), predicted["after"])
    report = editor.report_
    for when, codes in predicted.items():
        expected = group_table(y, codes.astype(np.int64), group)
        for name in ("selection_rate", "tpr", "fpr", "accuracy"):
            found = report.groups[name, when].iloc[:-2]
            np.testing.assert_allclose(found, expected[name], atol=1e-12)
        gap = demographic_parity_difference(y, codes, sensitive_features=group)
        assert report.gaps.loc["demographic_parity", when] == pytest.approx(gap, abs=1e-12)
    assert (predicted["before"] != predicted["after"]).mean() > 0.05


# The plot


@pytest.fixture
def ax(fitted):
    return plot_tradeoff(fitted)


def drawn(ax) -> dict[str, np.ndarray]:
    """Points of every collection by its label in the legend, or its id."""
    found = {}
    for collection in ax.collections:
        key = collection.get_gid() or collection.get_label()
        if len(collection.get_offsets()):
            found[key] = np.asarray(collection.get_offsets())
    return found


def test_every_candidate_is_a_point_of_its_stage(fitted, ax):
    points = drawn(ax)
    for stage in ("masks", "spectrum", "nothing removed"):
        rows = fitted.history_.query("stage == @stage")
        rows = rows[np.isfinite(rows["gap"])]
        assert len(rows) > 1
        np.testing.assert_allclose(points[f"stage {stage}"], rows[["gap", "utility"]])


def test_stages_differ_in_colour_and_missed_candidates_are_pale(fitted, ax):
    stages = {c.get_gid(): c for c in ax.collections if c.get_gid()}
    colours = {tuple(c.get_facecolors()[0][:3]) for c in stages.values()}
    assert len(colours) == len(stages) == 3
    feasible = fitted.history_.query("stage == 'masks'")["feasible"].to_numpy(dtype=bool)
    alpha = stages["stage masks"].get_facecolors()[:, 3]
    assert (alpha[feasible] == 1).all() and (alpha[~feasible] < 1).all()


def test_stages_differ_by_shape_too(fitted, ax):
    found = [each for each in ax.collections if str(each.get_gid()).startswith("stage ")]
    shapes = {each.get_paths()[0].vertices.tobytes() for each in found}
    assert len(shapes) == len(found) == 3


def test_the_untouched_and_the_chosen_network_are_marked(fitted, ax):
    points, history = drawn(ax), fitted.history_
    place = chosen_candidate(history)
    start = points["untouched, threshold tuned"]
    np.testing.assert_allclose(start, history[["gap", "utility"]].iloc[[0]])
    np.testing.assert_allclose(points["chosen"], history[["gap", "utility"]].iloc[[place]])


def test_tolerance_and_limit_are_lines_and_everything_is_named(fitted, ax):
    lines = {line.get_label(): line.get_xdata()[0] for line in ax.lines}
    assert lines == {"target of the choice, 0.02": pytest.approx(0.02), "tolerance, 0.05": 0.05}
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {*lines, "chosen", "untouched, threshold tuned"} < set(names)
    assert sum("candidates" in name for name in names) == 3
    assert ax.get_xlabel().startswith("demographic parity gap")
    assert ax.get_ylabel() == utility_name(fitted).replace("_", " ")
    assert "FairLRF-style" in ax.get_title(loc="left")


def test_further_points_are_joined_by_arrows(fitted):
    ax = plot_tradeoff(fitted, points={"before": (0.3, 0.7), "after": (0.1, 0.72)})
    points = drawn(ax)
    np.testing.assert_allclose(points["before"], [[0.3, 0.7]])
    np.testing.assert_allclose(points["after"], [[0.1, 0.72]])
    arrows = [text for text in ax.texts if text.arrow_patch is not None]
    assert [(arrow.xyann, arrow.xy) for arrow in arrows] == [((0.3, 0.7), (0.1, 0.72))]


def test_pyplot_is_not_needed_and_the_users_axes_are_used(fitted, monkeypatch):
    from matplotlib.figure import Figure

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now fails
    own = Figure().add_subplot()
    assert plot_tradeoff(fitted, ax=own) is own
    assert plot_tradeoff(fitted).figure is not own.figure


def test_the_png_is_a_picture(fitted, tmp_path):
    path = tmp_path / "gap_weight.png"
    plot_tradeoff(fitted).figure.savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = imread(path)
    assert pixels.shape[0] > 400 and pixels.shape[1] > 800
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50


def fake(history, **changes):
    params = {
        "tolerance": 0.05,
        "tolerance_fraction": 0.4,
        "constraint": "equalized_odds",
        "utility": "accuracy",
        "threshold": 0.5,
        "threshold_": None,
    }
    return SimpleNamespace(history_=pd.DataFrame(history), **{**params, **changes})


def test_candidates_without_a_finite_score_are_left_out():
    history = {
        "stage": ["untouched", "removal", "removal", "own"],
        "gap": [0.2, np.inf, 0.04, 0.01],
        "utility": [0.8, -np.inf, 0.75, 0.7],
        "feasible": [False, False, False, True],
        "value": [0.62, -np.inf, 0.73, 0.7],
        "chosen": [False, False, False, True],
    }
    points = drawn(plot_tradeoff(fake(history)))
    np.testing.assert_allclose(points["stage removal"], [[0.04, 0.75]])
    np.testing.assert_allclose(points["stage own"], [[0.01, 0.7]])
    np.testing.assert_allclose(points["untouched network"], [[0.2, 0.8]])


def test_nothing_to_plot_is_an_error():
    history = {"stage": ["untouched"], "gap": [np.inf], "utility": [-np.inf]}
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_tradeoff(fake({**history, "feasible": [False], "value": [-np.inf]}))


def test_an_editor_that_is_not_fitted_is_an_error():
    with pytest.raises(NotFittedError):
        plot_tradeoff(FairLRFTransformer())
