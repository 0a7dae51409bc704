"""Does the direction of the evaluation of ConFair's authors hold? Logistic regressions on tables.

Their protocol (arXiv:2303.17566): the threshold has the best balanced accuracy on validation rows,
and of 20 extra weights the one of the smallest difference of selection rates there is taken. The
columns are means over seeds: the ratio of selection rates (the smaller over the larger), 1 minus
the absolute average odds difference, and balanced accuracy.

    python benchmarks/fairness/bench_conformance.py --seeds 5
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.fairness.conformance import fitting_rows, logistic
from benchmarks.tasks import FORMS, TASKS, Problem, load_problem
from fairsvd import ConFairReweigher, DifFair

ALPHAS = np.linspace(0.1, 2.0, 20)
COLUMNS = ("DI", "AOD", "balanced accuracy")
# With these the gap has no part in the choice of the threshold.
FOR_UTILITY = {"tolerance": 1.0, "tolerance_fraction": 1.0}


def rates(predictions: np.ndarray, y: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give every group's selection rate (2,), and the rate at every label [label, group]."""
    selected = np.array([predictions[g == k].mean() for k in (0, 1)])
    by_label = [[predictions[(y == label) & (g == k)].mean() for k in (0, 1)] for label in (0, 1)]
    return selected, np.array(by_label)


def figures(predictions: np.ndarray, rows: Any) -> list[float]:
    """Give the values of COLUMNS."""
    selected, by_label = rates(predictions, rows.y, rows.g)
    odds = abs((by_label[:, 1] - by_label[:, 0]).mean())
    right = [(predictions == k)[rows.y == k].mean() for k in (0, 1)]
    return [float(selected.min() / selected.max()), float(1 - odds), float(np.mean(right))]


def confair(problem: Problem, settings: dict[str, Any]) -> Any:
    """Search the extra weight for the smallest difference of selection rates."""
    rows, _ = fitting_rows(problem.train, problem.validation)
    best, chosen = np.inf, None
    for alpha in ALPHAS:
        model = ConFairReweigher(logistic(), alpha=float(alpha), **settings)
        model.fit(rows.X, rows.y, sensitive_features=rows.g)
        held = problem.validation
        selected, _ = rates(model.predict(held.X), held.y, held.g)
        if np.ptp(selected) < best:
            best, chosen = np.ptp(selected), model
    return chosen


def measure(problem: Problem) -> dict[str, list[float]]:
    """Fit all models on one problem."""
    rows, split = fitting_rows(problem.train, problem.validation)
    settings = {"validation": split, "random_state": problem.seed, **FOR_UTILITY}
    models = {
        "original": ConFairReweigher(logistic(), **settings),
        "Kamiran-Calders": ConFairReweigher(logistic(), alpha=0.0, **settings),
        "DifFair": DifFair(logistic(), **settings),
    }
    found = {}
    for name, model in models.items():
        groups = {} if name == "original" else {"sensitive_features": rows.g}
        found[name] = model.fit(rows.X, rows.y, **groups)
    found["ConFair"] = confair(problem, settings)
    return {
        k: figures(np.asarray(m.predict(problem.test.X)), problem.test) for k, m in found.items()
    }


def main() -> None:
    """Print one table a task and form."""
    import warnings

    from fairsvd.exceptions import MissingSensitiveFeaturesWarning

    warnings.simplefilter("ignore", MissingSensitiveFeaturesWarning)  # of the original
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=["compas-race", "adult-sex"], choices=TASKS)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    for task in args.tasks:
        for form in args.forms:
            runs = [measure(load_problem(task, form, seed)) for seed in range(args.seeds)]
            print(f"\n### {task}, {form}, {args.seeds} seeds\n")
            print(f"| method | {' | '.join(COLUMNS)} |\n|---|---|---|---|")
            for name in runs[0]:
                means = np.mean([run[name] for run in runs], axis=0)
                print(f"| {name} | {' | '.join(f'{value:.3f}' for value in means)} |", flush=True)


if __name__ == "__main__":
    main()
