"""Audit of a generator that is trained on its own samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import Bunch

from ..._parallel import in_parallel
from ..._rng import resolve_seed
from ..cells import cell_of_rows, read_rows
from ._loop import Loop, Rows, resolve_conditions
from ._measures import MEASURES
from ._summary import check_counts, check_quantiles, summarise, with_bar

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["autophagy_audit"]

MODES = ("synthetic", "mixed", "fresh")
CONDITIONS = ("auto", "fixed", "drawn", "joint")


def autophagy_audit(
    generator: Any,
    X: Any,
    y: Any = None,
    *,
    sensitive_features: Any = None,
    n_generations: int = 10,
    n_seeds: int = 10,
    mode: str = "synthetic",
    conditions: str = "auto",
    real_share: float = 0.5,
    n_samples: int | None = None,
    detector: Any = "auto",
    quantiles: tuple[float, float] = (0.1, 0.9),
    n_jobs: int | None = None,
    verbose: int = 0,
    random_state: Any = None,
) -> Bunch:
    """Train a generator on its own samples again and again, and measure what is lost.

    Generation 1 is trained on real rows, each later one on rows drawn by the one before. The
    samples are compared with all real rows, as a whole and within every (label, group) cell.

    Parameters
    ----------
    generator : object
        An object with ``fit`` and ``sample``, such as :class:`fairsvd.HyperGenerator`, the
        generators of ``fairsvd.generative`` or scikit-learn's GaussianMixture; or with
        ``fit_resample``, such as :class:`fairsvd.CellSampler` with ``mode="replace"`` (only
        synthetic rows are measured). It is copied.
    X : DataFrame or array-like of shape (n, n_columns), or images (n, C, H, W)
    y : array-like of shape (n,), optional
        Labels. None: all rows have the same label.
    sensitive_features : array-like of shape (n,) or (n, n_attributes), optional
        Groups; several columns are intersected.
    n_generations : int, default=10
    n_seeds : int, default=10
        Number of independent loops.
    mode : {"synthetic", "mixed", "fresh"}, default="synthetic"
        The ``n_samples`` training rows of later generations. "synthetic": drawn rows only.
        "mixed": partly real rows, the same in each generation. "fresh": partly real rows, drawn
        anew for each generation.
    conditions : {"auto", "fixed", "drawn", "joint"}, default="auto"
        How cells are drawn. "fixed": every cell gets as many rows as it has among the real ones,
        by conditional sampling (a generator without conditions is fitted on each cell
        separately). "drawn": the same, but the numbers are drawn by the cells' shares of the
        training rows. "joint": label and group are columns of the table, drawn like any other.
        "auto": "fixed" if ``sample`` takes ``conditions``, else "joint". A sampler must have
        "auto" and uses its own strategy.
    real_share : float in [0, 1], default=0.5
        Share of real training rows under "mixed" and "fresh".
    n_samples : int, optional
        Training rows of the first generation, and rows drawn in each. None: as many as X has.
    detector : "auto", None or classifier, default="auto"
        Classifier that tries to tell synthetic rows from real ones, in three folds. "auto": 20
        extremely randomised trees. None: not measured.
    quantiles : pair of float in [0, 1], default=(0.1, 0.9)
        Quantiles over loops in the summary.
    n_jobs : int or None, default=None
        Number of parallel loops.
    verbose : int, default=0
        1 shows a progress bar, or lines if stderr is no terminal.
    random_state : int, RandomState instance or None, default=None
        Seeds every ``random_state`` inside the generator, anew in each generation.

    Returns
    -------
    audit : Bunch
        - ``runs``: DataFrame with one row per seed, generation and cell. ``cell`` is its name,
          "all" for the whole table; ``label`` and ``group`` are its parts; ``n_rows``;
          ``share``; ``share_ratio``, (majority / cell) of the synthetic rows over that of the
          real ones, above 1 if the imbalance grew; ``frechet_distance`` on standardised
          features; ``variance_ratio``, synthetic over real; ``extinct_categories``, levels that
          no longer occur in the cell; ``detector_auc``, 0.5 if the rows cannot be told apart;
          ``extinct``.
        - ``summary``: DataFrame with one row per generation, cell and measure: ``median``,
          ``low``, ``high`` (the quantiles) and ``mean`` over the loops in which the measure is
          defined, and their number ``n_seeds``.
        - ``mode``, ``conditions``: the resolved values.

    Raises
    ------
    ValueError
        If an argument is not as above.

    See Also
    --------
    fairsvd.report.plot_autophagy : Plot the summary.
    fairsvd.feedback_audit : The same for classifiers that label each other's training rows.

    Notes
    -----
    The modes follow :arxiv:`2307.01850`, the share ratio :arxiv:`2405.13977` (R_Fair against R_I).
    Look at medians and quantiles: an unbiased estimator keeps the *mean* variance while the
    typical loop collapses. Even with unbiased shares a small cell dies out sooner or later if
    numbers of rows are drawn. Distances of small cells are large by chance alone: compare
    generations or generators, not cells.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.mixture import GaussianMixture
    >>> from fairsvd import autophagy_audit
    >>> rng = np.random.default_rng(0)
    >>> X, group = rng.normal(size=(200, 2)), rng.choice(["a", "b"], size=200, p=[0.9, 0.1])
    >>> audit = autophagy_audit(
    ...     GaussianMixture(2),
    ...     X,
    ...     sensitive_features=group,
    ...     n_generations=2,
    ...     n_seeds=2,
    ...     detector=None,
    ...     random_state=0,
    ... )
    >>> audit.runs.shape
    (12, 13)
    """
    _check(n_generations, n_seeds, mode, conditions, real_share, n_samples, quantiles)
    X = read_rows(X)
    cells, _ = cell_of_rows(len(X), y, sensitive_features, missing="raise")
    real = Rows(X.reset_index(drop=True) if hasattr(X, "iloc") else X, cells.codes)
    resolved = resolve_conditions(generator, conditions)
    loop = Loop(
        generator,
        real,
        list(cells.keys),
        sensitive_features is not None,
        resolved,
        mode,
        float(real_share),
        len(X) if n_samples is None else int(n_samples),
        n_generations,
        detector,
    )
    seeds = np.random.SeedSequence(resolve_seed(random_state)).spawn(n_seeds)
    loops = in_parallel(loop.run, list(enumerate(seeds)), n_jobs)
    records = with_bar(loops, n_seeds, verbose, "autophagy_audit")
    runs = _make_table(records, loop.keys, pairs=loop.pairs, has_labels=y is not None)
    return Bunch(
        runs=runs, summary=summarise(runs, MEASURES, quantiles), mode=mode, conditions=resolved
    )


def _check(
    n_generations: Any,
    n_seeds: Any,
    mode: str,
    conditions: str,
    real_share: float,
    n_samples: Any,
    quantiles: tuple[float, float],
) -> None:
    counts = {"n_generations": n_generations, "n_seeds": n_seeds}
    check_counts(**counts, **({} if n_samples is None else {"n_samples": n_samples}))
    for name, value, choices in (("mode", mode, MODES), ("conditions", conditions, CONDITIONS)):
        if value not in choices:
            raise ValueError(f"{name}={value!r}: wanted one of {', '.join(choices)}.")
    if not 0 <= real_share <= 1:
        raise ValueError(f"real_share={real_share!r}: wanted a share in [0, 1].")
    check_quantiles(quantiles)


def _make_table(
    records: list[dict[str, Any]], keys: Sequence[Any], *, pairs: bool, has_labels: bool
) -> pd.DataFrame:
    """Make the table of all runs, with the names of cells."""
    import pandas as pd

    labels = [key[0] if pairs else key for key in keys] if has_labels else [None] * len(keys)
    groups = [key[1] if pairs else None for key in keys]
    names = [
        ", ".join(str(part) for part in (label, group) if part is not None)
        for label, group in zip(labels, groups, strict=True)
    ]
    table = pd.DataFrame(records)
    cell = table["cell"].to_numpy()

    def column_of(values: list[Any], whole: Any) -> pd.Series:
        column = [whole if k < 0 else values[k] for k in cell]
        return pd.Series(column, index=table.index, dtype=object)

    table["cell"] = column_of([name or "all rows" for name in names], "all")
    table.insert(3, "label", column_of(labels, None))
    table.insert(4, "group", column_of(groups, None))
    return table
