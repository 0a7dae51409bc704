"""Choose among the candidates of a search: the best utility under a gap limit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._warn import warn
from ..exceptions import ConstraintNotMetWarning

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["best_under_gap"]


@dataclass(frozen=True, repr=False, eq=False)
class _BestUnderGap:
    """The callable that :func:`best_under_gap` returns: ``refit(cv_results) -> int``."""

    utility: str
    gap: str
    limit: float

    def __repr__(self) -> str:
        return f"best_under_gap({self.utility!r}, {self.gap!r}, limit={self.limit!r})"

    # A search looks the scorer of ``search.score`` up by ``refit``; no callable is a key there, but
    # this one finds that of the utility.
    def __eq__(self, other: object) -> bool:
        if isinstance(other, _BestUnderGap):
            return vars(self) == vars(other)
        return self.utility == other

    def __hash__(self) -> int:
        return hash(self.utility)

    def __call__(self, cv_results: Mapping[str, Any]) -> int:
        utility, gap = self._columns(cv_results)
        best = self._choose(utility, gap)
        if gap[best] > self.limit:
            warn(
                f"No candidate has a mean {self.gap!r} within limit={self.limit}: chose number "
                f"{best} with {gap[best]:.4f}, the largest {self.utility!r} minus excess gap. "
                "Search other parameters, or allow a larger limit.",
                ConstraintNotMetWarning,
            )
        return best

    def explain(self, cv_results: Mapping[str, Any]) -> pd.DataFrame:
        """Tabulate for every candidate why it was chosen or not.

        Parameters
        ----------
        cv_results : mapping
            ``search.cv_results_``.

        Returns
        -------
        table : DataFrame
            One row per candidate, in order: params, utility, gap (positive, a difference of
            rates), feasible, chosen, reason.

        Raises
        ------
        ValueError
            As the choice itself raises it.
        """
        import pandas as pd

        utility, gap = self._columns(cv_results)
        best = self._choose(utility, gap)
        table = pd.DataFrame({"params": list(cv_results["params"]), "utility": utility, "gap": gap})
        table["feasible"] = np.isfinite(utility) & (gap <= self.limit)
        table["chosen"] = np.arange(len(table)) == best
        table["reason"] = [self._reason(utility, gap, best, k) for k in range(len(table))]
        return table

    def _columns(
        self, cv_results: Mapping[str, Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Read the mean utility and the mean gap, made positive.

        Both are rounded, so that rounding errors neither break ties nor exceed the limit.
        """
        prefix = "mean_test_"
        metrics = [key.removeprefix(prefix) for key in cv_results if key.startswith(prefix)]
        for name in (self.utility, self.gap):
            if name not in metrics:
                raise ValueError(
                    f"cv_results has no metric {name!r}, it has {metrics}: give the names that "
                    "the scorers have in scoring={...}."
                )
        scores = np.asarray(cv_results[f"mean_test_{self.gap}"], dtype=np.float64)
        if (scores > 0).any():
            raise ValueError(
                f"The metric {self.gap!r} has positive scores (up to {np.nanmax(scores):.4g}), but "
                "the scorer of a difference returns minus the gap: this is a ratio or another "
                'score. Use fairness_scorer("..._difference").'
            )
        utility = np.asarray(cv_results[f"mean_test_{self.utility}"], dtype=np.float64)
        return utility.round(12), np.abs(scores).round(12)

    def _choose(self, utility: NDArray[np.float64], gap: NDArray[np.float64]) -> int:
        usable = np.isfinite(utility) & np.isfinite(gap)
        if not usable.any():
            raise ValueError(
                f"{self.utility!r} or {self.gap!r} is NaN for all {len(gap)} candidates "
                f"({int(np.isnan(utility).sum())} without utility, {int(np.isnan(gap).sum())} "
                "without gap). Fits failed, or some fold has fewer than two groups to compare, or "
                "the scorer got no sensitive features: see the warnings of the search, set "
                "error_score='raise', and split with JointStratifiedKFold."
            )
        feasible = usable & (gap <= self.limit)
        if feasible.any():
            return int(np.argmax(np.where(feasible, utility, -np.inf)))
        penalised = np.round(utility - np.maximum(0.0, gap - self.limit), 12)
        return int(np.argmax(np.where(usable, penalised, -np.inf)))

    def _reason(
        self, utility: NDArray[np.float64], gap: NDArray[np.float64], best: int, k: int
    ) -> str:
        met = gap[best] <= self.limit
        if np.isnan(utility[k]) or np.isnan(gap[k]):
            return f"{self.utility if np.isnan(utility[k]) else self.gap} is missing (NaN)"
        if k == best:
            rule = "within the limit" if met else "minus excess gap: none is within the limit"
            return f"chosen: the largest {self.utility} {rule}"
        if gap[k] > self.limit:
            excess = f"{self.gap} exceeds the limit by {gap[k] - self.limit:.4g}"
            return excess if met else f"{excess}; {self.utility} minus excess gap is not larger"
        tie = utility[k] == utility[best]
        return f"{self.utility} {'is equal, an earlier candidate wins' if tie else 'is smaller'}"


def best_under_gap(utility: str, gap: str, limit: float) -> _BestUnderGap:
    """Make a ``refit=`` that takes the best utility among candidates with a small enough gap.

    Parameters
    ----------
    utility : str
        Name of the metric to maximise, as in the ``scoring`` dictionary of the search.
    gap : str
        Name of a metric that is minus a gap, such as a difference from :func:`fairness_scorer`.
    limit : float
        Largest mean gap over the folds that is small enough; a difference of rates in [0, 1].

    Returns
    -------
    refit : callable
        Takes ``cv_results_`` and returns the index of the chosen candidate. If none is within the
        limit, it warns with ``ConstraintNotMetWarning`` and takes the largest utility minus the
        gap in excess of the limit. Candidates with a missing score are skipped; ties go to the
        earlier one. ``refit.explain(search.cv_results_)`` is a table with the reasons. After the
        search ``search.score`` measures the utility.

    Raises
    ------
    ValueError
        If ``limit`` is outside [0, 1] or ``gap`` names a ratio. When called: if a metric is
        missing, a gap score is positive, or every candidate lacks a score.

    Examples
    --------
    >>> from fairsvd import best_under_gap
    >>> refit = best_under_gap("utility", "gap", limit=0.05)
    >>> refit({"mean_test_utility": [0.8, 0.7, 0.6], "mean_test_gap": [-0.2, -0.04, -0.01]})
    1
    """
    if not 0 <= limit <= 1:
        raise ValueError(f"limit={limit!r}: wanted a difference of rates in [0, 1].")
    if re.search(r"(^|[^a-z])ratio([^a-z]|$)", gap.lower()):
        raise ValueError(
            f"gap={gap!r} names a ratio, which is larger where groups are more equal: use the "
            "scorer of a difference, which returns minus the gap."
        )
    return _BestUnderGap(utility, gap, limit)
