"""Files that are written whole or not at all, and checksums of their content."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

__all__ = ["TEMPORARY", "digest", "write_atomically"]

# Pattern of the names of files that are not finished. A killed process leaves one behind.
TEMPORARY = ".fairsvd-*.tmp"


def write_atomically(
    path: str | os.PathLike[str],
    data: bytes,
    *,
    aside: Path | None = None,
    durable: bool = True,
) -> None:
    """Write a file so that neither a reader nor a later process ever sees a part of it.

    The bytes go to a temporary file, which then takes the place of the path. On any error,
    interrupts included, the temporary file is removed and what stood at the path stays as it was.

    Parameters
    ----------
    path : str or path
        Its folder has to exist. A symbolic link is replaced, and the file it names stays.
    data : bytes
    aside : Path, optional
        Folder of the temporary file, on the same file system. Default: the folder of the file.
    durable : bool, default=True
        Wait until the bytes are on the disk, which takes milliseconds. Without it a loss of power,
        but no end of the process, may leave a damaged file.

    Raises
    ------
    OSError
        If the file cannot be written there.
    """
    path = Path(path)
    temporary = (aside or path.parent) / TEMPORARY.replace("*", secrets.token_hex(8))
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a loss of power, where folders can be synchronised."""
    # Windows opens no folder and some network folders refuse: the file is whole in either case.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def digest(data: bytes, key: bytes | None = None) -> str:
    """Return the checksum of some bytes.

    Parameters
    ----------
    data : bytes
    key : bytes, optional
        Without a key a checksum tells damage only, since whoever alters the bytes can make a new
        one. With a key, only who knows the key can.

    Returns
    -------
    digest : str
        64 hexadecimal digits: of SHA-256, or of HMAC-SHA-256 with the key. Compare two of them
        with :func:`hmac.compare_digest`.
    """
    if key is None:
        return hashlib.sha256(data).hexdigest()
    return hmac.new(key, data, hashlib.sha256).hexdigest()
