"""Measure how time and memory grow with rows, width, groups and classes, as fitted exponents.

One of the seven sections fits an editor with its defaults to a table, from ``network=None`` to the
edited network, and compares its memory peak with the table's bytes. Two time the curvature pass and
a whole edit of a given module for growing numbers of rows, which a dataset makes on request. One
compares the memory peak of such an edit with the bytes of the rows. Three time the curvature pass
for growing widths of the hidden layers, numbers of groups and numbers of classes. Times are
processor time of one torch thread. Every size but those of fits is timed in turns and the least
time counts, because other work on the machine only adds to it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.speed.bench_curvature import batches, factorise, measure_curvature, plain_passes
from benchmarks.speed.bench_edit import STEADY_MALLOC, peak_bytes
from benchmarks.speed.made import MadeRows, codes, exponent

SECTIONS = ("fit", "curvature", "edit", "memory", "width", "groups", "classes")
# Seconds of the largest fit, and by how much its peak may grow beside the table, as a multiple of
# the table's bytes; the largest exponent in the number of rows; the share of the rows' bytes by
# which the peak may grow; the cost of 64 groups as a multiple of that of 2.
BARS = {
    "fit": 300.0,
    "fit memory": 4.0,
    "curvature": 1.1,
    "edit": 1.1,
    "memory": 0.05,
    "groups": 1.3,
}
FIRST_FITTED = 10_000  # rows; for fewer, costs that do not depend on rows show
SIZES = {
    "fit": (100_000, 1_000_000),
    "rows": (1_000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
    "memory": (20_000, 200_000),
    "width": (32, 64, 128, 256, 512, 1024, 2048),
    "groups": (2, 4, 8, 16, 32, 64),
    "classes": (2, 5, 10, 30, 100),
}
QUICK = {
    "fit": (3_000, 10_000),
    "rows": (1_000, 10_000, 30_000),
    "memory": (20_000, 60_000),
    "width": (32, 64, 128),
    "groups": (2, 8),
    "classes": (2, 10),
}
FEATURES = 32
COLUMNS = 20
IMAGE = (3, 32, 32)
BATCH = 256


@dataclass(frozen=True)
class Line:
    """A line of the table: what was measured, and the bar where there is one."""

    section: str
    setting: str
    measured: str
    value: float
    bar: float | None = None

    def cells(self) -> tuple[str, ...]:
        limit = "" if self.bar is None else f"{self.bar:g}"
        return self.section, self.setting, self.measured, limit


def table_network(seed: int) -> nn.Module:
    from fairsvd.networks import MLP

    return MLP(FEATURES, 2, (64, 64), generator=torch.Generator().manual_seed(seed))


def image_network(seed: int) -> nn.Module:
    """Build a small network, because that section measures the memory of the rows."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = nn.Conv2d(3, 8, 4, stride=4)
        hidden = [nn.ReLU(), nn.Flatten(), nn.Linear(512, 16), nn.ReLU()]
        return nn.Sequential(first, *hidden, nn.Linear(16, 2))


def curvature_of_rows(n_rows: int, seed: int) -> Callable[[], object]:
    """Give the pass over rows of a dataset, as an edit makes it."""
    from fairsvd.arrays import LabelledRows, as_batches
    from fairsvd.curvature import group_curvature

    module = table_network(seed)
    factors = factorise(module, 1.0)
    y, group = map(torch.from_numpy, codes(n_rows, 2, seed))
    rows = LabelledRows(as_batches(MadeRows(n_rows, (FEATURES,))), y, group)
    options = {"n_groups": 2, "to_logits": lambda output: output}
    return lambda: group_curvature(
        module, factors, rows.batches(1024, torch.device("cpu")), **options
    )


def edit_of_rows(
    n_rows: int, seed: int, shape: Sequence[int] = (FEATURES,)
) -> Callable[[], object]:
    """Give the whole edit of a trained module by curvature."""
    from fairsvd import FairLRFTransformer

    module = table_network(seed) if len(shape) == 1 else image_network(seed)
    y, group = codes(n_rows, 2, seed)
    settings = {"criterion": "curvature", "sparsity": 0.1, "gap_weight": 1.0, "refine": None}
    X = MadeRows(n_rows, shape)

    def run() -> object:
        editor = FairLRFTransformer(module, random_state=seed, **settings)
        return editor.fit(X, y, sensitive_features=group)

    return run


def processor_seconds(run: Callable[[], object]) -> float:
    """Read the processor time of this process alone."""
    start = time.process_time()
    run()
    return time.process_time() - start


