"""Results under keys: kept nowhere, in this process, or in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Protocol

import torch
from joblib import Memory
from torch import Tensor

from .. import __version__
from ._entry import Entry
from ._fingerprint import fingerprint
from ._folder import open_folder

__all__ = ["Cache", "open_cache"]

# Part of every key; raise it when the meaning of an entry changes.
FORMAT = 3


class Store(Protocol):
    """Keeps entries. If ``shared``, others read them too, so keys must cover every dependency."""

    shared: bool

    def fetch(self, name: str, key: str, compute: Callable[[], Entry]) -> Entry:
        """Return the entry of that key, and compute it if there is none."""


class InProcess:
    """Keeps the latest few entries of each name for one task, in front of a lasting store.

    Parameters
    ----------
    behind : Store or None
        Store that is asked for entries missing here.
    per_name : int
        Number of entries kept for each name.
    """

    def __init__(self, behind: Store | None = None, per_name: int = 4) -> None:
        self.behind, self.per_name = behind, per_name
        self.shared = behind is not None and behind.shared
        self.entries: dict[str, dict[str, Entry]] = {}

    def fetch(self, name: str, key: str, compute: Callable[[], Entry]) -> Entry:
        """Look the entry up, or compute and keep it."""
        kept = self.entries.setdefault(name, {})
        if key not in kept:
            entry = self.behind.fetch(name, key, compute) if self.behind else compute()
            kept[key] = entry
            while len(kept) > self.per_name:
                del kept[next(iter(kept))]
        return kept[key]


@dataclass(frozen=True)
class Cache:
    """Results under keys made of everything they depend on.

    Attributes
    ----------
    store : Store or None
        None: nothing is kept, and nothing is fingerprinted.
    scope : str
        Fingerprint of what every entry of this object depends on.
    """

    store: Store | None = None
    scope: str = ""

    @property
    def keeps(self) -> bool:
        """Tell whether anything is kept."""
        return self.store is not None

    def within(self, *parts: Any) -> Cache:
        """Add dependencies to the scope; costs nothing unless the store is shared."""
        if self.store is None or not self.store.shared:
            return self
        return replace(self, scope=fingerprint(self.scope, *parts))

    def for_one_task(self) -> Cache:
        """Return a cache that keeps entries in this process too, as long as it lives itself."""
        return replace(self, store=InProcess(self.store))

    def fetch(self, name: str, parts: Mapping[str, Any], compute: Callable[[], Entry]) -> Entry:
        """Return a result from the store, and compute it if it is not there.

        Parameters
        ----------
        name : str
            Name of the result in messages and keys.
        parts : mapping
            Everything the result depends on beside the scope; see :func:`fingerprint`.
        compute : callable
        """
        if self.store is None:
            return compute()
        versions = FORMAT, __version__, torch.__version__
        key = fingerprint(*versions, name, self.scope, dict(parts))
        return self.store.fetch(name, key, compute)

    def stream(
        self,
        name: str,
        parts: Mapping[str, Any],
        steps: Callable[[], Iterator[tuple[int, Mapping[str, Tensor]]]],
    ) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        """Yield the numbered states of a computation; without a store, each once it is reached."""
        if self.store is None:
            yield from steps()
            return

        def collect() -> Entry:
            states = {
                f"{step}/{key}": value.detach().clone()
                for step, state in steps()
                for key, value in state.items()
            }
            return Entry(states)

        states: dict[int, dict[str, Tensor]] = {}
        for key, value in self.fetch(name, parts, collect).tensors.items():
            step, _, inner = key.partition("/")
            states.setdefault(int(step), {})[inner] = value
        yield from sorted(states.items())


def open_cache(memory: Any) -> Cache:
    """Read the ``memory`` parameter.

    Parameters
    ----------
    memory : None, str, path or joblib.Memory

    Raises
    ------
    ValueError
        If it is none of these, or names no folder that can be used.
    """
    location = location_of(memory)
    return Cache() if location is None else Cache(open_folder(location))


def location_of(memory: Any) -> str | None:
    """Return the path of the folder that ``memory`` names; None if it names none."""
    if isinstance(memory, Memory):
        # Its location only: its store would unpickle what it reads.
        if memory.store_backend is not None and memory.backend != "local":
            raise ValueError(
                f"memory= is a joblib.Memory with the backend {memory.backend!r}, whose location "
                "is no folder. Pass the path of a folder."
            )
        memory = memory.location
    if memory is None:
        return None
    if not isinstance(memory, (str, PathLike)):
        raise ValueError(
            f"memory= must be None, the path of a folder or a joblib.Memory, got {memory!r}."
        )
    return os.fsdecode(memory)
