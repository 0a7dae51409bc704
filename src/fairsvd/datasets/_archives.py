"""Files that may lie in a zip archive: a path may lead through one, as in ``faces.zip/1.jpg``."""

from __future__ import annotations

import io
import os
import re
import zipfile
import zlib
from functools import lru_cache
from typing import Any, NamedTuple

__all__ = ["file_stamp", "is_archive", "is_file", "member_names", "opened"]

ENDING = re.compile(r"\.zip(?=[/\\]|$)", re.IGNORECASE)

# Archives of one data set that stay open.
KEPT_OPEN = 8


class _Place(NamedTuple):
    """A file inside an archive."""

    archive: str
    member: str


def opened(path: str) -> Any:
    """Return what reads the file: its path, or a buffer of an archive's member.

    Raises
    ------
    OSError
        If the archive or its member is missing or damaged.
    """
    place = _place(path)
    if place is None:
        return path
    try:
        return io.BytesIO(_archive(place.archive).read(place.member))
    except KeyError:
        raise FileNotFoundError(f"{place.archive} has no member {place.member}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        # RuntimeError: it is encrypted, or packed by a method that Python does not know.
        raise OSError(f"{place.archive} cannot be read: {error}") from error


def is_file(path: str) -> bool:
    """Tell whether there is such a file, or such a member of an archive."""
    place = _place(path)
    if place is None:
        return os.path.isfile(path)
    return is_archive(place.archive) and place.member in _archive(place.archive).NameToInfo


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is that of a zip archive that can be read."""
    return str(path).lower().endswith(".zip") and zipfile.is_zipfile(path)


def member_names(path: str | os.PathLike[str]) -> list[str]:
    """List the members of an archive, with forward slashes; folders end in one."""
    return _archive(os.fspath(path)).namelist()


def file_stamp(path: str) -> tuple[int, int]:
    """Identify a file's content without reading it: size in bytes and time in nanoseconds.

    Of a member, whose time says little, its checksum takes the place of the time.

    Raises
    ------
    OSError
        If there is no such file.
    """
    place = _place(path)
    if place is None:
        stat = os.stat(path)
        return stat.st_size, stat.st_mtime_ns
    if not is_file(path):
        raise FileNotFoundError(2, "No such file or directory", path)
    info = _archive(place.archive).getinfo(place.member)
    return info.file_size, info.CRC


def _place(path: str) -> _Place | None:
    """Part a path that leads through an archive; None for others."""
    ending = ENDING.search(path)
    if ending is None or ending.end() == len(path):
        return None
    archive, member = path[: ending.end()], path[ending.end() + 1 :]
    # A folder may have such a name.
    return None if os.path.isdir(archive) else _Place(archive, member.replace("\\", "/"))


def _archive(path: str) -> zipfile.ZipFile:
    """Open an archive, or return the open one; its table of contents is read once."""
    stat = os.stat(path)
    # A forked process must not share an open file with its parent: one would move the other's
    # place in it.
    return _open_archive(path, stat.st_size, stat.st_mtime_ns, os.getpid())


@lru_cache(maxsize=KEPT_OPEN)
def _open_archive(path: str, _size: int, _time: int, _process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
