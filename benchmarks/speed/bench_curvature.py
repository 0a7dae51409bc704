"""Measure the cost of the per-group curvature of every factor entry, as ratios of interleaved runs.

It is compared with plain forward and backward passes over the same rows, for an MLP and for a
ConvNet; with a loop over single rows; and with per-row gradients from ``torch.func``. The curvature
for 64 groups is compared with that for 2 groups, the rows in random order.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.speed.timing import Result, compare, interleave, options_parser, report
from fairsvd.curvature import group_curvature
from fairsvd.networks import MLP, ConvNet

Rows = Sequence[Tensor]
Factors = dict[str, tuple[Tensor, Tensor, Tensor]]
Curvature = dict[str, tuple[Tensor, Tensor]]

SECTIONS = ("mlp", "convnet", "loop", "func", "groups")
ROWS = {"mlp": 16384, "convnet": 1024}
SHAPES = {"mlp": (64,), "convnet": (3, 32, 32)}
BATCH = {"mlp": 256, "convnet": 128}
# Batch size, rank, number of groups and bar; a case without a bar is for information.
CASES = {
    "mlp": [(256, 1.0, 2, 2.4), (256, 0.5, 2, 1.6), (256, 1.0, 5, None), (1024, 1.0, 2, None)],
    "convnet": [(128, 1.0, 2, 4.0), (128, 0.5, 2, None), (128, 1.0, 5, None), (512, 1.0, 2, None)],
}
# The MLP gets more turns, because a short turn suffers most from other work on the machine.
TURNS = {"mlp": 3, "convnet": 1}
# A ConvNet fills a core with a single row, so a loop over rows is not much slower there.
LOOP_BARS = {"mlp": 1 / 20, "convnet": None}
LOOP_ROWS = {"mlp": 256, "convnet": 64}
FUNC_BAR = 1.0
FUNC_ROWS = {"mlp": 2048, "convnet": 256}
GROUPS, GROUPS_BAR = (2, 64), 1.3


def network(kind: str, seed: int) -> nn.Module:
    """Build the network of a section: three hidden layers of 256, or channels 32/64/128."""
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
    """Draw rows whose groups come in random order."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_rows, *SHAPES[kind], generator=generator)
    y = torch.randint(2, (n_rows,), generator=generator)
    return x, y, torch.randint(n_groups, (n_rows,), generator=generator)


