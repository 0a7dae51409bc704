"""A grid of settings on folds; what the settings of a fold share is computed once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.model_selection import StratifiedKFold, check_cv

from .._parallel import in_parallel
from .._rng import one_torch_thread, stage_rng
from ..arrays import LabelledRows
from ..base import (
    FitInputs,
    Prepared,
    Task,
    apply_to_copy,
    choose,
    make_constraint,
    prepare,
)
from ..model_selection import JointStratifiedKFold
from ..networks import AdoptedNetwork, all_logits, explaining
from ..objective import Constraint, ask_utility, count_table, utility_from_counts

if TYPE_CHECKING:
    import pandas as pd

    from ._fairlrf import FairLRFTransformer

__all__ = ["Point", "fold_results", "path_frame", "search_results", "splits_of"]

N_SPLITS = 5


@dataclass(frozen=True)
class Point:
    """How one setting performs on one fold.

    Attributes
    ----------
    split : int
        Number of the fold.
    index : int
        Position of the setting in the grid.
    params : mapping
    utility, gap : float
        On the test rows of the fold.
    record : mapping
        History row of the chosen candidate.
    fit_time, score_time : float
        Seconds, without the work that the settings of the fold share.
    """

    split: int
    index: int
    params: Mapping[str, Any]
    utility: float
    gap: float
    record: Mapping[str, Any]
    fit_time: float
    score_time: float


def splits_of(cv: Any, inputs: FitInputs) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Split the rows that have a group; by default every (label, group) cell into five.

    Parameters
    ----------
    cv : None, int, splitter or iterable of (train, test)
    inputs : FitInputs
    """
    y = inputs.classes[inputs.rows.y.numpy()]
    codes = inputs.rows.groups.numpy()
    if cv is None or isinstance(cv, (int, np.integer)):
        n_splits = N_SPLITS if cv is None else int(cv)
        cv = (JointStratifiedKFold if inputs.has_groups else StratifiedKFold)(n_splits)
    if isinstance(cv, JointStratifiedKFold):
        # The labels, not their codes, which an error would name.
        splits = cv.split(y, y, sensitive_features=inputs.groups if inputs.has_groups else None)
    else:
        labels = y if inputs.passed is None else inputs.passed.labels
        splits = check_cv(cv, labels, classifier=True).split(np.zeros((len(labels), 1)), labels)
        if inputs.passed is not None:
            within = inputs.passed.within
            splits = ((within(train), within(test)) for train, test in splits)
    has_group = codes >= 0
    kept = np.ones_like(has_group) if inputs.keeps else has_group
    return [(train[kept[train]], test[has_group[test]]) for train, test in splits]


def fold_results(
    editors: Sequence[tuple[Mapping[str, Any], FairLRFTransformer]],
    inputs: FitInputs,
    splits: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    seed: int,
    n_jobs: int | None,
) -> Iterator[AdoptedNetwork | list[Point]]:
    """Edit and score every setting on every fold, the folds in parallel.

    Parameters
    ----------
    editors : sequence of (params, editor)
        The grid.
    inputs : FitInputs
    splits : sequence of (train, test)
    seed : int
        The same for every fold and setting, as in a search that clones one editor.
    n_jobs : int or None

    Yields
    ------
    adopted : AdoptedNetwork
        Yielded first and once: the network trained on all rows, for the final fit. It does not
        depend on the choice, and takes the longest.
    points : list of Point
        Those of one fold, in the order of the grid.
    """
    folds = [(k, editors, inputs, train, test, seed) for k, (train, test) in enumerate(splits)]
    final = (None, editors, inputs, None, None, seed)
    yield from in_parallel(_task, [final, *folds], n_jobs)


def _task(split: int | None, editors: Any, inputs: FitInputs, *rest: Any) -> Any:
    with explaining():  # here, since the error may be raised in another process
        if split is None:
            first = editors[0][1]
            return prepare(first, inputs, make_constraint(first, inputs), rest[-1]).adopted
        return _fold(split, editors, inputs, *rest)


def _fold(
    split: int,
    editors: Sequence[tuple[Mapping[str, Any], FairLRFTransformer]],
    inputs: FitInputs,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    seed: int,
) -> list[Point]:
    first = editors[0][1]
    fold = inputs.subset(train)
    constraint = make_constraint(first, fold)
    ready = prepare(first, fold, constraint, seed)
    data = ready.data
    data = replace(data, cache=data.cache.for_one_task(), judged=data.judged.held())
    ready = replace(ready, data=data)
    held = inputs.rows.subset(test)
    held = replace(held, X=held.X.held())
    ready.adopted.module.requires_grad_(False)
    with one_torch_thread():
        points = [
            _point(split, index, params, editor, ready, constraint, held, seed)
            for index, (params, editor) in _by_shared_work(editors)
        ]
    return sorted(points, key=lambda point: point.index)


