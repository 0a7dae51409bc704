"""A folder of entries that several processes may share."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError

from .._files import TEMPORARY, digest, write_atomically
from .._warn import warn
from ..exceptions import CacheWarning
from ._entry import Entry, seal, unseal

__all__ = ["SUFFIX", "Folder", "open_folder"]

# Below the folder that the user names, where other things may lie too.
OWN = "fairsvd"
UNFINISHED = "unfinished"
SUFFIX = ".entry"

SECRET = "FAIRSVD_MEMORY_KEY"
LEAST_SECRET = 16

# Seconds after which no living process owns a temporary file: writing one takes far less.
ABANDONED = 3600

# What writing may raise: the disk's errors, and those of tensors that the format does not have.
WRITING = (OSError, MemoryError, SafetensorError, KeyError, RuntimeError)


@dataclass
class Folder:
    """Keeps each entry in a file ``<name>/<two digits>/<key>.entry``.

    A file appears whole or not at all, and processes that write one key at the same time write the
    same. So there are no locks, and any file may be deleted at any time.

    Attributes
    ----------
    path : Path
    told : set of str
        Kinds of problems that were warned of; each is told once for an object.
    """

    path: Path
    told: set[str] = field(default_factory=set)
    shared = True

    def fetch(self, name: str, key: str, compute: Callable[[], Entry]) -> Entry:
        """Read the entry and check it, or compute and write it."""
        secret = read_secret()
        # Under a secret it has another name: entries with and without one do not meet.
        file = key if secret is None else digest(key.encode(), secret)
        path = self.path / name.replace(" ", "-") / file[:2] / f"{file}{SUFFIX}"
        try:
            entry, problem = unseal(read_file(path), key, secret), "it fails its check"
        except FileNotFoundError:
            entry, problem = None, ""
        except (OSError, MemoryError) as error:
            entry, problem = None, repr(error)
        if entry is None:
            entry = compute()
            self._write(path, entry, key, secret, problem)
        return entry

    def _write(
        self, path: Path, entry: Entry, key: str, secret: bytes | None, problem: str
    ) -> None:
        """Write an entry, and tell of it if that fails or if there was a problem before."""
        aside = self.path / UNFINISHED
        try:
            data = seal(entry, key, secret)
            for folder in (path.parent, aside):
                folder.mkdir(parents=True, exist_ok=True)
            # What a loss of power damages is found by the checksum.
            write_atomically(path, data, aside=aside, durable=False)
        except WRITING as error:
            self._tell(
                f"cannot be written: {error!r}. The fit goes on and keeps nothing there. Pass a "
                "folder that has room and can be written to, or memory=None.",
                path,
            )
        else:
            if problem:
                self._tell(
                    f"could not be used: {problem}. It was computed anew and written again. If "
                    "this recurs, delete the folder.",
                    path,
                )

    def _tell(self, what: str, path: Path) -> None:
        kind = what.partition(":")[0]
        if kind not in self.told:
            self.told.add(kind)
            warn(f"An entry of the folder given as memory= ({path}) {what}", CacheWarning)


def open_folder(location: str) -> Folder:
    """Make sure that a folder can hold entries, and delete what killed processes left there.

    Raises
    ------
    ValueError
        If it cannot be made or is no folder, or if the secret is too short.
    """
    read_secret()
    home = os.path.expanduser(location)
    if re.match(r"\w[\w+.-]+://", location):
        why = "is a URL"
    elif home.startswith("~"):
        why = "names the home of a user that does not exist"
    else:
        why = "" if location.strip() else "names nothing"
    if why:
        raise ValueError(
            f"memory={location!r} {why}. Pass the path of a folder, or None to keep nothing."
        )
    try:
        path = Path(os.path.abspath(home)) / OWN
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"memory={location!r} cannot be used as a folder: {error}. Pass the path of a folder "
            "in which files can be made, or None to keep nothing."
        ) from error
    sweep(path / UNFINISHED)
    return Folder(path)


def sweep(folder: Path) -> None:
    """Delete the temporary files that no living process owns."""
    # Another process may sweep too, and what may not be deleted harms nobody.
    with suppress(OSError):
        for path in folder.glob(TEMPORARY):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()


def read_secret() -> bytes | None:
    """Read the secret of the checksums from the environment, anew each time.

    So it is never held by an object that travels to other processes or into a pickle.
    """
    secret = os.environ.get(SECRET)
    if secret is not None and len(secret) < LEAST_SECRET:
        raise ValueError(
            f"the environment variable {SECRET} has {len(secret)} characters: give it at least "
            f"{LEAST_SECRET} random ones, or unset it."
        )
    return None if secret is None else os.fsencode(secret)


def read_file(path: Path) -> bytes:
    """Read a file; raise OSError if the path is none, instead of waiting for a pipe to speak."""
    # Windows has neither such pipes nor the flag.
    without_waiting = getattr(os, "O_NONBLOCK", 0)
    with open(path, "rb", opener=lambda p, flags: os.open(p, flags | without_waiting)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is not a file")
        return file.read()
