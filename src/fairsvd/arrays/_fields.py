"""Rows of several named inputs, packed into one tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._messages import listed
from ..containers import as_known

__all__ = ["Fields"]

# Single precision holds all integers up to this one.
LARGEST_EXACT = 2**24


@dataclass(frozen=True)
class Fields:
    """How rows of several named inputs lie in one tensor (n, 1, width).

    So whatever draws, moves, keeps and judges rows has one tensor to do it with, and only the call
    of the network takes it apart. Integers stay integers if all inputs are; beside floats they are
    floats that hold them exactly.

    Attributes
    ----------
    names : tuple of str
        Sorted, so that the order of a user's dictionary means nothing.
    shapes : tuple of tuple of int
        Of one row of each input. Inputs that are all of one length, such as token ids and their
        mask, may have another length in other rows.
    dtypes : tuple of str
        Names of torch's types, which the inputs get back; those of floats follow the network's.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> Fields:
        """Read names, shapes and types from one row.

        Raises
        ------
        ValueError
            If the row has no inputs, or one that is no array of numbers.
        """
        if not item or not all(isinstance(name, str) for name in item):
            raise ValueError(
                f"X has rows whose inputs are named {list(item)}: an item must be a dictionary of "
                "the network's arguments."
            )
        names = tuple(sorted(item))
        values = [as_input(name, item[name]) for name in names]
        dtypes = [str(value.dtype).removeprefix("torch.") for value in values]
        return cls(names, tuple(tuple(value.shape) for value in values), tuple(dtypes))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the packed rows: int64 if no input is of floats, else the widest of those."""
        floats = [dtype for dtype in map(_dtype, self.dtypes) if dtype.is_floating_point]
        if not floats:
            return torch.int64
        return torch.float64 if torch.float64 in floats else torch.float32

    @property
    def is_continuous(self) -> bool:
        """Tell whether all inputs are of floats, so that something lies between two rows."""
        return all(dtype.is_floating_point for dtype in map(_dtype, self.dtypes))

    @property
    def is_sequence(self) -> bool:
        """Tell whether all inputs are vectors of one length, which may then be any."""
        first = self.shapes[0]
        return len(first) == 1 and all(shape == first for shape in self.shapes)

    def pack(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Put inputs, each (n, ...), side by side: (n, 1, width).

        Raises
        ------
        ValueError
            If an integer beside floats is too large to be held exactly by one.
        """
        columns = [inputs[name].reshape(len(inputs[name]), -1) for name in self.names]
        if self.dtype.is_floating_point:
            for name, column in zip(self.names, columns, strict=True):
                _check_exact(name, column)
        return torch.cat([column.to(self.dtype) for column in columns], dim=1).unsqueeze(1)

    def unpack(self, rows: Tensor) -> dict[str, Tensor]:
        """Take packed rows apart: each input by its name, (n, ...)."""
        flat = rows.flatten(1)
        shapes = self.shapes
        if self.is_sequence:
            shapes = ((flat.shape[1] // len(self.names),),) * len(self.names)
        columns = flat.split([math.prod(shape) for shape in shapes], dim=1)
        parts = zip(self.names, columns, shapes, map(_dtype, self.dtypes), strict=True)
        return {
            name: (column if dtype.is_floating_point else column.to(dtype)).reshape(-1, *shape)
            for name, column, shape, dtype in parts
        }

    def check_fits(self, other: Fields) -> None:
        """Refuse rows of other inputs than those of the fit, which these are.

        Raises
        ------
        ValueError
        """
        if other.names != self.names:
            raise ValueError(
                f"X has the inputs [{listed(other.names)}], but those of fit were "
                f"[{listed(self.names)}]: pass the same ones."
            )
        for name, dtype, found in zip(self.names, self.dtypes, other.dtypes, strict=True):
            if _dtype(found).is_floating_point and not _dtype(dtype).is_floating_point:
                raise ValueError(
                    f"X has the input {name!r} of {found}, but in fit it was of {dtype}, numbers "
                    "that a network looks up: pass integers."
                )
        if other.shapes != self.shapes and not (self.is_sequence and other.is_sequence):
            raise ValueError(
                f"X has inputs of the shapes {dict(zip(other.names, other.shapes, strict=True))}, "
                f"but those of fit were {dict(zip(self.names, self.shapes, strict=True))}."
            )


def as_input(name: str, value: Any) -> Tensor:
    """Read one input as a tensor of real numbers.

    Raises
    ------
    ValueError
        If it holds anything else; the message names it.
    """
    try:
        if not isinstance(value, Tensor):
            value = torch.as_tensor(np.asarray(as_known(value, name)))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"X: the input {name!r} holds {type(value).__name__} that make no array of numbers "
            f"({error}): tokenise words (with padding=True, so that rows have one length), and "
            "leave out what the network does not take."
        ) from error
    if value.is_complex():
        raise ValueError(f"X: the input {name!r} holds complex numbers; pass real ones.")
    return value.detach()


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _check_exact(name: str, column: Tensor) -> None:
    if column.is_floating_point() or not column.numel():
        return
    if int(column.long().abs().max()) > LARGEST_EXACT:
        raise ValueError(
            f"X: the input {name!r} holds integers beyond {LARGEST_EXACT:,}, which single "
            "precision, the type of the inputs beside it, does not hold exactly: number them anew."
        )