def batches(rows: Rows, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for start in range(0, len(rows[0]), size):
        x, y, group = (part[start : start + size] for part in rows)
        yield x, y, group


def plain_passes(module: nn.Module, rows: Rows, size: int) -> None:
    """Forward and backward over all rows, weight gradients included."""
    for x, y, _ in batches(rows, size):
        module.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()


def measure_curvature(
    module: nn.Module, rows: Rows, size: int, factors: Factors, n_groups: int
) -> Curvature:
    return group_curvature(
        module, factors, batches(rows, size), n_groups=n_groups, to_logits=lambda output: output
    )


class Sums:
    """Square given per-row gradients in the space of the factors, in the straightforward way."""

    def __init__(self, factors: Factors, n_groups: int) -> None:
        self.factors, self.n_groups = factors, n_groups
        self.totals = {
            name: [U.new_zeros(n_groups, *part.shape[1:]) for part in (U, V)]
            for name, (U, _, V) in factors.items()
        }

    def add(self, name: str, gradients: Tensor, group: Tensor) -> None:
        """Add the gradients (k, m, n) of the weight of a layer to those of their groups (k,)."""
        U, S, V = (part[0] for part in self.factors[name])
        projected = gradients @ V * S, gradients.mT @ U * S
        for total, part in zip(self.totals[name], projected, strict=True):
            total.index_add_(0, group, part.square())

    def means(self, group: Tensor) -> Curvature:
        """Divide by the rows of each group and give the shapes of ``group_curvature``."""
        counts = torch.bincount(group, minlength=self.n_groups).clamp_min(1)[:, None, None, None]
        return {
            name: (U[:, None] / counts, V[:, None] / counts) for name, (U, V) in self.totals.items()
        }


def loop_curvature(module: nn.Module, rows: Rows, factors: Factors, n_groups: int) -> Curvature:
    """Measure the same with one backward pass per row."""
    sums = Sums(factors, n_groups)
    weights = [module.get_submodule(name).weight for name in factors]
    for x, y, group in batches(rows, 1):
        loss = nn.functional.cross_entropy(module(x), y)
        gradients = torch.autograd.grad(loss, weights)
        for name, gradient in zip(factors, gradients, strict=True):
            sums.add(name, gradient.flatten(1)[None], group)
    return sums.means(rows[2])


def func_curvature(
    module: nn.Module, rows: Rows, size: int, factors: Factors, n_groups: int
) -> Curvature:
    """Measure the same from the gradients of all rows of a batch at once."""
    sums = Sums(factors, n_groups)
    names = {f"{name}.weight": name for name in factors}
    weights = {key: module.get_parameter(key).detach() for key in names}

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = torch.func.functional_call(module, weights, (x[None],))
        return nn.functional.cross_entropy(logits, y[None])

    gradients_of = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    for x, y, group in batches(rows, size):
        for key, gradients in gradients_of(weights, x, y).items():
            sums.add(names[key], gradients.flatten(2), group)
    return sums.means(rows[2])


def bench_passes(kind: str, threads: int, options: argparse.Namespace) -> Iterator[Result]:
    """Compare with plain forward and backward passes."""
    for size, rank, n_groups, bar in CASES[kind]:
        module = network(kind, options.seed)
        rows = draw(kind, ROWS[kind], n_groups, options.seed)
        factors = factorise(module, rank)
        plain = partial(plain_passes, module, rows, size)
        mine = partial(measure_curvature, module, rows, size, factors, n_groups)
        times = interleave([plain, mine], TURNS[kind] * options.repeats)
        setting = f"threads {threads}, batch {size}, rank {rank:g}, groups {n_groups}"
        yield compare(kind, setting, times, bar)


def bench_loop(kind: str, threads: int, options: argparse.Namespace) -> Iterator[Result]:
    """Compare with the loop over single rows, which sees fewer of them."""
    module = network(kind, options.seed)
    factors = factorise(module, 1.0)
    rows = draw(kind, ROWS[kind], 2, options.seed)
    few = [part[: LOOP_ROWS[kind]] for part in rows]
    loop = partial(loop_curvature, module, few, factors, 2)
    mine = partial(measure_curvature, module, rows, BATCH[kind], factors, 2)
    times = interleave([loop, mine], max(1, options.repeats // 2))
    setting = f"threads {threads}, {kind}, batch {BATCH[kind]}; base: one row at a time"
    share = len(few[0]) / len(rows[0])
    yield compare("loop", setting, times, LOOP_BARS[kind], base_share=share)


def bench_func(kind: str, threads: int, options: argparse.Namespace) -> Iterator[Result]:
    """Compare with per-row gradients of whole batches."""
    module = network(kind, options.seed)
    factors = factorise(module, 1.0)
    rows, size = draw(kind, FUNC_ROWS[kind], 2, options.seed), BATCH[kind]
    theirs = partial(func_curvature, module, rows, size, factors, 2)
    mine = partial(measure_curvature, module, rows, size, factors, 2)
    times = interleave([theirs, mine], max(1, options.repeats // 2))
    setting = f"threads {threads}, {kind}, batch {size}; base: torch.func"
    yield compare("func", setting, times, FUNC_BAR)


def bench_groups(kind: str, threads: int, options: argparse.Namespace) -> Iterator[Result]:
    """Compare many groups with few, both in batches of 256 rows."""
    module = network(kind, options.seed)
    factors = factorise(module, 1.0)
    runs = [
        partial(measure_curvature, module, draw(kind, ROWS[kind], n, options.seed), 256, factors, n)
        for n in GROUPS
    ]
    setting = f"threads {threads}, {kind}, batch 256, groups {GROUPS[1]}; base: groups {GROUPS[0]}"
    yield compare("groups", setting, interleave(runs, options.repeats), GROUPS_BAR)


COMPARISONS: dict[str, Callable[[str, int, argparse.Namespace], Iterator[Result]]] = {
    "loop": bench_loop,
    "func": bench_func,
    "groups": bench_groups,
}


def run_sections(options: argparse.Namespace) -> Iterator[Result]:
    for section in options.sections:
        for threads in options.threads:
            torch.set_num_threads(threads)
            if section in ROWS:
                yield from bench_passes(section, threads, options)
                continue
            for kind in ROWS:
                yield from COMPARISONS[section](kind, threads, options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit status is 1 where a bar is missed."""
    options = options_parser(__doc__.splitlines()[0], SECTIONS).parse_args(arguments)
    return report(run_sections(options), options)


if __name__ == "__main__":
    sys.exit(main())
