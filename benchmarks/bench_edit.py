"""What an edit costs: ratios of interleaved runs, so that a busy machine slows both sides.

Four sections: the per-group curvature of every factor entry against plain forward and backward
passes over the same rows, for an MLP and for a ConvNet; the growth of the memory peak when there
are ten times the rows; and the whole paper-style edit of the Adult network against training epochs
of that network (needs the data: ``FAIRSVD_DATA``).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

Factors = dict[str, tuple[Tensor, Tensor, Tensor]]

SECTIONS = ("mlp", "convnet", "memory", "edit")
BARS = {"mlp": 2.5, "convnet": 5.0, "memory": 1.02, "edit": 2.0}
ROWS = {"mlp": 16384, "convnet": 1024}
# glibc keeps freed blocks as it pleases, which moves the peak by 15 MiB either way from run to run.
# With a fixed threshold large blocks go back to the system, so that the peak is what is in use.
STEADY_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "1"}
SHAPES = {"mlp": (64,), "convnet": (3, 32, 32)}
BATCH = {"mlp": 256, "convnet": 128}
PER_BATCH = 256


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

    def cells(self) -> tuple[str, ...]:
        limit = "" if self.bar is None else f"{self.bar:g}"
        spread = f"{self.low:.2f} to {self.high:.2f}"
        return self.section, self.setting, f"{self.median:.2f}", spread, limit, self.base


def network(kind: str, seed: int) -> nn.Module:
    """Build the network of a section: three hidden layers of 256, or channels 32/64/128."""
    from fairsvd.networks import MLP, ConvNet

    generator = torch.Generator().manual_seed(seed)
    if kind == "mlp":
        return MLP(64, 2, (256, 256, 256), generator=generator)
    return ConvNet(3, 2, (32, 64, 128), generator=generator)


def factorise(module: nn.Module, rank: float) -> Factors:
    """Factor every layer but the last one."""
    factors = {}
    kinds = (nn.Linear, nn.Conv2d)
    names = [name for name, part in module.named_modules() if isinstance(part, kinds)]
    for name in names[:-1]:
        weight = module.get_submodule(name).weight.detach().flatten(1)[None]
        U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
        r = max(1, int(rank * S.shape[1]))
        factors[name] = U[..., :r], S[:, :r], Vh.mT[..., :r]
    return factors


def draw(kind: str, n_rows: int, n_groups: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_rows, *SHAPES[kind], generator=generator)
    y = torch.randint(2, (n_rows,), generator=generator)
    return x, y, torch.randint(n_groups, (n_rows,), generator=generator)


def batches(rows: Sequence[Tensor], size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for start in range(0, len(rows[0]), size):
        x, y, group = (part[start : start + size] for part in rows)
        yield x, y, group


def plain_passes(module: nn.Module, rows: Sequence[Tensor], size: int) -> None:
    """Forward and backward over all rows, weight gradients included."""
    for x, y, _ in batches(rows, size):
        module.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()


def measure_curvature(
    module: nn.Module, rows: Sequence[Tensor], size: int, factors: Factors, n_groups: int
) -> None:
    from fairsvd.curvature import group_curvature

    group_curvature(
        module, factors, batches(rows, size), n_groups=n_groups, to_logits=lambda output: output
    )


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleave(runs: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Time runs in turns, after one turn that is not counted; a list of seconds for each run."""
    rounds = [[seconds(run) for run in runs] for _ in range(repeats + 1)]
    return [list(column) for column in zip(*rounds[1:], strict=True)]


def compare(
    section: str, setting: str, times: Sequence[Sequence[float]], bar: float | None
) -> Result:
    """Divide the second run's seconds by the first one's, turn by turn."""
    ratios = [mine / base for base, mine in zip(*times, strict=True)]
    base = f"{statistics.median(times[0]) * 1e3:.0f} ms"
    return Result(section, setting, statistics.median(ratios), min(ratios), max(ratios), base, bar)


def curvature_cases(kind: str) -> list[tuple[int, float, int]]:
    """Give batch size, rank and number of groups; the first case is the one with the bar."""
    size = BATCH[kind]
    return [(size, 1.0, 2), (size, 0.5, 2), (size, 1.0, 5), (4 * size, 1.0, 2)]


