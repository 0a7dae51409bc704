"""Edit one wide network twice: as it is, and as if it were large enough to be edited leanly.

Above some sizes an edit saves memory: Adam's second moment is held as a row and a column, masks of
factors are learned in half precision, decompositions run in single precision, and a teacher has a
small architecture of its own. Here each of these thresholds is lowered in turn for a network that
is small enough to be edited in either way, on the development rows of a table (the test rows of the
seed are left out). A line of JSON is written when an edit ends, and a run that was cut goes on
where it stopped.

    python benchmarks/fairness/bench_thresholds.py --seeds 2 --out thresholds.jsonl
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
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.fairness.protocol import evaluate
from benchmarks.nets import in_blocks, train
from benchmarks.tasks import TASKS, Problem, load_problem

CONSTRAINT = "equalized_odds"
SOFT, TAUGHT = {"objective": "soft_gap"}, {"objective": "teacher"}

# What is lean, the editor with its parameters, and the constants that decide.
LEAN: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "second moment as a row and a column": (
        "GapFineTuner",
        SOFT,
        ("fairsvd.training._tune.VAST_BYTES", "fairsvd.training._tune.MATRIX_BYTES"),
    ),
    "masks in half precision": (
        "FairLRFTransformer",
        SOFT,
        ("fairsvd.low_rank._factor_edit.VAST_BYTES",),
    ),
    "decomposition in single precision": (
        "FairLRFTransformer",
        SOFT,
        ("fairsvd.layers._factors.LARGE",),
    ),
    "teacher of its own architecture": (
        "FairLRFTransformer",
        TAUGHT,
        ("fairsvd.phases._cells.VAST_BYTES",),
    ),
}


def network(n_columns: int, width: int, seed: int) -> nn.Sequential:
    """Make a network of two hidden layers, freshly initialised."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hidden = [nn.Linear(n_columns, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(width, 2))


def edit(module: nn.Module, problem: Problem, kind: str, settings: dict[str, Any]) -> np.ndarray:
    """Edit a network and predict the test rows."""
    from sklearn.model_selection import PredefinedSplit

    import fairsvd

    parts = (problem.train, problem.validation)
    X, y, g = (np.concatenate(column) for column in zip(*parts, strict=True))
    fold = np.repeat([-1, 0], [len(part.y) for part in parts])
    fixed = {"constraint": CONSTRAINT, "validation": PredefinedSplit(fold)}
    editor = getattr(fairsvd, kind)(module, random_state=problem.seed, **fixed, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a gap over the tolerance is what is measured
        editor.fit(X, y, sensitive_features=np.asarray(problem.groups)[g])
    predicted: np.ndarray = editor.predict(problem.test.X)
    return predicted


def list_edits() -> list[tuple[str, str]]:
    """List every edit once, by what is lean ("" for nothing) and a row of ``LEAN``."""
    # Rows of one editor with the same parameters share the edit of the network as it is.
    plain = {(kind, str(settings)): name for name, (kind, settings, _) in LEAN.items()}
    return [("", name) for name in plain.values()] + [(name, name) for name in LEAN]


def run_seed(args: argparse.Namespace, task: str, seed: int) -> None:
    """Append the rows of a seed that the file lacks."""
    done = {(row["task"], row["seed"], row["lean"], row["of"]) for row in read_rows(args.out)}
    wanted = [("", ""), *list_edits()]
    missing = [each for each in wanted if (task, seed, *each) not in done]
    if not missing:
        return
    problem = load_problem(task, "with-group", seed, dev=True)
    module = network(problem.train.X.shape[1], args.width, seed)
    train(module, problem.train.X, problem.train.y, seed=seed, epochs=args.epochs, steps=0)
    before = in_blocks(module, problem.test.X).argmax(dim=1).numpy()
    for lean, name in missing:
        started, predicted = time.process_time(), before
        if name:
            kind, settings, constants = LEAN[name]
            if args.max_steps is not None:
                settings = {**settings, "max_steps": args.max_steps}
            patches = [patch(constant, 0) for constant in constants if lean]
            for each in patches:
                each.start()
            try:
                predicted = edit(module, problem, kind, settings)
            finally:
                for each in patches:
                    each.stop()
        scores = evaluate(predicted, problem.test, CONSTRAINT, before)
        measured = {
            "psi": scores["psi"],
            "balanced accuracy": scores["balanced_accuracy"],
            "gap": scores[f"{CONSTRAINT}_difference"],
            "seconds": time.process_time() - started,
        }
        row = {"task": task, "seed": seed, "lean": lean, "of": name, **measured}
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read what was measured before."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Write means over seeds: a line for each edit as it is, and for each that is lean."""
    columns = ("psi", "balanced accuracy", "gap", "seconds")
    lines = ["| task | edit | lean | seeds | " + " | ".join(columns) + " |"]
    lines.append("|---" * (4 + len(columns)) + "|")
    for task in dict.fromkeys(row["task"] for row in rows):
        for lean, name in [("", ""), *list_edits()]:
            kind, settings, _ = LEAN.get(name, ("untouched", {}, ()))
            found = [
                row for row in rows if (row["task"], row["lean"], row["of"]) == (task, lean, name)
            ]
            if not found:
                continue
            label = ", ".join([kind, *settings.values()])
            means = [float(np.mean([row[column] for row in found])) for column in columns]
            values = [f"{mean:.3f}" for mean in means[:-1]] + [f"{means[-1]:.0f}"]
            cells = [task, label, lean or "nothing", str(len(found)), *values]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=["adult-sex"])
    made.add_argument("--seeds", type=int, default=2, help="splits, from seed 0 on")
    made.add_argument("--width", type=int, default=256, help="of both hidden layers")
    made.add_argument("--epochs", type=int, default=10, help="passes of the training")
    made.add_argument("--max-steps", type=int, default=None, help="of a phase of an edit")
    made.add_argument("--out", type=Path, default=Path("thresholds.jsonl"))
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the file lacks, and print the table."""
    args = parser().parse_args(argv)
    for seed in range(args.seeds):
        for task in args.tasks:
            run_seed(args, task, seed)
    print(table(read_rows(args.out)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