def least_seconds(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Time runs in turns; short runs take more turns than long ones."""
    found = [[processor_seconds(run)] for run in runs]
    for turn in range(1, 4 * repeats):
        for run, times in zip(runs, found, strict=True):
            if turn < repeats or min(times) < 1:
                times.append(processor_seconds(run))
    return [min(times) for times in found]


def bench_rows(section: str, options: argparse.Namespace) -> Iterator[Line]:
    make = curvature_of_rows if section == "curvature" else edit_of_rows
    sizes = options.sizes["rows"]
    times = least_seconds([make(n, options.seed) for n in sizes], options.repeats)
    for n, spent in zip(sizes, times, strict=True):
        yield Line(section, f"{n:,} rows", f"{spent:.3f} s, {spent / n * 1e6:.1f} us a row", spent)
    fitted = [(n, spent) for n, spent in zip(sizes, times, strict=True) if n >= FIRST_FITTED]
    power = exponent(*zip(*fitted, strict=True))
    setting = f"exponent in the rows, {fitted[0][0]:,} to {fitted[-1][0]:,}"
    yield Line(section, setting, f"{power:.2f}", power, BARS[section])


def fit_child(n_rows: int, seed: int) -> tuple[float, int]:
    """Fit an editor to a table; return seconds, and the peak less that of the table."""
    from fairsvd import FairLRFTransformer

    torch.set_num_threads(1)
    y, groups = codes(n_rows, 2, seed)
    X = np.random.default_rng(seed).standard_normal((n_rows, COLUMNS), dtype=np.float32)
    X[:, 0] += y
    X[:, 1] += y * groups
    before, start = peak_bytes(), time.process_time()
    FairLRFTransformer(random_state=seed).fit(X, y, sensitive_features=groups)
    return time.process_time() - start, peak_bytes() - before


def fit_in_child(n_rows: int, seed: int) -> list[float]:
    command = [sys.executable, __file__, "--fit-child", str(n_rows), "--seed", str(seed)]
    environment = {**os.environ, **STEADY_MALLOC}
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return [float(each) for each in run.stdout.split()]


def bench_fit(options: argparse.Namespace) -> Iterator[Line]:
    """Time fits in a process of their own, and measure by how much their peaks grow."""
    sizes, found = options.sizes["fit"], []
    for n in sizes:
        spent, peak = fit_in_child(n, options.seed)
        found.append(peak)
        bar = BARS["fit"] if n == sizes[-1] else None
        measured = f"{spent:.0f} s, peak {peak / 2**20:.0f} MiB beside the table's"
        measured += f" {4 * COLUMNS * n / 2**20:.0f} MiB"
        yield Line("fit", f"{n:,} rows of {COLUMNS} columns", measured, spent, bar)
    share = (found[1] - found[0]) / (sizes[1] - sizes[0]) / (4 * COLUMNS)
    measured = f"{100 * share:.0f} % of their own"
    yield Line("fit", "growth / bytes of the new rows", measured, share, BARS["fit memory"])


def memory_child(n_rows: int, seed: int) -> int:
    """Edit once and return the peak."""
    torch.set_num_threads(1)
    edit_of_rows(n_rows, seed, IMAGE)()
    return peak_bytes()


def peak_in_child(n_rows: int, seed: int) -> int:
    command = [sys.executable, __file__, "--memory-child", str(n_rows), "--seed", str(seed)]
    environment = {**os.environ, **STEADY_MALLOC}
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(run.stdout)


def bench_memory(options: argparse.Namespace) -> Iterator[Line]:
    """Measure the growth of the peak, which holds labels, codes and logits but no rows."""
    sizes = options.sizes["memory"]
    peaks = [peak_in_child(n, options.seed) for n in sizes]
    row_bytes = 4 * int(np.prod(IMAGE))
    for n, peak in zip(sizes, peaks, strict=True):
        rows = f"peak {peak / 2**20:.0f} MiB; the rows would take {n * row_bytes / 2**20:.0f} MiB"
        yield Line("memory", f"{n:,} images of {row_bytes:,} bytes", rows, peak)
    growth = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    share = growth / row_bytes
    measured = f"{growth:.0f} bytes a row, {100 * share:.2f} % of its own"
    yield Line("memory", "growth / bytes of the new rows", measured, share, BARS["memory"])


def draw(n_rows: int, n_groups: int, n_classes: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_rows, FEATURES, generator=generator)
    return [x, *map(torch.from_numpy, codes(n_rows, n_groups, seed, n_classes))]


def bench_width(options: argparse.Namespace) -> Iterator[Line]:
    """Time decomposition, curvature and plain passes for wider and wider hidden layers."""
    from fairsvd.layers import factorise as decompose
    from fairsvd.networks import MLP

    sizes, rows = options.sizes["width"], draw(1024, 2, 2, options.seed)
    names = ("decomposition in full", "curvature pass", "forward and backward passes")
    costs = []
    for width in sizes:
        module = MLP(FEATURES, 2, (width, width), generator=torch.Generator().manual_seed(0))
        factors, layers = factorise(module, 1.0), [module.hidden[0], module.hidden[2]]
        runs = [
            lambda s=layers: [decompose(layer, min(layer.weight.shape), "full") for layer in s],
            lambda m=module, f=factors: measure_curvature(m, rows, BATCH, f, 2),
            lambda m=module: plain_passes(m, rows, BATCH),
        ]
        costs.append(least_seconds(runs, options.repeats))
        spent = [f"{name} {cost * 1e3:.1f} ms" for name, cost in zip(names, costs[-1], strict=True)]
        yield Line("width", f"{width} wide", ", ".join(spent), costs[-1][1] / costs[-1][2])
    upper = len(sizes) // 2
    for name, cost in zip(names, zip(*costs, strict=True), strict=True):
        power = exponent(sizes[upper:], cost[upper:])
        setting = f"exponent in the width, {sizes[upper]} to {sizes[-1]}: {name}"
        yield Line("width", setting, f"{power:.2f}", power)


def bench_groups(options: argparse.Namespace) -> Iterator[Line]:
    """Time rows of more and more groups, which are in random order in every batch."""
    from fairsvd.networks import MLP

    sizes = options.sizes["groups"]
    module = MLP(FEATURES, 2, (256, 256, 256), generator=torch.Generator().manual_seed(0))
    factors = factorise(module, 1.0)
    data = [draw(8192, n, 2, options.seed) for n in sizes]
    runs = [
        lambda r=rows, g=n: measure_curvature(module, r, BATCH, factors, g)
        for n, rows in zip(sizes, data, strict=True)
    ]
    times = least_seconds(runs, options.repeats)
    for n, spent in zip(sizes, times, strict=True):
        ratio = spent / times[0]
        measured = f"{spent * 1e3:.0f} ms, {ratio:.2f} times that of {sizes[0]}"
        yield Line("groups", f"{n} groups", measured, ratio, BARS["groups"] if n == 64 else None)


def bench_classes(options: argparse.Namespace) -> Iterator[Line]:
    """Compare the Fisher, one backward pass, with Gauss-Newton, one for each class but one."""
    from fairsvd.curvature import group_curvature
    from fairsvd.networks import MLP

    sizes, times = options.sizes["classes"], {}
    for hessian in ("fisher", "ggn"):
        runs = []
        for n in sizes:
            module = MLP(FEATURES, n, (128, 128), generator=torch.Generator().manual_seed(0))
            factors, rows = factorise(module, 1.0), draw(2048, 2, n, options.seed)
            given = {"hessian": hessian, "n_groups": 2, "to_logits": lambda output: output}
            runs.append(
                lambda m=module, f=factors, r=rows, o=given: group_curvature(
                    m, f, batches(r, BATCH), **o
                )
            )
        times[hessian] = least_seconds(runs, options.repeats)
        for n, spent in zip(sizes, times[hessian], strict=True):
            ratio = spent / times[hessian][0]
            measured = f"{spent * 1e3:.0f} ms, {ratio:.2f} times that of {sizes[0]}"
            yield Line("classes", f"{n} classes, {hessian}", measured, ratio)
        power = exponent(sizes, times[hessian])
        yield Line("classes", f"exponent in the classes, {hessian}", f"{power:.2f}", power)


def run_sections(options: argparse.Namespace) -> Iterator[Line]:
    for section in options.sections:
        if section in ("curvature", "edit"):
            yield from bench_rows(section, options)
        else:
            yield from globals()[f"bench_{section}"](options)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--repeats", type=int, default=3, help="turns of long runs (default 3)")
    parser.add_argument("--quick", action="store_true", help="small sizes, for trying it out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the same numbers there as JSON")
    parser.add_argument("--fit-child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--memory-child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.sizes = QUICK if options.quick else SIZES
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit status is 1 where a bar is missed."""
    # This benchmark does not ask what the edits achieve.
    warnings.simplefilter("ignore")
    options = parse(arguments)
    if options.fit_child:
        print(*fit_child(options.fit_child, options.seed))
        return 0
    if options.memory_child:
        print(memory_child(options.memory_child, options.seed))
        return 0
    torch.set_num_threads(1)
    print("| section | setting | measured | bar |\n|---|---|---|---|")
    lines = []
    for line in run_sections(options):
        lines.append(line)
        print("| " + " | ".join(line.cells()) + " |", flush=True)
    if options.out:
        about = {"seed": options.seed, "torch": torch.__version__, "cpus": os.cpu_count()}
        record = {"about": about, "results": [asdict(line) for line in lines]}
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    return int(any(line.bar is not None and line.value > line.bar for line in lines))


if __name__ == "__main__":
    sys.exit(main())
