"""Counting which image file is read in which pass of which call, also in worker processes.

A pass is one run over rows in blocks (statistics, curvature, a judgement, a prediction), one epoch
of a network's training, one step of an edit, or one look at a few rows that come first (a probe).
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skorch import NeuralNet

from fairsvd.arrays import Batches, LabelledRows
from fairsvd.base import NetworkEditor

# What each kind of pass is, by the code that asks for the rows.
PROBE, BLOCKS, STEP = "probe", "rows in blocks", "step of an edit"
EPOCH, HELD_OUT = "epoch of training", "epoch, held-out rows"


@dataclass
class Process:
    """What this process is doing, and how many rows somebody holds."""

    call: str = "outside"
    number: int = 0
    kind: str = ""
    serial: int = 0
    alive: int = 0
    most_alive: int = 0
    installed: bool = False


HERE = Process()
SERIALS = itertools.count(1)
CALLS = itertools.count(1)


def encode(number: int, height: int, width: int, shade: int, rng: np.random.Generator) -> Any:
    """Draw an image whose first pixel says its number; ``shade`` brightens the others."""
    pixels = rng.integers(0, 120, size=(height, width, 3), dtype=np.uint8)
    pixels += np.uint8(shade)
    pixels[0, 0] = number >> 16, number >> 8 & 255, number & 255
    return Image.fromarray(pixels)


@dataclass
class Counted:
    """A transform that writes down each call in a file: what is read, in which pass.

    Parameters
    ----------
    log : str
        File that lines are appended to, by several processes.
    """

    log: str

    def __post_init__(self) -> None:
        install()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A worker gets it with the first rows.
        self.__dict__.update(state)
        install()

    def __call__(self, image: Any) -> np.ndarray:
        high, middle, low = image.getpixel((0, 0))
        line = {
            "file": high << 16 | middle << 8 | low,
            "process": os.getpid(),
            "call": HERE.call,
            "number": HERE.number,
            "kind": HERE.kind or PROBE,
            "serial": HERE.serial,
            "most_alive": HERE.most_alive,
            "peak": peak_bytes(),
        }
        with open(self.log, "ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")
        return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)


def peak_bytes() -> int:
    """Return the most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read_log(log: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(log).read_text().splitlines()]


@contextmanager
def during(kind: str, serial: int | None = None) -> Iterator[None]:
    """Name the pass that reads inside belong to; the outermost name counts."""
    before = HERE.kind, HERE.serial
    if not before[0]:
        HERE.kind, HERE.serial = kind, next(SERIALS) if serial is None else serial
    try:
        yield
    finally:
        HERE.kind, HERE.serial = before


def in_passes(kind: str, generate: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Make each run of a generator one pass, but for the time that others work with its rows."""

    @wraps(generate)
    def counted(*args: Any, **settings: Any) -> Iterator[Any]:
        serial, inner = next(SERIALS), generate(*args, **settings)
        while True:
            with during(kind, serial):
                # Not under a name, which would hold the rows of a block while the next is read.
                found = list(itertools.islice(inner, 1))
            if not found:
                return
            yield found.pop()

    return counted


def as_pass(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def counted(*args: Any, **settings: Any) -> Any:
        with during(kind):
            return noted(function(*args, **settings))

    return counted


def noted(rows: Any) -> Any:
    """Count rows as held until their tensor is gone."""
    HERE.alive += len(rows)
    HERE.most_alive = max(HERE.most_alive, HERE.alive)
    weakref.finalize(rows, forget, len(rows))
    return rows


def forget(n_rows: int) -> None:
    HERE.alive -= n_rows


def as_call(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def counted(*args: Any, **settings: Any) -> Any:
        before = HERE.call, HERE.number
        HERE.call, HERE.number = name, next(CALLS)
        try:
            return function(*args, **settings)
        finally:
            HERE.call, HERE.number = before

    return counted


def epochs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make one pass of what skorch does in one epoch with one of its two data sets."""

    @wraps(function)
    def counted(net: Any, iterator: Any, training: bool, *args: Any, **settings: Any) -> Any:
        with during(EPOCH if training else HELD_OUT):
            return function(net, iterator, training, *args, **settings)

    return counted


def install() -> None:
    """Wrap, once a process, what reads rows."""
    if HERE.installed:
        return
    HERE.installed = True
    Batches.blocks = in_passes(BLOCKS, Batches.blocks)  # type: ignore[method-assign]
    LabelledRows.batches = in_passes(BLOCKS, LabelledRows.batches)  # type: ignore[method-assign]
    Batches.__getitem__ = as_pass(PROBE, Batches.__getitem__)  # type: ignore[method-assign]
    Batches.for_training = as_pass(STEP, Batches.for_training)  # type: ignore[method-assign]
    NeuralNet.run_single_epoch = epochs(NeuralNet.run_single_epoch)
    NetworkEditor.fit = as_call("fit", NetworkEditor.fit)  # type: ignore[method-assign]
    NetworkEditor._logits = as_call("predict", NetworkEditor._logits)  # type: ignore[method-assign]
