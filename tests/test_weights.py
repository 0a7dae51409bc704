"""Weights of rows in a fit: 2 counts a row twice, 0 leaves it out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import SequentialSampler

from edit_data import constraint, labelled
from fairsvd import (
    BlindPostProcessor,
    CountLimit,
    FairLRFTransformer,
    FairLRFTransformerCV,
    JointStratifiedKFold,
    PhiObjective,
    fairness_scorer,
)
from fairsvd.arrays import draw_order, repeat_rows
from fairsvd.exceptions import NetworkError
from fairsvd.metrics import gap_table, read_weights
from fairsvd.objective import _sweep, count_moves, make_judge, solve_rules
from fairsvd.training import CellBatches, RowBatches
from helpers import IGNORE_SMALL_DATA, Rows, fingerprint, mlp, skorch_net, table, trained

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

ROWS = table(160)
TIMES = np.random.default_rng(0).integers(1, 4, size=160)
# An edit whose candidates do not depend on any row.
CURVES = {"criterion": "magnitude", "refine": None, "random_state": 0}
FIXED = {**CURVES, "sparsity": 0.1}


def repeated(rows, times=TIMES):
    return Rows(*(np.repeat(part, times, axis=0) for part in rows))


def judges(n_classes=2, **changes):
    """The same rows, weighted and repeated, with logits that favour a group."""
    rng = np.random.default_rng(1)
    n = 90
    y, groups, parts = rng.integers(n_classes, size=n), rng.integers(2, size=n), np.arange(n) % 2
    times = rng.integers(1, 5, size=n)
    logits = rng.normal(size=(n, n_classes)).round(1)
    logits[np.arange(n), y] += 1
    logits[:, -1] += 0.7 * groups
    asked = replace(constraint(), **changes)
    weighted = make_judge(y, groups, parts, n_classes, 2, asked, times.astype(float))
    columns = (np.repeat(each, times) for each in (y, groups, parts))
    plain = make_judge(*columns, n_classes, 2, asked)
    return (weighted, torch.tensor(logits)), (plain, torch.tensor(np.repeat(logits, times, axis=0)))


def largest_fall(counts):
    return float(counts[1, 0, 1] / counts[1, 0].sum() - counts[0, 0, 1] / counts[0, 0].sum())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"utility": "worst_cell_accuracy", "gap": "demographic_parity"},
        {"threshold": 0.4},
        {"requirements": (CountLimit(largest_fall, 0.1),)},
        {"phi": PhiObjective(n_bootstrap=0)},
        {"n_classes": 3},
    ],
    ids=["plain", "worst cell", "threshold", "a function of counts", "phi", "three classes"],
)
@pytest.mark.parametrize("apart", [False, True])
def test_the_judge_decides_as_with_repeated_rows(changes, apart):
    found = []
    for judge, logits in judges(**changes):
        judge = judge.apart() if apart else judge
        judge = judge.referring(logits).against(logits)
        curves = judge.curves(logits)
        decided = judge(logits), judge.steady(logits, 0.3), judge.for_utility(logits)
        found.append((judge.floor, judge.noise, curves.utility, curves.gaps, decided))
    weighted, plain = found
    assert weighted[:2] == plain[:2]
    assert np.array_equal(weighted[2], plain[2]) and np.array_equal(weighted[3], plain[3])
    assert weighted[4] == plain[4]


def test_weights_are_added_up_over_chunks_of_thresholds(monkeypatch):
    (judge, logits), _ = judges()
    whole = judge.curves(logits)
    monkeypatch.setattr(_sweep, "CHUNK", 40)
    parts = judge.curves(logits)
    assert np.array_equal(whole.utility, parts.utility) and np.array_equal(whole.gaps, parts.gaps)


def test_weights_with_fractions_leave_no_rest_at_the_ends():
    (judge, logits), _ = judges()
    judge = replace(judge, weights=judge.weights * 0.1 + 0.03)
    # All are predicted alike beyond both ends, so that no rate can differ.
    curves = judge.curves(logits)
    assert curves.gaps[[0, -1]].tolist() == [0.0, 0.0]
    assert np.allclose(curves.utility[[0, -1]], 0.5)


def test_a_fit_decides_as_with_repeated_rows():
    """Without an edit and without rounding, the whole choice is the judge's."""
    grid = ROWS._replace(X=(4 * ROWS.X).round() / 4)
    network, fold = trained(mlp(), ROWS), np.arange(160) % 3 - 1
    with torch.no_grad():
        for part in network.parameters():
            # Else copies of a row differ by rounding, which depends on the rows beside them.
            part.copy_((8 * part).round() / 8)
    editor = FairLRFTransformer(network, **{**FIXED, "sparsity": 0, "rank": None})
    fits = [
        clone(editor)
        .set_params(validation=PredefinedSplit(test))
        .fit(rows.X, rows.y, sensitive_features=rows.group, sample_weight=weights)
        for rows, test, weights in (
            (grid, fold.clip(-1, 0), TIMES),
            (repeated(grid), np.repeat(fold.clip(-1, 0), TIMES), None),
        )
    ]
    weighted, plain = fits
    assert weighted.threshold_ == plain.threshold_ != 0.5
    columns = ["utility", "gap", "threshold", "value"]
    assert np.array_equal(weighted.history_.loc[0, columns], plain.history_.loc[0, columns])
    gaps = ["before", "after", "threshold_only"]
    assert np.allclose(weighted.report_.gaps[gaps], plain.report_.gaps[gaps], rtol=1e-12)
    counted = ["selection_rate", "tpr", "ppv", "f1", "accuracy", "auc", "brier"]
    first, second = (fit.report_.measures["after"][counted] for fit in fits)
    assert np.allclose(first, second, rtol=1e-12)
    # What is known about rates depends on people, who are not repeated.
    assert weighted.report_.groups[("", "n")].sum() < plain.report_.groups[("", "n")].sum()
    assert (weighted.report_.gaps["noise_floor"] > plain.report_.gaps["noise_floor"]).all()
    assert any("sample_weight" in note for note in weighted.report_.notes)


