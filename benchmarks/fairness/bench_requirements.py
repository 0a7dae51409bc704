r"""What is reported as met, and what is promised, against test rows of the five real tables.

FairLRFTransformer is asked for gaps and rates with a confidence, and for no harm without one. Every
split draws new editing and test rows. A request is *broken* if the test rows exceed its limit, and
*broken beyond noise* if they still do so at the fifth percentile of 500 resamples of the test rows.
Where no harm was asked for, *rate fell* counts those in which some group's true positive or true
negative rate fell by more than the limit on the test rows, and beyond noise those in which the
exact lower bound of a fall exceeds it, at 5 % for all rates of a split together. ``psi`` is that of
equalized odds, so that the rows without a confidence say what no harm costs.

    python benchmarks/fairness/bench_requirements.py --seeds 10 --out requirements.jsonl \
        --table requirements.md --resume
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.fairness.bench_methods import (
    append_row,
    hand_over,
    key_of,
    names_of,
    prepare,
    read_rows,
    seeds_of,
    start_over,
)
from benchmarks.fairness.context import Context
from benchmarks.fairness.protocol import evaluate
from benchmarks.nets import margins
from benchmarks.tasks import TASKS, Rows, load_problem
from fairsvd import GapLimit, MinimumRate, NoHarm
from fairsvd.objective import bound_shares

CONFIDENCE = 0.95
ODDS = "equalized_odds"
# What is asked, and with which confidence.
ASKED: dict[str, tuple[list[Any], float | None]] = {
    "equalized odds at most .1": ([GapLimit(ODDS, 0.1)], CONFIDENCE),
    "demographic parity at most .1": ([GapLimit("demographic_parity", 0.1)], CONFIDENCE),
    "TPR at least .6": ([GapLimit(ODDS, 0.1), MinimumRate("tpr", 0.6)], CONFIDENCE),
    "equalized odds at most .05": ([GapLimit(ODDS, 0.05)], None),
    "the same, no harm above .02": ([GapLimit(ODDS, 0.05), NoHarm(0.02)], None),
}
RESAMPLES, LOW = 500, 0.05


def moves(before: np.ndarray, after: np.ndarray, rows: Rows, n_groups: int) -> np.ndarray:
    """Count test rows by [group, label, predicted before, predicted after]."""
    codes = ((rows.g * 2 + rows.y) * 2 + before) * 2 + after
    return np.bincount(codes, minlength=n_groups * 8).reshape(n_groups, 2, 2, 2)


def excess(asked: list[Any], counts: np.ndarray) -> np.ndarray:
    """Measure by how much counts (..., group, label, before, after) exceed the closest limit."""
    before, after = counts.sum(axis=-1), counts.sum(axis=-2)
    return np.max([each.measure(after, 1, before) - each.limit for each in asked], axis=0)


def lower_bound(counts: np.ndarray) -> float:
    """Bound the largest fall of a rate from below, at 5 % for all rates together.

    A fall is the share of rows that were right before and are wrong, minus that of rows the other
    way round; both are bounded as Clopper and Pearson do, and joined by the method of variances.
    """
    right = np.arange(2)
    # Of every group and label.
    lost = counts[:, right, right, 1 - right]
    gained = counts[:, right, 1 - right, right]
    tail = LOW / lost.size
    out, back = (bound_shares(each, counts.sum(axis=(2, 3)), tail) for each in (lost, gained))
    error = np.hypot(out.value - out.low, back.high - back.value)
    return float((out.value - back.value - error).max())


def run(context: Context, test: Rows, name: str) -> dict[str, Any]:
    """Edit the base network under a request, and hold it against the test rows."""
    from sklearn.model_selection import PredefinedSplit

    from fairsvd import FairLRFTransformer

    asked, confidence = ASKED[name]
    parts, n_groups = (context.train, context.validation), len(context.groups)
    X, y, g = (np.concatenate(column) for column in zip(*parts, strict=True))
    editor = FairLRFTransformer(
        context.network,
        constraint=asked,
        confidence=confidence,
        validation=PredefinedSplit(np.repeat([-1, 0], [len(part.y) for part in parts])),
        random_state=context.seed,
    )
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unmet request is what is counted
        editor.fit(X, y, sensitive_features=np.asarray(context.groups)[g])
    seconds = time.process_time() - started
    report = editor.report_
    given = report.certificate.given if confidence else bool(report.constraints["met"].all())
    before = (margins(context.network, test.X) > 0).astype(int)
    after = editor.predict(test.X)
    counts = moves(before, after, test, n_groups)
    rng = np.random.default_rng(context.seed)
    drawn = rng.multinomial(counts.sum(), counts.ravel() / counts.sum(), size=RESAMPLES)
    low = np.nanquantile(excess(asked, drawn.reshape(RESAMPLES, *counts.shape)), LOW)
    harm = [each for each in asked if isinstance(each, NoHarm)]
    fell = (
        {
            "rate_fell": bool(given and excess(harm, counts) > 0),
            "rate_fell_beyond_noise": bool(given and lower_bound(counts) > harm[0].limit),
        }
        if harm
        else {}
    )
    measured = evaluate(after, test, ODDS)
    return {
        "given": given,
        "broken": bool(given and excess(asked, counts) > 0),
        "broken_beyond_noise": bool(given and low > 0),
        **fell,
        "psi": measured["psi"],
        "balanced_accuracy": measured["balanced_accuracy"],
        "equalized_odds_difference": measured["equalized_odds_difference"],
        "cpu_seconds": seconds,
    }


def measure(task: str, seed: int, names: Sequence[str], form: str, dev: bool, out: Path) -> None:
    """Measure the missing requests of one split of one task."""
    import torch

    torch.set_num_threads(1)
    problem = load_problem(task, form, seed, dev=dev)
    context = prepare(problem)
    for name in names:
        row = {"task": task, "form": form, "seed": seed, "dev": dev, "constraint": name}
        append_row(out, {**row, "method": "fairlrf", **run(context, problem.test, name)})


def lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Write one line for each request of each task, then one for each request of all tasks."""
    table = pd.DataFrame(rows)
    columns = ("asked", "task", "splits", "given", "broken", "beyond noise")
    columns += ("rate fell", "beyond noise", "psi", "bal. acc.")
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for asked in [name for name in ASKED if name in set(table["constraint"])]:
        chosen = table[table["constraint"] == asked]
        for task, part in [*chosen.groupby("task", sort=False), ("all", chosen)]:
            counts = [len(part), *part[["given", "broken", "broken_beyond_noise"]].sum()]
            means = [part[c].mean() for c in ("psi", "balanced_accuracy")]
            fell = [_count(part, name) for name in ("rate_fell", "rate_fell_beyond_noise")]
            cells = [asked, task, *map(str, counts), *fell, *(f"{mean:.3f}" for mean in means)]
            yield "| " + " | ".join(cells) + " |"


