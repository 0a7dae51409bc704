"""What the methods of a comparison are to meet: gaps by their names, or requirements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..groups import Groups
from ..objective import GAPS, Requirement, gap, on_groups

__all__ = ["Aim", "read_aims"]

# What methods that know gaps by their names close where nothing that is asked has one.
FOLLOWED = "equalized_odds"


@dataclass(frozen=True)
class Aim:
    """One of the constraints of a comparison.

    Attributes
    ----------
    name : str
        Its name in the table.
    gap : str
        The gap that methods of other packages close.
    asked : str, Requirement or list of these
        The ``constraint`` of an editor.
    requirements : tuple of Requirement
        What is asked, of the groups of the comparison; empty for a gap.
    """

    name: str
    gap: str
    asked: Any
    requirements: tuple[Requirement, ...] = ()

    def measure(
        self,
        counts: NDArray[Any],
        pos: int | None,
        before: NDArray[Any],
        tolerance: float,
    ) -> NDArray[np.float64]:
        """Measure the gap; of requirements the tolerance plus the largest excess over a limit.

        Parameters
        ----------
        counts : ndarray of shape (..., n_groups, n_classes, n_classes)
        pos : int or None
        before : ndarray of shape (n_groups, n_classes, n_classes)
            Counts of the untouched network.
        tolerance : float
        """
        if not self.requirements:
            return gap(counts, self.gap, pos)
        found = [each.measure(counts, pos, before) - each.limit for each in self.requirements]
        return np.asarray(tolerance + np.max(found, axis=0))


def read_aims(constraints: Any, groups: Groups, tolerance: float) -> list[Aim]:
    """Read ``constraints=``.

    Parameters
    ----------
    constraints : str, Requirement, sequence of these, or mapping of names to these
        A value of a mapping may be a list, all of which is to be met together.
    groups : Groups
    tolerance : float
        Of gaps that are given by their names.

    Raises
    ------
    ValueError
        If a gap is unknown, nothing is asked, or a requirement does not fit the groups.
    """
    if isinstance(constraints, Mapping):
        return [_read(str(n), each, groups, tolerance) for n, each in constraints.items()]
    several = isinstance(constraints, Sequence) and not isinstance(constraints, str)
    entries = list(constraints) if several else [constraints]
    aims = {aim.name: aim for aim in (_read(None, each, groups, tolerance) for each in entries)}
    if not aims:
        raise ValueError(_wanted(constraints))
    return list(aims.values())


def _read(name: str | None, asked: Any, groups: Groups, tolerance: float) -> Aim:
    if isinstance(asked, str) and asked in GAPS:
        return Aim(name or asked, asked, asked)
    entries = list(asked) if isinstance(asked, (list, tuple)) else [asked]
    if not entries or not all(isinstance(each, Requirement) for each in entries):
        raise ValueError(_wanted(asked))
    for each in entries:
        each.check()
    found = on_groups(entries, groups, tolerance)
    guide = next((each.guide for each in found if each.guide is not None), FOLLOWED)
    return Aim(name or " and ".join(each.name for each in entries), guide, asked, found)


def _wanted(value: Any) -> str:
    return (
        f"constraints={value!r}: wanted names among {', '.join(GAPS)}, requirements such as "
        "GapLimit or EachAttribute, or a mapping of names to these or to lists of requirements."
    )
