"""Measure the cost of a search in trainings of the base network, on Adult with one torch thread.

The base is the time of five trainings, one for each fold of the search. It is compared with
``GridSearchCV`` over ranks and sparsities with ``memory=``, and with ``FairLRFTransformerCV`` over
the same grid, both with the final fit on all rows. Further sections measure the grid without
``memory=``, searched trade-offs and the default edit (learned masks) on a smaller grid, and two
Dask workers against one process. The data are found by ``FAIRSVD_DATA``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Set before torch is loaded, because one core is measured.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import joblib
import numpy as np
import sklearn
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.speed.searches import (
    N_FOLDS,
    Grid,
    base_trainings,
    differences,
    grid_search,
    own_search,
)
from benchmarks.tasks import Rows, load_problem

SECTIONS = ("search", "plain", "gap_weights", "learned", "dask")
GRID: Grid = {
    "rank": (0.1, 0.25, 0.5, 0.75, 1.0),
    "sparsity": (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
}
FEW: Grid = {"rank": (0.5, 1.0), "sparsity": (0.05, 0.2, 0.5)}
TIMED: Grid = {"rank": (0.5,), "sparsity": (0.02, 0.3)}
BARS = {"grid": 2.0, "cv": 1.5, "plain": 10.0, "dask": 0.7}

Run = Callable[[], Any]


@dataclass(frozen=True)
class Result:
    """A line of the table: the time in multiples of the base, turn by turn."""

    section: str
    setting: str
    ratio: float
    low: float
    high: float
    bar: str
    met: bool
    seconds: float
    base: str
    base_seconds: float

    def cells(self) -> tuple[str, ...]:
        ratio, spread = f"{self.ratio:.2f}", f"{self.low:.2f} to {self.high:.2f}"
        bar = self.bar if self.met else f"{self.bar}, MISSED"
        base = f"{self.base}, {self.base_seconds:.1f} s"
        return self.section, self.setting, ratio, spread, bar, f"{self.seconds:.1f}", base


@dataclass
class Bench:
    """The rows, the options, the result of the last run of each kind, and remarks on it."""

    rows: Rows
    options: argparse.Namespace
    found: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    failed: bool = False

    def keep(self, name: str, run: Run) -> Run:
        """Run, and remember the result."""

        def call() -> None:
            self.found[name] = run()

        return call

    def agree(self, name: str, mine: str, other: str, *, exactly: bool) -> None:
        """Check that two searches choose the same, or have equal numbers and an equal network."""
        a, b = self.found[mine], self.found[other]
        alike, largest = differences(a, b)
        if exactly:
            probabilities = [each.predict_proba(self.rows.X[:2000]) for each in (a, b)]
            alike = alike and largest == 0 and np.array_equal(*probabilities)
        self.failed |= not alike
        verdict = "the same" if alike else f"NOT the same: {a.best_params_}, {b.best_params_}"
        self.remarks.append(f"{name}: {verdict}; largest difference of a score {largest:.1g}")


def seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleave(runs: Sequence[Run], repeats: int) -> list[list[float]]:
    """Time runs in turns; a list of seconds for each run."""
    rounds = [[seconds(run) for run in runs] for _ in range(repeats)]
    return [list(column) for column in zip(*rounds, strict=True)]


def compare(
    section: str,
    setting: str,
    mine: Sequence[float],
    base: tuple[str, Sequence[float]],
    bar: float | None = None,
    at_least: bool = False,
) -> Result:
    """Divide the run's seconds by those of the base, turn by turn."""
    name, times = base
    ratios = [a / b for a, b in zip(mine, times, strict=True)]
    ratio = statistics.median(ratios)
    met = bar is None or (ratio >= bar if at_least else ratio <= bar)
    words = "" if bar is None else f"at {'least' if at_least else 'most'} {bar:g}"
    return Result(
        section=section,
        setting=setting,
        ratio=ratio,
        low=min(ratios),
        high=max(ratios),
        bar=words,
        met=met,
        seconds=statistics.median(mine),
        base=name,
        base_seconds=statistics.median(times),
    )


def size(grid: Grid) -> str:
    return f"{len(grid['rank'])} x {len(grid['sparsity'])} x {N_FOLDS} folds"


FIVE = f"{N_FOLDS} base trainings"
HEADING = """# Searches

`python benchmarks/speed/bench_search.py`: Adult, {} rows, one torch thread. The ratio divides the
seconds of the setting by those of the base, turn by turn; the table has the median, the least and
the greatest ratio. Every search includes the final fit on all rows, which trains a sixth network.
"""


def bench_search(bench: Bench) -> Iterator[Result]:
    """Time the grid with ``memory=`` and the CV class against five trainings."""
    runs = [
        base_trainings(bench.rows),
        bench.keep("grid", lambda: grid_search(bench.rows, GRID, gap_weight=1.0)),
        bench.keep("cv", lambda: own_search(bench.rows, GRID, gap_weights=(1.0,))),
    ]
    base, grid, cv = interleave(runs, bench.options.repeats)
    what = size(GRID)
    yield compare("search", f"GridSearchCV, memory=, {what}", grid, (FIVE, base), BARS["grid"])
    yield compare("search", f"FairLRFTransformerCV, {what}", cv, (FIVE, base), BARS["cv"])
    bench.agree("Choice of the CV class and of GridSearchCV", "cv", "grid", exactly=False)


