"""A cache of results: keys are fingerprints, and entries are checked before they are read."""

from __future__ import annotations

from ._cache import Cache, open_cache
from ._entry import Entry
from ._fingerprint import NotStableError, fingerprint
from ._reduce import reduce_size

__all__ = ["Cache", "Entry", "NotStableError", "fingerprint", "open_cache", "reduce_size"]
