"""The measures by group of a comparison, averaged over the folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._averages import mean_and_interval
from ._select import INDEX, select_rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ByGroup"]

KINDS = ("difference", "ratio", "worst")


class ByGroup:
    """Methods of a comparison that need its columns of measures by group."""

    def disparities(self, constraint: str | None = None) -> pd.DataFrame:
        """Tabulate how far groups differ in the measures that were asked for.

        Parameters
        ----------
        constraint : str or None, default=None
            As in :meth:`summary`.

        Returns
        -------
        table : DataFrame
            Index: constraint, method, measure. ``difference``, ``ratio`` and ``worst`` (the value
            of the group farthest from the best one): means over the folds, each with ``_low`` and
            ``_high``, a 95 % bootstrap interval over the folds; ``worst_group``, the group that is
            the worst in most folds.

        Raises
        ------
        ValueError
            If ``compare`` ran without ``measures``, the constraint was not compared, or rows are
            missing.
        """
        import pandas as pd

        rows = select_rows(self, constraint)
        ending = "_worst_group"
        names = [str(c).removesuffix(ending) for c in rows.columns if str(c).endswith(ending)]
        if not names:
            raise ValueError(
                "this Comparison lacks measures by group: call compare(..., measures='all'), or "
                "name some."
            )
        parts = {}
        for key, part in rows.groupby(INDEX, sort=False):
            for name in names:
                line: dict[str, object] = {}
                for kind in KINDS:
                    line |= mean_and_interval(kind, part[f"{name}_{kind}"].to_numpy(dtype=float))
                groups = part[f"{name}{ending}"].mode()
                line["worst_group"] = groups.iloc[0] if len(groups) else None
                parts[(*key, name)] = line
        table = pd.DataFrame.from_dict(parts, orient="index")
        table.index = pd.MultiIndex.from_tuples(list(parts), names=[*INDEX, "measure"])
        return table