def bench_plain(bench: Bench) -> Iterator[Result]:
    """Time the same grid without ``memory=`` against the grid with it."""
    n_fits = len(GRID["rank"]) * len(GRID["sparsity"]) * N_FOLDS
    n_timed = len(TIMED["rank"]) * len(TIMED["sparsity"]) * N_FOLDS
    plain = {"memory": False, "gap_weight": 1.0}
    kept = bench.keep("kept", lambda: grid_search(bench.rows, GRID, gap_weight=1.0))
    if bench.options.full:
        cached, took = seconds(kept), seconds(lambda: grid_search(bench.rows, GRID, **plain))
        how = f"all {n_fits} fits timed"
    else:
        sample = seconds(lambda: grid_search(bench.rows, TIMED, refit=False, **plain))
        cached = seconds(kept)
        # The final fit trains its network in both cases, so it has the same cost.
        took = sample / n_timed * n_fits + bench.found["kept"].refit_time_
        how = f"{n_timed} of {n_fits} fits timed, scaled"
    base = "GridSearchCV with memory=", [cached]
    setting = f"GridSearchCV without memory=, {size(GRID)} ({how})"
    yield compare("plain", setting, [took], base, BARS["plain"], at_least=True)


def both_ways(
    bench: Bench, section: str, what: str, gap_weight: float | None, **settings: Any
) -> Iterator[Result]:
    """Time a smaller grid once with both classes; there is no bar."""
    gap_weights = None if gap_weight is None else (gap_weight,)
    runs = [
        base_trainings(bench.rows),
        lambda: grid_search(bench.rows, FEW, gap_weight=gap_weight, **settings),
        lambda: own_search(bench.rows, FEW, gap_weights=gap_weights, **settings),
    ]
    base, grid, cv = interleave(runs, 1)
    yield compare(section, f"GridSearchCV, memory=, {what}, {size(FEW)}", grid, (FIVE, base))
    yield compare(section, f"FairLRFTransformerCV, {what}, {size(FEW)}", cv, (FIVE, base))


@contextmanager
def two_workers() -> Iterator[Any]:
    """Start two processes of one thread each, and import the package in them."""
    from distributed import Client, LocalCluster

    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(processes=True, **settings) as cluster, Client(cluster) as client:
        client.run(lambda: __import__("fairsvd").FairLRFTransformerCV.__name__)
        yield client


def bench_dask(bench: Bench) -> Iterator[Result]:
    """Time two workers against one process; the results must be equal to the bit."""
    kinds: dict[str, Run] = {
        "GridSearchCV, memory=": lambda: grid_search(bench.rows, GRID, gap_weight=1.0),
        "FairLRFTransformerCV": lambda: own_search(bench.rows, GRID, gap_weights=(1.0,)),
    }
    with two_workers() as client:

        def spread(run: Run) -> Any:
            with joblib.parallel_config(backend="dask", client=client):
                return run()

        for name, run in kinds.items():
            turns = [
                bench.keep("alone", run),
                bench.keep("dask", lambda run=run: spread(run)),
            ]
            alone, both = interleave(turns, bench.options.repeats)
            what = f"{name}, {size(GRID)}, two Dask workers"
            yield compare("dask", what, both, ("one process", alone), BARS["dask"])
            bench.agree(f"{name} on Dask and in one process", "dask", "alone", exactly=True)


RUNS: dict[str, Callable[[Bench], Iterator[Result]]] = {
    "search": bench_search,
    "plain": bench_plain,
    "gap_weights": lambda bench: both_ways(
        bench, "gap_weights", "trade-off searched in each fit", gap_weight=None
    ),
    "learned": lambda bench: both_ways(
        bench, "learned", "default edit", gap_weight=1.0, criterion="learned", refine="spectrum"
    ),
    "dask": bench_dask,
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--repeats", type=int, default=3, help="measured turns (default 3)")
    parser.add_argument("--full", action="store_true", help="all fits of the section `plain`")
    parser.add_argument("--seed", type=int, default=0, help="draws the training rows")
    parser.add_argument("--rows", type=int, help="only the first rows: a trial, no results")
    parser.add_argument("--out", type=Path, help="write the same numbers there as JSON")
    parser.add_argument("--table", type=Path, help="write the table there, with its heading")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit status is 1 where a bar is missed or results differ."""
    options = parse(arguments)
    from fairsvd.exceptions import DatasetNotFoundError

    # This benchmark does not ask what the edits achieve.
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        train = load_problem("adult-sex", "with-group", options.seed).train
    except DatasetNotFoundError as error:
        print(f"<!-- skipped, nothing measured: {error} -->")
        return 0
    bench = Bench(Rows(*(column[: options.rows] for column in train)), options)
    lines: list[str] = []

    def show(*new: str) -> None:
        lines.extend(new)
        print(*new, sep="\n", flush=True)

    show("| section | setting | ratio | spread | bar | seconds | base |")
    show("|---|---|---|---|---|---|---|")
    results = []
    with sklearn.config_context(enable_metadata_routing=True):
        for section in options.sections:
            for result in RUNS[section](bench):
                results.append(result)
                show("| " + " | ".join(result.cells()) + " |")
    show("", *(f"- {remark}." for remark in bench.remarks))
    if options.table:
        page = [HEADING.format(len(bench.rows.y)), *lines, ""]
        options.table.write_text("\n".join(page))
    if options.out:
        about = {"rows": len(bench.rows.y), "torch": torch.__version__, "cpus": os.cpu_count()}
        found = {"about": about, "results": [asdict(r) for r in results], "remarks": bench.remarks}
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return int(bench.failed or not all(result.met for result in results))


if __name__ == "__main__":
    sys.exit(main())
