"""Rerun the protocol of Savani et al. (arXiv:2006.08564) on its three tables.

A network is trained on 60 % of the rows. On the next 20 %, the validation rows, it is edited and
gets its threshold by the paper's objective phi. It is measured on the last 20 %. Every row is
written to a JSON-lines file as soon as it is measured; ``--resume`` skips the rows it has.

    python benchmarks/savani/bench_savani.py --seeds 3 --out savani.jsonl --table savani.md --resume
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.fairness.bench_methods import (
    Row,
    append_row,
    attempt,
    hand_over,
    key_of,
    names_of,
    read_rows,
    seeds_of,
    start_over,
)
from benchmarks.fairness.context import Context, Method, Outcome
from benchmarks.fairness.ours import class_of
from benchmarks.fairness.protocol import cell_counts, phi, rates_above, utility_of_rates
from benchmarks.nets import margins
from benchmarks.savani.data import TASKS, load_paper_problem
from benchmarks.savani.net import made_network, train_network
from benchmarks.savani.tables import MEASURES, markdown
from benchmarks.tasks import Problem, Rows

EPSILON = 0.05
# Values of the paper's code: the margin under epsilon, and the size of the threshold grid.
MARGIN, MARGIN_ADVERSARIAL = 0.01, 0.02
SMALL_GRID, LARGE_GRID = 501, 1001


class SameRows:
    """A splitter with one split, whose two sides are all rows: both to edit and to choose on."""

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[Any, Any]]:
        """Yield the only split."""
        yield np.arange(len(X)), np.arange(len(X))

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Count the splits."""
        return 1


def default_network(context: Context, measure: str) -> Outcome:
    """Leave the network alone, at the threshold of best balanced accuracy on validation rows."""
    grid = np.linspace(0, 1, LARGE_GRID)[1:-1]
    rows, cuts = context.validation, np.log(grid / (1 - grid))
    rates = rates_above(margins(context.network, rows.X), rows, cuts, 2)
    cut = cuts[utility_of_rates(rates, cell_counts(rows, 2), "balanced_accuracy").argmax()]
    predictions = (margins(context.network, context.test_X) > cut).astype(int)
    return Outcome(predictions, {"threshold": float(1 / (1 + np.exp(-cut)))})


def edited(
    context: Context,
    measure: str,
    editor: str,
    *,
    margin: float = MARGIN,
    n_thresholds: int = LARGE_GRID,
    **parameters: Any,
) -> Outcome:
    """Edit the network on the validation rows, and choose by phi on the same rows."""
    from fairsvd import PhiObjective

    grid = {"n_thresholds": n_thresholds, "random_state": context.seed}
    fitted = class_of(editor)(
        context.network,
        constraint=PhiObjective(measure, epsilon=EPSILON, slack=margin, **grid),
        validation=SameRows(),
        random_state=context.seed,
        **parameters,
    )
    rows = context.validation
    fitted.fit(rows.X, rows.y, sensitive_features=np.asarray(context.groups)[rows.g])
    history = fitted.history_
    notes = {
        "threshold": float(fitted.threshold_),
        "phi": float(history["value"].max()),
        "candidates": len(history),
        "untouched": bool(history["value"].max() <= history["value"][0]),
    }
    return Outcome(np.asarray(fitted.predict(context.test_X)), notes)


def method(label: str, editor: str, **parameters: Any) -> Method:
    """Make a row of the tables; no method needs the group to predict."""
    return Method(partial(edited, editor=editor, **parameters), False, label)


METHODS: dict[str, Method] = {
    "default": Method(default_network, False, "default network"),
    "random": method(
        "RandomPerturbation",
        "RandomPerturbation",
        n_thresholds=SMALL_GRID,
        n_trials=101,
        scale=0.1,
    ),
    "layerwise": method(
        "LayerwiseOptimizer, last 5 tensors",
        "LayerwiseOptimizer",
        n_thresholds=SMALL_GRID,
        parameters=5,
        max_entries=100_000,
        n_calls=20,
    ),
    "adversarial": method(
        "AdversarialFineTuner.paper()", "AdversarialFineTuner.paper", margin=MARGIN_ADVERSARIAL
    ),
    "debiasing": method("AdversarialDebiasing()", "AdversarialDebiasing"),
    "descent": method('GapFineTuner(mode="descent")', "GapFineTuner", mode="descent"),
    "gap": method("GapFineTuner()", "GapFineTuner"),
}


