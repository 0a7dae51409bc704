"""How often a promise with a confidence is broken, where the truth is known.

    python benchmarks/promises.py --populations 500 --out promises.jsonl

Populations are drawn at random: two or three groups, their shares, base rates, and how well and how
differently a score separates their labels. In each an editor shifts the groups' scores by several
amounts, chooses, and certifies on the rows that it kept apart. The score is normal within every
(label, group) cell, so that the true rates of the result have a closed form. A promise is broken if
the truth exceeds its limit. Beside it stands what confidence=None reports as met.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from fairsvd import GapLimit, MinimumRate, NoHarm, RatioLimit
from fairsvd.base import Candidate, NetworkEditor, Task

__all__ = ["ASKED", "GroupShifter", "Population", "draw_population", "run"]

# What is asked, each of which some populations can meet and some cannot.
ASKED: dict[str, list[Any]] = {
    "equalized odds .1": [GapLimit("equalized_odds", 0.1)],
    "demographic parity .05": [GapLimit("demographic_parity", 0.05)],
    "predictive parity .1": [GapLimit("ppv", 0.1)],
    "four fifths": [RatioLimit("selection_rate", 0.8)],
    "TPR at least .75": [MinimumRate("tpr", 0.75)],
    "no harm .05, TPR gap .1": [NoHarm(0.05), GapLimit("equal_opportunity", 0.1)],
}
# Validation rows, of which half certify, and their share of all rows.
ROWS, HELD = (4000,), 0.8
# Amounts by which the candidates shift the scores of groups.
SHIFTS = (-0.5, -0.25, 0.25, 0.5)


@dataclass(frozen=True)
class Population:
    """The law of rows: the score of a (group, label) cell is normal with deviation 1.

    Attributes
    ----------
    shares : ndarray of shape (n_groups,)
    base : ndarray of shape (n_groups,)
        Share of positive labels in each group.
    means : ndarray of shape (n_groups, 2)
        Mean of the score by group and label.
    """

    shares: NDArray[np.float64]
    base: NDArray[np.float64]
    means: NDArray[np.float64]

    def draw(self, n: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """Draw features (score and group indicators), labels and groups."""
        group = rng.choice(len(self.shares), size=n, p=self.shares)
        y = (rng.random(n) < self.base[group]).astype(np.int64)
        score = self.means[group, y] + rng.normal(size=n)
        return np.column_stack([score, np.eye(len(self.shares))[group]]), y, group

    def table(self, weight: NDArray[np.float64], cut: float) -> NDArray[np.float64]:
        """Compute the shares of [group, true, predicted] of a linear score that is cut."""
        selected = norm.sf((cut - weight[1:, None]) / weight[0] - self.means)
        labels = np.stack([1 - self.base, self.base], axis=1) * self.shares[:, None]
        return np.stack([labels * (1 - selected), labels * selected], axis=-1)


def draw_population(rng: np.random.Generator) -> Population:
    """Draw a population with two or three groups."""
    n = int(rng.integers(2, 4))
    shares = rng.dirichlet(np.full(n, 4.0)) * 0.7 + 0.3 / n
    low = rng.normal(0, 0.3, size=n)
    means = np.stack([low - 1, low - 1 + rng.uniform(1.5, 3.0) + rng.normal(0, 0.2, size=n)], 1)
    return Population(shares, rng.uniform(0.25, 0.6, size=n), means)


class GroupShifter(NetworkEditor):
    """Shifts the scores of one group at a time; its network is linear in score and group."""

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        yield Candidate({})
        weight = task.module.get_parameter("weight").detach()
        for group in range(1, weight.shape[1]):
            for shift in SHIFTS:
                changed = weight.clone()
                changed[1, group] += shift
                yield Candidate({"weight": changed}, {"group": group - 1, "shift": shift})


def network(population: Population) -> torch.nn.Linear:
    """Make the network whose margin is the score."""
    net = torch.nn.Linear(1 + len(population.shares), 2, bias=False)
    with torch.no_grad():
        net.weight.zero_()
        net.weight[1, 0] = 1.0
    return net


def run(name: str, n_rows: int, confidence: float | None, seed: int) -> dict[str, Any]:
    """Draw a population, edit on so many validation rows, and compare with the truth."""
    rng = np.random.default_rng([seed, n_rows])
    population = draw_population(rng)
    X, y, group = population.draw(round(n_rows / HELD), rng)
    editor = GroupShifter(
        network(population),
        constraint=ASKED[name],
        confidence=confidence,
        validation=HELD,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        editor.fit(X.astype(np.float32), y, sensitive_features=group)
    # The whole report takes longer than the fit.
    certificate, frame = editor._report.certificate, editor._report.constraint_frame()
    given = bool(frame["met"].all()) if confidence is None else certificate.given
    weight = editor.module_.weight.detach().double().numpy()
    margin = weight[1] - weight[0]
    start = np.r_[1.0, np.zeros(len(population.shares))]
    before, after = population.table(start, 0.0), population.table(margin, editor.offset_)
    met = all(float(each.measure(after, 1, before)) <= each.limit for each in ASKED[name])
    recall = after.sum(axis=0)
    return {
        "asked": name,
        "validation rows": n_rows,
        "confidence": confidence,
        "seed": seed,
        "given": bool(given),
        "broken": bool(given and not met),
        "could be": bool(met),
        "balanced accuracy": float(np.mean(np.diagonal(recall) / recall.sum(axis=1))),
        "rows needed": np.nan if certificate is None else certificate.rows_needed,
    }


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Count promises and broken ones."""
    grouped = rows.groupby(["asked", "validation rows", "confidence"], dropna=False, sort=False)
    table = grouped.agg(
        populations=("given", "size"),
        given=("given", "mean"),
        broken=("broken", "sum"),
        accuracy=("balanced accuracy", "mean"),
    )
    table["broken of all"] = table["broken"] / table["populations"]
    table["broken of given"] = table["broken"] / (table["given"] * table["populations"])
    return table.reset_index()


def main() -> None:
    """Print one line for each request, size and confidence; go on where a file of rows ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--populations", type=int, default=500)
    parser.add_argument("--asked", nargs="*", default=list(ASKED), choices=list(ASKED))
    parser.add_argument("--confidences", nargs="*", type=float, default=[0.9, 0.95])
    parser.add_argument("--out", type=Path, default=Path("promises.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    if options.out.exists():
        rows = [json.loads(line) for line in options.out.read_text().splitlines()]
    key = ("seed", "asked", "validation rows", "confidence")
    done = {tuple(row[name] for name in key) for row in rows}
    # Population by population, so that a run that is cut short has as many of every request.
    confidences = (None, *options.confidences)
    todo = product(range(options.populations), options.asked, ROWS, confidences)
    with options.out.open("a") as out:
        for seed, name, n_rows, confidence in todo:
            if (seed, name, n_rows, confidence) not in done:
                rows.append(run(name, n_rows, confidence, seed))
                out.write(json.dumps(rows[-1]) + "\n")
                out.flush()
    print(summarise(pd.DataFrame(rows)).to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