@pytest.mark.parametrize("network", [None, skorch_net(mlp())], ids=["own network", "skorch net"])
def test_weight_0_is_a_row_left_out(network):
    kept = np.arange(160) % 4 > 0
    # A label and a group that only such rows have do not exist.
    y, group = np.where(kept, ROWS.y, 2), np.where(kept, ROWS.group, 5)
    editor = BlindPostProcessor(network, joint="head", n_teachers=1, random_state=0)
    removed = clone(editor).fit(ROWS.X[kept], y[kept], sensitive_features=group[kept])
    zero = clone(editor).fit(ROWS.X, y, sensitive_features=group, sample_weight=kept)
    assert fingerprint(zero.module_) == fingerprint(removed.module_)
    assert zero.history_.equals(removed.history_)
    assert (zero.classes_.tolist(), zero.groups_) == ([0, 1], [0, 1])


def test_a_splitter_s_row_numbers_are_those_of_all_rows():
    kept = np.arange(160) % 4 > 0
    test = np.where(np.arange(160) < 80, -1, 0)
    fits = [
        FairLRFTransformer(trained(mlp(), ROWS), validation=PredefinedSplit(fold), **FIXED).fit(
            rows.X, rows.y, sensitive_features=rows.group, sample_weight=weights
        )
        for rows, fold, weights in (
            (ROWS, test, kept),
            (Rows(*(part[kept] for part in ROWS)), test[kept], None),
        )
    ]
    assert fits[0].history_.equals(fits[1].history_)


def test_equal_weights_change_nothing():
    plain, ones, same = (
        FairLRFTransformer(skorch_net(mlp()), **FIXED).fit(
            ROWS.X, ROWS.y, sensitive_features=ROWS.group, sample_weight=weights
        )
        for weights in (None, np.ones(160), np.full(160, 0.3))
    )
    assert fingerprint(plain.module_) == fingerprint(ones.module_) == fingerprint(same.module_)
    assert plain.history_.equals(ones.history_) and plain.history_.equals(same.history_)


def test_copies_have_on_average_the_weights():
    """Over evenly spread offsets the mean is exact, whatever the weights."""
    weights = torch.tensor([1.0, 3.0, 2.0, 2.0, 8.0])
    offsets = (np.arange(16) + 0.5) / 16
    copies = [np.bincount(repeat_rows(weights, u), minlength=5) for u in offsets]
    assert {each.sum() for each in copies} == {5}
    assert np.allclose(np.mean(copies, axis=0), 5 * weights / 16)
    assert all((np.abs(each - 5 * weights.numpy() / 16) < 1).all() for each in copies)
    order = draw_order(5, weights, torch.Generator().manual_seed(0))
    assert order.sort().values.tolist() != order.tolist()


def shares_of(batches, n):
    """How often each of some hundreds of rows comes, by the number in its first column."""
    seen = torch.cat([batch.X[:, 0] for _, batch in zip(range(n), batches, strict=False)])
    return np.bincount(seen.long().numpy(), minlength=160) / len(seen)


