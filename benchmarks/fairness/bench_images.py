r"""Compare editors, controls and a peer on images, by one protocol.

The tasks are tinted Fashion-MNIST, tinted digits, skin lesions, and faces with a network that was
trained elsewhere; see ``image_tasks.py`` and ``faces.py``. As in ``bench_methods.py``, every row is
written to a JSON-lines file as soon as it is measured.

    python benchmarks/fairness/bench_images.py --seeds 3 --out images.jsonl \
        --table images.md --resume
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.fairness import many
from benchmarks.fairness.bench_methods import (
    Row,
    append_row,
    hand_over,
    known_shares,
    measure,
    parser,
    plan,
    read_rows,
    rows_at,
    seeds_of,
    start_over,
)
from benchmarks.fairness.context import Context, Method, Outcome
from benchmarks.fairness.controls import CONTROLS, SHORT
from benchmarks.fairness.image_tasks import FORMS, TASKS, ImageProblem, load_problem
from benchmarks.fairness.ours import EDITORS, OURS
from benchmarks.fairness.peers import PEERS
from benchmarks.fairness.protocol import evaluate, pool, psi
from benchmarks.nets import convnet, margins, residual, train
from benchmarks.tasks import Rows

CONSTRAINT = "equalized_odds"
TABLES_ONLY = ("layer-wise", "selective")
RANDOM = ("fairlrf-random", "bias-mask-random")
COLUMNS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "bal. acc.",
    "equalized_odds_difference": "EO gap",
    "psi": "psi",
    "demographic_parity_difference": "DP gap",
    "worst_cell": "worst cell",
    "epochs": "epochs",
    "cpu_seconds": "CPU s",
}
DIGITS = {"epochs": 1, "cpu_seconds": 0}
# A cell with less than half the rows that independence of label and group would give it.
SCARCE = 0.5
# Height from which images get a residual network.
LARGE = 64


def network_like(context_or_rows: Rows, seed: int, n_classes: int) -> Any:
    """Make a new network that fits the rows: a small one, or of 20 layers for larger images."""
    _, channels, side, _ = context_or_rows.X.shape
    if side >= LARGE:
        return residual(seed, n_classes)
    return convnet(channels, seed, side, n_classes)


def oracle(context: Context, constraint: str) -> Outcome:
    """Train on unbiased rows, which users do not have, to show what the bias costs."""
    rows = context.unbiased
    if rows is None:
        raise ValueError("this task has no rows without a bias to train an oracle on")
    n_classes = 1 + int(rows.y.max())
    network = network_like(rows, context.seed, n_classes)
    train(network, rows.X, rows.y, seed=context.seed, steps=0 if rows.X.shape[-1] > 8 else 1500)
    if n_classes > 2:
        return Outcome(many.logits(network, context.test_X).argmax(axis=1), {})
    return Outcome((margins(network, context.test_X) > 0).astype(int), {})


def chosen(names: Sequence[str], methods: Mapping[str, Method]) -> dict[str, Method]:
    """Take some methods."""
    return {name: methods[name] for name in names}


OWN = {
    **{name: OURS[name] for name in EDITORS if name not in TABLES_ONLY},
    **chosen(
        ("fairlrf-unlimited", "fairlrf-curvature", "trigger-patch", "trigger-border", *RANDOM), OURS
    ),
}
ORACLE = {"oracle": Method(oracle, False, "oracle: trained on unbiased rows")}
TWO_CLASSES = {
    **chosen(("untouched", "untouched-gap"), CONTROLS),
    **ORACLE,
    **chosen(("plain-fine-tuning", "last-layer", "soft-gap-fine-tuning"), CONTROLS),
    **SHORT,
    **OWN,
    **chosen(("removal-as-it-is",), OURS),
    **chosen(("oxonfair-inferred", "oxonfair-actual"), PEERS),
}
MANY_CLASSES = {**many.CONTROLS, **ORACLE, **OWN}


def fitting(problem: ImageProblem) -> dict[str, Method]:
    """List the methods that a task can be measured with."""
    methods = MANY_CLASSES if problem.n_classes > 2 else TWO_CLASSES
    # The oracle's rows are the same for every form of the editing rows.
    without = problem.unbiased is None or problem.form == "unbiased"
    return {name: m for name, m in methods.items() if not (without and name == "oracle")}


def is_scarce(rows: Rows) -> bool:
    """Say whether some (label, group) cell is nearly empty, so that cells should weigh alike."""
    table = np.zeros((1 + rows.y.max(), 1 + rows.g.max()))
    np.add.at(table, (rows.y, rows.g), 1)
    independent = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return bool((table < SCARCE * independent).any())


def base_network(problem: ImageProblem) -> nn.Module:
    """Take the base network that the problem brings, or train one."""
    if problem.network is not None:
        return problem.network
    if problem.base is None:
        raise ValueError("a task needs a network, or base rows to train one on; it has neither")
    network = network_like(problem.base, problem.seed, problem.n_classes)
    return train(network, problem.base.X, problem.base.y, seed=problem.seed, steps=problem.steps)


def prepare(problem: ImageProblem) -> Context:
    """Make the base network and hide the labels of the test rows."""
    network = base_network(problem)
    cells = is_scarce(pool([problem.train, problem.validation]))
    kind = many.ManyContext if problem.n_classes > 2 else Context
    return kind.of(
        problem,
        network,
        utility="mean_and_worst_cell_accuracy" if cells else "balanced_accuracy",
        balance="cells" if cells else "classes",
        unbiased=problem.unbiased,
    )


def run_cell(
    task: str, form: str, seed: int, names: Sequence[str], dev: bool, quick: bool, out: Path
) -> None:
    """Measure the missing methods of one task, form and seed."""
    import torch

    torch.set_num_threads(1)
    problem = load_problem(task, form, seed, dev=dev, quick=quick)
    methods = {name: m for name, m in fitting(problem).items() if name in names}
    if not methods:
        return
    context = prepare(problem)
    here = {"task": task, "form": form, "seed": seed, "dev": dev}
    context.shares.update(known_shares(rows_at(out, here)))
    judge = many.evaluate if problem.n_classes > 2 else evaluate
    for name, method in methods.items():
        measured = measure(context, problem, CONSTRAINT, method, judge)
        row = {**here, "method": name, **measured, "balance": context.balance}
        context.shares.update(known_shares([row]))
        append_row(out, row)


def figure(rows: Sequence[Row], column: str) -> str:
    """Write the mean over seeds and, where there are several, the range."""
    # Controls count no visits of rows.
    if any(column not in row for row in rows):
        return "-"
    values, digits = [row[column] for row in rows], DIGITS.get(column, 3)
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def completed(row: Row) -> Row:
    """Add psi, which rows of many classes are measured without, and the epochs of an edit."""
    more = {"psi": psi(row["balanced_accuracy"], row[f"{CONSTRAINT}_difference"])}
    if "epochs" in row["notes"]:
        more["epochs"] = row["notes"]["epochs"]
    return {**row, **more}


def lines_of(rows: Sequence[Row], labels: Mapping[str, str]) -> Iterator[str]:
    """Write one table, methods in the order of ``labels``; failures count in the last cell."""
    head = ["method", *COLUMNS.values(), "seeds"]
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for name, label in labels.items():
        own = [row for row in rows if row["method"] == name]
        good = [completed(row) for row in own if not row["error"]]
        failed = "".join(f"; failed: {row['error'][:80]}" for row in own if row["error"])
        cells = [figure(good, column) if good else "-" for column in COLUMNS]
        if own:
            needs = " (told the group)" if own[0]["needs_group"] else ""
            remark = f"{len(good)}{failed}".replace("|", "/")
            yield "| " + " | ".join([label + needs, *cells, remark]) + " |"


def markdown(rows: Sequence[Row]) -> str:
    """Write a table for every task and form, the mean over seeds and the range."""
    lines: list[str] = []
    order = {name: position for position, name in enumerate(TASKS)}

    def place(row: Row) -> tuple[int, str]:
        return order[row["task"]], row["form"]

    for _, group in groupby(sorted(rows, key=place), key=place):
        found = list(group)
        methods = TWO_CLASSES if found[0]["task"] != "tinted-digits" else MANY_CLASSES
        labels = {name: method.label for name, method in methods.items()}
        weighs = "/".join(sorted({row["balance"] for row in found}))
        title = f"### {found[0]['task']}, editing rows {found[0]['form']}"
        note = f"The controls' utility and losses weigh {weighs} alike."
        lines += [title, "", note, "", *lines_of(found, labels), ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing and write the tables."""
    from joblib import Parallel, delayed

    methods = list({**TWO_CLASSES, **MANY_CLASSES})
    made = parser("Compare methods on images.", TASKS, list(TASKS), FORMS, [CONSTRAINT], methods)
    made.add_argument("--quick", action="store_true", help="a few hundred rows: to see it run")
    made.set_defaults(seeds=seeds_of("3"), constraints=[CONSTRAINT], out=Path("images.jsonl"))
    args = made.parse_args(arguments)
    start_over(args)
    cells = [
        (task, form, seed, [name for _, name in todo])
        for task, form, seed, todo in plan(args)
        if form in TASKS[task].forms
    ]
    Parallel(n_jobs=args.jobs)(
        delayed(run_cell)(*cell, dev=args.dev, quick=args.quick, out=args.out) for cell in cells
    )
    rows = [row for row in read_rows(args.out) if row["dev"] == args.dev]
    hand_over(markdown(rows), args.table)


if __name__ == "__main__":
    main()
