"""Measure the cost of a trial of random perturbation, in plain passes over the judged rows.

The data are 45,000 rows of Adult, of which the validation rows and the sample of editing rows are
judged. The network has three hidden layers of 64 and runs on one torch thread in one process, and
runs take turns. The base is a forward pass over the judged rows as ``EditData.logits`` makes it. It
is compared with the cost per trial (drawn, run and judged), with the threshold sweep of one
candidate, and with the parts of the sweep. With ``--clock cpu`` the seconds are those of this
process without its waiting for a core; use it if other work runs on the machine. The data are found
by ``FAIRSVD_DATA``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Set before torch is loaded, because one core is measured.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.speed.timing import Result, compare, interleave, options_parser, report
from benchmarks.tasks import load_problem
from fairsvd.base import Task
from fairsvd.intraprocessing import RandomPerturbation
from fairsvd.intraprocessing._perturbation import perturb
from fairsvd.objective import gap, utility_from_counts
from fairsvd.phases import float_parameters

N_ROWS, HIDDEN, N_TRIALS = 45_000, (64, 64, 64), 101
SECTIONS = ("trials", "judge", "stacked")
BARS = {"trials": 1.2, "judge": 0.2}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Captured(RandomPerturbation):
    """An editor that keeps what its edit receives, and edits nothing."""

    def _edit(self, task: Task, rng: Any) -> Iterator[Any]:
        self.seen = task
        return iter(())


def capture(n_rows: int, hidden: Sequence[int], seed: int) -> Task:
    """Train a network on Adult for a few passes; return it with the data of an edit."""
    from fairsvd import MLP

    problem = load_problem("adult-sex", "with-group", seed)
    parts = problem.train, problem.validation, problem.test
    X, y, g = (np.concatenate(column)[:n_rows] for column in zip(*parts, strict=True))
    network = MLP(X.shape[1], 2, hidden, generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(200):
        rows = torch.randint(len(X), (256,), generator=generator).numpy()
        logits = network(torch.from_numpy(X[rows]))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(y[rows])).backward()
        optimizer.step()
    editor = Captured(network.eval(), random_state=seed).fit(X, y, sensitive_features=g)
    return editor.seen


def run_all(editor: RandomPerturbation, task: Task, seed: int) -> None:
    with torch.no_grad():
        for _ in editor._edit(task, np.random.default_rng(seed)):
            pass


def bench_trials(options: argparse.Namespace) -> Iterator[Result]:
    """Time all trials against as many plain passes."""
    task = capture(options.rows, HIDDEN, options.seed)
    module, data = task.module, task.data
    editor = RandomPerturbation(n_trials=options.trials)

    def passes() -> None:
        for _ in range(options.trials):
            data.logits(module, {})

    runs = [passes, lambda: run_all(editor, task, options.seed)]
    times = interleave(runs, options.repeats, CLOCKS[options.clock])
    what = f"{options.trials} trials, {len(data.judged)} of {options.rows} rows judged"
    yield compare("trials", what, times, BARS["trials"])


def judge_parts(task: Task) -> dict[str, Callable[[], object]]:
    """Name what a trial is made of."""
    module, data, constraint = task.module, task.data, task.constraint
    logits, judge = data.logits(module, {}), data.judge
    rows, parameters = data.judged.held(), float_parameters(module)
    margins = logits.double().numpy()
    counts = np.concatenate([cuts.counts for cuts in judge._cuts(margins)]).sum(axis=1)
    seed = np.random.SeedSequence(0)
    return {
        "sweep and choice of one candidate": lambda: judge(logits),
        "of that: sort and count": lambda: list(judge._cuts(margins)),
        "of that: utility at every threshold": lambda: utility_from_counts(
            counts, constraint.utility
        ),
        "of that: gap at every threshold": lambda: gap(counts, constraint.gap, constraint.pos),
        "draw of one trial": lambda: perturb(parameters, 0.1, seed),
        "pass over rows that are held": lambda: data.logits(module, parameters, rows),
    }


def bench_judge(options: argparse.Namespace) -> Iterator[Result]:
    """Time the parts of a trial against one plain pass."""
    task = capture(options.rows, HIDDEN, options.seed)
    module, data = task.module, task.data
    for number, (name, run) in enumerate(judge_parts(task).items()):
        runs = [lambda: data.logits(module, {}), run]
        times = interleave(runs, 3 * options.repeats, CLOCKS[options.clock])
        yield compare("judge", name, times, None if number else BARS["judge"])


def bench_stacked(options: argparse.Namespace) -> Iterator[Result]:
    """Time stacked trials against single ones where the rule stacks them."""
    from fairsvd.intraprocessing import _perturbation

    editor, most = RandomPerturbation(n_trials=options.trials), _perturbation.MOST_WORK
    for n_rows, hidden in ((400, (16,)), (1200, (64, 64)), (6000, (16, 16))):
        task = capture(n_rows, hidden, options.seed)

        def run(limit: int, task: Task = task) -> None:
            _perturbation.MOST_WORK = limit
            try:
                run_all(editor, task, options.seed)
            finally:
                _perturbation.MOST_WORK = most

        size = sum(value.numel() for value in float_parameters(task.module).values())
        runs = [lambda run=run: run(0), lambda run=run: run(2**40)]
        work = len(task.data.judged) * size
        chosen = "stacked" if work <= most else "one by one"
        setting = f"stacked, judged rows x parameters 2^{np.log2(work):.1f} (chosen: {chosen})"
        times = interleave(runs, options.repeats, CLOCKS[options.clock])
        yield compare("stacked", setting, times, None)


RUNS = {"trials": bench_trials, "judge": bench_judge, "stacked": bench_stacked}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = options_parser(__doc__.splitlines()[0], SECTIONS)
    parser.add_argument("--rows", type=int, default=N_ROWS)
    parser.add_argument("--trials", type=int, default=N_TRIALS)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit status is 1 where a bar is missed."""
    options = parse(arguments)
    from fairsvd.exceptions import DatasetNotFoundError

    # This benchmark does not ask what the edits achieve.
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        load_problem("adult-sex", "with-group", options.seed)
    except DatasetNotFoundError as error:
        print(f"<!-- skipped, nothing measured: {error} -->")
        return 0
    return report((line for name in options.sections for line in RUNS[name](options)), options)


if __name__ == "__main__":
    sys.exit(main())
