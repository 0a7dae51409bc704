"""Where the files of a data set are: the user's folder, the cache, or the network."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import tempfile
import urllib.request
import zipfile
from pathlib import Path
from typing import NamedTuple

from ..exceptions import DatasetNotFoundError

__all__ = ["RemoteFile", "cache_folder", "find_file"]

TIMEOUT = 30  # seconds without an answer before a download is given up


class RemoteFile(NamedTuple):
    """One file of a data set, as it is published.

    Parameters
    ----------
    folder, name : str
        Where the file belongs below ``FAIRSVD_DATA`` and below the cache: ``folder/name``.
    url : str
        Where it is published.
    sha256 : str
        Checksum of the file (of the member, where the URL leads to an archive), 64 hex digits.
    size : int
        Its size in bytes.
    member : str or None
        Name of the file inside the zip archive at ``url``; None where the URL is the file.
    """

    folder: str
    name: str
    url: str
    sha256: str
    size: int
    member: str | None = None


def cache_folder() -> Path:
    """Return the folder that keeps downloads: ``FAIRSVD_CACHE``, else ``~/.cache/fairsvd``."""
    return Path(os.environ.get("FAIRSVD_CACHE") or "~/.cache/fairsvd").expanduser()


def find_file(remote: RemoteFile) -> Path:
    """Find a file in the user's folder or in the cache, or download it into the cache.

    What lies in ``FAIRSVD_DATA`` is the user's and is read as it is, so that a sample or a reduced
    copy serves as well; what lies in the cache must have the published checksum, or it is fetched
    again.

    Parameters
    ----------
    remote : RemoteFile

    Returns
    -------
    path : Path of a file that exists

    Raises
    ------
    DatasetNotFoundError
        The file is nowhere and cannot be fetched, or what was fetched has another checksum. The
        message says what to download by hand and where to put it.
    """
    own = _in_users_folder(remote)
    if own is not None and own.is_file():
        return own
    cached = cache_folder() / remote.folder / remote.name
    if cached.is_file() and _checksum(cached.read_bytes()) == remote.sha256:
        return cached
    try:
        content = _download(remote)
        _check(content, remote)
        _write(cached, content)
    except (OSError, http.client.HTTPException, zipfile.BadZipFile, KeyError) as error:
        raise DatasetNotFoundError(_explain(remote, cached, error)) from error
    return cached


def _in_users_folder(remote: RemoteFile) -> Path | None:
    folder = os.environ.get("FAIRSVD_DATA")
    return Path(folder).expanduser() / remote.folder / remote.name if folder else None


def _download(remote: RemoteFile) -> bytes:
    """Fetch the file's bytes, taken out of its archive where it is in one."""
    with urllib.request.urlopen(remote.url, timeout=TIMEOUT) as response:
        content: bytes = response.read()  # in one call: a broken transfer raises only then
    if remote.member is None:
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(remote.member)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check(content: bytes, remote: RemoteFile) -> None:
    got = _checksum(content)
    if got != remote.sha256:
        raise OSError(f"what came has {len(content):,} bytes and sha256 {got}; it was not kept")


def _write(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever finds half of it, also when two processes download."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _explain(remote: RemoteFile, cached: Path, error: Exception) -> str:
    """Say what was looked for, why it did not come, and what to do by hand."""
    own = _in_users_folder(remote)
    part = f" and take {remote.member} out of it" if remote.member else ""
    return (
        f"{remote.folder}/{remote.name} was not found and could not be downloaded ({error}). "
        f"Looked for: {own or 'FAIRSVD_DATA (not set)'}; {cached}. "
        f"By hand: download {remote.url}{part} ({remote.size:,} bytes, sha256 {remote.sha256}) "
        f"into the folder {cached.parent}, or set the environment variable FAIRSVD_DATA to a "
        f"folder that holds {remote.folder}/{remote.name}."
    )
