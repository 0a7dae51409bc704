"""The outcome of a comparison: a tidy table, and what it comes to over the folds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._plot import plot_comparison

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["HEADLINES", "Comparison", "pareto_front"]

# Averaged over the folds, with intervals, the first to sort by.
HEADLINES = ("psi", "balanced_accuracy", "gap", "phi", "worst_cell", "harm")
N_DRAWS = 2000
TAILS = (0.025, 0.975)
INDEX = ["constraint", "method"]
NEEDED = ["fold", *INDEX, *HEADLINES, "needs_group", "seconds"]


class Comparison:
    """The outcome of :func:`compare`.

    Parameters
    ----------
    table : DataFrame
        A row a (fold, constraint, method). What is left after selecting rows of another
        comparison's table, or read back from a file (``pandas.read_csv``), does as well.
    tolerance : float, default=0.05
        The gap that was accepted, for the plot.

    Attributes
    ----------
    table : DataFrame
        ``accuracy``, ``balanced_accuracy``, ``equalized_odds_difference``,
        ``demographic_parity_difference`` and ``worst_cell`` (the accuracy of the worst (label,
        group) cell) on the test rows. ``gap``: the constraint's, with ``gap_low`` and
        ``gap_high``, its 95 % bootstrap interval over the test rows, and ``noise_floor``, the gap
        that equal treatment would show on that many rows. ``psi``: balanced accuracy -
        max(0, gap - tolerance), with its interval; ``phi``: balanced accuracy where the gap is
        below the tolerance, else 0. ``tpr_change_...`` and ``fpr_change_...``: every group's rates
        minus those of the untouched network; ``harm``: the largest fall of any group's true
        positive or true negative rate. ``needs_group``: whether predicting needs the group.
        ``seconds``; ``error``: empty, or why there are no numbers; ``warnings``: names of what was
        warned of. Rates are in [0, 1]; with more than two classes those of groups are means of
        one versus the rest. NaN where a rate has no rows.
    tolerance : float

    Raises
    ------
    ValueError
        The table lacks a column.

    Examples
    --------
    >>> from fairsvd import Comparison, compare
    >>> from fairsvd.datasets import make_biased_classification
    >>> task = make_biased_classification(600, random_state=0)
    >>> data = task.data, task.target, task.sensitive_features
    >>> found = compare("threshold", *data, cv=3, random_state=0)
    >>> found
    Comparison of 2 methods: 1 constraint, 3 folds, 0 errors
    >>> Comparison(found.table[found.table["fold"] > 0])
    Comparison of 2 methods: 1 constraint, 2 folds, 0 errors
    """

    def __init__(self, table: pd.DataFrame, *, tolerance: float = 0.05) -> None:
        missing = [name for name in NEEDED if name not in table.columns]
        if missing:
            raise ValueError(
                f"table lacks {', '.join(missing)}: pass rows of a Comparison's table."
            )
        self.table = table
        self.tolerance = tolerance

    def __repr__(self) -> str:
        """Count what is there."""
        sizes = [self.table[name].nunique() for name in ("method", "constraint", "fold")]
        words = ("method", "constraint", "fold", "error")
        told = [
            f"{n} {word}{'' if n == 1 else 's'}"
            for n, word in zip([*sizes, int(self.failed.sum())], words, strict=True)
        ]
        return f"Comparison of {told[0]}: {', '.join(told[1:])}"

    @property
    def failed(self) -> pd.Series:
        """Tell the rows without numbers."""
        return self.table["balanced_accuracy"].isna()

    def summary(self, constraint: str | None = None) -> pd.DataFrame:
        """Average over the folds.

        Parameters
        ----------
        constraint : str or None, default=None
            One of those compared; None: all of them.

        Returns
        -------
        table : DataFrame
            Index: constraint, method; sorted by psi, the best first. ``psi``,
            ``balanced_accuracy``, ``gap``, ``phi``, ``worst_cell`` and ``harm``: means over the
            folds, each with ``_low`` and ``_high``, a 95 % bootstrap interval over the folds;
            ``needs_group``; ``seconds``, the mean; ``folds`` with numbers, and ``failed``.

        Raises
        ------
        ValueError
            The constraint was not compared.

        Notes
        -----
        The folds share training rows, so that the intervals are rather too short; with a few folds
        they can only be rough. All methods are resampled alike.
        """
        import pandas as pd

        rows = self._rows(constraint)
        found = {key: _averages(part) for key, part in rows.groupby(INDEX, sort=False)}
        table = pd.DataFrame.from_dict(found, orient="index")
        table.index = pd.MultiIndex.from_tuples(list(found), names=INDEX)
        order = {name: k for k, name in enumerate(rows["constraint"].unique())}
        place = table.index.get_level_values("constraint").map(order).to_numpy()
        worth = table["psi"].fillna(-np.inf).to_numpy()
        return table.iloc[np.lexsort((-worth, place))]

    def pareto(self, constraint: str | None = None) -> pd.DataFrame:
        """Select the methods that no other one beats.

        Parameters
        ----------
        constraint : str or None, default=None
            As for :meth:`summary`; each constraint has its own.

        Returns
        -------
        table : DataFrame
            The rows of :meth:`summary` for which no other method has at least as high a balanced
            accuracy and at most as large a gap, one of them better; sorted by the gap.

        Raises
        ------
        ValueError
            The constraint was not compared.
        """
        import pandas as pd

        summary = self.summary(constraint)
        parts = []
        for _, part in summary.groupby(level="constraint", sort=False):
            front = pareto_front(part["balanced_accuracy"].to_numpy(), part["gap"].to_numpy())
            parts.append(part[front].sort_values("gap", kind="stable"))
        return pd.concat(parts)

    def plot(self, constraint: str | None = None, *, ax: Axes | None = None) -> Axes:
        """Plot every method's balanced accuracy against its gap.

        Parameters
        ----------
        constraint : str or None, default=None
            Needed where several were compared.
        ax : matplotlib Axes, default=None
            Where to draw. None: an own figure, ``ax.figure``, that pyplot does not know of; save
            it with ``ax.figure.savefig(path)``.

        Returns
        -------
        ax : matplotlib Axes
            x: the mean gap, y: the mean balanced accuracy, with their intervals over the folds.
            The methods of :meth:`pareto` are joined, those that need the group to predict hollow.

        Raises
        ------
        ValueError
            There are several constraints and none is named, or no method has numbers.
        """
        asked = self.table["constraint"].unique().tolist()
        if constraint is None and len(asked) > 1:
            raise ValueError(f"several constraints were compared: name one of {', '.join(asked)}.")
        name = asked[0] if constraint is None else constraint
        summary = self.summary(name).droplevel("constraint")
        if not summary["balanced_accuracy"].notna().any():
            raise ValueError(
                "no method has numbers, so there is nothing to plot: see table['error']."
            )
        front = self.pareto(name).droplevel("constraint")
        return plot_comparison(summary, front, name, self.tolerance, ax)

    def _rows(self, constraint: str | None) -> pd.DataFrame:
        asked = self.table["constraint"].unique().tolist()
        if constraint is None:
            return self.table
        if constraint not in asked:
            raise ValueError(f"{constraint!r} was not compared: choose among {', '.join(asked)}.")
        return self.table[self.table["constraint"] == constraint]


def _averages(rows: pd.DataFrame) -> dict[str, Any]:
    """Average the folds of one method, and bootstrap them."""
    values = rows[list(HEADLINES)].to_numpy(dtype=np.float64)
    values = values[~np.isnan(rows["balanced_accuracy"].to_numpy(dtype=np.float64))]
    found: dict[str, Any] = {}
    for name, column in zip(HEADLINES, values.T, strict=True):
        found |= _mean_and_interval(name, column)
    return found | {
        "needs_group": bool(rows["needs_group"].iloc[0]),
        "seconds": float(rows["seconds"].mean()),
        "folds": len(values),
        "failed": len(rows) - len(values),
    }


def _mean_and_interval(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    keys = name, f"{name}_low", f"{name}_high"
    known = values[np.isfinite(values)]
    if not len(known):
        return dict.fromkeys(keys, float("nan"))
    # The same draws for every method.
    drawn = np.random.default_rng(0).integers(len(known), size=(N_DRAWS, len(known)))
    ends = np.quantile(known[drawn].mean(axis=1), TAILS)
    return dict(zip(keys, map(float, (known.mean(), *ends)), strict=True))


def pareto_front(utility: NDArray[np.float64], gaps: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which points no other one beats: at least as good in both, and better in one.

    Parameters
    ----------
    utility, gaps : ndarray of shape (n,)
        Higher and lower is better; a NaN in either beats nothing and is never in the front.

    Returns
    -------
    front : ndarray of shape (n,), bool
    """
    # NaN compares as false, so that it beats nothing.
    at_least = (utility[:, None] >= utility) & (gaps[:, None] <= gaps)
    better = (utility[:, None] > utility) | (gaps[:, None] < gaps)
    beaten = (at_least & better).any(axis=0)
    return ~beaten & ~np.isnan(utility) & ~np.isnan(gaps)
