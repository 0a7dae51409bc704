r"""Make the main table: this package's methods, controls and peers on five tasks.

Every row is written to a JSON-lines file as soon as it is measured, so the benchmark can be run in
pieces; ``--resume`` skips the rows that the file has. A method that fails leaves a row with its
error. The whole benchmark takes hours, and ``--quick`` takes some minutes.

    python benchmarks/fairness/bench_methods.py --table docs/results/methods.md \
        --plot docs/results/methods.svg --resume
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.fairness.conformance import CONFORMANCE
from benchmarks.fairness.context import Context, Method, Outcome
from benchmarks.fairness.controls import CONTROLS, REFIT
from benchmarks.fairness.figures import draw
from benchmarks.fairness.ours import EDITORS, OURS
from benchmarks.fairness.peers import PEERS
from benchmarks.fairness.protocol import CONSTRAINTS, evaluate
from benchmarks.fairness.summary import markdown
from benchmarks.fairness.verdict import against, verdicts
from benchmarks.nets import mlp, train
from benchmarks.tasks import FORMS, TASKS, Problem, load_problem

METHODS: dict[str, Method] = {**CONTROLS, **REFIT, **OURS, **CONFORMANCE, **PEERS}
VARIANTS = (
    *("rule-refit", "rule-head", "fairlrf-soft-gap", "bias-mask-soft-gap", "pruner-soft-gap"),
    *("gap-soft-gap", "fairlrf-curvature", "gap-descent"),
)
REMOVALS = ("fairlrf-random", "removal-as-it-is", "svd-as-it-is", "truncated-svd")
MAIN = (*CONTROLS, *REFIT, *REMOVALS, *EDITORS, *VARIANTS, *PEERS)
HEADING = """# Every method on tables

`benchmarks/fairness/bench_methods.py` wrote these tables. Psi has a 95 % bootstrap
interval over seeds, and runs are tasks x seeds. README.md in this folder explains the figures.
"""
QUICK_TASKS = ("compas-race", "german-age")
KEY = ("task", "form", "seed", "dev", "constraint", "method")

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Read the last row of every key from a JSON-lines file; no file gives no rows."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return list({key_of(row): row for row in rows}.values())


def key_of(row: Row) -> tuple[Any, ...]:
    """Identify a row."""
    return tuple(row[name] for name in KEY)


def append_row(path: Path, row: Row) -> None:
    """Append a row in one write, so that parallel workers do not mix their lines."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def prepare(problem: Problem) -> Context:
    """Train the base network of a problem and hide the labels of its test rows."""
    network = mlp(problem.train.X.shape[1], problem.seed)
    train(network, problem.train.X, problem.train.y, seed=problem.seed)
    return Context.of(problem, network)


def attempt(method: Method, context: Context, constraint: str) -> tuple[Outcome | None, Row]:
    """Run a method; give its outcome or None, with seconds, warnings and any error."""
    started, outcome, error = time.perf_counter(), None, None
    cpu_started = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            outcome = method.run(context, constraint)
        except Exception as problem:  # a failed method is a row of the table
            error = "".join(traceback.format_exception_only(problem)).strip()
    seconds = time.perf_counter() - started
    names = sorted({warning.category.__name__ for warning in caught})
    # What the process itself computed, however many others share the core.
    cpu = time.process_time() - cpu_started
    return outcome, {"seconds": seconds, "cpu_seconds": cpu, "warnings": names, "error": error}


def measure(
    context: Context,
    problem: Any,
    constraint: str,
    method: Method,
    judge: Callable[..., dict[str, Any]] = evaluate,
) -> Row:
    """Run one method on one problem and measure its predictions for the test rows."""
    outcome, row = attempt(method, context, constraint)
    row.update(constraint=constraint, needs_group=method.needs_group)
    if outcome is not None:
        row.update(notes=outcome.notes, groups=problem.groups)
        row.update(judge(outcome.predictions, problem.test, constraint, context.before))
    return row


def rows_at(path: Path, here: Row) -> list[Row]:
    """Read the rows of one task, form and seed."""
    return [row for row in read_rows(path) if {k: row[k] for k in here} == here]


def known_shares(rows: Iterable[Row]) -> dict[str, float]:
    """Collect the share that the default edit's best removal took, by constraint."""
    return {
        row["constraint"]: row["notes"]["share"]
        for row in rows
        if row["method"] == "fairlrf" and not row["error"]
    }


def run_cell(
    task: str, form: str, seed: int, todo: Sequence[tuple[str, str]], dev: bool, out: Path
) -> None:
    """Measure the missing (constraint, method) pairs of one task, form and seed."""
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # AIF360 announces every optional package it lacks
    problem = load_problem(task, form, seed, dev=dev)
    context = prepare(problem)
    here = {"task": task, "form": form, "seed": seed, "dev": dev}
    context.shares.update(known_shares(rows_at(out, here)))
    for constraint, name in todo:
        measured = measure(context, problem, constraint, METHODS[name])
        row = {**here, "method": name, **measured}
        context.shares.update(known_shares([row]))
        append_row(out, row)


