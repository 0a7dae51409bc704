r"""Low-rank edits of a pretrained network: which layers, which rank, and what compression buys.

The task is ``faces-gender`` of ``bench_images.py``. Every row is one edit by FairLRFTransformer
whose chosen layers keep their factors (``compress=True``), so that size and speed are those of what
a user would run; the first row is the untouched network. Numbers are means over seeds. Every edit
is written as a line of JSON when it ends, and a run that was cut goes on where it stopped.

    python benchmarks/fairness/bench_low_rank.py --seeds 3 --out low_rank.jsonl --table low_rank.md

``--dev`` measures on rows of the training folder that are not edited on. ``--max-epochs`` is the
budget of an edit; at 15, the default of the editor, an edit takes minutes on one core.
"""

from __future__ import annotations

import argparse
import json
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


def measured(
    module: nn.Module, predicted: np.ndarray, context: Context, problem: Any
) -> dict[str, float]:
    """Measure a network and its predictions of the test rows."""
    scores = evaluate(predicted, problem.test, CONSTRAINT, context.before)
    return {
        "accuracy": scores["accuracy"],
        "gap": scores[f"{CONSTRAINT}_difference"],
        "worst cell": scores["worst_cell"],
        "weights": count_weights(module),
        "ms for 1,024 rows": 1000 * seconds_of(module, problem.test.X[:1024]),
    }


def edit(
    context: Context, problem: Any, layers: Any, rank: float, max_epochs: float
) -> dict[str, float]:
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
        max_epochs=max_epochs,
        validation=PredefinedSplit(fold),
        random_state=context.seed,
    )
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a gap over the tolerance is what is measured
        editor.fit(X, y, sensitive_features=np.asarray(context.groups)[g])
    seconds = time.process_time() - started
    found = measured(editor.module_, editor.predict(problem.test.X), context, problem)
    return {**found, "seconds of the edit": seconds}


def run_seed(args: argparse.Namespace, seed: int) -> None:
    """Make the rows of a seed that the file lacks, and append each when it is done."""
    done = {(row["seed"], row["layers"], row["rank"]) for row in read_rows(args.out)}
    wanted: list[tuple[str, float]] = [("none", 1.0)]
    wanted += [(name, rank) for rank in args.ranks for name in args.layers]
    missing = [each for each in wanted if (seed, *each) not in done]
    if not missing:
        return
    problem = load_problem("faces-gender", "as-is", seed, dev=args.dev, quick=args.quick)
    context = prepare(problem)
    for name, rank in missing:
        if name == "none":
            given = in_blocks(context.network, problem.test.X).argmax(dim=1).numpy()
            row = measured(context.network, given, context, problem)
        else:
            row = edit(context, problem, LAYERS[name], rank, args.max_epochs)
        with args.out.open("a") as file:
            file.write(json.dumps({"seed": seed, "layers": name, "rank": rank, **row}) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read what was measured before."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Write means over seeds, a line for each choice of layers and rank."""
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["layers"], row["rank"]), []).append(row)
    columns = [c for c in rows[-1] if c not in ("seed", "layers", "rank")]
    lines = ["| layers | rank | seeds | " + " | ".join(columns) + " |"]
    lines.append("|---" * (3 + len(columns)) + "|")
    order = ["none", *LAYERS]
    for (name, rank), each in sorted(found.items(), key=lambda i: (order.index(i[0][0]), -i[0][1])):
        cells = []
        for column in columns:
            values = [row[column] for row in each if column in row]
            mean = float(np.mean(values)) if values else float("nan")
            cells.append("-" if not values else f"{mean:.3f}" if mean < 1 else f"{mean:,.0f}")
        lines.append(f"| {name} | {rank:g} | {len(each)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every choice of layers and rank, and write one table."""
    made = argparse.ArgumentParser(description="Low-rank edits of a pretrained network.")
    made.add_argument("--seeds", type=int, default=1)
    made.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    made.add_argument("--ranks", nargs="+", type=float, default=list(RANKS))
    made.add_argument("--max-epochs", type=float, default=15.0)
    made.add_argument("--dev", action="store_true", help="test on rows of the training folder")
    made.add_argument("--quick", action="store_true", help="a few hundred rows: to see it run")
    made.add_argument("--out", type=Path, default=Path("low_rank.jsonl"))
    made.add_argument("--table", type=Path, default=None)
    args = made.parse_args(arguments)
    torch.set_num_threads(1)
    for seed in range(args.seeds):
        run_seed(args, seed)
    text = table(read_rows(args.out))
    if args.table is None:
        print(text)
    else:
        args.table.write_text(text)


if __name__ == "__main__":
    main()
