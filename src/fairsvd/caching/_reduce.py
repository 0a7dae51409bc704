"""Deletion of entries that were not used for long."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

from ._cache import location_of
from ._folder import SUFFIX, open_folder

__all__ = ["reduce_size"]


def reduce_size(
    memory: Any, *, bytes_limit: int | None = None, age_limit: timedelta | None = None
) -> None:
    """Delete the entries of a ``memory=`` folder that were not read for the longest time.

    Fits that use the folder meanwhile compute again what they miss. To delete everything, delete
    the folder.

    Parameters
    ----------
    memory : str, path or joblib.Memory
        What an editor gets as ``memory=``.
    bytes_limit : int, optional
        Bytes that the remaining entries may take together.
    age_limit : datetime.timedelta, optional
        Time since an entry was last read. Most systems note it once a day; those that never do
        count from when the entry was written.

    Raises
    ------
    ValueError
        ``memory`` names no folder that can be used.

    Examples
    --------
    >>> import tempfile
    >>> from fairsvd.caching import reduce_size
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     reduce_size(folder, bytes_limit=10**9)
    """
    location = location_of(memory)
    if location is None:
        raise ValueError("memory=None names no folder.")
    files = []
    for path in open_folder(location).path.rglob(f"*{SUFFIX}"):
        with suppress(FileNotFoundError):
            found = path.stat()
            files.append((max(found.st_atime, found.st_mtime), found.st_size, path))
    oldest = float("-inf") if age_limit is None else time.time() - age_limit.total_seconds()
    room = float("inf") if bytes_limit is None else bytes_limit
    for used, size, path in sorted(files, reverse=True):
        room -= size
        if used < oldest or room < 0:
            path.unlink(missing_ok=True)
