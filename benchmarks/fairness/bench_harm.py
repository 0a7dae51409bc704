"""Who helps without harm? The no-harm protocol of NH-Fair (arXiv:2602.03895) on tables.

Every method against a plain fine-tuning whose learning rate was tuned, by ``Comparison.no_harm``.

    python benchmarks/fairness/bench_harm.py --tasks compas-race german-age --folds 5
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.tasks import FORMS, TASKS, load_table
from fairsvd import compare

METHODS = (
    "threshold",
    "GapFineTuner",
    "InfluenceTuner",
    "ConFairReweigher",
    "DifFair",
    "Reweighing",
    "ThresholdOptimizer",
)
SHOWN = {
    "quadrant": "quadrant",
    "clear": "clear",
    "utility_change": "balanced accuracy",
    "fairness_change": "fall of the gap",
    "groups_lost": "groups that lose",
    "distance": "distance",
    "needs_group": "needs group",
}


def as_markdown(table: pd.DataFrame) -> str:
    """Write the protocol's table with intervals in brackets."""
    lines = [f"| method | {' | '.join(SHOWN.values())} |", f"|---|{'---|' * len(SHOWN)}"]
    for method, row in table.iterrows():
        cells = [f"`{method}`"]
        for name in SHOWN:
            value = row[name]
            if f"{name}_low" in row:
                low, high = row[f"{name}_low"], row[f"{name}_high"]
                cells.append(f"{value:+.3f} ({low:+.3f} to {high:+.3f})")
            elif isinstance(value, float):
                cells.append(f"{value:.2f}")
            else:
                cells.append({True: "yes", False: "no"}.get(value, str(value)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print one table a task, form and constraint."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=["compas-race", "german-age"], choices=TASKS)
    parser.add_argument("--forms", nargs="+", default=["blind"], choices=FORMS)
    parser.add_argument("--constraints", nargs="+", default=["equalized_odds"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for task in args.tasks:
        for form in args.forms:
            found = compare(
                args.methods,
                *load_table(TASKS[task], form),
                cv=args.folds,
                constraints=args.constraints,
                reference="fine-tuning",
                random_state=args.seed,
            )
            for constraint in args.constraints:
                table = found.no_harm(constraint).droplevel("constraint")
                print(f"\n### {task}, {form}, {constraint.replace('_', ' ')}\n")
                print(as_markdown(table), flush=True)


if __name__ == "__main__":
    main()
