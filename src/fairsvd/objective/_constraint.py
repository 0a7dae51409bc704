"""The constraint on an edit, and the utilities by which it is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._messages import listed
from ._counts import divide, sum_slices
from ._gaps import gap
from ._phi import PhiObjective
from ._requirement import Requirement
from ._requirements import GapLimit

__all__ = [
    "UNBALANCED_UTILITY",
    "UTILITIES",
    "Constraint",
    "ask_utility",
    "chance_utility",
    "is_unbalanced",
    "utility_from_counts",
]

Utility = Callable[[NDArray[Any], NDArray[Any]], float]

UTILITIES = (
    "balanced_accuracy",
    "cell_balanced_accuracy",
    "accuracy",
    "worst_cell_accuracy",
    "mean_and_worst_cell_accuracy",
)

# The choice of utility="auto" if some cell is nearly empty. The mean over cells hardly changes with
# the threshold, since one label gains what the other loses, and it does not show the cell on which
# the network fails; the worst cell alone is mostly noise if cells are small.
UNBALANCED_UTILITY = "mean_and_worst_cell_accuracy"

# A cell is nearly empty below this share of what independence would give it.
UNBALANCED_SHARE = 0.5


@dataclass(frozen=True)
class Constraint:
    """The request of one fit, resolved.

    Attributes
    ----------
    gap : str
        One of ``GAPS``.
    tolerance : float in [0, 1]
        The gap that the user accepts.
    fraction : float in (0, 1]
        A gap beyond ``fraction * tolerance`` counts against a candidate on the rows it is chosen
        on, since the gap on unseen rows is larger by the noise.
    utility : str or callable
        One of ``UTILITIES`` or ``f(y_true, y_pred) -> float`` on class codes.
    threshold : float or None
        Fixed probability of the positive class ``classes_[1]``, or None: tuned.
    pos : int
        Code of the class that counts as positive for two classes.
    balance : {"cells", "classes"} or None
        How the cross-entropy of an edit weighs rows.
    phi : PhiObjective or None
        Replaces the package's own rule of choice; ``gap`` and ``tolerance`` are then its measure
        and its epsilon.
    requirements : tuple of Requirement, default=()
        Replace the gap: the judge's "gap" is then what the first one measures or, of several, its
        limit plus the largest excess over a limit; ``tolerance`` is the first one's limit. ``gap``
        names what methods that know gaps only are to follow.
    unit : float, default=0.0
        With requirements takes the place of the tolerance beside ``fraction``: a judge's gap counts
        against a candidate from ``(1 - fraction) * unit`` below the limit on.
    confidence : float in (0, 1) or None, default=None
        What is promised of the result holds with this confidence; None: nothing is promised.
    reference : ndarray of shape (2, n_groups, n_classes, n_classes), optional
        Validation and editing rows of the judge by [group, true, predicted] of the untouched
        network, if a requirement compares with it.
    """

    gap: str
    tolerance: float
    fraction: float
    utility: str | Callable[[NDArray[Any], NDArray[Any]], float]
    threshold: float | None
    pos: int
    balance: str | None
    phi: PhiObjective | None = None
    requirements: tuple[Requirement, ...] = ()
    unit: float = 0.0
    confidence: float | None = None
    reference: NDArray[np.int64] | None = None

    @property
    def limit(self) -> float:
        """Largest gap of a feasible candidate."""
        return self.tolerance if self.phi is None else self.phi.limit

    @property
    def swept(self) -> bool:
        """Tell whether all thresholds can be measured at once."""
        return not callable(self.utility) and all(each.is_fast for each in self.requirements)

    @property
    def compares(self) -> bool:
        """Tell whether the untouched network's counts are needed."""
        return any(each.compares for each in self.requirements)

    @property
    def has_rule(self) -> bool:
        """Tell whether a fair rule is known for some of what is asked."""
        return any(each.guide is not None for each in self.listed)

    @property
    def divisions(self) -> tuple[tuple[int, ...] | None, ...]:
        """The divisions of the groups between which the fair rule is to close the gap.

        None stands for the groups themselves, a tuple for the value of each of them.
        """
        guided = dict.fromkeys(e.members for e in self.listed if e.guide == self.gap)
        return tuple(guided) or (None,)

    @property
    def before(self) -> NDArray[np.int64] | None:
        """The reference of all rows together."""
        return None if self.reference is None else self.reference.sum(axis=0)

    @property
    def listed(self) -> tuple[Requirement, ...]:
        """What is asked as requirements, also a plain gap."""
        return self.requirements or (GapLimit(self.gap, self.tolerance),)

    def measure(
        self, counts: NDArray[Any], before: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """Measure the judge's gap (...) of tables (..., n_groups, n_classes, n_classes).

        NaN where it cannot be measured.
        """
        if not self.requirements:
            return gap(counts, self.gap, self.pos)
        found = [each.measure(counts, self.pos, before) for each in self.requirements]
        if len(found) == 1:
            return found[0]
        limits = [each.limit for each in self.requirements]
        excess = [value - limit for value, limit in zip(found, limits, strict=True)]
        return self.tolerance + np.max(excess, axis=0)

    @property
    def target(self) -> float:
        """Largest gap that does not count against a candidate."""
        if self.requirements:
            return self.tolerance - (1 - self.fraction) * self.unit
        return self.fraction * self.tolerance if self.phi is None else self.phi.limit


def is_unbalanced(table: NDArray[Any]) -> bool:
    """Tell whether label and group go together so closely that some cell is nearly empty.

    Parameters
    ----------
    table : ndarray of shape (n_classes, n_groups)
        Rows in each cell.
    """
    table = np.asarray(table, dtype=np.float64)
    independent = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    return bool((table < UNBALANCED_SHARE * independent).any())


def utility_from_counts(counts: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Compute a utility from counts (..., n_groups, n_classes, n_classes) [group, true, predicted].

    Cells without rows are left out.

    Returns
    -------
    utility : ndarray of shape (...,), float64, in [0, 1]
    """
    if name in ("balanced_accuracy", "accuracy"):
        counts = sum_slices(counts, -3)[..., None, :, :]
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    total = sum_slices(counts, -1)
    if name == "accuracy":
        return right.sum(axis=(-2, -1)) / total.sum(axis=(-2, -1))
    recall = divide(right, total)
    recall = recall.reshape(*recall.shape[:-2], -1)
    if name in ("balanced_accuracy", "cell_balanced_accuracy"):
        return _mean(recall)
    worst = np.fmin.reduce(np.moveaxis(recall, -1, 0))
    return worst if name == "worst_cell_accuracy" else (_mean(recall) + worst) / 2


def _mean(recall: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the last axis, leaving out cells without rows."""
    if not np.isnan(recall).any():
        return sum_slices(recall, -1) / recall.shape[-1]
    # Cells last in memory, so that the order of the sum does not depend on that of the counts.
    recall = np.ascontiguousarray(recall)
    seen = ~np.isnan(recall)
    return np.where(seen, recall, 0.0).sum(axis=-1) / seen.sum(axis=-1)


def ask_utility(utility: Utility, y_true: NDArray[np.int64], y_pred: NDArray[np.int64]) -> float:
    """Call a user's utility, and check its answer.

    Raises
    ------
    ValueError
        If it raises an error, or returns anything but one finite number.
    """
    name = getattr(utility, "__name__", type(utility).__name__)
    try:
        answer = utility(y_true, y_pred)
    except Exception as error:
        raise ValueError(
            f"utility={name} raised {type(error).__name__}: {error}. It is called with class codes "
            "(y_true, y_pred): integers from 0, the positions of the labels in classes_."
        ) from error
    value = np.asarray(answer)
    if value.dtype.kind not in "biuf" or value.size != 1 or not np.isfinite(value).all():
        raise ValueError(
            f"utility={name} returned {listed([answer], show=repr)}: it must return one finite "
            "number, also for constant predictions (for example 0 where it is not defined)."
        )
    return float(value.item())


def chance_utility(
    y: NDArray[np.int64],
    groups: NDArray[np.int64],
    table: NDArray[Any],
    utility: str | Utility,
) -> float:
    """Return the best utility of a constant prediction, that of a collapsed network.

    Parameters
    ----------
    y, groups : ndarray of shape (n,), int64
    table : ndarray of shape (n_classes, n_groups)
        Rows in each cell.
    utility : str or callable
    """
    n_classes = len(table)
    if callable(utility):
        return max(ask_utility(utility, y, np.full_like(y, k)) for k in range(n_classes))
    counts = np.zeros((n_classes, *table.T.shape, n_classes))
    for k in range(n_classes):
        counts[k, :, :, k] = table.T
    return float(utility_from_counts(counts, utility).max())
