"""Audit of classifiers that are trained on the labels of their predecessors."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import Bunch

from ..._parallel import in_parallel
from ..._rng import resolve_seed
from ...base import positive_code
from ...containers import label_codes
from ...groups import encode_groups, require_two_groups
from ..cells import as_array, read_rows
from ._feedback_loop import FEEDBACK_MEASURES, FeedbackLoop
from ._summary import check_counts, check_quantiles, summarise, with_bar

__all__ = ["feedback_audit"]

REPARATION = "reparation"


def feedback_audit(
    model: Any,
    X: Any,
    y: Any,
    *,
    sensitive_features: Any,
    intervention: Any = None,
    share_fresh: float = 0.0,
    first_labels: Any = None,
    n_generations: int = 6,
    n_seeds: int = 5,
    n_samples: int | None = None,
    test_size: float = 0.3,
    pos_label: Any = None,
    quantiles: tuple[float, float] = (0.1, 0.9),
    n_jobs: int | None = None,
    verbose: int = 0,
    random_state: Any = None,
) -> Bunch:
    """Train classifiers on the labels of their predecessors, and measure what every group loses.

    Generation 1 learns the given labels. The training rows of each later one are drawn anew and
    labelled by the classifier before it. All are measured on the same test rows, with their given
    labels.

    Parameters
    ----------
    model : classifier
        A clone is fitted in each generation; with ``sensitive_features`` if its ``fit`` takes them.
    X : DataFrame or array-like of shape (n, n_columns), or images (n, C, H, W)
    y : array-like of shape (n,)
        Labels, of at least two classes.
    sensitive_features : array-like of shape (n,) or (n, n_attributes)
        Groups; several columns are intersected.
    intervention : None, "reparation" or classifier, default=None
        What happens from generation 2 on. "reparation": the training rows are drawn with
        replacement so that each (label, group) cell that has rows has equally many. A classifier,
        such as an editor, is fitted in the place of ``model``.
    share_fresh : float in [0, 1], default=0.0
        Share of the training rows of later generations that keep their given label.
    first_labels : array-like of shape (n,) or None, default=None
        What generation 1 learns instead of y, for example labels with a planted bias.
    n_generations : int, default=6
    n_seeds : int, default=5
        Number of independent loops, each with its own test rows.
    n_samples : int or None, default=None
        Training rows of each generation. None: half of the rows that are no test rows.
    test_size : float in (0, 1), default=0.3
        Share of the rows of each (label, group) cell that are test rows.
    pos_label : label or None, default=None
        The positive class of two; None means the second.
    quantiles : pair of float in [0, 1], default=(0.1, 0.9)
        Quantiles over loops in the summary.
    n_jobs : int or None, default=None
        Number of parallel loops.
    verbose : int, default=0
        1 shows a progress bar, or lines if stderr is no terminal.
    random_state : int, RandomState instance or None, default=None
        Calls that differ in model or intervention alone draw the same rows.

    Returns
    -------
    audit : Bunch
        - ``runs``: DataFrame with one row per seed, generation and cell, which is a group, a
          "label, group" pair, or "all". Of groups and all: ``selection_rate``, ``tpr``, ``fpr`` and
          ``accuracy`` on the test rows. Of groups and pairs: ``share`` of the training rows, with
          the labels that were learned. Of all: ``equalized_odds`` and ``demographic_parity``, the
          gaps. NaN elsewhere.
        - ``summary``: DataFrame with one row per generation, cell and measure, if it is defined:
          ``median``, ``low``, ``high`` (the quantiles), ``mean`` and ``n_seeds``.
        - ``intervention``: its name.

    Raises
    ------
    ValueError
        If an argument is not as above.

    See Also
    --------
    fairsvd.report.plot_feedback : Plot the summary.
    fairsvd.autophagy_audit : The same for generators.

    Notes
    -----
    The sequence of classifiers of Wyllie et al. (arXiv:2403.07857), and their algorithmic
    reparation (STAR). Deviations: the quotas are equal shares of whole training sets, not of
    batches; loops begin from real labels. Their sequences of generators are
    :func:`fairsvd.autophagy_audit`. If only one label is left, the next generation is constant.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from fairsvd import feedback_audit
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(400, random_state=0)
    >>> audit = feedback_audit(
    ...     LogisticRegression(),
    ...     data.data,
    ...     data.target,
    ...     sensitive_features=data.sensitive_features,
    ...     n_generations=2,
    ...     n_seeds=2,
    ...     random_state=0,
    ... )
    >>> audit.runs["cell"].unique().tolist()
    ['all', 'g0', 'g1', '0, g0', '0, g1', '1, g0', '1, g1']
    """
    name = _name(intervention)
    _check(model, n_generations, n_seeds, n_samples, share_fresh, test_size, quantiles)
    X = read_rows(X)
    labels, codes = label_codes(y)
    groups = require_two_groups(encode_groups(sensitive_features, len(X)))
    if len(codes) != len(X) or len(labels) < 2:
        raise ValueError(
            f"y has {len(codes)} rows of {len(labels)} class(es) for the {len(X)} rows of X: pass "
            "one label a row, of at least two classes."
        )
    loop = FeedbackLoop(
        model,
        model if intervention is None or name == REPARATION else intervention,
        name == REPARATION,
        X,
        as_array(labels),
        codes,
        codes if first_labels is None else _codes_of(first_labels, labels, len(X)),
        groups.codes,
        list(groups.labels),
        None if len(labels) > 2 else positive_code(pos_label, as_array(labels)),
        float(share_fresh),
        n_generations,
        n_samples,
        float(test_size),
    )
    seeds = np.random.SeedSequence(resolve_seed(random_state)).spawn(n_seeds)
    loops = in_parallel(loop.run, list(enumerate(seeds)), n_jobs)
    records = with_bar(loops, n_seeds, verbose, "feedback_audit")
    import pandas as pd

    runs = pd.DataFrame(records)
    summary = summarise(runs, FEEDBACK_MEASURES, quantiles)
    summary = summary[summary["n_seeds"] > 0].reset_index(drop=True)
    return Bunch(runs=runs, summary=summary, intervention=name)


def _name(intervention: Any) -> str:
    if intervention is None or isinstance(intervention, str):
        if intervention not in (None, REPARATION):
            raise ValueError(
                f"intervention={intervention!r}: wanted None, 'reparation' or a classifier."
            )
        return intervention or "none"
    if not (hasattr(intervention, "fit") and hasattr(intervention, "predict")):
        raise ValueError(
            f"intervention is a {type(intervention).__name__}: wanted None, 'reparation' or a "
            "classifier with fit and predict."
        )
    return type(intervention).__name__


def _check(
    model: Any,
    n_generations: Any,
    n_seeds: Any,
    n_samples: Any,
    share_fresh: float,
    test_size: float,
    quantiles: tuple[float, float],
) -> None:
    if isinstance(model, type) or not (hasattr(model, "fit") and hasattr(model, "predict")):
        raise ValueError(f"model={model!r}: wanted a classifier with fit and predict.")
    counts = {"n_generations": n_generations, "n_seeds": n_seeds}
    check_counts(**counts, **({} if n_samples is None else {"n_samples": n_samples}))
    if not 0 <= share_fresh <= 1:
        raise ValueError(f"share_fresh={share_fresh!r}: wanted a share in [0, 1].")
    if not 0 < test_size < 1:
        raise ValueError(f"test_size={test_size!r}: wanted a share in (0, 1).")
    check_quantiles(quantiles)


def _codes_of(first_labels: Any, labels: list[Any], n_rows: int) -> Any:
    found, codes = label_codes(first_labels)
    unknown = [label for label in found if label not in labels]
    if len(codes) != n_rows or unknown:
        raise ValueError(
            f"first_labels has {len(codes)} rows and the labels {found}, where y has {n_rows} rows "
            f"and {labels}: pass one of these labels for every row."
        )
    return np.array([labels.index(label) for label in found])[codes]
