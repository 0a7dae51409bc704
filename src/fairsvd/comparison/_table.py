"""The result of a comparison: a tidy table and its summaries over the folds.

This file imports pandas, so it is imported only when ``Comparison`` is used.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

from ._averages import average, pareto_front
from ._by_group import ByGroup
from ._no_harm import AgainstReference
from ._plot import plot_comparison
from ._select import INDEX, check_columns, one_constraint, select_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Comparison"]

TOLERANCE = 0.05


class Comparison(AgainstReference, ByGroup, pd.DataFrame):
    """The result of :func:`compare`: a DataFrame with one row per (fold, constraint, method).

    A selection of its rows is a Comparison too, with the same tolerance. Its methods need its
    columns, and raise an error that names dropped ones.

    Parameters
    ----------
    data : DataFrame
        The rows, for example from ``pandas.read_csv``, or any other data of a DataFrame.
    index, columns, dtype, copy : optional
        As in ``pandas.DataFrame``.
    tolerance : float in [0, 1] or None, default=None
        The accepted gap, for the plot. None: that of ``data`` if it is a Comparison, else 0.05.
    about : str or None, default=None
        What was compared. None: that of ``data`` if it is a Comparison, else "".

    Attributes
    ----------
    about : str
        A line that names the data, the groups, the constraints and the folds.
    tolerance : float
        Selecting, sorting and copying keep it, and so does ``pandas.concat`` of comparisons with
        equal tolerances. After joining two tables (``merge``) it is 0.05.

    Notes
    -----
    The columns, measured on the test rows: ``accuracy``, ``balanced_accuracy``,
    ``equalized_odds_difference``, ``demographic_parity_difference`` and ``worst_cell`` (the
    accuracy of the worst (label, group) cell). ``gap``: the gap of the constraint, with
    ``gap_low`` and ``gap_high``, its 95 % interval, ``gap_upper``, a one-sided 95 % bound, and
    ``noise_floor``, the gap of equal treatment on that many rows. ``psi``: balanced accuracy -
    max(0, gap - tolerance), with its interval; ``phi``: balanced accuracy if the gap is below the
    tolerance, else 0. ``tpr_change_...`` and ``fpr_change_...``: every group's rates minus those of
    the untouched network; ``harm``: the largest fall, beyond noise, of any group's true positive or
    true negative rate or, under demographic parity, selection rate; 0 if none fell. Measures by
    group, if some were asked for, have a column for each of :func:`fairsvd.metrics.disparity_table`
    after their name, as ``auc_difference``; NaN if a method has no probabilities.
    ``reference`` and ``groups_lost``, if a reference was given: see :meth:`no_harm`.
    ``needs_group``: whether predicting needs the group. ``seconds``; ``error``: empty, or why there
    are no numbers; ``warnings``: the categories of warnings. Rates are in [0, 1]; with more
    than two classes those of groups are means of one versus the rest. NaN if a rate has no rows.

    Examples
    --------
    >>> from fairsvd import compare
    >>> from fairsvd.datasets import make_biased_classification
    >>> task = make_biased_classification(600, random_state=0)
    >>> data = task.data, task.target, task.sensitive_features
    >>> comparison = compare("threshold", *data, cv=3, random_state=0)
    >>> comparison[["fold", "method", "error"]]
       fold     method error
    0     0  untouched
    1     0  threshold
    2     1  untouched
    3     1  threshold
    4     2  untouched
    5     2  threshold
    >>> comparison.query("fold > 0").summary()["folds"].tolist()
    [2, 2]
    """

    _metadata: ClassVar[list[str]] = ["tolerance", "about"]
    tolerance: float
    about: str

    def __init__(
        self,
        data: Any = None,
        index: Any = None,
        columns: Any = None,
        dtype: Any = None,
        copy: bool | None = None,
        *,
        tolerance: float | None = None,
        about: str | None = None,
    ) -> None:
        # pandas-stubs describe only __new__, and omit the methods that subclasses override.
        super().__init__(data, index, columns, dtype, copy)  # type: ignore[call-arg]
        if tolerance is None:
            tolerance = data.tolerance if isinstance(data, Comparison) else TOLERANCE
        self.tolerance = tolerance
        if about is None:
            about = data.about if isinstance(data, Comparison) else ""
        self.about = about

    @property
    def _constructor(self) -> type[Comparison]:
        return Comparison

    def __finalize__(self, other: Any, method: str | None = None, **kwargs: Any) -> Self:
        """Keep the tolerance, after ``pandas.concat`` if all comparisons have the same."""
        super().__finalize__(other, method, **kwargs)  # type: ignore[misc]
        parts = other.objs if method == "concat" else ()
        parts = [part for part in parts if isinstance(part, Comparison)]
        for name in self._metadata:
            values = {getattr(part, name) for part in parts}
            if len(values) == 1:
                setattr(self, name, values.pop())
        return self

    def _repr_html_(self) -> str:
        """Show the table below the line that says what was compared."""
        table = super()._repr_html_()  # type: ignore[misc]  # pandas-stubs omit it
        return f"<p>{escape(self.about)}</p>{table}"

    @property
    def failed(self) -> pd.Series:
        """Mark the rows of methods that failed."""
        return check_columns(self)["balanced_accuracy"].isna()

    def summary(self, constraint: str | None = None) -> pd.DataFrame:
        """Average over the folds.

        Parameters
        ----------
        constraint : str or None, default=None
            A compared constraint; None: all of them.

        Returns
        -------
        table : DataFrame
            Index: constraint, method; sorted by psi, the best first. ``psi``,
            ``balanced_accuracy``, ``gap``, ``phi``, ``worst_cell`` and ``harm``: means over the
            folds, each with ``_low`` and ``_high``, a 95 % bootstrap interval over the folds;
            ``needs_group``; the mean ``seconds``; the numbers of ``folds`` that worked and
            ``failed``.

        Raises
        ------
        ValueError
            If the constraint was not compared, or columns or all rows are missing.

        Notes
        -----
        The folds share training rows, so the intervals are slightly too short; with few folds they
        are rough. All methods are resampled in the same way.
        """
        rows = select_rows(self, constraint)
        averages = {key: average(part) for key, part in rows.groupby(INDEX, sort=False)}
        table = pd.DataFrame.from_dict(averages, orient="index")
        table.index = pd.MultiIndex.from_tuples(list(averages), names=INDEX)
        order = {name: k for k, name in enumerate(rows["constraint"].unique())}
        place = table.index.get_level_values("constraint").map(order).to_numpy()
        worth = table["psi"].fillna(-np.inf).to_numpy()
        return table.iloc[np.lexsort((-worth, place))]

    def pareto(self, constraint: str | None = None) -> pd.DataFrame:
        """Select the methods that no other method beats.

        Parameters
        ----------
        constraint : str or None, default=None
            As in :meth:`summary`; each constraint has its own methods.

        Returns
        -------
        table : DataFrame
            The rows of :meth:`summary` for which no other method has at least the balanced accuracy
            and at most the gap, with one of them better; sorted by the gap.

        Raises
        ------
        ValueError
            If the constraint was not compared, or columns or all rows are missing.
        """
        summary = self.summary(constraint)
        parts = []
        for _, part in summary.groupby(level="constraint", sort=False):
            front = pareto_front(part["balanced_accuracy"].to_numpy(), part["gap"].to_numpy())
            parts.append(part[front].sort_values("gap", kind="stable"))
        return pd.concat(parts)

    def plot(  # type: ignore[override]
        self, constraint: str | None = None, *, ax: Axes | None = None
    ) -> Axes:
        """Plot every method's balanced accuracy against its gap.

        Parameters
        ----------
        constraint : str or None, default=None
            The constraint; required if several were compared.
        ax : matplotlib Axes, default=None
            Axes to draw into. None: a new figure of pyplot, which notebooks show; save it with
            ``ax.figure.savefig(path)``.

        Returns
        -------
        ax : matplotlib Axes
            x: the mean gap, y: the mean balanced accuracy, with their intervals over the folds. A
            line joins the methods of :meth:`pareto`; those that need the group to predict are
            hollow.

        Raises
        ------
        ValueError
            If there are several constraints and none is named, every method failed, or columns or
            all rows are missing.

        Notes
        -----
        This replaces pandas' ``plot`` for charts of any columns, which is available as
        ``pandas.DataFrame(comparison).plot``.
        """
        name = one_constraint(self, constraint)
        summary = self.summary(name).droplevel("constraint")
        if not summary["balanced_accuracy"].notna().any():
            raise ValueError(
                "no method has numbers, so there is nothing to plot: see the column 'error'."
            )
        front = self.pareto(name).droplevel("constraint")
        return plot_comparison(summary, front, name, self.tolerance, ax)
