"""The views of a comparison on the no-harm protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._harm import JUDGED, against_reference
from ._plot import plot_changes
from ._select import INDEX, one_constraint, select_rows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["AgainstReference"]


class AgainstReference:
    """Methods of a comparison that need its columns of a reference."""

    def no_harm(self, constraint: str | None = None) -> pd.DataFrame:
        """Compare every method with the reference of the no-harm protocol.

        Parameters
        ----------
        constraint : str or None, default=None
            As in :meth:`summary`.

        Returns
        -------
        table : DataFrame
            Index: constraint, method; sorted by ``distance``, the mean distance to balanced
            accuracy 1 and gap 0. ``utility_change``: balanced accuracy minus the reference's;
            ``fairness_change``: the reference's gap minus the method's; means over the folds, with
            ``_low`` and ``_high``, a 95 % interval. ``quadrant``: whether each of both went up or
            down, "reference" for the reference itself. ``clear``: whether neither interval holds
            0. ``groups_lost``: the mean number of groups for which a rate fell beyond noise against
            the reference, as in ``harm``. ``needs_group``; ``folds``, the number in which both
            worked.

        Raises
        ------
        ValueError
            If ``compare`` ran without ``reference``, the constraint was not compared, or rows or
            columns are missing.

        Notes
        -----
        The protocol is that of NH-Fair (arXiv:2602.03895): a method does good without harm if it is
        in the quadrant "utility up, fairness up" and no group loses. The intervals are those of
        Nadeau and Bengio (2003) for cross-validation, since folds share training rows. Deviations:
        the intervals, and the count of groups that lose.
        """
        import pandas as pd

        rows = select_rows(self, constraint)
        missing = [name for name in JUDGED if name not in rows.columns]
        if missing:
            raise ValueError(
                f"this Comparison lacks the columns {', '.join(missing)}: call "
                "compare(..., reference='fine-tuning')."
            )
        parts = {
            (name, method): row
            for name, part in rows.groupby("constraint", sort=False)
            for method, row in against_reference(part).items()
        }
        table = pd.DataFrame.from_dict(parts, orient="index")
        table.index = pd.MultiIndex.from_tuples(list(parts), names=INDEX)
        return table

    def plot_no_harm(self, constraint: str | None = None, *, ax: Axes | None = None) -> Axes:
        """Plot every method's change of utility against its change of fairness.

        Parameters
        ----------
        constraint, ax
            As in :meth:`plot`.

        Returns
        -------
        ax : matplotlib Axes
            x: the fall of the gap, y: the change of balanced accuracy, both against the reference
            at 0, with their intervals. The quadrant without harm is shaded. The legend has the mean
            number of groups that lose; methods that need the group to predict are hollow.

        Raises
        ------
        ValueError
            As in :meth:`no_harm` and :meth:`plot`.
        """
        name = one_constraint(self, constraint)
        return plot_changes(self.no_harm(name).droplevel("constraint"), name, ax)
