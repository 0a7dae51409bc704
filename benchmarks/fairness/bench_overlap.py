"""Does the overlap class of synthetic rows help? CellSampler with and without it, on tables.

A forest and a logistic regression learn from the rows of the sampler; real rows judge them. After
D'souza et al. (arXiv:2412.15657), who learn from synthetic rows of clear cells only.

    python benchmarks/fairness/bench_overlap.py --tasks german-age compas-race adult-sex --seeds 3
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.tasks import TASKS, load_table, split
from fairsvd import CellSampler
from fairsvd.comparison import table_encoder

COLUMNS = ("balanced accuracy", "worst cell", "equalized odds gap")
ROWS = 6000  # of a larger table that many are drawn


def samplers(seed: int) -> dict[str, CellSampler | None]:
    """Name the sets of rows that are learned from."""
    made: dict[str, CellSampler | None] = {"real rows": None}
    for mode in ("replace", "augment"):
        for overlap in (None, 0.3):
            name = mode + ("" if overlap is None else ", overlap .3")
            made[name] = CellSampler(mode=mode, overlap=overlap, random_state=seed)
    return made


def figures(predicted: np.ndarray, y: np.ndarray, g: np.ndarray) -> list[float]:
    """Give the values of COLUMNS."""
    right = predicted == y
    cells = np.array([[right[(y == k) & (g == j)].mean() for j in np.unique(g)] for k in (0, 1)])
    balanced = np.mean([right[y == k].mean() for k in (0, 1)])
    return [float(balanced), float(cells.min()), float(np.ptp(cells, axis=1).max())]


def measure(task: str, form: str, seed: int) -> dict[tuple[str, str], list[float]]:
    """Fit every learner on every set of rows."""
    frame, y, names = load_table(TASKS[task], form)
    rows = np.random.default_rng(seed).permutation(len(y))[:ROWS]
    frame, y, names = frame.iloc[rows].reset_index(drop=True), y[rows], names[rows]
    _, g = np.unique(names, return_inverse=True)
    train, validation, test = split(2 * y + g, seed)
    fitting = np.sort(np.concatenate([train, validation]))
    numbers = list(frame.select_dtypes("number").columns)
    others = [name for name in frame.columns if name not in numbers]
    found = {}
    for name, sampler in samplers(seed).items():
        X: Any = frame.iloc[fitting].reset_index(drop=True)
        labels: Any = y[fitting]
        if sampler is not None:
            X, labels = sampler.fit_resample(X, labels, sensitive_features=pd.Series(g[fitting]))
        learners = LogisticRegression(max_iter=1000), RandomForestClassifier(random_state=seed)
        for learner in learners:
            model = make_pipeline(table_encoder(numbers, others), learner)
            model.fit(X, np.asarray(labels))
            predicted = model.predict(frame.iloc[test])
            found[type(learner).__name__, name] = figures(predicted, y[test], g[test])
    return found


def main() -> None:
    """Print one table a task."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=["german-age", "compas-race", "adult-sex"])
    parser.add_argument("--form", default="blind")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    for task in args.tasks:
        runs = [measure(task, args.form, seed) for seed in range(args.seeds)]
        print(f"\n### {task}, {args.form}, {args.seeds} seeds\n")
        print(f"| learner | rows | {' | '.join(COLUMNS)} |\n|---|---|---|---|---|")
        for learner, name in runs[0]:
            means = np.mean([run[learner, name] for run in runs], axis=0)
            print(f"| {learner} | {name} | {' | '.join(f'{v:.3f}' for v in means)} |", flush=True)


if __name__ == "__main__":
    main()
