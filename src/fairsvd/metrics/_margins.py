"""Groups of several attributes: of each alone, and of their intersections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from ..groups import Groups
from ._measured import Rows
from ._read import Read

__all__ = ["ALL", "divisions", "margins_of", "name_attributes"]

# Stands for every label of an attribute that is not looked at.
ALL = "(all)"


def divisions(read: Read, margins: bool) -> list[tuple[Rows, Groups]]:
    """Divide the rows by their groups and, with margins, by fewer attributes before.

    Returns
    -------
    divisions : list of (Rows, Groups)
        From one attribute to all of them; the groups' labels have an entry for every attribute.
    """
    rows, groups, _ = read
    found = list(margins_of(groups)) if margins and len(groups.names) > 1 else []
    return [
        (replace(rows, groups=each.codes, n_groups=each.n_groups), each)
        for each in [*found, groups]
    ]


def margins_of(groups: Groups) -> Iterator[Groups]:
    """Yield the groups of every attribute alone, then of some of them, without all of them.

    Parameters
    ----------
    groups : Groups
        Of several attributes.

    Yields
    ------
    groups : Groups
        Their labels have an entry for every attribute, which is ``ALL`` where it is not looked at.
    """
    places = range(len(groups.names))
    for size in places[1:]:
        for kept in combinations(places, size):
            short = [
                tuple(part if k in kept else ALL for k, part in enumerate(label))
                for label in groups.labels
            ]
            distinct = sorted(dict.fromkeys(short), key=lambda label: _places(groups, label))
            place = np.array([distinct.index(label) for label in short] + [-1])
            yield Groups(place[groups.codes], tuple(distinct), groups.names)


def name_attributes(groups: Groups) -> str:
    """Name the attributes that the groups differ in.

    Parameters
    ----------
    groups : Groups
        From :func:`margins_of`, or of all attributes.
    """
    if len(groups.names) < 2:
        return groups.names[0]
    kept = [n for k, n in enumerate(groups.names) if groups.labels[0][k] is not ALL]
    return " x ".join(kept)


def _places(groups: Groups, label: tuple[Any, ...]) -> list[int]:
    """Place every part of a label among the labels of its attribute, sorted if they compare."""
    places = []
    for k, part in enumerate(label):
        seen: list[Any] = list(dict.fromkeys(each[k] for each in groups.labels))
        with suppress(TypeError):
            seen.sort()
        places.append(-1 if part is ALL else seen.index(part))
    return places
