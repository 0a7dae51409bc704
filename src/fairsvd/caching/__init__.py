"""Results that need not be computed twice: fingerprints, and entries checked on reading."""

from __future__ import annotations

from ._cache import Cache, Entry, open_cache
from ._fingerprint import NotStableError, fingerprint

__all__ = ["Cache", "Entry", "NotStableError", "fingerprint", "open_cache"]