def _count(part: pd.DataFrame, name: str) -> str:
    """Count the splits of which a row says so; "" if nothing was asked of it."""
    known = part[name].dropna() if name in part else part.index[:0]
    return str(int(sum(known))) if len(known) else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing and write the table."""
    parser = argparse.ArgumentParser(description="Hold what is reported against test rows.")
    parser.add_argument("--tasks", type=names_of(TASKS), default=list(TASKS))
    parser.add_argument("--form", choices=("with-group", "blind"), default="blind")
    parser.add_argument("--asked", nargs="*", choices=list(ASKED), default=list(ASKED))
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("10"))
    parser.add_argument("--out", type=Path, default=Path("requirements.jsonl"))
    parser.add_argument("--table", type=Path, default=None)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--dev", action="store_true")
    args = parser.parse_args(arguments)
    start_over(args)
    done = {key_of(row) for row in read_rows(args.out)}
    for seed in args.seeds:
        for task in args.tasks:
            here = (task, args.form, seed, args.dev)
            todo = [name for name in args.asked if (*here, name, "fairlrf") not in done]
            if todo:
                measure(task, seed, todo, args.form, args.dev, args.out)
    rows = [row for row in read_rows(args.out) if row["dev"] == args.dev]
    hand_over("\n".join([*lines(rows), ""]), args.table)


if __name__ == "__main__":
    main()
