"""Find the files of a data set: in the user's folder, in the cache, or on the network."""

from __future__ import annotations

import http.client
import io
import os
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .._files import digest, write_atomically
from ..exceptions import DatasetNotFoundError

__all__ = ["RemoteFile", "cache_folder", "find_file", "users_folder"]

TIMEOUT = 30  # seconds without an answer until a download fails


class RemoteFile(NamedTuple):
    """One published file of a data set.

    Parameters
    ----------
    folder, name : str
        Path below ``FAIRSVD_DATA`` and below the cache: ``folder/name``.
    url : str
        Address of the file, or of a zip archive that holds it.
    sha256 : str
        Checksum of the file (of the member, if the URL is an archive), 64 hex digits.
    size : int
        Size in bytes.
    member : str or None
        Name of the file inside the zip archive at ``url``; None if the URL is the file itself.
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


def users_folder(
    name: str, root: str | os.PathLike[str] | None, files: Sequence[str], source: str
) -> Path:
    """Return ``root``, or find the folder of files that are never downloaded.

    Parameters
    ----------
    name : str
        The folder below ``FAIRSVD_DATA``, or below the cache.
    root : str, os.PathLike or None
    files : sequence of str
        Names of a file that it must hold, under one of these.
    source : str
        A sentence that says where to take them.

    Raises
    ------
    DatasetNotFoundError
        If ``root`` is None and no such folder holds one.
    """
    if root is not None:
        return Path(root)
    named = os.environ.get("FAIRSVD_DATA")
    places = [Path(named).expanduser() / name] if named else []
    places.append(cache_folder() / name)
    for place in places:
        if any((place / file).is_file() for file in files):
            return place
    raise DatasetNotFoundError(
        f"{' or '.join(files)} was not found in {' or '.join(map(str, places))}. {source}, and "
        "pass their folder as root=, or name the one above it in FAIRSVD_DATA."
    )


def find_file(remote: RemoteFile) -> Path:
    """Find a file in the user's folder or in the cache, or download it into the cache.

    A file in ``FAIRSVD_DATA`` is the user's and is read unchecked, so a sample or a reduced copy
    works too. A file in the cache is downloaded again unless it has the published checksum.

    Parameters
    ----------
    remote : RemoteFile

    Returns
    -------
    path : Path of a file that exists

    Raises
    ------
    DatasetNotFoundError
        If the file is not found and cannot be downloaded, or the download has another checksum.
        The message says what to download by hand and where to put it.
    """
    users_file = _in_users_folder(remote)
    if users_file is not None and users_file.is_file():
        return users_file
    cached = cache_folder() / remote.folder / remote.name
    if cached.is_file() and digest(cached.read_bytes()) == remote.sha256:
        return cached
    try:
        content = _download(remote)
        _check(content, remote)
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cached, content)
    except (OSError, http.client.HTTPException, zipfile.BadZipFile, KeyError) as error:
        raise DatasetNotFoundError(_explain(remote, cached, error)) from error
    return cached


def _in_users_folder(remote: RemoteFile) -> Path | None:
    folder = os.environ.get("FAIRSVD_DATA")
    return Path(folder).expanduser() / remote.folder / remote.name if folder else None


def _download(remote: RemoteFile) -> bytes:
    """Download the file's bytes, and extract them if the URL is an archive."""
    with urllib.request.urlopen(remote.url, timeout=TIMEOUT) as response:
        content: bytes = response.read()  # one call, since only then a broken transfer raises
    if remote.member is None:
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(remote.member)


def _check(content: bytes, remote: RemoteFile) -> None:
    checksum = digest(content)
    if checksum != remote.sha256:
        raise OSError(
            f"the download has {len(content):,} bytes and sha256 {checksum}; it was not kept"
        )


def _explain(remote: RemoteFile, cached: Path, error: Exception) -> str:
    """Say where the file was searched, why the download failed, and what to do by hand."""
    users_file = _in_users_folder(remote)
    part = f" and take {remote.member} out of it" if remote.member else ""
    return (
        f"{remote.folder}/{remote.name} was not found and could not be downloaded ({error}). "
        f"Looked for: {users_file or 'FAIRSVD_DATA (not set)'}; {cached}. "
        f"By hand: download {remote.url}{part} ({remote.size:,} bytes, sha256 {remote.sha256}) "
        f"into the folder {cached.parent}, or set the environment variable FAIRSVD_DATA to a "
        f"folder that holds {remote.folder}/{remote.name}."
    )
