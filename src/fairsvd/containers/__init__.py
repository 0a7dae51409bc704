"""What users pass as data, as numpy arrays and pandas objects: the lowest floor of the inputs."""

from __future__ import annotations

from ._known import as_known, count_rows, is_frame
from ._labels import label_codes, read_labels
from ._missing import restore_missing
from ._numbers import as_numbers

__all__ = [
    "as_known",
    "as_numbers",
    "count_rows",
    "is_frame",
    "label_codes",
    "read_labels",
    "restore_missing",
]
