"""Requirements of each of several attributes alone, in the place of their intersections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .._messages import listed
from ..exceptions import GroupError
from ..groups import Groups
from ._one_attribute import OneAttribute
from ._requirement import Requirement, Seen
from ._requirements import GapLimit

__all__ = ["EachAttribute", "again_on", "on_groups"]


@dataclass(frozen=True)
class EachAttribute(Requirement):
    """A requirement that each of several attributes is to meet alone.

    With several columns of sensitive features a constraint is about their intersections. Small
    intersections can hide a gap of an attribute in their noise, and too many of them leave no
    candidate that meets a limit. Wrapped in this, the constraint is about the groups of every
    column, whatever the others are. List both to ask for both.

    Parameters
    ----------
    requirement : str or requirement
        A :class:`GapLimit`, :class:`RatioLimit`, :class:`MinimumRate`, :class:`NoHarm` or
        :class:`CountLimit`. A name is that of a :class:`GapLimit`: in an editor of the editor's
        ``tolerance``, elsewhere of its own.
    attributes : str, int, tuple of these or None, default=None
        Names of columns, or their positions; None: every column.

    See Also
    --------
    GapLimit : Between the intersections, if it is not wrapped.

    Notes
    -----
    Every attribute counts as one more constraint: reports and certificates have a line for each.
    Where a fair rule is known, the teacher and :class:`BlindPostProcessor` close the gaps of all
    attributes at once; so do soft gaps. What else follows a gap by its name, such as the choice of
    entries to remove and adversaries, goes on comparing the intersections.

    Examples
    --------
    >>> from fairsvd import EachAttribute, GapFineTuner, MinimumRate
    >>> asked = [EachAttribute("equalized_odds"), EachAttribute(MinimumRate("tpr", 0.7), "sex")]
    >>> GapFineTuner(constraint=asked, tolerance=0.1).constraint[1].attributes
    'sex'
    """

    requirement: str | Requirement
    attributes: str | int | tuple[str | int, ...] | None = None

    @property
    def limit(self) -> float:  # type: ignore[override]
        """The limit of what is wrapped."""
        return self._wrapped().limit

    @property
    def name(self) -> str:
        """What is limited, and of what."""
        which = "each attribute" if self.attributes is None else listed(_as_tuple(self.attributes))
        return f"{self._wrapped().name} by {which}"

    @property
    def guide(self) -> str | None:
        """The gap of what is wrapped."""
        return self._wrapped().guide

    @property
    def compares(self) -> bool:
        """Tell whether what is wrapped compares with the untouched network."""
        return self._wrapped().compares

    def check(self) -> None:
        """Check what is wrapped, and the form of the attributes."""
        wrapped = self._wrapped()
        if not isinstance(wrapped, Requirement) or isinstance(
            wrapped, (EachAttribute, OneAttribute)
        ):
            raise ValueError(
                f"requirement={self.requirement!r} of EachAttribute: wanted the name of a gap, "
                "GapLimit, RatioLimit, MinimumRate, NoHarm or CountLimit."
            )
        wrapped.check()
        keys = () if self.attributes is None else _as_tuple(self.attributes)
        if (self.attributes is not None and not keys) or not all(map(_is_key, keys)):
            raise ValueError(
                f"attributes={self.attributes!r} of EachAttribute: wanted names of columns, or "
                "their positions, or None for every column."
            )

    def of(self, groups: Groups, tolerance: float | None = None) -> list[Requirement]:
        """Ask it of every attribute of groups, for each of which there is then a requirement.

        Parameters
        ----------
        groups : Groups
            One row for each group is enough.
        tolerance : float, optional
            Of a gap that is given by its name; None: that of :class:`GapLimit`.

        Raises
        ------
        GroupError
            There is no such attribute, or it has one value only.
        """
        wrapped = self._wrapped(tolerance)
        if not groups.labels:
            return [wrapped]
        if len(groups.names) < 2:
            _place(groups, self.attributes)
            return [wrapped]
        whole = Groups(np.arange(groups.n_groups), groups.labels, groups.names)
        found: list[Requirement] = []
        for place in _place(groups, self.attributes):
            alone = whole.alone(place)
            if alone.n_groups < 2:
                raise GroupError(
                    f"{self!r} compares the groups of {alone.names[0]!r}, which is "
                    f"{alone.labels[0]!r} in every row: leave it out of attributes=."
                )
            found.append(OneAttribute(wrapped, alone.names[0], tuple(alone.codes.tolist())))
        return found

    def _wrapped(self, tolerance: float | None = None) -> Any:
        if not isinstance(self.requirement, str):
            return self.requirement
        given = {} if tolerance is None else {"tolerance": tolerance}
        return GapLimit(self.requirement, **given)

    def _refuse(self) -> NoReturn:
        raise ValueError(
            f"{self!r} asks about attributes, which counts and rows do not name: ask for "
            "of(groups) first."
        )

    def _measure(
        self, counts: NDArray[Any], pos: int | None, before: NDArray[Any] | None
    ) -> NDArray[np.float64]:
        self._refuse()

    def _bound(self, seen: Seen, confidence: float, rng: np.random.Generator) -> float:
        self._refuse()


def _as_tuple(attributes: Any) -> tuple[Any, ...]:
    return tuple(attributes) if isinstance(attributes, (list, tuple)) else (attributes,)


def _is_key(key: Any) -> bool:
    return isinstance(key, (str, int)) and not isinstance(key, bool)


def _place(groups: Groups, attributes: Any) -> list[int]:
    """Find the positions of attributes among the columns of groups."""
    names, every = groups.names, range(len(groups.names))
    if attributes is None:
        return list(every)
    found = []
    for key in _as_tuple(attributes):
        if key not in names and key not in every:
            raise GroupError(
                f"attributes of EachAttribute hold {key!r}, and the sensitive features are "
                f"{listed(names, show=repr)}: name some of these."
            )
        found.append(names.index(key) if key in names else int(key))
    return list(dict.fromkeys(found))


def on_groups(
    requirements: Sequence[Requirement], groups: Groups, tolerance: float | None = None
) -> tuple[Requirement, ...]:
    """Put requirements of each attribute in the place of every :class:`EachAttribute`.

    Parameters
    ----------
    requirements : sequence of Requirement
    groups : Groups
        Codes, labels and names of the groups that are to be compared.
    tolerance : float, optional
        As for ``EachAttribute.of``.
    """
    found: list[Requirement] = []
    for each in requirements:
        found += each.of(groups, tolerance) if isinstance(each, EachAttribute) else [each]
    return tuple(found)


def again_on(requirements: Sequence[Requirement], groups: Groups) -> tuple[Requirement, ...]:
    """Ask of other groups what was asked of those of a fit.

    Requirements of attributes that these do not know are left out or, if nothing else was asked,
    asked of the groups as they are.
    """
    found = [e.again(groups) if isinstance(e, OneAttribute) else e for e in requirements]
    known = tuple(each for each in found if each is not None)
    apart = (e.requirement if isinstance(e, OneAttribute) else e for e in requirements)
    return known or tuple(dict.fromkeys(apart))
