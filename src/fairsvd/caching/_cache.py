"""Where results are kept: nowhere, in this process, or on disk through joblib."""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from os.path import abspath
from typing import Any, Protocol

import torch
from safetensors.torch import load, save
from sklearn.utils.validation import check_memory
from torch import Tensor

from ..exceptions import CacheWarning
from ._fingerprint import fingerprint

__all__ = ["Cache", "Entry", "open_cache"]

# Part of every key: to be raised when an entry's meaning changes.
FORMAT = 2
DIGEST = hashlib.sha256().digest_size

# Name of the facts among an entry's tensors, which no parameter can have.
FACTS = "<facts>"


@dataclass(frozen=True)
class Entry:
    """A result: named tensors, and facts that JSON can hold."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)


class Store(Protocol):
    """Where entries are kept; ``shared`` tells whether others read them, so that keys say all."""

    shared: bool

    def fetch(self, name: str, key: str, compute: Callable[[], Entry]) -> Entry:
        """Give the entry of that key, computing it where there is none."""


class InProcess:
    """Keeps the latest few entries of each name for one task, before a store that lasts.

    Parameters
    ----------
    behind : Store or None
        Asked for what is not here.
    per_name : int
        Entries of each name that are kept.
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

    joblib names, writes and finds them; it gives back whatever the file holds, so that what is
    kept is a checksum and the bytes of a safetensors file, and nothing is used that fails it.
    """

    shared = True

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    @functools.cached_property
    def _stored(self) -> Any:
        # joblib reads and documents the function anew each time that it is asked for it.
        stored = self.memory.cache(cached_bytes, ignore=["produce"], verbose=0)
        # The first look into a folder that this process has not used yet may only note the
        # function's code there and find nothing: that one must not be the call that counts.
        stored.check_call_in_cache("", None)
        return stored

    def fetch(self, name: str, key: str, compute: Callable[[], Entry]) -> Entry:
        """Read the entry and check it, or compute and write it."""
        produced: list[Entry] = []
        stored = self._stored

        def produce() -> bytes:
            # With a file in place joblib comes here only where it could not read that.
            if stored.check_call_in_cache(key, produce):
                _warn_damaged(name, key)
            produced.append(compute())
            return sealed(produced[-1])

        payload = stored(key, produce)
        entry = produced[-1] if produced else opened(payload)
        if entry is None:
            _warn_damaged(name, key)
            stored.call_and_shelve(key, produce).clear()
            stored(key, produce)
            entry = produced[-1]
        return entry


def cached_bytes(key: str, produce: Callable[[], bytes]) -> bytes:
    """Make the bytes of an entry: the function whose results joblib keeps."""
    return produce()


def _warn_damaged(name: str, key: str) -> None:
    warnings.warn(
        f"The cached {name} ({key[:12]}...) could not be read or fails its checksum: it was "
        "computed anew and written again. If this comes back, clear the folder given as memory=.",
        CacheWarning,
        stacklevel=2,
    )


def sealed(entry: Entry) -> bytes:
    """Write an entry as a checksum and a safetensors file."""
    # Clones: tied weights share memory, which the format refuses.
    tensors = {n: t.detach().cpu().contiguous().clone() for n, t in entry.tensors.items()}
    facts = json.dumps(entry.facts).encode()
    body: bytes = save({**tensors, FACTS: torch.frombuffer(bytearray(facts), dtype=torch.uint8)})
    return hashlib.sha256(body).digest() + body


def opened(payload: Any) -> Entry | None:
    """Read what :func:`sealed` wrote, or return None where it is not whole."""
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
    """Results under keys that are made of everything they depend on.

    Attributes
    ----------
    store : Store or None
        None: nothing is kept, and nothing is fingerprinted.
    scope : str
        Fingerprint of what all entries made through this object depend on.
    """

    store: Store | None = None
    scope: str = ""

    @property
    def keeps(self) -> bool:
        """Tell whether anything is kept."""
        return self.store is not None

    def within(self, *parts: Any) -> Cache:
        """Narrow the scope by more that entries depend on; free where nothing is shared."""
        if self.store is None or not self.store.shared:
            return self
        return replace(self, scope=fingerprint(self.scope, *parts))

    def for_one_task(self) -> Cache:
        """Keep what comes next in this process too, as long as the result of this call lives."""
        return replace(self, store=InProcess(self.store))

    def fetch(self, name: str, parts: Mapping[str, Any], compute: Callable[[], Entry]) -> Entry:
        """Give a result from the store, computing it where it is not there.

        Parameters
        ----------
        name : str
            What it is, for messages.
        parts : mapping
            Everything it depends on beside the scope; see :func:`fingerprint`.
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
        """Give the numbered states of a computation; without a store each as it is reached."""
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

        found: dict[int, dict[str, Tensor]] = {}
        for key, value in self.fetch(name, parts, collect).tensors.items():
            step, _, inner = key.partition("/")
            found.setdefault(int(step), {})[inner] = value
        yield from sorted(found.items())


def open_cache(memory: Any) -> Cache:
    """Read the ``memory`` parameter.

    Parameters
    ----------
    memory : None, str, path or joblib.Memory

    Raises
    ------
    ValueError
        It is none of these.
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
    # Kept, since every fit of a search opens it.
    return _store_of(check_memory(folder))
