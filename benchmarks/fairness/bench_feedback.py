"""What a loop of labels does to every group, with and without an intervention.

``feedback_audit`` on tables: logistic regressions that learn the labels of their predecessors, from
the third of the positives of the disadvantaged group that a biased first labelling leaves.

    python benchmarks/fairness/bench_feedback.py --task compas-race --seeds 5
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.tasks import TASKS, load_problem
from fairsvd import ConFairReweigher, GapFineTuner, feedback_audit

KEPT = 1 / 3
GAPS = ("equalized_odds", "demographic_parity")


def arms() -> dict[str, dict[str, Any]]:
    """Name what happens from the second generation on."""
    return {
        "nothing": {},
        "half fresh rows": {"share_fresh": 0.5},
        "reparation": {"intervention": "reparation"},
        "ConFairReweigher": {"intervention": ConFairReweigher(constraint="demographic_parity")},
        "GapFineTuner": {"intervention": GapFineTuner(constraint="demographic_parity")},
    }


def main() -> None:
    """Print the medians of the first and the last generation."""
    import warnings

    from fairsvd.exceptions import FairsvdWarning

    warnings.simplefilter("ignore", FairsvdWarning)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", default="compas-race", choices=TASKS)
    parser.add_argument("--form", default="blind")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--generations", type=int, default=6)
    args = parser.parse_args()
    problem = load_problem(args.task, args.form, 0)
    parts = problem.train, problem.validation, problem.test
    X, y, g = (np.concatenate(column) for column in zip(*parts, strict=True))
    fewer = int(np.argmin([y[g == k].mean() for k in (0, 1)]))
    kept = np.random.default_rng(0).random(len(y)) < KEPT
    first = np.where((g == fewer) & ~kept, 0, y)
    name = problem.groups[fewer]
    print(f"### {args.task}, {args.form}, {args.seeds} seeds; first labels of {name} biased\n")
    print(f"| arm | generation | TPR {name} | selected {name} | EO gap | DP gap | accuracy |")
    print("|---|---|---|---|---|---|---|")
    for arm, settings in arms().items():
        audit = feedback_audit(
            LogisticRegression(max_iter=1000),
            X,
            y,
            sensitive_features=np.array(problem.groups)[g],
            first_labels=first,
            n_generations=args.generations,
            n_seeds=args.seeds,
            random_state=0,
            **settings,
        )
        medians = audit.summary.set_index(["measure", "cell", "generation"]).sort_index()["median"]
        for generation in (1, args.generations):
            of_group = [medians[k, name, generation] for k in ("tpr", "selection_rate")]
            whole = [medians[k, "all", generation] for k in (*GAPS, "accuracy")]
            shown = " | ".join(f"{value:.3f}" for value in (*of_group, *whole))
            print(f"| {arm} | {generation} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