def numbered(weights):
    X = np.arange(160, dtype=np.float32)[:, None]
    return replace(labelled(ROWS._replace(X=X)), weights=torch.as_tensor(weights))


@pytest.mark.parametrize("kind", ["cells", "rows"])
def test_batches_draw_rows_by_their_weights(kind):
    weights = np.random.default_rng(0).exponential(size=160)
    rows = numbered(weights)
    settings = {"generator": torch.Generator().manual_seed(0), "device": torch.device("cpu")}
    if kind == "rows":
        found = shares_of(RowBatches(rows, batch_size=40, **settings), 1500)
        assert np.abs(found - weights / weights.sum()).max() < 1e-3
        return
    batches = CellBatches(rows, 2, 2, batch_size=40, balance=None, **settings)
    cells = ROWS.y * 2 + ROWS.group
    within = weights / np.bincount(cells, weights)[cells] / 4
    found = shares_of(batches, 1500)
    assert np.abs(found - within).max() < 5 * np.sqrt(within.max() / 60000)
    # Weights of the losses are those of the cells.
    batch = next(iter(batches))
    cell = batch.y * 2 + batch.groups
    own = [float(batch.gap_weights[cell == k][0]) for k in range(4)]
    assert np.allclose(own, 4 * np.bincount(cells, weights) / weights.sum(), rtol=1e-5)


def test_rows_for_passes_keep_the_share_of_every_cell():
    weights = np.random.default_rng(0).exponential(size=160)
    rows = numbered(weights)
    passed = rows.repeated(2)
    assert len(passed) == 160 and passed.weights is None
    exact = rows.count_cells(2, 2) * 160 / weights.sum()
    assert (passed.count_cells(2, 2) - exact).abs().max() < 1 + 1e-9


def test_the_rule_is_that_of_repeated_rows():
    rng = np.random.default_rng(0)
    cells, times = rng.dirichlet(np.ones(4), size=150), rng.integers(1, 4, size=150)
    counts = np.array([[30, 50], [40, 30]])
    of = ("equalized_odds", 1, "balanced_accuracy", [0.1, 0.02])
    weighted = solve_rules(cells, counts, *of, weights=times.astype(float))
    plain = solve_rules(np.repeat(cells, times, axis=0), counts, *of)
    for one, other in zip(weighted, plain, strict=True):
        assert np.allclose(one.weights, other.weights, atol=1e-4)
    assert not np.allclose(
        weighted[0].weights, solve_rules(cells, counts, *of)[0].weights, atol=0.01
    )


def test_harm_is_judged_on_the_number_of_rows_that_tell_as_much():
    y, groups = np.ones(40, dtype=int), np.arange(40) % 2
    before, after = np.ones(40, dtype=int), (np.arange(40) >= 12).astype(int)
    plain = count_moves(y, (before, after), groups, (2, 2), 1)
    tenfold = count_moves(y, (before, after), groups, (2, 2), 1, np.full(40, 10.0))
    assert [c[:4] for c in tenfold.changes("equalized_odds")] == [
        c[:4] for c in plain.changes("equalized_odds")
    ]
    # Ten copies of six rows are still six rows.
    assert [c.fell for c in tenfold.changes("equalized_odds")] == [
        c.fell for c in plain.changes("equalized_odds")
    ]
    assert {c.lost for c in tenfold.changes("equalized_odds")} == {60.0}
    few = np.where(np.arange(40) < 2, 100.0, 1.0)
    assert not any(
        c.fell
        for c in count_moves(y, (before, after), groups, (2, 2), 1, few).changes("equalized_odds")
    )


def test_a_skorch_net_is_trained_by_weights_and_stays_as_it_was():
    """One label has nearly all the weight, so that it is what the net learns to predict."""
    net = skorch_net(mlp(), max_epochs=15, lr=0.2)
    weights = np.where(ROWS.y == 1, 50.0, 0.5)
    editor = FairLRFTransformer(net, threshold=0.5, sparsity=0, refine=None, random_state=0)
    fitted = {}
    for name, given in (("none", None), ("ones", weights)):
        fitted[name] = clone(editor).fit(
            ROWS.X, ROWS.y, sensitive_features=ROWS.group, sample_weight=given
        )
    assert (fitted["ones"].predict(ROWS.X) == 1).mean() > 0.95
    assert (fitted["none"].predict(ROWS.X) == 1).mean() < 0.8
    back = fitted["ones"].to_skorch()
    assert back.iterator_train is net.iterator_train
    assert back.fit(ROWS.X, ROWS.y).predict(ROWS.X).shape == (160,)