def signed_bias(predictions: np.ndarray, rows: Rows, measure: str) -> float:
    """Compute the paper's difference, unprivileged minus privileged (code 1); 0/1 predictions."""

    def difference(chosen: np.ndarray) -> float:
        sides = [predictions[chosen & (rows.g == group)] for group in (0, 1)]
        # The paper's code counts a missing rate as 0.
        rates = [float(side.mean()) if len(side) else 0.0 for side in sides]
        return rates[0] - rates[1]

    if measure == "demographic_parity":
        return difference(rows.y >= 0)
    if measure == "equal_opportunity":
        return difference(rows.y == 1)
    return (difference(rows.y == 0) + difference(rows.y == 1)) / 2


def evaluate(predictions: np.ndarray, rows: Rows, measure: str) -> dict[str, Any]:
    """Measure 0/1 predictions of test rows; phi without a margin and without resamples."""
    rates = rates_above(np.asarray(predictions, float), rows, np.array([0.5]), 2)[0]
    balanced = float(utility_of_rates(rates, cell_counts(rows, 2), "balanced_accuracy"))
    bias = signed_bias(predictions, rows, measure)
    return {
        "bias": bias,
        "balanced_accuracy": balanced,
        "phi": phi(balanced, abs(bias), EPSILON),
        "constant": bool(predictions.min() == predictions.max()),
    }


def prepare(problem: Problem) -> Context:
    """Train the network of one task and seed."""
    network = made_network(problem.train.X.shape[1], problem.seed)
    train_network(network, problem.train, problem.validation, seed=problem.seed)
    return Context.of(problem, network)


def run_cell(task: str, seed: int, todo: Sequence[tuple[str, str]], out: Path) -> None:
    """Measure the missing (measure, method) pairs of one task and seed."""
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    problem = load_paper_problem(task, seed)
    context = prepare(problem)
    here = {"task": task, "form": "with-group", "seed": seed, "dev": False}
    for measure, name in todo:
        started = time.process_time()
        outcome, row = attempt(METHODS[name], context, measure)
        # CPU seconds of this process, because other work on the machine is not the method's.
        row["seconds"] = time.process_time() - started
        if outcome is not None:
            row.update(notes=outcome.notes)
            row.update(evaluate(outcome.predictions, problem.test, measure))
        append_row(out, {**here, "constraint": measure, "method": name, **row})


def plan(args: argparse.Namespace) -> Iterator[tuple[str, int, list[tuple[str, str]]]]:
    """List each task and seed with rows left to measure, and these rows."""
    done = {key_of(row) for row in (read_rows(args.out) if args.resume else [])}
    for seed, task in product(args.seeds, args.tasks):
        todo = [
            (measure, name)
            for measure, name in product(args.measures, args.methods)
            if (task, "with-group", seed, False, measure, name) not in done
        ]
        if todo:
            yield task, seed, todo


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    made = argparse.ArgumentParser(description="Rerun the protocol of Savani et al. on tables.")
    add = made.add_argument
    add("--tasks", type=names_of(TASKS), default=list(TASKS))
    add("--measures", type=names_of(MEASURES), default=list(MEASURES))
    add("--methods", type=names_of(METHODS), default=list(METHODS))
    add("--seeds", type=seeds_of, default=seeds_of("3"), help="a number, or a list with a comma")
    add("--quick", action="store_true", help="COMPAS, one seed, without the paper's adversary")
    add("--out", type=Path, default=Path("savani.jsonl"), help="JSON-lines file")
    add("--table", type=Path, default=None, help="Markdown file; default: print")
    add("--resume", action="store_true", help="skip the rows that --out has")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing and write the tables."""
    args = parser().parse_args(arguments)
    if args.quick:
        args.tasks, args.seeds = ["compas-race"], [0]
        args.methods = [name for name in args.methods if name != "adversarial"]
    start_over(args)
    for cell in list(plan(args)):
        run_cell(*cell, out=args.out)
    rows: list[Row] = read_rows(args.out)
    labels = {name: each.label for name, each in METHODS.items()}
    hand_over(markdown(rows, labels), args.table)


if __name__ == "__main__":
    main()
