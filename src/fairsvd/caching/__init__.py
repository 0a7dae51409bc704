"""A cache of results: keys are fingerprints, and entries are checked when they are read."""

from __future__ import annotations

from ._cache import Cache, Entry, open_cache
from ._fingerprint import NotStableError, fingerprint

__all__ = ["Cache", "Entry", "NotStableError", "fingerprint", "open_cache"]
