"""Measure how the order of images in memory and the size of blocks affect steps and judging.

The base has its channels first, and judges candidates in blocks of 1,024 rows. It is compared with
what editors do on a CPU: channels last, and blocks that fit into the cache. Both are measured in
CPU seconds, in turns.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.nets import PER_BATCH, convnet
from benchmarks.speed.timing import Result, compare, interleave, options_parser, report

SECTIONS = ("step", "judging")
# Channels, height and width.
SHAPES = ((3, 28, 28), (1, 28, 28), (3, 64, 64))
N_JUDGED = 2048


def step(module: nn.Module, X: Tensor, y: Tensor) -> None:
    """Compute the gradients of one step."""
    nn.functional.cross_entropy(module(X), y).backward()
    module.zero_grad()


def judged(module: nn.Module, X: Tensor) -> None:
    """Run all rows in blocks of 1,024, as they are."""
    with torch.no_grad():
        for block in X.split(1024):
            module(block)


def bench_shape(
    shape: tuple[int, int, int], threads: int, options: argparse.Namespace
) -> Iterator[Result]:
    """Compare both on one shape of images."""
    from fairsvd.arrays import as_batches
    from fairsvd.networks import fast_logits, laid_out

    generator = torch.Generator().manual_seed(options.seed)
    module = convnet(shape[0], options.seed, shape[1])
    X = torch.rand((N_JUDGED, *shape), generator=generator)
    y = torch.randint(2, (PER_BATCH,), generator=generator)
    plain = as_batches(X.numpy())
    turned = laid_out(module, plain)
    batch = slice(PER_BATCH)
    runs = {
        "step": [lambda: step(module, plain[batch], y), lambda: step(module, turned[batch], y)],
        "judging": [lambda: judged(module, X), lambda: fast_logits(module, turned)],
    }
    for section in options.sections:
        # CPU seconds: other work on the machine does not count.
        times = interleave(runs[section], options.repeats, time.process_time)
        setting = f"threads {threads}, images {' x '.join(map(str, shape))}"
        yield compare(section, setting, times, None)


def run_all(options: argparse.Namespace) -> Iterator[Result]:
    for threads in options.threads:
        torch.set_num_threads(threads)
        for shape in SHAPES:
            yield from bench_shape(shape, threads, options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    options = options_parser(__doc__.splitlines()[0], SECTIONS).parse_args(arguments)
    return report(run_all(options), options)


if __name__ == "__main__":
    sys.exit(main())