def _by_shared_work(
    editors: Sequence[tuple[Mapping[str, Any], FairLRFTransformer]],
) -> list[tuple[int, tuple[Mapping[str, Any], FairLRFTransformer]]]:
    """Sort settings so that those that share factors and masks (rank, weights) adjoin."""

    def shared(editor: FairLRFTransformer) -> tuple[Any, ...]:
        return editor.rank, editor.gap_weight, editor.privileged_weight

    order: dict[tuple[Any, ...], int] = {}
    for _, editor in editors:
        order.setdefault(shared(editor), len(order))
    return sorted(enumerate(editors), key=lambda item: order[shared(item[1][1])])


def _point(
    split: int,
    index: int,
    params: Mapping[str, Any],
    editor: FairLRFTransformer,
    ready: Prepared,
    constraint: Constraint,
    held: LabelledRows,
    seed: int,
) -> Point:
    start = time.perf_counter()
    adopted, data = ready.adopted, ready.data
    # An edit does not change the module.
    candidates = editor._edit(Task(adopted.module, data, constraint), stage_rng(seed, "edit"))
    outcome = choose(adopted.module, candidates, data)
    module, state = adopted.module, outcome.candidate.state
    if outcome.candidate.finish is not None:
        module, state = apply_to_copy(module, outcome.candidate), {}
    fitted = time.perf_counter()
    logits = all_logits(module, held.X, state=state, **adopted.reading).double().numpy()
    if data.n_classes == 2:
        logits[:, 1] -= outcome.verdict.margin
    before = None
    if constraint.compares:
        before = all_logits(adopted.module, held.X, **adopted.reading).argmax(dim=1).numpy()
    shape = data.n_classes, data.n_groups
    utility, size = _scores((logits.argmax(axis=1), before), held, shape, constraint)
    return Point(
        split=split,
        index=index,
        params=params,
        utility=utility,
        gap=size,
        record=outcome.record,
        fit_time=fitted - start,
        score_time=time.perf_counter() - fitted,
    )


def _scores(
    predictions: tuple[NDArray[np.int64], NDArray[np.int64] | None],
    held: LabelledRows,
    shape: tuple[int, int],
    constraint: Constraint,
) -> tuple[float, float]:
    """Score predicted codes by utility and the judge's gap; without groups there is no gap.

    The second ones are the untouched network's, where the constraint compares with it.
    """
    y, groups = held.y.numpy(), held.groups.numpy()
    weights = None if held.weights is None else held.weights.numpy()
    predicted, former = predictions
    counts = count_table(y, predicted, groups, *shape, weights)
    before = None if former is None else count_table(y, former, groups, *shape, weights)
    name = constraint.utility
    utility = (
        ask_utility(name, y, predicted) if callable(name) else utility_from_counts(counts, name)
    )
    size = constraint.measure(counts, before) if shape[1] > 1 else 0.0
    return float(utility), float(size)


def search_results(
    grid: Sequence[Mapping[str, Any]], folds: Sequence[Sequence[Point]]
) -> dict[str, Any]:
    """Arrange the points as in ``GridSearchCV.cv_results_``."""
    results: dict[str, Any] = {}
    for name in ("fit_time", "score_time"):
        values = np.array([[getattr(p, name) for p in fold] for fold in folds])
        results[f"mean_{name}"] = values.mean(axis=0)
        results[f"std_{name}"] = values.std(axis=0)
    for name in grid[0]:
        column = np.ma.MaskedArray(np.empty(len(grid), dtype=object), mask=False)
        column[:] = [params[name] for params in grid]
        results[f"param_{name}"] = column
    results["params"] = [dict(params) for params in grid]
    # Greater is better, as for every scorer: minus the gap.
    for metric, sign in (("utility", 1.0), ("gap", -1.0)):
        scores = np.array([[sign * getattr(p, metric) for p in fold] for fold in folds])
        for k, row in enumerate(scores):
            results[f"split{k}_test_{metric}"] = row
        mean = scores.mean(axis=0)
        results[f"mean_test_{metric}"] = mean
        results[f"std_test_{metric}"] = scores.std(axis=0)
        worst = np.where(np.isnan(mean), np.inf, -mean)
        results[f"rank_test_{metric}"] = rankdata(worst, method="min").astype(np.int32)
    return results


def path_frame(folds: Sequence[Sequence[Point]]) -> pd.DataFrame:
    """List every setting on every fold, with its validation and its test results."""
    import pandas as pd

    return pd.DataFrame(
        {
            "split": point.split,
            **point.params,
            "removed_fraction": point.record.get("removed_fraction", 0.0),
            "threshold": point.record["threshold"],
            "validation_utility": point.record["utility"],
            "validation_gap": point.record["gap"],
            "test_utility": point.utility,
            "test_gap": point.gap,
        }
        for fold in folds
        for point in fold
    )
