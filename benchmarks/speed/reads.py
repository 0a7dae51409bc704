"""Count which image file is read in which pass of which call, also in worker processes.

A pass is one run over rows in blocks (statistics, curvature, a judgement, a prediction), one epoch
of a network's training, one step of an edit, or one look at a few rows that come first (a probe).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skorch import NeuralNet

from fairsvd import networks
from fairsvd.arrays import Batches, LabelledRows
from fairsvd.base import NetworkEditor
from fairsvd.networks import _inference

# The kinds of pass, by the code that requests the rows.
PROBE, BLOCKS, STEP = "a few first rows", "statistics", "step of an edit"
JUDGING, PREDICTION = "judgement", "prediction"
EPOCH, HELD_OUT = "epoch of training", "epoch, held-out rows"


@dataclass
class Process:
    """What this process is doing, and how many rows are held in it."""

    call: str = "outside"
    number: int = 0
    kind: str = ""
    serial: int = 0
    alive: int = 0
    most_alive: dict[str, int] = field(default_factory=dict)
    installed: bool = False


HERE = Process()
SERIALS = itertools.count(1)
CALLS = itertools.count(1)


def encode(number: int, height: int, width: int, shade: int, rng: np.random.Generator) -> Any:
    """Draw an image whose first pixel codes its number; ``shade`` brightens the others."""
    pixels = rng.integers(0, 120, size=(height, width, 3), dtype=np.uint8)
    pixels += np.uint8(shade)
    pixels[0, 0] = number >> 16, number >> 8 & 255, number & 255
    return Image.fromarray(pixels)


@dataclass
class Counted:
    """A transform that logs each call in a file: what is read, and in which pass.

    Parameters
    ----------
    log : str
        File that lines are appended to, by several processes.
    """

    log: str

    def __post_init__(self) -> None:
        install()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A worker receives it with the first rows.
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
            "most_alive": HERE.most_alive.get(HERE.kind or PROBE, 0),
            "peak": peak_bytes(),
        }
        with open(self.log, "ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")
        return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)


def peak_bytes() -> int:
    """Return the most memory that this process has had so far, or 0 if the system does not say.

    ``resource.getrusage`` would give a worker the peak of the process that started it.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else 0


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
    """Make each run of a generator one pass, without the time in which others use its rows."""

    @wraps(generate)
    def counted(*args: Any, **settings: Any) -> Iterator[Any]:
        serial, inner = next(SERIALS), generate(*args, **settings)
        while True:
            with during(kind, serial):
                # A name would hold the rows of a block while the next block is read.
                found = list(itertools.islice(inner, 1))
            if not found:
                return
            yield found.pop()

    return counted


def as_pass(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def counted(*args: Any, **settings: Any) -> Any:
        with during(kind):
            return function(*args, **settings)

    return counted


def as_read(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Make each call that is in no pass a pass, and count the rows that it returns as held."""

    @wraps(function)
    def counted(*args: Any, **settings: Any) -> Any:
        with during(kind):
            return noted(function(*args, **settings))

    return counted


def noted(rows: Any) -> Any:
    """Count rows as held until their tensor is deleted; an editor keeps its few first rows."""
    if HERE.kind == PROBE:
        return rows
    HERE.alive += len(rows)
    HERE.most_alive[HERE.kind] = max(HERE.most_alive.get(HERE.kind, 0), HERE.alive)
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
    """Make one pass of skorch's work in one epoch with one of its two data sets."""

    @wraps(function)
    def counted(net: Any, iterator: Any, training: bool, *args: Any, **settings: Any) -> Any:
        with during(EPOCH if training else HELD_OUT):
            return function(net, iterator, training, *args, **settings)

    return counted


def everywhere(put: Callable[[Any, str, Any], None], old: Any, new: Any) -> None:
    """Replace one function by another wherever the package has imported it."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "fairsvd":
            for key in [key for key, value in vars(module).items() if value is old]:
                put(module, key, new)


def install(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Wrap the functions that read rows, once per process; ``put`` sets an attribute."""
    if HERE.installed:
        return
    put(HERE, "installed", True)
    put(Batches, "blocks", in_passes(BLOCKS, Batches.blocks))
    put(LabelledRows, "batches", in_passes(BLOCKS, LabelledRows.batches))
    put(Batches, "__getitem__", as_read(PROBE, Batches.__getitem__))
    put(Batches, "for_step", as_pass(STEP, Batches.for_step))
    everywhere(put, networks.fast_logits, as_pass(JUDGING, networks.fast_logits))
    put(_inference, "_in_blocks", as_pass(PREDICTION, _inference._in_blocks))
    put(NeuralNet, "run_single_epoch", epochs(NeuralNet.run_single_epoch))
    put(NetworkEditor, "fit", as_call("fit", NetworkEditor.fit))
    put(NetworkEditor, "_logits", as_call("predict", NetworkEditor._logits))


@dataclass(frozen=True)
class Row:
    """A line of the table: all passes of one kind in calls of one name.

    Attributes
    ----------
    calls, passes, reads : int
        How many there were in all.
    most_passes : int
        Of one call.
    most_reads : int
        Of one file in one pass: the bar is 1.
    held : int
        Rows that one process held at the same time at most.
    """

    call: str
    kind: str
    calls: int
    passes: int
    most_passes: int
    reads: int
    most_reads: int
    held: int


def summary(lines: Sequence[dict[str, Any]]) -> list[Row]:
    """Count reads by call and kind of pass."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        found.setdefault((line["call"], line["kind"]), []).append(line)
    return [_row(*key, own) for key, own in sorted(found.items())]


def _row(call: str, kind: str, lines: Sequence[dict[str, Any]]) -> Row:
    of_pass = Counter((each["process"], each["serial"], each["file"]) for each in lines)
    passes = {(each["process"], each["number"], each["serial"]) for each in lines}
    of_call = Counter(key[:2] for key in passes)
    return Row(
        call,
        kind,
        calls=len(of_call),
        passes=len(passes),
        most_passes=max(of_call.values()),
        reads=len(lines),
        most_reads=max(of_pass.values()),
        held=max(each["most_alive"] for each in lines),
    )
