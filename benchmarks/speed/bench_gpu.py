"""Measure on a GPU: an edit, predictions and training steps, in a few minutes.

* "edit": by curvature in all hidden layers of a network of ResNet-18's size (see ``residual.py``),
  on images that a dataset makes on request, against one forward and backward pass over the same
  images, with weight gradients.
* "predict": the same network's logits of images in the host's memory, in float32 and TF32, with
  images as they come and with their channels last.
* "steps": one step of an edit of a network of three layers on a table, on the device and on the
  CPU; the difference of two fits, so that what a fit does besides does not count.

Without a CUDA device nothing is measured; ``--device cpu --rows 64 --size 64`` tries the script
out. The first line that it prints names the device.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.residual import ResidualNetwork
from benchmarks.speed.bench_edit import peak_bytes
from benchmarks.speed.made import MadeRows, codes

PRECISIONS = ("full", "mixed")
SECTIONS = ("edit", "predict", "steps")
# Images of the predictions at most, and how many times they are predicted.
PREDICTED, REPEATS = 2_000, 3
# Steps of the two fits that are compared, and rows and columns of their table.
STEPS, TABLE = (50, 250), (4_000, 32)


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    precision: str
    what: str
    seconds: float
    n_rows: int
    peak: int
    ratio: float | None = None

    def cells(self) -> tuple[str, ...]:
        short = self.seconds < 0.1
        time = f"{1000 * self.seconds:.2f} ms" if short else f"{self.seconds:.2f} s"
        times = "" if self.ratio is None else f"{self.ratio:.2f}"
        rate = f"{self.n_rows / self.seconds:.0f}" if self.n_rows else ""
        peak = f"{self.peak / 2**20:.0f} MiB" if self.peak else ""
        return self.precision, self.what, time, times, rate, peak


def network(data: MadeRows, device: torch.device, seed: int) -> nn.Module:
    """Build the network; its normalisations take their statistics from a few images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = ResidualNetwork(2).to(device)
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    images = torch.stack([torch.tensor(data[i]) for i in range(min(32, len(data)))])
    with torch.no_grad():
        module.train()(images.to(device))
    return module.eval()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    if precision == "full":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def epoch(options: argparse.Namespace, module: nn.Module, precision: str) -> None:
    """Run forward and backward over all images, weight gradients included."""
    from fairsvd.arrays import LabelledRows, as_batches

    y, group = map(torch.from_numpy, codes(options.rows, 2, options.seed))
    rows = LabelledRows(as_batches(options.data), y, group)
    module.requires_grad_(True)
    for x, labels, _ in rows.batches(options.batch, options.device):
        module.zero_grad()
        with autocast(options.device, precision):
            loss = nn.functional.cross_entropy(module(x), labels)
        loss.backward()
    module.zero_grad()


def decompose(module: nn.Module) -> None:
    """Factor every hidden layer in full, as the edit does."""
    from fairsvd.layers import factorise, full_rank

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            factorise(layer, full_rank(layer))


def edit(options: argparse.Namespace, module: nn.Module, precision: str) -> None:
    """Edit by curvature, every hidden layer."""
    from fairsvd import FairLRFTransformer

    y, group = codes(options.rows, 2, options.seed)
    editor = FairLRFTransformer(
        module,
        criterion="curvature",
        gap_weight=1.0,
        sparsity=0.1,
        refine=None,
        precision=precision,
        random_state=options.seed,
    )
    editor.fit(options.data, y, sensitive_features=group)


def measure(options: argparse.Namespace, run: Callable[[], None]) -> tuple[float, int]:
    """Measure seconds and peak bytes, of the device or, on a CPU, of this process."""
    on_gpu = options.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(options.device)
        torch.cuda.reset_peak_memory_stats(options.device)
    start = time.perf_counter()
    run()
    if on_gpu:
        torch.cuda.synchronize(options.device)
    spent = time.perf_counter() - start
    return spent, torch.cuda.max_memory_allocated(options.device) if on_gpu else peak_bytes()


