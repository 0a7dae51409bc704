r"""Low-rank edits of a pretrained network: which layers, which rank, and what compression buys.

The task is ``faces-gender`` of ``bench_images.py``. Every row is one edit by FairLRFTransformer
whose chosen layers keep their factors (``compress=True``), so that size and speed are those of what
a user would run. Numbers are means over seeds.

    python benchmarks/fairness/bench_low_rank.py --seeds 3 --table low_rank.md

``--dev`` measures on rows of the training folder that are not edited on.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.fairness.bench_images import CONSTRAINT, prepare
from benchmarks.fairness.context import Context
from benchmarks.fairness.image_tasks import load_problem
from benchmarks.fairness.protocol import evaluate
from benchmarks.nets import in_blocks

# The layers of the network: four convolutions, and the first of two linear layers.
LAYERS = {
    "all hidden": "hidden",
    "last block": ["6", "8"],
    "linear only": ["12"],
    "last block and linear": ["6", "8", "12"],
}
RANKS = (1.0, 0.5, 0.25)
REPEATS = 5


def count_weights(module: nn.Module) -> int:
    """Count the numbers that the network holds."""
    return sum(parameter.numel() for parameter in module.parameters())


def seconds_of(module: nn.Module, X: np.ndarray) -> float:
    """Time a pass over rows by the process's own clock; the fastest of a few."""
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        in_blocks(module, X)
        times.append(time.process_time() - started)
    return min(times)


def measure(context: Context, problem: Any, layers: Any, rank: float) -> dict[str, float]:
    """Edit, compress and measure."""
    from sklearn.model_selection import PredefinedSplit

    from fairsvd import FairLRFTransformer

    parts = (context.train, context.validation)
    X, y, g = (np.concatenate(column) for column in zip(*parts, strict=True))
    fold = np.repeat([-1, 0], [len(part.y) for part in parts])
    editor = FairLRFTransformer(
        context.network,
        layers=layers,
        rank=rank,
        compress=True,
        constraint=CONSTRAINT,
        validation=PredefinedSplit(fold),
        random_state=context.seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a gap over the tolerance is what is measured
        editor.fit(X, y, sensitive_features=np.asarray(context.groups)[g])
    scores = evaluate(editor.predict(problem.test.X), problem.test, CONSTRAINT, context.before)
    rows = problem.test.X[:1024]
    return {
        "accuracy": scores["accuracy"],
        "gap": scores[f"{CONSTRAINT}_difference"],
        "worst cell": scores["worst_cell"],
        "weights": count_weights(editor.module_),
        "ms for 1,024 rows": 1000 * seconds_of(editor.module_, rows),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every choice of layers and rank, and write one table."""
    made = argparse.ArgumentParser(description="Low-rank edits of a pretrained network.")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--dev", action="store_true", help="test on rows of the training folder")
    made.add_argument("--quick", action="store_true", help="a few hundred rows: to see it run")
    made.add_argument("--table", type=Path, default=None)
    args = made.parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[tuple[str, float], list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        problem = load_problem("faces-gender", "as-is", seed, dev=args.dev, quick=args.quick)
        context = prepare(problem)
        for name, layers in LAYERS.items():
            for rank in RANKS:
                row = measure(context, problem, layers, rank)
                found.setdefault((name, rank), []).append(row)
    columns = list(next(iter(found.values()))[0])
    lines = ["| layers | rank | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
    for (name, rank), rows in found.items():
        means = [float(np.mean([row[column] for row in rows])) for column in columns]
        cells = [f"{mean:.3f}" if mean < 1 else f"{mean:.0f}" for mean in means]
        lines.append(f"| {name} | {rank:g} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    if args.table is None:
        print(text)
    else:
        args.table.write_text(text)


if __name__ == "__main__":
    main()
