"""Sensitive attributes: finding them in the data and encoding them as groups."""

from __future__ import annotations

from ._columns import split_columns
from ._encode import BIN_IT, MANY_GROUPS, Groups, cell_codes, encode_groups, require_two_groups
from ._locate import Located, drop_sensitive, find_sensitive

__all__ = [
    "BIN_IT",
    "MANY_GROUPS",
    "Groups",
    "Located",
    "cell_codes",
    "drop_sensitive",
    "encode_groups",
    "find_sensitive",
    "require_two_groups",
    "split_columns",
]
