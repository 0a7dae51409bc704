"""Rows of X as tensors: the only folder that knows which types X may have."""

from __future__ import annotations

from ._batches import Batches, LabelledRows, to_device
from ._fields import Fields
from ._kinds import as_batches, is_dataset, read_array_rows
from ._lazy import LazyRows, is_lazy
from ._read import open_rows, read, read_again

__all__ = [
    "Batches",
    "Fields",
    "LabelledRows",
    "LazyRows",
    "as_batches",
    "is_dataset",
    "is_lazy",
    "open_rows",
    "read",
    "read_again",
    "read_array_rows",
    "to_device",
]
