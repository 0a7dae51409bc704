"""What happens on the device, counted by kind, by size and by the line that asked for it."""

from __future__ import annotations

import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

HERE = str(Path(__file__).parent)

_LOCK = threading.RLock()
_OPEN: list[Counts] = []

# Asynchronous copies that nobody has waited for: the pinned source, what it held, and the line.
_IN_FLIGHT: deque[tuple[Tensor, Tensor, str]] = deque(maxlen=256)


# Compared by identity: two that counted the same are still two.
@dataclass(eq=False)
class Counts:
    """Events of all threads.

    Attributes
    ----------
    total, bytes : Counter
        By kind: "launch", "sync", "h2d", "d2h", "race".
    where : Counter
        By (kind, operator, "file:line"), the line of the innermost caller outside torch.
    """

    total: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    where: Counter[tuple[str, str, str]] = field(default_factory=Counter)


@contextmanager
def count() -> Iterator[Counts]:
    """Count what happens inside a block."""
    counts = Counts()
    _OPEN.append(counts)
    try:
        yield counts
    finally:
        _OPEN.remove(counts)


def note(kind: str, operator: str, size: int = 0, line: str | None = None) -> None:
    """Add an event to every open count."""
    if kind == "sync":
        _land()
    with _LOCK:
        for counts in _OPEN:
            counts.total[kind] += 1
            counts.bytes[kind] += size
            counts.where[kind, operator, line or _line()] += 1


def note_copy_in_flight(source: Tensor) -> None:
    """Remember what pinned memory holds until the host next waits for the device."""
    _IN_FLIGHT.append((source.detach(), source.detach().clone(), _line()))


def _land() -> None:
    """The host has waited: sources of copies must be as they were when the copies began."""
    while _IN_FLIGHT:
        source, held, line = _IN_FLIGHT.popleft()
        # NaN does not equal itself.
        if not (torch.equal(source, held) or held.isnan().any()):
            note("race", "copy_", line=line)


def _line() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if not (name.startswith((HERE, "<")) or "/torch/" in name):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "autograd"