def plan(args: argparse.Namespace) -> Iterator[tuple[str, str, int, list[tuple[str, str]]]]:
    """List each (task, form, seed) with rows left to measure, and these rows."""
    rows = read_rows(args.out) if args.resume else []
    done = {key_of(row) for row in rows if not (row["error"] and args.retry_failed)}
    for seed, task, form in product(args.seeds, args.tasks, args.forms):
        todo = [
            (constraint, name)
            for constraint, name in product(args.constraints, args.methods)
            if (task, form, seed, args.dev, constraint, name) not in done
        ]
        if todo:
            yield task, form, seed, todo


def seeds_of(text: str) -> list[int]:
    """Read ``6`` as the seeds 0 to 5, and ``0,3`` as these two."""
    return [int(part) for part in text.split(",")] if "," in text else list(range(int(text)))


def names_of(known: Iterable[str]) -> Any:
    """Make a parser of comma-separated names that refuses unknown ones."""
    allowed = list(known)

    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        wrong = [name for name in names if name not in allowed]
        if wrong:
            raise argparse.ArgumentTypeError(f"got {wrong}; choose from {allowed}")
        return names

    return parse


def parser(
    about: str,
    tasks: Iterable[str],
    default_tasks: Sequence[str],
    forms: Sequence[str],
    constraints: Sequence[str],
    methods: Iterable[str],
) -> argparse.ArgumentParser:
    """Describe the command line of a benchmark that compares methods on tasks."""
    methods = list(methods)
    made = argparse.ArgumentParser(description=about)
    add = made.add_argument
    add("--tasks", type=names_of(tasks), default=list(default_tasks))
    add("--forms", type=names_of(forms), default=list(forms))
    add("--constraints", type=names_of(CONSTRAINTS), default=list(constraints))
    add("--methods", type=names_of(methods), default=methods)
    add("--seeds", type=seeds_of, default=None, help="a number, or a list with a comma")
    add("--jobs", type=int, default=1)
    add("--out", type=Path, default=Path("results.jsonl"), help="JSON-lines file")
    add("--table", type=Path, default=None, help="Markdown file; default: print")
    add("--resume", action="store_true", help="skip the rows that --out has")
    add("--retry-failed", action="store_true", help="with --resume: repeat the rows with an error")
    add("--dev", action="store_true", help="leave the seed's test rows out and split the rest")
    return made


def start_over(args: argparse.Namespace) -> None:
    """Remove the file of rows unless it is to be resumed."""
    if not args.resume and args.out.exists():
        args.out.unlink()


def hand_over(text: str, table: Path | None) -> None:
    """Write the tables to a file, or print them."""
    if table is None:
        print(text)
    else:
        table.write_text(text)


def families() -> dict[str, dict[str, str]]:
    """Sort the methods of the main table by kind, for the figure."""
    told = tuple(name for name, method in PEERS.items() if method.needs_group)
    kinds = {
        "this package": (*EDITORS, *VARIANTS),
        "controls": (*CONTROLS, *REMOVALS),
        "peers": tuple(name for name in PEERS if name not in told),
        "peers told the group": told,
    }
    return {kind: {name: METHODS[name].label for name in names} for kind, names in kinds.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing and write the tables."""
    from joblib import Parallel, delayed

    about = "Compare methods on tables by one protocol."
    made = parser(about, TASKS, list(TASKS), FORMS, CONSTRAINTS, METHODS)
    made.add_argument("--plot", type=Path, default=None, help="figure of psi, .svg or .png")
    made.add_argument("--quick", action="store_true", help="two small tasks, one seed")
    made.add_argument("--against", choices=list(METHODS), help="add differences from this method")
    made.set_defaults(seeds=seeds_of("5"), methods=list(MAIN))
    args = made.parse_args(arguments)
    if args.quick:
        args.tasks, args.seeds = list(QUICK_TASKS), [0]
    start_over(args)
    Parallel(n_jobs=args.jobs)(
        delayed(run_cell)(*cell, dev=args.dev, out=args.out) for cell in list(plan(args))
    )
    rows = [row for row in read_rows(args.out) if row["dev"] == args.dev]
    labels = {name: method.label for name, method in METHODS.items()}
    parts: tuple[str, ...] = HEADING, verdicts(rows, EDITORS, labels), markdown(rows, labels)
    if args.against is not None:
        parts = *parts, against(rows, labels, args.against)
    hand_over("\n".join(parts), args.table)
    if args.plot is not None:
        draw(rows, families(), args.plot)


if __name__ == "__main__":
    main()
