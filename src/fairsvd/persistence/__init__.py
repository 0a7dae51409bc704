"""Keep fitted estimators in files, without pickle."""

from __future__ import annotations

from ._file import load, save

__all__ = ["load", "save"]