def predictions(options: argparse.Namespace, module: nn.Module) -> Iterator[Line]:
    """Predict images that lie in memory, all at once."""
    from fairsvd.arrays import as_batches
    from fairsvd.networks import all_logits

    n_rows = min(PREDICTED, options.rows)
    X = as_batches(np.stack([options.data[i] for i in range(n_rows)]))
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for name, tf32 in (("float32", False), ("TF32", True)):
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        for order, rows in (("", X), (", channels last", X.with_channels_last())):
            runs = [
                measure(options, lambda rows=rows: all_logits(module, rows, "logits"))
                for _ in range(1 + REPEATS)
            ]
            # The first run chooses algorithms.
            spent, peak = min(runs[1:])
            yield Line(name, f"predictions{order}", spent, n_rows, peak)
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def steps(options: argparse.Namespace) -> Iterator[Line]:
    """Time a step of some editors, on the device and on the CPU."""
    from fairsvd import FairLRFTransformer, GapFineTuner
    from fairsvd.networks import MLP

    n_rows, width = TABLE
    data = MadeRows(n_rows, (width,), options.seed)
    X = np.stack([data[i] for i in range(n_rows)])
    y, group = codes(n_rows, 2, options.seed)
    module = MLP(width, 2, (64, 64), generator=torch.Generator().manual_seed(options.seed))
    settings = {"objective": "soft_gap", "gap_weight": 1.0, "random_state": options.seed}
    for kind, own in ((GapFineTuner, {}), (FairLRFTransformer, {"refine": None})):
        for device in dict.fromkeys((str(options.device), "cpu")):

            def fit(n_steps: int, kind=kind, own=own, device=device) -> None:
                editor = kind(module, max_steps=n_steps, device=device, **settings, **own)
                editor.fit(X, y, sensitive_features=group)

            fit(STEPS[0])
            spent = [measure(options, lambda n=n, fit=fit: fit(n))[0] for n in STEPS]
            seconds = max(0.0, spent[1] - spent[0]) / (STEPS[1] - STEPS[0])
            yield Line("full", f"a step of {kind.__name__} on {device}", seconds, 0, 0)


def bench(options: argparse.Namespace) -> Iterator[Line]:
    options.data = MadeRows(options.rows, (3, options.size, options.size), options.seed)
    if {"edit", "predict"} & set(options.sections):
        module = network(options.data, options.device, options.seed)
    if "edit" in options.sections:
        yield from edits(options, module)
    if "predict" in options.sections:
        yield from predictions(options, module)
    if "steps" in options.sections:
        yield from steps(options)


def edits(options: argparse.Namespace, module: nn.Module) -> Iterator[Line]:
    """Edit the network, and pass over the same images."""
    few = argparse.Namespace(**{**vars(options), "rows": min(128, options.rows)})
    few.data = MadeRows(few.rows, options.data.shape)
    for precision in options.precisions:
        # A first run on few images loads libraries and chooses algorithms.
        epoch(few, module, precision)
        edit(few, module, precision)
        spent, peak = measure(options, lambda p=precision: epoch(options, module, p))
        yield Line(precision, "one epoch, forward and backward", spent, options.rows, peak)
        base = spent
        spent, peak = measure(options, lambda: decompose(module))
        yield Line(precision, "decomposition of all hidden layers", spent, 0, peak, spent / base)
        spent, peak = measure(options, lambda p=precision: edit(options, module, p))
        yield Line(precision, "whole edit", spent, options.rows, peak, spent / base)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=torch.device, help="default: CUDA where it is there")
    parser.add_argument("--rows", type=int, default=10_000, help="images (default 10000)")
    parser.add_argument("--size", type=int, default=224, help="height and width (default 224)")
    parser.add_argument("--batch", type=int, default=128, help="images a step of the epoch")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the same numbers there as JSON")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    # This benchmark does not ask what the edit achieves.
    warnings.simplefilter("ignore")
    options = parse(arguments)
    if options.device is None:
        if not torch.cuda.is_available():
            print("No CUDA device is here: nothing was measured (--device cpu tries it out).")
            return 0
        options.device = torch.device("cuda")
    name = device_name(options.device)
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    print(f"{name}, {versions}, {options.rows} images of 3 x {options.size}^2\n")
    print("| precision | what | time | of an epoch | images a second | peak memory |")
    print("|---|---|---|---|---|---|")
    lines = []
    for line in bench(options):
        lines.append(line)
        print("| " + " | ".join(line.cells()) + " |", flush=True)
    if options.out:
        about = {key: getattr(options, key) for key in ("rows", "size", "batch", "seed")}
        about |= {"device": name, "torch": torch.__version__}
        record = {"about": about, "results": [asdict(line) for line in lines]}
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
