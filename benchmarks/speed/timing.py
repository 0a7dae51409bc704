"""Ratios of runs that take turns, so that a busy machine slows both sides, and their table."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

__all__ = ["Result", "compare", "interleave", "options_parser", "report"]


@dataclass(frozen=True)
class Result:
    """A line of the table: median, least and greatest ratio, and the median cost of the base."""

    section: str
    setting: str
    median: float
    low: float
    high: float
    base: str
    bar: float | None

    @property
    def met(self) -> bool:
        """Say whether the bar is met; a line without a bar is for information."""
        return self.bar is None or self.median <= self.bar

    def cells(self) -> tuple[str, ...]:
        digits = 2 if self.median >= 0.1 else 4
        numbers = [f"{number:.{digits}f}" for number in (self.median, self.low, self.high)]
        limit = "" if self.bar is None else f"{self.bar:g}"
        return self.section, self.setting, numbers[0], " to ".join(numbers[1:]), limit, self.base


def seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def interleave(
    runs: Sequence[Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Time runs in turns, after one turn that is not counted; a list of seconds for each run."""
    rounds = [[seconds(run, clock) for run in runs] for _ in range(repeats + 1)]
    return [list(column) for column in zip(*rounds[1:], strict=True)]


def compare(
    section: str,
    setting: str,
    times: Sequence[Sequence[float]],
    bar: float | None,
    *,
    base_share: float = 1.0,
) -> Result:
    """Divide the second run's seconds by the first one's, turn by turn.

    ``base_share`` is the share of the rows that the base has seen: its seconds grow with the rows.
    """
    base = [each / base_share for each in times[0]]
    ratios = [mine / other for other, mine in zip(base, times[1], strict=True)]
    cost = f"{statistics.median(base) * 1e3:.0f} ms"
    return Result(section, setting, statistics.median(ratios), min(ratios), max(ratios), cost, bar)


def options_parser(description: str, sections: Sequence[str]) -> argparse.ArgumentParser:
    """Make the options that all benchmarks of times share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--sections", nargs="+", choices=sections, default=list(sections))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9, help="measured turns (default 9)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the same numbers there as JSON")
    return parser


def report(results: Iterable[Result], options: argparse.Namespace) -> int:
    """Print the table line by line; the exit status is 1 where a bar is missed."""
    print("| section | setting | ratio | spread | bar | base |\n|---|---|---|---|---|---|")
    lines = []
    for result in results:
        lines.append(result)
        print("| " + " | ".join(result.cells()) + " |", flush=True)
    if options.out:
        about = {"seed": options.seed, "torch": torch.__version__, "cpus": os.cpu_count()}
        found = [asdict(line) | {"met": line.met} for line in lines]
        options.out.write_text(json.dumps({"about": about, "results": found}, indent=1) + "\n")
    return int(not all(line.met for line in lines))
