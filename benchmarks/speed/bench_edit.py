"""Measure the cost of an edit: how the memory peak grows with the rows, and a whole edit's time.

The first section measures how much the peak of the per-group curvature grows with ten times the
rows. The second compares the whole paper-style edit of the Adult network with training epochs of
that network, the third whole default edits with the training of the network that they edit; both
need the data (``FAIRSVD_DATA``).
"""

from __future__ import annotations

import argparse
import copy
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.speed.bench_curvature import BATCH, draw, factorise, measure_curvature, network
from benchmarks.speed.timing import Result, compare, interleave, options_parser, report
from benchmarks.tasks import Rows

SECTIONS = ("memory", "edit", "default")
BARS = {"memory": 1.02, "edit": 2.0}
# A whole default edit, in trainings of the network that it edits.
DEFAULTS = {"FairLRFTransformer": 1.0, "BlindPostProcessor": 0.6}
OTHERS = ("FairPruner", "BiasMaskFineTuner", "GapFineTuner")
# glibc keeps some freed blocks, so the peak moves by 15 MiB either way from run to run. With a
# fixed threshold large blocks go back to the system, and the peak is what is in use.
STEADY_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "1"}
PER_BATCH = 256


def peak_bytes() -> int:
    """Read the peak of this process's resident memory (ru_maxrss would begin at the parent's)."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(each for each in status.read_text().splitlines() if "VmHWM" in each)
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_child(kind: str, n_rows: int, seed: int) -> int:
    """Measure the curvature once and return the peak."""
    torch.set_num_threads(1)
    module = network(kind, seed)
    rows = draw(kind, n_rows, 2, seed)
    measure_curvature(module, rows, BATCH[kind], factorise(module, 1.0), 2)
    return peak_bytes()


def peak_in_child(kind: str, n_rows: int, seed: int) -> int:
    command = [sys.executable, __file__, "--memory-child", kind, str(n_rows), "--seed", str(seed)]
    environment = {**os.environ, **STEADY_MALLOC}
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(run.stdout)


def bench_memory(options: argparse.Namespace) -> Iterator[Result]:
    """Measure the peak's growth for ten times the rows, as a multiple of the added rows' bytes."""
    for kind, n_rows in (("mlp", 65536), ("convnet", 1024)):
        row_bytes = sum(part[0].nbytes for part in draw(kind, 1, 2, 0))
        peaks = [peak_in_child(kind, n, options.seed) for n in (n_rows, 10 * n_rows)]
        growth = (peaks[1] - peaks[0]) / (9 * n_rows * row_bytes)
        setting = f"{kind}, {n_rows} to {10 * n_rows} rows: growth / bytes of the new rows"
        base = f"{peaks[0] / 2**20:.0f} to {peaks[1] / 2**20:.0f} MiB"
        yield Result("memory", setting, growth, growth, growth, base, BARS["memory"])


def epoch(module: nn.Module, X: Tensor, y: Tensor) -> None:
    """Train for one epoch without any framework, which is the cheapest way."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for rows in torch.randperm(len(y)).split(PER_BATCH):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(X[rows]), y[rows]).backward()
        optimizer.step()


def adult_edit(seed: int) -> tuple[dict[str, Callable[[], object]], Callable[[], object]]:
    """Make the edits to time and the epoch to compare with; every run is a whole fit."""
    from benchmarks.tasks import load_problem
    from fairsvd import FairLRFTransformer
    from fairsvd.networks import MLP

    train = load_problem("adult-sex", "with-group", seed).train
    X, y = torch.from_numpy(train.X), torch.from_numpy(train.y)
    module = MLP(X.shape[1], 2, generator=torch.Generator().manual_seed(seed))
    for _ in range(5):
        epoch(module, X, y)

    def edit(**options: float) -> object:
        editor = FairLRFTransformer(
            module,
            criterion="curvature",
            refine=None,
            n_rounds=1,
            random_state=seed,
            **options,
        )
        return editor.fit(train.X, train.y, sensitive_features=train.g)

    edits = {
        "sparsity and privileged_weight given": lambda: edit(sparsity=0.1, privileged_weight=1.0),
        "sparsity and privileged_weight searched": edit,
    }
    return edits, lambda: epoch(copy.deepcopy(module), X, y)


def bench_edit(options: argparse.Namespace) -> Iterator[Result]:
    import warnings

    # This benchmark does not ask what the edit achieves.
    warnings.simplefilter("ignore")
    torch.manual_seed(options.seed)
    edits, plain = adult_edit(options.seed)
    for threads in options.threads:
        torch.set_num_threads(threads)
        for name, run in edits.items():
            times = interleave([plain, run], max(3, options.repeats // 3))
            setting = f"threads {threads}, {name}; base: one plain epoch"
            bar = BARS["edit"] if "given" in name else None
            yield compare("edit", setting, times, bar)


def default_edits(seed: int) -> tuple[Callable[[], object], dict[str, Callable[[], object]]]:
    """Make the training of the default network on Adult, and default edits of that network."""
    import numpy as np

    import fairsvd
    from benchmarks.tasks import load_problem
    from fairsvd._rng import stage_rng
    from fairsvd.arrays import LabelledRows, as_batches
    from fairsvd.networks import adopt

    problem = load_problem("adult-sex", "blind", seed)
    train, held = problem.train, problem.validation
    rows = LabelledRows(as_batches(train.X), torch.from_numpy(train.y), torch.from_numpy(train.g))

    def base() -> nn.Module:
        rng = stage_rng(seed, "base")
        return adopt(None, rows, np.array([0, 1]), batch_size=PER_BATCH, rng=rng).module

    module = base()

    def edit(name: str, *parts: Rows) -> object:
        X, y, g = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        editor = getattr(fairsvd, name)(module, random_state=seed)
        return editor.fit(X, y, sensitive_features=g)

    n_rows = len(train.y) + len(held.y)
    edits = {
        f"{name}, {n_rows} rows": partial(edit, name, train, held) for name in (*DEFAULTS, *OTHERS)
    }
    edits |= {f"{name}, {len(held.y)} rows": partial(edit, name, held) for name in DEFAULTS}
    return base, edits


def bench_default(options: argparse.Namespace) -> Iterator[Result]:
    """Time default edits in trainings of their base network, all in one run."""
    import warnings

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    base, edits = default_edits(options.seed)
    for name, run in edits.items():
        times = interleave([base, run], max(3, options.repeats // 3))
        yield compare(
            "default", f"{name}; base: its training", times, DEFAULTS.get(name.partition(",")[0])
        )


def run_sections(options: argparse.Namespace) -> Iterator[Result]:
    from fairsvd.exceptions import DatasetNotFoundError

    if "memory" in options.sections:
        yield from bench_memory(options)
    for section, run in (("edit", bench_edit), ("default", bench_default)):
        if section in options.sections:
            try:
                yield from run(options)
            except DatasetNotFoundError as error:
                print(f"<!-- section {section} skipped: {error} -->", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit status is 1 where a bar is missed."""
    parser = options_parser(__doc__.splitlines()[0], SECTIONS)
    parser.add_argument("--memory-child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.memory_child:
        kind, n_rows = options.memory_child
        print(memory_child(kind, int(n_rows), options.seed))
        return 0
    return report(run_sections(options), options)


if __name__ == "__main__":
    sys.exit(main())
