"""Measure the bias of a hypernetwork's generators, their use of the data, and self-consuming loops.

There are three sections. ``variance`` measures the bias of the emitted variance at n = 10 over
random Gaussians, with and without the penalty. ``shift`` measures how far the emitted mean moves
when the data move by 1. ``loops`` runs ten generations of self-consumption on a table of 500 rows
with a group of 10 %. All data are simulated.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from sklearn.mixture import GaussianMixture
from sklearn.tree import DecisionTreeClassifier

from fairsvd import CellSampler, HyperGenerator, autophagy_audit
from fairsvd.datasets import make_biased_classification
from fairsvd.generative import CopulaGenerator

SECTIONS = ("variance", "shift", "loops")
TITLES = {
    "variance": "Emitted variance over true variance, n = 10, mean over random Gaussians",
    "shift": "Movement of the emitted mean where the data move by 1",
    "loops": "Fully synthetic loops: 500 rows, a group of 10 %, generation 10",
}
N, N_SETS = 10, 4000
VARIANCES = (0.5, 1.0, 2.0)
WITH, WITHOUT, MOVED, DRIFT = 0.95, 0.92, 0.9, 2.0

Row = tuple[list[str], bool | None]

# Normalisation, penalty, weight, draws, bar (at least or at most).
ESTIMATORS: tuple[tuple[str, str, float, int, tuple[str, float] | None], ...] = (
    ("whiten", "pairs", 0.0, 8, ("<=", WITHOUT)),
    ("whiten", "pairs", 1.0, 8, (">=", WITH)),
    ("whiten", "pairs", 10.0, 8, (">=", WITH)),
    ("whiten", "detached", 1.0, 8, None),
    ("whiten", "detached", 10.0, 8, (">=", WITH)),
    ("whiten", "detached", 1.0, 1, None),
    ("whiten", "through", 0.1, 1, None),
    ("whiten", "through", 1.0, 8, None),
    ("table", "pairs", 0.0, 8, ("<=", WITHOUT)),
    ("table", "pairs", 1.0, 8, None),
    ("table", "pairs", 10.0, 8, None),
    ("table", "through", 0.1, 1, None),
)


def gaussians(rng: np.random.Generator, n_sets: int, n: int) -> np.ndarray:
    """Draw data sets from Gaussians of random mean and variance (.25 to 4)."""
    spread = np.exp(rng.uniform(np.log(0.5), np.log(2), size=(n_sets, 1, 1)))
    return rng.normal(size=(n_sets, 1, 1)) + spread * rng.normal(size=(n_sets, n, 1))


def estimator(normalize: str, seed: int, **settings: Any) -> HyperGenerator:
    """Train on random Gaussians; without normalisation there is more to learn."""
    learned = {"n_steps": 1200, "n_sets": 32, "outer": True}
    given = {"n_steps": 400, "n_sets": 64}
    made = HyperGenerator(
        simulator=gaussians,
        set_size=N,
        normalize=normalize,
        random_state=seed,
        **(learned if normalize == "table" else given) | settings,
    )
    return made.fit(np.random.default_rng(seed).normal(size=(500, 1)))


def ratios(generator: HyperGenerator) -> list[float]:
    """Average emitted over true variance of fresh data sets, for each true variance."""
    import torch

    scores, out = generator._emitted.scores, []
    for k, variance in enumerate(VARIANCES):
        sets = np.random.default_rng(k).normal(size=(N_SETS, N, 1)) * np.sqrt(variance)
        rows = scores.encode_numbers(sets.reshape(-1, 1)).reshape(N_SETS, N, 1)
        with torch.no_grad():
            weights, _, factor = generator.hypernetwork_(rows)
            unit = torch.nn.functional.softplus(weights["raw_scale"][:, 0]) + 1e-3
            spread = factor[:, 0, 0] * unit * scores.scale[0]
        out.append(spread.square().mean().item() / variance)
    return out


def bench_variance(options: argparse.Namespace) -> Iterator[Row]:
    yield ["normalised", "penalty", "weight", "draws", "at .5 / 1 / 2", "mean", "bar"], None
    for normalize, penalty, weight, draws, bar in ESTIMATORS:
        settings = {"penalty": penalty, "autophagy_weight": weight, "n_draws": draws}
        each = np.mean(
            [ratios(estimator(normalize, seed, **settings)) for seed in range(options.seeds)],
            axis=0,
        )
        mean = each.mean()
        met = None if bar is None else bool(mean >= bar[1] if bar[0] == ">=" else mean <= bar[1])
        name = "none" if weight == 0 else penalty
        cells = [normalize, name, f"{weight:g}", "" if weight == 0 else str(draws)]
        cells += [" / ".join(f"{v:.3f}" for v in each), f"{mean:.3f}"]
        yield [*cells, "" if bar is None else f"{bar[0]} {bar[1]:g}"], met


def one_table(rng: np.random.Generator, n_sets: int, n: int) -> np.ndarray:
    """Draw mini-batches of one data set, on which the paper's configurations train."""
    rows = np.random.default_rng(0).normal(size=(500, 1))
    return rows[rng.integers(len(rows), size=(n_sets, n))]