def bench_curvature(kind: str, options: argparse.Namespace) -> Iterator[Result]:
    for threads in options.threads:
        torch.set_num_threads(threads)
        for case, (size, rank, n_groups) in enumerate(curvature_cases(kind)):
            module = network(kind, options.seed)
            rows = draw(kind, ROWS[kind], n_groups, options.seed)
            factors = factorise(module, rank)
            times = interleave(
                [
                    lambda m=module, r=rows, s=size: plain_passes(m, r, s),
                    lambda m=module, r=rows, s=size, f=factors, g=n_groups: measure_curvature(
                        m, r, s, f, g
                    ),
                ],
                options.repeats,
            )
            setting = f"threads {threads}, batch {size}, rank {rank:g}, groups {n_groups}"
            yield compare(kind, setting, times, None if case else BARS[kind])


def peak_bytes() -> int:
    """Peak of this process's resident memory (ru_maxrss would begin at the parent's)."""
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
    """Growth of the peak for ten times the rows, as a multiple of the bytes of the added rows."""
    for kind, n_rows in (("mlp", 65536), ("convnet", 1024)):
        row_bytes = sum(part[0].nbytes for part in draw(kind, 1, 2, 0))
        peaks = [peak_in_child(kind, n, options.seed) for n in (n_rows, 10 * n_rows)]
        growth = (peaks[1] - peaks[0]) / (9 * n_rows * row_bytes)
        setting = f"{kind}, {n_rows} to {10 * n_rows} rows: growth / bytes of the new rows"
        base = f"{peaks[0] / 2**20:.0f} to {peaks[1] / 2**20:.0f} MiB"
        yield Result("memory", setting, growth, growth, growth, base, BARS["memory"])


def epoch(module: nn.Module, X: Tensor, y: Tensor) -> None:
    """One training epoch without any framework: the cheapest there is."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for rows in torch.randperm(len(y)).split(PER_BATCH):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(X[rows]), y[rows]).backward()
        optimizer.step()


def adult_edit(seed: int) -> tuple[dict[str, Callable[[], object]], Callable[[], object]]:
    """Give the edits to time and the epoch to compare them with; every run is a whole fit."""
    from tasks import load_problem

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
            n_steps=1,
            random_state=seed,
            **options,
        )
        return editor.fit(train.X, train.y, sensitive_features=train.g)

    edits = {
        "sparsity and tradeoff given": lambda: edit(sparsity=0.1, tradeoff=1.0),
        "sparsity and tradeoff searched": edit,
    }
    return edits, lambda: epoch(copy.deepcopy(module), X, y)


def bench_edit(options: argparse.Namespace) -> Iterator[Result]:
    import warnings

    # What the edit achieves is not the question here.
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


def run_sections(options: argparse.Namespace) -> Iterator[Result]:
    from fairsvd.exceptions import DatasetNotFoundError

    for section in options.sections:
        if section in ROWS:
            yield from bench_curvature(section, options)
        elif section == "memory":
            yield from bench_memory(options)
        else:
            try:
                yield from bench_edit(options)
            except DatasetNotFoundError as error:
                print(f"<!-- section {section} skipped: {error} -->", flush=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9, help="measured turns (default 9)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the same numbers there as JSON")
    parser.add_argument("--memory-child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> int:
    """Print the table; the exit status is 1 where a bar is missed."""
    options = parse()
    if options.memory_child:
        kind, n_rows = options.memory_child
        print(memory_child(kind, int(n_rows), options.seed))
        return 0
    print("| section | setting | ratio | spread | bar | base |\n|---|---|---|---|---|---|")
    results = []
    for result in run_sections(options):
        results.append(result)
        print("| " + " | ".join(result.cells()) + " |", flush=True)
    if options.out:
        about = {"seed": options.seed, "torch": torch.__version__, "cpus": os.cpu_count()}
        lines = [asdict(result) for result in results]
        options.out.write_text(json.dumps({"about": about, "results": lines}, indent=1) + "\n")
    return int(any(each.bar is not None and each.median > each.bar for each in results))


if __name__ == "__main__":
    sys.exit(main())
