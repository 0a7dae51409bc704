"""Stores for results: none, in this process, or on disk through joblib."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from os.path import abspath
from typing import Any, Protocol

import torch
from safetensors.torch import load, save
from sklearn.utils.validation import check_memory
from torch import Tensor

from .._warn import warn
from ..exceptions import CacheWarning
from ._fingerprint import fingerprint

__all__ = ["Cache", "Entry", "open_cache"]

# Part of every key; raise it when the meaning of an entry changes.
FORMAT = 2
DIGEST = hashlib.sha256().digest_size

# Name of the facts among an entry's tensors; no parameter can have this name.
FACTS = "<facts>"


@dataclass(frozen=True)
class Entry:
    """A result: named tensors, and facts as JSON values."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)


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


class OnDisk:
    """Keeps entries in a folder that several processes may share.

    joblib names, writes and finds the files, but returns their content unchecked. So each holds a
    checksum and the bytes of a safetensors file, and a file that fails the checksum is not used.
    """

    shared = True

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    @functools.cached_property
    def _stored(self) -> Any:
        # Kept, because joblib reads the function's source anew at every call of `cache`.
        stored = self.memory.cache(cached_bytes, ignore=["produce"], verbose=0)
        # The first look-up in a folder that is new to this process may only write the function's
        # code there and find nothing, so make one throw-away look-up first.
        stored.check_call_in_cache("", None)
        return stored

    def fetch(self, name: str, key: str, compute: Callable[[], Entry]) -> Entry:
        """Read the entry and check it, or compute and write it."""
        produced: list[Entry] = []
        stored = self._stored

        def produce() -> bytes:
            # If there is a file, joblib calls this only because it could not read it.
            if stored.check_call_in_cache(key, produce):
                _warn_damaged(name, key)
            produced.append(compute())
            return seal(produced[-1])

        payload = stored(key, produce)
        entry = produced[-1] if produced else unseal(payload)
        if entry is None:
            _warn_damaged(name, key)
            stored.call_and_shelve(key, produce).clear()
            stored(key, produce)
            entry = produced[-1]
        return entry


def cached_bytes(key: str, produce: Callable[[], bytes]) -> bytes:
    """Make the bytes of an entry; joblib keeps the results of this function."""
    return produce()


def _warn_damaged(name: str, key: str) -> None:
    warn(
        f"The cached {name} ({key[:12]}...) could not be read or fails its checksum: it was "
        "computed anew and written again. If this recurs, clear the folder given as memory=.",
        CacheWarning,
    )


def seal(entry: Entry) -> bytes:
    """Encode an entry as a checksum and a safetensors file."""
    # Cloned, because tied weights share memory, which the format refuses.
    tensors = {n: t.detach().cpu().contiguous().clone() for n, t in entry.tensors.items()}
    facts = json.dumps(entry.facts).encode()
    body: bytes = save({**tensors, FACTS: torch.frombuffer(bytearray(facts), dtype=torch.uint8)})
    return hashlib.sha256(body).digest() + body


def unseal(payload: Any) -> Entry | None:
    """Decode what :func:`seal` wrote, or return None if it is damaged."""
    if not isinstance(payload, bytes) or len(payload) <= DIGEST:
        return None
    body = payload[DIGEST:]
    if hashlib.sha256(body).digest() != payload[:DIGEST]:
        return None
    tensors = load(body)
    facts = json.loads(tensors.pop(FACTS).numpy().tobytes())
    return Entry(tensors, facts)


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
        key = fingerprint(FORMAT, torch.__version__, name, self.scope, dict(parts))
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
        If it is none of these.
    """
    if memory is None:
        return Cache()
    if isinstance(memory, (str, PathLike)):
        return Cache(_store_at(abspath(memory)))
    return Cache(_store_of(check_memory(memory)))


def _store_of(memory: Any) -> OnDisk | None:
    return OnDisk(memory) if getattr(memory, "store_backend", None) else None


@functools.lru_cache(maxsize=8)
def _store_at(folder: str) -> OnDisk | None:
    # Cached, since every fit of a search opens it.
    return _store_of(check_memory(folder))
