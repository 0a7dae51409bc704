"""compare: several methods on the same folds, over one base network a fold."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from .._parallel import in_parallel
from .._rng import one_torch_thread, resolve_seed
from ..base import progress_bar
from ..model_selection import JointStratifiedKFold
from ..networks import AdoptedNetwork
from ..objective import GAPS
from ._fold import Fold, Parts, base_of, divide
from ._measures import MEASURES, change_columns, measured
from ._methods import Method, resolve
from ._problem import Problem, read_problem

if TYPE_CHECKING:
    from ._table import Comparison

__all__ = ["compare"]


def compare(
    mitigators: Any,
    X: Any,
    y: Any,
    sensitive_features: Any,
    *,
    base: Any = None,
    cv: Any = None,
    constraints: str | Sequence[str] = "equalized_odds",
    tolerance: float = 0.05,
    pos_label: Any = None,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
    verbose: int = 0,
) -> Comparison:
    """Compare methods on the same folds, over one base network a fold.

    Of every fold's training rows 70 % train the base network, once for all methods, and 30 % are
    validation rows, drawn within every (label, group) cell. Editors edit the base network on its
    training rows and choose on the validation rows; post-processors are fitted on the validation
    rows and up to 4,000 training rows; what trains a model of its own gets all of both. The test
    rows are touched once. A method that fails is a row with its error.

    Parameters
    ----------
    mitigators : str, estimator, list of these, or mapping of str to these
        Names: "threshold" (the base network with its one threshold moved to the best balanced
        accuracy); editors of this package by the name of their class, with their defaults;
        fairlearn's "ThresholdOptimizer", "ExponentiatedGradient" (of logistic regressions),
        "AdversarialFairnessClassifier"; AIF360's "Reweighing", "EqOddsPostprocessing",
        "RejectOptionClassification". Instances: editors, methods of fairlearn and AIF360, and any
        classifier with ``fit`` and ``predict``; see Notes. The keys of a mapping are the names in
        the table. "untouched", the base network as it is, is always the first method.
    X : array-like or DataFrame of shape (n, n_features), images (n, C, H, W) or ImageFrame
        Numbers.
    y : array-like of shape (n,)
        Two or more classes, any labels.
    sensitive_features : array-like of shape (n,) or (n, n_columns)
        Groups, any labels, none missing; several columns are intersected.
    base : None, skorch net, FrozenEstimator(skorch net) or nn.Module, default=None
        The base network. None: the editors' default network, trained in every fold; a skorch net
        is cloned and trained in every fold. A frozen net or a module is taken as it is: results
        are too good where it was trained on rows of X.
    cv : int, splitter, iterable of (train, test) or None, default=None
        None and integers: ``JointStratifiedKFold`` of 5 (or so many) shuffled folds.
    constraints : str or sequence of str, default="equalized_odds"
        Names of gaps, as editors take them; every method runs once for each.
    tolerance : float in [0, 1], default=0.05
        The gap that is accepted, a difference of rates.
    pos_label : label or None, default=None
        The positive one of two classes; None means the second.
    n_jobs : int or None, default=None
        Base networks, then methods, side by side in processes of joblib's. Results are the same.
    random_state : int, RandomState instance or None, default=None
        With an integer the tables of two calls are equal, but for ``seconds``.
    verbose : int, default=0
        Above 0: a progress bar on stderr.

    Returns
    -------
    comparison : Comparison
        A DataFrame of a row a (fold, constraint, method); its ``summary()``, ``pareto()`` and
        ``plot()`` look at it over the folds.

    Raises
    ------
    ValueError
        For bad input, which is said before anything is trained: an unknown name (with the nearest),
        columns that are no numbers, a cell too small for the folds, and so on.

    Notes
    -----
    *Instances* are cloned. What asks for a gap by its name (an editor's ``constraint`` and
    ``tolerance``, fairlearn's ``constraints``) is set to the row's; a constraint that is an object
    (a ``PhiObjective``, a moment of fairlearn) stays. An editor's ``network``, ``pos_label`` and
    ``random_state`` are filled where they are None: one that brings its own network edits that one.
    A ``ThresholdOptimizer`` without ``estimator`` works on the base network. Instances of AIF360
    name their groups by the sensitive feature's name and value; values that are no numbers are
    counted from 0 in sorted order. A classifier whose ``fit``, or ``fit`` and ``predict``, take
    ``sensitive_features`` gets them, the last step of a Pipeline too.

    *Peers by name* have settings that measured best on development rows: errors cost as in
    balanced accuracy, and where a bound on the gap can be given it is 0.4 x ``tolerance``.
    EqOddsPostprocessing knows equalized odds only and stands as it is under other constraints.
    Reweighing's weights become rows (:func:`fairsvd.interop.resample_by_weight`) that a network
    like the base is trained on; its threshold is chosen as editors choose theirs. What needs two
    classes, two groups or a table says so in its row.

    ``seconds`` are those of fitting and predicting, without the base network's training.

    Examples
    --------
    >>> from fairsvd import GapFineTuner, compare
    >>> from fairsvd.datasets import make_biased_classification
    >>> task = make_biased_classification(600, random_state=0)
    >>> methods = {"gap": GapFineTuner(max_steps=20), "threshold": "threshold"}
    >>> found = compare(
    ...     methods, task.data, task.target, task.sensitive_features, cv=2, random_state=0
    ... )
    >>> found[["fold", "method"]].values.tolist()
    [[0, 'untouched'], [0, 'gap'], [0, 'threshold'], [1, 'untouched'], [1, 'gap'], [1, 'threshold']]
    >>> summary = found.summary()["psi"]
    >>> bool(summary["equalized_odds", "gap"] > summary["equalized_odds", "untouched"])
    True
    """
    methods, asked = resolve(mitigators), _constraints(constraints)
    seed = resolve_seed(random_state)
    settings = {"base": base, "pos_label": pos_label, "tolerance": tolerance, "seed": seed}
    problem = read_problem(X, y, sensitive_features, **settings)
    splits = _splits(cv, problem)
    parts = [divide(k, problem, *split) for k, split in enumerate(splits)]
    total = len(parts) * (1 + len(asked) * len(methods))
    with progress_bar(verbose, "compare", unit=" fits", total=total) as tick:
        jobs = [(problem, part) for part in parts]
        bases = _ticked(in_parallel(_base_of, jobs, n_jobs), tick)
        # Put together here, so that all folds share one X, which is not sent back and forth.
        folds = [
            Fold(**vars(part), problem=problem, adopted=adopted, before=before)
            for part, (adopted, before) in zip(parts, bases, strict=True)
        ]
        tasks = [(fold, name, method) for fold in folds for name in asked for method in methods]
        rows = list(_ticked(in_parallel(_row, tasks, n_jobs), tick))
    return _comparison(rows, problem)


def _constraints(constraints: str | Sequence[str]) -> list[str]:
    asked = [constraints] if isinstance(constraints, str) else list(dict.fromkeys(constraints))
    unknown = [name for name in asked if name not in GAPS]
    if unknown or not asked:
        raise ValueError(f"constraints={constraints!r}: wanted names among {', '.join(GAPS)}.")
    return asked


Split = tuple[NDArray[np.int64], NDArray[np.int64]]


def _splits(cv: Any, problem: Problem) -> list[Split]:
    """List the rows to fit on and to test on, ascending."""
    if cv is None or isinstance(cv, (int, np.integer)):
        n_splits = 5 if cv is None else int(cv)
        cv = JointStratifiedKFold(n_splits, shuffle=True, random_state=problem.seed)
    y = problem.classes[problem.codes]
    if isinstance(cv, JointStratifiedKFold):
        splits = cv.split(problem.X, y, sensitive_features=problem.groups.codes)
    else:
        splits = cv.split(np.zeros((len(y), 1)), y) if hasattr(cv, "split") else iter(cv)
    every = np.arange(len(y))
    # Through an array of all rows, so that masks do as well as row numbers.
    found = [(np.sort(every[train]), np.sort(every[test])) for train, test in splits]
    if not found or any(not len(side) for split in found for side in split):
        raise ValueError("cv makes no split, or one with an empty side: both need rows.")
    return found


def _base_of(problem: Problem, parts: Parts) -> tuple[AdoptedNetwork, NDArray[np.int64]]:
    with _reproducible():
        return base_of(problem, parts)


@contextmanager
def _reproducible() -> Iterator[None]:
    """Use one thread: sums over several round differently, and processes have fewer each."""
    with one_torch_thread(), threadpool_limits(1, user_api="blas"):
        yield


def _row(fold: Fold, constraint: str, method: Method) -> dict[str, Any]:
    """Run a method and measure it; whatever it raises is part of the row."""
    row: dict[str, Any] = {"fold": fold.number, "constraint": constraint, "method": method.name}
    found: dict[str, Any] = {}
    error = ""
    start = perf_counter()
    with warnings.catch_warnings(record=True) as caught, _reproducible():
        warnings.simplefilter("always")
        try:
            predicted = method.run(fold, constraint)
            found["seconds"] = perf_counter() - start
            found |= measured(fold, constraint, predicted)
        except Exception as failure:
            error = " ".join(f"{type(failure).__name__}: {failure}".split())
    found.setdefault("seconds", perf_counter() - start)
    seen = ", ".join(sorted({entry.category.__name__ for entry in caught}))
    return row | found | {"needs_group": method.needs_group, "error": error, "warnings": seen}


def _comparison(rows: list[dict[str, Any]], problem: Problem) -> Comparison:
    from ._table import Comparison

    changes = change_columns(problem.groups.labels)
    last = ["needs_group", "seconds", "error", "warnings"]
    columns = ["fold", "constraint", "method", *MEASURES, *changes, *last]
    table = Comparison(rows, columns=columns, tolerance=problem.tolerance)
    return table.astype(dict.fromkeys([*MEASURES, *changes], float))


def _ticked(results: Iterator[Any], tick: Callable[[], object] | None) -> Iterator[Any]:
    for result in results:
        yield result
        if tick is not None:
            tick()
