"""Rows of X as tensors: the only folder that knows which types X may have."""

from __future__ import annotations

from ._batches import Batches, LabelledRows, to_device
from ._copies import draw_order, repeat_rows
from ._fields import Fields
from ._kinds import as_batches, is_dataset, read_array_rows
from ._lazy import LazyRows, is_lazy
from ._read import open_rows, read, read_again
from ._resident import hold_on, read_ahead
from ._together import send_together

__all__ = [
    "Batches",
    "Fields",
    "LabelledRows",
    "LazyRows",
    "as_batches",
    "draw_order",
    "hold_on",
    "is_dataset",
    "is_lazy",
    "open_rows",
    "read",
    "read_again",
    "read_ahead",
    "read_array_rows",
    "repeat_rows",
    "send_together",
    "to_device",
]