def test_a_net_whose_rows_weights_cannot_reach_is_refused():
    order = SequentialSampler(range(160))
    net = skorch_net(mlp(), iterator_train__sampler=order)
    fit = {"sensitive_features": ROWS.group, "sample_weight": TIMES}
    with pytest.raises(NetworkError, match="sampler of its own"):
        FairLRFTransformer(net, **FIXED).fit(ROWS.X, ROWS.y, **fit)


def test_what_has_no_meaning_with_weights_is_refused():
    fit = {"sensitive_features": ROWS.group, "sample_weight": TIMES}
    with pytest.raises(ValueError, match=r"confidence=0\.9 promises by the binomial"):
        FairLRFTransformer(confidence=0.9).fit(ROWS.X, ROWS.y, **fit)
    with pytest.raises(ValueError, match=r"utility=.* gets labels and predictions"):
        FairLRFTransformer(utility=lambda y, p: 0.0).fit(ROWS.X, ROWS.y, **fit)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([1.0] * 159, "one weight a row"),
        ([-1.0] + [1.0] * 159, "at least 0"),
        ([np.nan] + [1.0] * 159, "finite"),
        (np.zeros(160), "zero in every row"),
        (["heavy"] * 160, "holds no numbers"),
    ],
)
def test_weights_that_are_none(given, says):
    with pytest.raises(ValueError, match=f"sample_weight .*{says}"):
        read_weights(given, 160)
    with pytest.raises(ValueError, match=f"sample_weight .*{says}"):
        FairLRFTransformer().fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group, sample_weight=given)


def test_a_search_routes_weights(routing):
    editor = FairLRFTransformer(trained(mlp(), ROWS), **FIXED).set_fit_request(sample_weight=True)
    scorer = fairness_scorer("equalized_odds_difference").set_score_request(sample_weight=True)
    search = GridSearchCV(
        Pipeline(
            [("scale", StandardScaler().set_fit_request(sample_weight=True)), ("edit", editor)]
        ),
        {"edit__sparsity": [0.0, 0.1]},
        scoring=scorer,
        cv=JointStratifiedKFold(2),
        error_score="raise",
    )
    fit = {"sensitive_features": ROWS.group, "sample_weight": TIMES.astype(float)}
    weighted = clone(search).fit(ROWS.X, ROWS.y, **fit)
    plain = clone(search).fit(ROWS.X, ROWS.y, **{**fit, "sample_weight": np.ones(160)})
    assert "sample_weight" in " ".join(weighted.best_estimator_["edit"].report_.notes)
    assert not np.array_equal(
        weighted.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
    )
    assert not sklearn.get_config()["skip_parameter_validation"]


def test_the_search_of_its_own_scores_weighted_rows():
    """Folds by row numbers, so that repeated rows fall as their rows do."""
    fold = np.arange(160) % 2
    settings = {"ranks": [1.0, 0.5], "sparsities": [0.0, 0.1], "validation": 0.3}
    network = FrozenEstimator(skorch_net(mlp(), max_epochs=8).fit(ROWS.X, ROWS.y))
    searches = [
        FairLRFTransformerCV(
            network,
            cv=[(np.flatnonzero(f != k), np.flatnonzero(f == k)) for k in (0, 1)],
            **settings,
            **CURVES,
        ).fit(rows.X, rows.y, sensitive_features=rows.group, sample_weight=weights)
        for rows, f, weights in (
            (ROWS, fold, np.where(np.arange(160) < 40, 0, 1)),
            (Rows(*(part[40:] for part in ROWS)), fold[40:], None),
            (ROWS, fold, TIMES),
        )
    ]
    zero, removed, weighted = (search.cv_results_["mean_test_utility"] for search in searches)
    assert np.array_equal(zero, removed)
    assert not np.array_equal(zero, weighted)


def test_the_table_of_gaps_counts_weights():
    predicted = np.where(np.arange(160) % 3 == 0, 1 - ROWS.y, ROWS.y)
    weighted = gap_table(ROWS.y, predicted, ROWS.group, sample_weight=TIMES)
    columns = (np.repeat(each, TIMES) for each in (ROWS.y, predicted, ROWS.group))
    assert np.allclose(weighted, gap_table(*columns))
    assert not np.allclose(weighted, gap_table(ROWS.y, predicted, ROWS.group))