def bench_shift(options: argparse.Namespace) -> Iterator[Row]:
    yield ["normalised", "trained on", "mean moves by", "bar"], None
    settings = {"autophagy_weight": 1.0, "set_size": 100, "random_state": 0}
    learned = settings | {"normalize": "table", "n_steps": 1000, "n_sets": 16}
    X = np.random.default_rng(0).normal(size=(500, 1))
    cases: list[tuple[str, str, dict[str, Any], bool]] = [
        ("whiten", "resampled parts of the table", settings | {"n_steps": 200}, True),
        ("table", "resampled parts, shifted and scaled", learned, True),
        ("table", "random Gaussians", learned | {"simulator": gaussians}, True),
        ("table", "mini-batches of the one table", learned | {"simulator": one_table}, False),
    ]
    for normalize, what, given, judged in cases:
        generator = HyperGenerator(**given).fit(X)
        here = generator.estimate(X)["mean"][0]
        moved = [float(generator.estimate(X + by)["mean"][0] - here) * by for by in (1, -1)]
        bar = f">= {MOVED:g}" if judged else ""
        cells = [normalize, what, " / ".join(f"{m:.3f}" for m in moved), bar]
        yield cells, min(moved) >= MOVED if judged else None


def loops() -> Iterable[tuple[str, Callable[[], Any], str, bool]]:
    """List the loops: name, generator, conditions, and whether the bar applies."""
    kept = {"n_steps": 200, "warm_start": True}
    match = {"sampling_strategy": "match", "mode": "replace"}
    again = {"n_steps": 40, "n_draws": 4}
    return (
        ("CellSampler, copula", lambda: CellSampler(**match), "auto", True),
        (
            "CellSampler, hyper",
            lambda: CellSampler(generator=HyperGenerator(**again), **match),
            "auto",
            True,
        ),
        ("HyperGenerator, fixed cells", lambda: HyperGenerator(**kept), "fixed", True),
        (
            "HyperGenerator, no penalty",
            lambda: HyperGenerator(**kept, autophagy_weight=0.0),
            "fixed",
            True,
        ),
        (
            "HyperGenerator, no clip",
            lambda: HyperGenerator(**kept, clip=False),
            "fixed",
            True,
        ),
        (
            "HyperGenerator, no clip, weight 10",
            lambda: HyperGenerator(**kept, clip=False, autophagy_weight=10.0),
            "fixed",
            True,
        ),
        ("HyperGenerator, drawn cells", lambda: HyperGenerator(**kept), "drawn", False),
        ("HyperGenerator, unconditioned", lambda: HyperGenerator(**kept), "joint", False),
        ("copula, unconditioned", CopulaGenerator, "joint", False),
        ("Gaussian mixture, unconditioned", lambda: GaussianMixture(4), "joint", False),
    )


