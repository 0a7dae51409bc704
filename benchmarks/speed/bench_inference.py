"""Measure what compressed layers cost, as ratios of runs that take turns on a busy machine.

There are four sections. Two compare the predictions of a network whose layers are kept as two thin
factors with those of the same network with the factors multiplied out, for an MLP of width 2048 and
for a ConvNet, in the package's own blocks of 64 rows and in one large batch. The third compares
thin with dense convolutions. The fourth compares the randomised decomposition with the exact one.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

SECTIONS = ("mlp", "convnet", "conv", "svd")
WIDTH = 2048
# The bar applies to the first rank.
RANKS = (0.25, 0.05, 0.1, 0.5)
SVD_RANKS = (0.05, 0.1)
SHAPES = {"mlp": (WIDTH,), "convnet": (3, 32, 32)}
# Channels in, channels out, width of the map.
CONVOLUTIONS = ((1, 16, 28), (3, 64, 32), (16, 32, 16), (64, 64, 32), (256, 256, 8))
ROWS = {"mlp": 1024, "convnet": 256}
# At rank 0.25 the factors of a square weight hold half of its numbers; the bar leaves some room.
BAR = 1 / 1.5
TOLERANCE = 1e-5


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
        limit = "" if self.bar is None else f"{self.bar:.3f}"
        spread = f"{self.low:.2f} to {self.high:.2f}"
        return self.section, self.setting, f"{self.median:.2f}", spread, limit, self.base


def network(kind: str, seed: int) -> nn.Module:
    """Build the untrained network of a section; the weights do not change the cost."""
    from fairsvd.networks import MLP, ConvNet

    generator = torch.Generator().manual_seed(seed)
    if kind == "mlp":
        return MLP(WIDTH, 2, (WIDTH,) * 3, generator=generator).eval()
    return ConvNet(3, 2, (64, 128, 256), generator=generator).eval()


def dense_and_thin(module: nn.Module, rank: float) -> tuple[nn.Module, nn.Module, int]:
    """Make a copy with the truncated products written back, and a copy with the factors.

    The third result is the number of layers replaced by factors. Where factors would hold more
    numbers than the weight, the product stays.
    """
    from fairsvd.layers import compress_layer, editable_layers, factorise, resolve_ranks

    names = list(editable_layers(module))[:-1]
    dense, replaced = copy.deepcopy(module), 0
    factors = {
        name: factorise(module.get_submodule(name), r)
        for name, r in resolve_ranks(module, names, rank).items()
    }
    for name, found in factors.items():
        dense.get_submodule(name).weight.data.copy_(found.weight())
    thin = copy.deepcopy(dense)
    for name, found in factors.items():
        replaced += compress_layer(thin, name, found)
    return dense, thin, replaced


def check_equal(dense: nn.Module, thin: nn.Module, X: Tensor) -> None:
    """Stop if the two networks differ in their results, because their times would mean nothing."""
    with torch.no_grad():
        wanted, output = dense(X), thin(X)
    error = float((output - wanted).abs().max() / wanted.abs().max())
    if error > TOLERANCE:
        raise SystemExit(f"the compressed network is off by {error:.1e} of the largest logit")


def ways(X: Tensor) -> dict[str, Callable[[nn.Module], object]]:
    """List the ways to predict all rows."""
    from fairsvd.arrays import as_batches
    from fairsvd.networks import all_logits

    blocks = as_batches(X.numpy())

    def one_batch(module: nn.Module) -> object:
        with torch.no_grad():
            return module(X)

    return {
        "blocks of 64": lambda module: all_logits(module, blocks, "logits"),
        f"one batch of {len(X)}": one_batch,
    }


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
    milliseconds = statistics.median(times[0]) * 1e3
    base = f"{milliseconds:.{0 if milliseconds >= 10 else 1}f} ms"
    return Result(section, setting, statistics.median(ratios), min(ratios), max(ratios), base, bar)


def bench_prediction(kind: str, options: argparse.Namespace) -> Iterator[Result]:
    module = network(kind, options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    X = torch.randn(ROWS[kind], *SHAPES[kind], generator=generator)
    for rank in RANKS:
        dense, thin, replaced = dense_and_thin(module, rank)
        check_equal(dense, thin, X)
        for threads in options.threads:
            torch.set_num_threads(threads)
            for name, predict in ways(X).items():
                runs = [partial(predict, each) for each in (dense, thin)]
                setting = f"threads {threads}, rank {rank:g} ({replaced} layers thin), {name}"
                bar = BAR if kind == "mlp" and rank == RANKS[0] else None
                yield compare(kind, setting, interleave(runs, options.repeats), bar)


def bench_convolutions(options: argparse.Namespace) -> Iterator[Result]:
    """Time single layers; with few input maps the dense layer only waits for memory."""
    from fairsvd.layers import LowRankConv2d, factorise, full_rank

    generator = torch.Generator().manual_seed(options.seed)
    for entering, leaving, width in CONVOLUTIONS:
        layer = nn.Conv2d(entering, leaving, 3, padding=1).requires_grad_(False)
        X = torch.randn(64, entering, width, width, generator=generator)
        rank = max(1, round(RANKS[0] * full_rank(layer)))
        thin = LowRankConv2d(layer, factorise(layer, rank)).requires_grad_(False)
        for threads in options.threads:
            torch.set_num_threads(threads)
            runs = [partial(each, X) for each in (layer, thin)]
            setting = f"threads {threads}, {entering} to {leaving} channels, maps of {width}"
            name = f"{setting} x {width}, rank {rank}"
            yield compare("conv", name, interleave(runs, 3 * options.repeats), None)


def bench_svd(options: argparse.Namespace) -> Iterator[Result]:
    """Time the decomposition of one weight, in fewer turns because a turn takes seconds."""
    from fairsvd.layers import factorise, resolve_solver

    layer = network("mlp", options.seed).hidden[0]
    for threads in options.threads:
        torch.set_num_threads(threads)
        for share in SVD_RANKS:
            rank = round(share * WIDTH)
            runs = [partial(factorise, layer, rank, each) for each in ("full", "randomized")]
            chosen = resolve_solver(layer, rank, "auto")
            setting = f"threads {threads}, {WIDTH} x {WIDTH}, rank {rank} (auto: {chosen})"
            yield compare("svd", setting, interleave(runs, max(3, options.repeats // 3)), None)


def run_sections(options: argparse.Namespace) -> Iterator[Result]:
    for section in options.sections:
        if section == "conv":
            yield from bench_convolutions(options)
        elif section == "svd":
            yield from bench_svd(options)
        else:
            yield from bench_prediction(section, options)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--repeats", type=int, default=9, help="measured turns (default 9)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the same numbers there as JSON")
    return parser.parse_args(arguments)


def main() -> int:
    """Print the table; the exit status is 1 where a bar is missed."""
    options = parse()
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
