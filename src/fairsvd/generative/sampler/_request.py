"""What a generator is asked for: real rows by cells, and how many to draw for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cells import as_array, columns, take
from ._data import SamplerData
from ._draw import CellRequest

__all__ = ["make_request"]


def make_request(
    data: SamplerData,
    drawn: NDArray[np.int64],
    positions: Sequence[int],
    overlap: NDArray[np.bool_] | None,
) -> CellRequest:
    """Make the request for some columns of the rows that have a group.

    Parameters
    ----------
    data : SamplerData
    drawn : ndarray of shape (n_labels, n_groups), int64
    positions : sequence of int
        Columns of X that are generated.
    overlap : ndarray of shape (n,), bool, or None
        Rows that are a class of their own.
    """
    rows = np.flatnonzero(data.cells >= 0)
    groups = None
    if data.sensitive is not None:
        groups = as_array(data.groups)[data.group_codes[rows]]
    request = CellRequest(
        X=take(data.X if data.X.ndim == 4 else columns(data.X, positions), rows),
        y=as_array(data.labels)[data.y_codes[rows]],
        groups=groups,
        cells=data.cells[rows],
        drawn=drawn.reshape(-1),
        keys=data.keys,
    )
    if overlap is None:
        return request
    return with_overlap(request, overlap[rows], data.labels, len(data.groups))


def with_overlap(
    request: CellRequest, overlap: NDArray[np.bool_], labels: list[Any], n_groups: int
) -> CellRequest:
    """Make the overlap rows a class of their own, of which nothing is drawn.

    Parameters
    ----------
    request : CellRequest
    overlap : ndarray of shape (n,), bool
        For the rows of the request.
    labels : list
    n_groups : int
        1 without groups.
    """
    names = _overlap_labels(labels)
    y = as_array([*labels, *names])
    codes = request.cells // n_groups + overlap * len(labels)
    keys = [
        (name, request.keys[k * n_groups + g][1]) if request.groups is not None else name
        for k, name in enumerate(names)
        for g in range(n_groups)
    ]
    return replace(
        request,
        y=y[codes],
        cells=request.cells + overlap * len(request.keys),
        drawn=np.concatenate([request.drawn, np.zeros_like(request.drawn)]),
        keys=[*request.keys, *keys],
    )


def _overlap_labels(labels: list[Any]) -> list[Any]:
    """Name one new label for each, of a type that goes together with all."""
    if all(isinstance(label, (int, float, np.number)) for label in labels):
        above = int(np.ceil(max(labels))) + 1
        return [above + k for k in range(len(labels))]
    return [f"{label} (overlap)" for label in labels]