def bench_loops(options: argparse.Namespace) -> Iterator[Row]:
    yield (
        [
            "generator",
            "share of the group: median (least, most)",
            "off by at most",
            "loops with an extinct cell",
            "variance ratio, smallest cell: median (10 %, 90 %)",
            "Frechet distance, all rows",
            "AUC of a tree, all rows",
            "bar",
        ],
        None,
    )
    task = make_biased_classification(
        500, n_features=6, group_shares=[0.9, 0.1], base_rate_gap=0.1, random_state=0
    )
    group = task.sensitive_features["group"].to_numpy()
    for name, make, conditions, judged in loops():
        if options.only not in name:
            continue
        audit = autophagy_audit(
            make(),
            task.data,
            task.target,
            sensitive_features=group,
            n_generations=options.generations,
            n_seeds=options.loops,
            conditions=conditions,
            detector=DecisionTreeClassifier(max_depth=5, min_samples_leaf=10, random_state=0),
            random_state=0,
        )
        cells, met = loop_line(audit, group)
        bar = f"0 extinct, <= {DRIFT:g} points" if judged else ""
        yield [name, *cells, bar], met if judged else None


def loop_line(audit: Any, group: np.ndarray) -> tuple[list[str], bool]:
    """Write the last generation of an audit; the bar applies to all generations."""
    runs = audit.runs[audit.runs["cell"] != "all"]
    minority = runs[runs["group"] == "g1"].groupby(["seed", "generation"])["share"].sum()
    off = 100 * (minority - (group == "g1").mean()).abs().max()
    last = runs["generation"].max()
    shares = minority.xs(last, level="generation")
    extinct = runs.groupby("seed")["extinct"].any().sum()
    end = audit.summary[audit.summary["generation"] == last].set_index(["cell", "measure"])
    smallest = runs[runs["generation"] == 1].groupby("cell")["share"].median().idxmin()
    spread = end.loc[(smallest, "variance_ratio")]
    cells = [
        f"{shares.median():.3f} ({shares.min():.3f}, {shares.max():.3f})",
        f"{off:.1f} points",
        f"{extinct} of {runs['seed'].nunique()}",
        f"{spread['median']:.2f} ({spread['low']:.2f}, {spread['high']:.2f})",
        f"{end.loc[('all', 'frechet_distance'), 'median']:.3f}",
        f"{end.loc[('all', 'detector_auc'), 'median']:.3f}",
    ]
    return cells, bool(extinct == 0 and off <= DRIFT)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sections", default=",".join(SECTIONS), help="comma-separated")
    parser.add_argument("--seeds", type=int, default=2, help="trainings for each estimator")
    parser.add_argument("--loops", type=int, default=10)
    parser.add_argument("--generations", type=int, default=10)
    parser.add_argument("--only", default="", help="loops of generators whose name holds this")
    parser.add_argument("--table", type=Path, help="append the tables to this file, too")
    options = parser.parse_args(arguments)
    benches = {"variance": bench_variance, "shift": bench_shift, "loops": bench_loops}
    failed = 0
    for section in options.sections.split(","):
        lines = [f"### {TITLES[section]}", ""]
        print(*lines, sep="\n", flush=True)
        for number, (cells, met) in enumerate(benches[section](options)):
            mark = "" if met is None else (" met" if met else " MISSED")
            lines.append(f"| {' | '.join(cells)}{mark} |")
            print(lines[-1], flush=True)
            if number == 0:
                lines.append("|" + "---|" * len(cells))
                print(lines[-1], flush=True)
            failed += met is False
        if options.table:
            with options.table.open("a", encoding="utf-8") as file:
                file.write("\n".join([*lines, "", ""]))
        print()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
