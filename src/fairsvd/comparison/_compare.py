"""Compare methods on the same folds, with one base network per fold."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from .._messages import listed
from .._parallel import in_parallel
from .._rng import one_torch_thread, resolve_seed
from .._warn import categories_of
from ..base import Progress, progress_bar
from ..networks import AdoptedNetwork
from ._aims import Aim, read_aims
from ._answers import Answer
from ._fold import Fold, Parts, base_of, divide
from ._harm import JUDGED, Run, count_losses
from ._measures import MEASURES, change_columns, group_columns, measure
from ._methods import Method, resolve, shared_preprocessing, with_reference
from ._problem import Problem, read_problem
from ._splits import make_splits

if TYPE_CHECKING:
    from ._table import Comparison

__all__ = ["compare"]


def compare(
    methods: Any,
    X: Any,
    y: Any,
    sensitive_features: Any,
    *,
    preprocessing: Any = None,
    base: Any = None,
    cv: Any = None,
    constraints: Any = "equalized_odds",
    tolerance: float = 0.05,
    pos_label: Any = None,
    sample_weight: Any = None,
    measures: str | Sequence[str] | None = None,
    reference: str | None = None,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
    verbose: int = 0,
) -> Comparison:
    """Compare methods on the same folds, with one base network per fold.

    In every fold 70 % of the training rows train the base network, once for all methods; the other
    30 %, drawn within every (label, group) cell, are validation rows. Editors edit the base network
    on its training rows and choose on the validation rows. Post-processors are fitted on the
    validation rows and up to 4,000 training rows. Methods that train their own model get all of
    both. The test rows are used once. A method that fails gets a row with its error.

    Parameters
    ----------
    methods : str, estimator, list of these, or mapping of str to these
        Names: "threshold" (the base network at the threshold of best balanced accuracy);
        "fine-tuning" (see ``reference``); editors of this package by their class name, with
        default parameters; "ConFairReweigher" and "DifFair" (of logistic regressions); fairlearn's
        "ThresholdOptimizer", "ExponentiatedGradient" (of logistic regressions),
        "AdversarialFairnessClassifier"; AIF360's "Reweighing", "EqOddsPostprocessing",
        "RejectOptionClassification". Instances: editors, Pipelines that end in one, methods of
        fairlearn and AIF360, and any classifier with ``fit`` and ``predict``; see Notes. The keys
        of a mapping are the names in the table. The first method is always "untouched", the
        unedited base network.
    X : array-like or DataFrame of shape (n, n_features), images (n, C, H, W) or ImageFrame
        Numbers, or a DataFrame with columns of text; see ``preprocessing``.
    y : array-like of shape (n,)
        At least two classes, any labels.
    sensitive_features : array-like of shape (n,) or (n, n_columns)
        Groups, any labels, none missing; several columns are intersected.
    preprocessing : transformer or None, default=None
        Makes numbers of X; a clone is fitted on the training rows of each fold, for all methods.
        None: the steps that stand before the editors in Pipelines; without Pipelines, for a
        DataFrame with text, an encoder that scales numbers and makes one-hot columns of all else.
        Pipelines around other classifiers get X as it is.
    base : None, skorch net, FrozenEstimator(skorch net) or nn.Module, default=None
        The base network. None: the editors' default network, trained in every fold; a skorch net
        is cloned and trained in every fold. A frozen net or a module is not trained: results are
        too good if it was trained on rows of X.
    cv : int, splitter, iterable of (train, test) or None, default=None
        None and integers: ``JointStratifiedKFold`` with 5 (or that many) shuffled folds.
    constraints : str, requirement, sequence of these or mapping, default="equalized_odds"
        Names of gaps, as in editors, or requirements such as ``EachAttribute("equalized_odds")``;
        every method runs once for each. A mapping names them, and its values may be lists, all of
        which is to be met together. See Notes.
    tolerance : float in [0, 1], default=0.05
        The accepted gap, a difference of rates.
    pos_label : label or None, default=None
        The positive class of two; None means the second.
    sample_weight : array-like of shape (n,), default=None
        How often each row counts, at least 0, in fits and on test rows. None: once.
    measures : "all", str, list of str or None, default=None
        Measures by group, named as in :func:`fairsvd.group_table`: see ``Comparison.disparities``.
    reference : str or None, default=None
        The method of the table that :meth:`Comparison.no_harm` compares the others with. It is
        added if it is missing. "fine-tuning" is the base network, tuned on cross-entropy alone: of
        four learning rates the one that comes nearest to balanced accuracy 1 and gap 0 on the
        validation rows.
    n_jobs : int or None, default=None
        Number of joblib processes for base networks and methods. It does not change the results.
    random_state : int, RandomState instance or None, default=None
        With an integer the tables of two calls are equal except for ``seconds``.
    verbose : int, default=0
        Above 0 shows on stderr the fits that are done, the fold and method that run, and the time
        left: as a bar, or as a line for each fit if stderr is no terminal. With ``n_jobs`` it names
        the first fit that is not done.

    Returns
    -------
    comparison : Comparison
        A DataFrame with one row per (fold, constraint, method); its ``summary()``, ``pareto()``
        and ``plot()`` aggregate the folds.

    Raises
    ------
    ValueError
        For bad input, before anything is trained: an unknown name (the message names the nearest),
        columns that are not numbers, a cell too small for the folds, and so on.

    Notes
    -----
    *Instances* are cloned. Parameters that name a gap (an editor's ``constraint`` and
    ``tolerance``, fairlearn's ``constraints``) are set to those of the row; a constraint object (a
    ``PhiObjective``, a moment of fairlearn) is kept. An editor's ``network``, ``pos_label`` and
    ``random_state`` are set if they are None; an editor with its own network edits that one. A
    ``ThresholdOptimizer`` without ``estimator`` uses the base network. Instances of AIF360 name
    their groups by the sensitive feature's name and value; values that are not numbers are numbered
    from 0 in sorted order. A classifier, or the last step of a Pipeline, whose ``fit``, or ``fit``
    and ``predict``, take ``sensitive_features`` gets them.

    *Methods of other packages by name* have the settings that were best on development rows:
    errors cost as in balanced accuracy, and a bound on the gap, if there is one, is
    0.4 x ``tolerance``. EqOddsPostprocessing closes equalized odds under every constraint.
    Reweighing's weights become rows (:func:`fairsvd.interop.resample_by_weight`) on which a network
    like the base is trained; its threshold is chosen like that of an editor. A method that needs
    two classes, two groups or a table and has not got them reports this as the error of its row.

    *Requirements*: editors get them as ``constraint``; other methods the gap that they are about,
    else equalized odds, between the intersections. ``gap`` is then the ``tolerance`` plus the
    largest excess over a limit.

    *Weights*: methods that take none get as many rows, drawn in proportion to their weights, but
    for ``ConFairReweigher`` and ``DifFair``, which fail. Intervals are those of as many rows of
    equal weight as tell as much.

    ``seconds`` is the time of fitting and predicting, without the base network's training.

    Examples
    --------
    >>> from fairsvd import GapFineTuner, compare
    >>> from fairsvd.datasets import make_biased_classification
    >>> task = make_biased_classification(600, random_state=0)
    >>> methods = {"gap": GapFineTuner(max_steps=20), "threshold": "threshold"}
    >>> comparison = compare(
    ...     methods, task.data, task.target, task.sensitive_features, cv=2, random_state=0
    ... )
    >>> comparison[["fold", "method"]].values.tolist()
    [[0, 'untouched'], [0, 'gap'], [0, 'threshold'], [1, 'untouched'], [1, 'gap'], [1, 'threshold']]
    >>> summary = comparison.summary()["psi"]
    >>> bool(summary["equalized_odds", "gap"] > summary["equalized_odds", "untouched"])
    True
    """
    found = with_reference(resolve(methods), reference)
    seed = resolve_seed(random_state)
    settings = {"base": base, "pos_label": pos_label, "tolerance": tolerance, "seed": seed}
    settings |= {"sample_weight": sample_weight, "measures": measures}
    settings["preprocessing"] = shared_preprocessing(found, preprocessing)
    problem = read_problem(X, y, sensitive_features, **settings)
    aims = read_aims(constraints, problem.groups, problem.tolerance)
    gaps = [aim.name for aim in aims]
    parts = [divide(k, problem, *split) for k, split in enumerate(make_splits(cv, problem))]
    titles = _list_runs(len(parts), gaps, found)
    bar = progress_bar(
        verbose, "compare", unit=" fits", total=len(titles), status=titles[0], every_unit=True
    )
    with bar as progress:
        upcoming = iter(titles[1:])
        jobs = [(problem, part) for part in parts]
        bases = _tick_each(in_parallel(_train_base, jobs, n_jobs), progress, upcoming)
        # Assembled here, so that all folds share one X, which the processes do not send back.
        folds = [
            Fold(**vars(part), problem=problem, adopted=adopted, before=before)
            for part, (adopted, before) in zip(parts, bases, strict=True)
        ]
        tasks = [(fold, aim, method) for fold in folds for aim in aims for method in found]
        runs = list(_tick_each(in_parallel(_run_method, tasks, n_jobs), progress, upcoming))
    rows = [row for row, _ in runs]
    if reference is not None:
        count_losses(tasks, runs, reference)
    return _make_comparison(rows, problem, _describe(problem, gaps, len(parts)), reference)


def _train_base(problem: Problem, parts: Parts) -> tuple[AdoptedNetwork, NDArray[np.int64]]:
    with _reproducible():
        return base_of(problem, parts)


@contextmanager
def _reproducible() -> Iterator[None]:
    """Use one thread, since sums over several threads round differently."""
    with one_torch_thread(), threadpool_limits(1, user_api="blas"):
        yield


def _run_method(fold: Fold, aim: Aim, method: Method) -> Run:
    """Run a method and measure it; an error becomes part of the row."""
    row: dict[str, Any] = {"fold": fold.number, "constraint": aim.name, "method": method.name}
    values: dict[str, Any] = {}
    predicted, error = None, ""
    start = perf_counter()
    with warnings.catch_warnings(record=True) as caught, _reproducible():
        warnings.simplefilter("always")
        try:
            given = replace(fold, asked=aim.asked) if aim.requirements else fold
            answer = method.run(given, aim.gap)
            values["seconds"] = perf_counter() - start
            answer = answer if isinstance(answer, Answer) else Answer(answer)
            predicted = answer.codes
            values |= measure(fold, aim, answer)
        except Exception as failure:
            error = " ".join(f"{type(failure).__name__}: {failure}".split())
    values.setdefault("seconds", perf_counter() - start)
    kinds = ", ".join(
        sorted({kind.__name__ for entry in caught for kind in categories_of(entry.category)})
    )
    row |= values | {"needs_group": method.needs_group, "error": error, "warnings": kinds}
    return row, predicted if not error else None


def _describe(problem: Problem, gaps: list[str], n_folds: int) -> str:
    """Say in a line what was compared: the data, the constraints, the folds."""
    groups = zip(problem.groups.labels, problem.groups.counts().tolist(), strict=True)
    sizes = listed(f"{_name_group(label)} {n:,}" for label, n in groups)
    aims = ", ".join(name.replace("_", " ") for name in gaps)
    shape = " x ".join(f"{size:,}" for size in np.shape(problem.X)[1:])
    return (
        f"{len(problem.codes):,} rows of {shape or 1} features, {len(problem.classes)} classes; "
        f"{', '.join(problem.groups.names)}: {sizes}; {aims}, tolerance {problem.tolerance:g}; "
        f"means over {n_folds} folds on test rows"
    )


def _name_group(label: Any) -> str:
    return "/".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _make_comparison(
    rows: list[dict[str, Any]], problem: Problem, about: str, reference: str | None
) -> Comparison:
    from ._table import Comparison

    changes = change_columns(problem.groups.labels)
    by_group = group_columns(problem.measures)
    last = ["needs_group", "seconds", "error", "warnings"]
    judged = () if reference is None else JUDGED
    columns = ["fold", "constraint", "method", *MEASURES, *changes, *by_group, *judged, *last]
    table = Comparison(rows, columns=columns, tolerance=problem.tolerance, about=about)
    numbers = [name for name in by_group if not name.endswith("worst_group")]
    return table.astype(dict.fromkeys([*MEASURES, *changes, *numbers], float))


def _list_runs(n_folds: int, gaps: list[str], methods: list[Method]) -> list[str]:
    """Name all fits in their order, for the progress bar; gaps only if there are several."""
    folds = [f"fold {k} of {n_folds}" for k in range(1, n_folds + 1)]
    aims = [f", {name}" for name in gaps] if len(gaps) > 1 else [""]
    bases = [f"{fold}: base network" for fold in folds]
    return bases + [f"{fold}{aim}: {m.name}" for fold in folds for aim in aims for m in methods]


def _tick_each(
    results: Iterator[Any], progress: Progress, upcoming: Iterator[str]
) -> Iterator[Any]:
    """Count each result as it comes, and name the next one that is awaited."""
    for result in results:
        progress(next(upcoming, ""))
        yield result
