r"""Compare editors, controls and peers on tweets: is a tweet toxic, by the dialect of its words.

The rows are embeddings of tweets by MiniLM (Davidson et al., 2017; dialects by the model of
Blodgett et al., 2016), read from ``hate_dialect/davidson_minilm.npz`` below ``FAIRSVD_DATA``: E
(n, 384), toxic and dialect (AAE or WAE). The base network is the one of the tables, trained on the
embeddings. As in ``bench_methods.py``, every row is written to a JSON-lines file at once.

    python benchmarks/fairness/bench_text.py --seeds 5 --out text.jsonl --table text.md --resume
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.fairness.bench_images import CONSTRAINT, is_scarce, lines_of
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
from benchmarks.fairness.context import Context, Method
from benchmarks.fairness.controls import CONTROLS, REFIT, SHORT
from benchmarks.fairness.faces import located
from benchmarks.fairness.ours import EDITORS, OURS, own
from benchmarks.fairness.peers import PEERS
from benchmarks.fairness.protocol import pool
from benchmarks.nets import mlp, train
from benchmarks.tasks import Problem, Rows, split

TASK, FORM = "tweets-dialect", "as-is"
# The gap of the validation rows, of which 39 are of the smallest cell, is hardly known to .05.
WIDER = {
    f"{name}-wider": own(kind, f"{kind}, tolerance .1", tolerance=0.1)
    for name, kind in (
        ("fairlrf", "FairLRFTransformer"),
        ("bias-mask", "BiasMaskFineTuner"),
        ("gap", "GapFineTuner"),
        ("rule", "BlindPostProcessor"),
    )
}
METHODS: dict[str, Method] = {
    **CONTROLS,
    **REFIT,
    **SHORT,
    **{name: OURS[name] for name in EDITORS},
    **WIDER,
    **{name: OURS[name] for name in ("fairlrf-random", "removal-as-it-is")},
    **{name: PEERS[name] for name in ("oxonfair-inferred", "oxonfair-actual")},
}
UNTOUCHED = {"untouched": "threshold .5", "untouched-utility": "threshold for utility"}


def load_tweets(seed: int, dev: bool) -> Problem:
    """Load and split the tweets 49/21/30, stratified by (label, dialect).

    Development runs leave the seed's test rows out and repeat the split inside the rest.
    """
    with np.load(located("hate_dialect", "davidson_minilm.npz", TASK)) as stored:
        X, y = stored["E"].astype(np.float32), stored["toxic"].astype(np.int64)
        groups, g = np.unique(stored["dialect"], return_inverse=True)
    strata = y * len(groups) + g
    train_rows, validation, test = split(strata, seed)
    if dev:
        inside = np.sort(np.concatenate([train_rows, validation]))
        train_rows, validation, test = (inside[part] for part in split(strata[inside], seed))
    parts = (Rows(X[part], y[part], g[part]) for part in (train_rows, validation, test))
    return Problem(TASK, FORM, seed, tuple(map(str, groups)), *parts)


def prepare(problem: Problem) -> Context:
    """Train the base network and hide the labels of the test rows."""
    network = mlp(problem.train.X.shape[1], problem.seed)
    train(network, problem.train.X, problem.train.y, seed=problem.seed)
    scarce = is_scarce(pool([problem.train, problem.validation]))
    return Context.of(
        problem,
        network,
        utility="mean_and_worst_cell_accuracy" if scarce else "balanced_accuracy",
        balance="cells" if scarce else "classes",
    )


def run_seed(seed: int, names: Sequence[str], dev: bool, out: Path) -> None:
    """Measure the missing methods of one seed."""
    import torch

    torch.set_num_threads(1)
    problem = load_tweets(seed, dev)
    context = prepare(problem)
    here = {"task": TASK, "form": FORM, "seed": seed, "dev": dev}
    context.shares.update(known_shares(rows_at(out, here)))
    for name in names:
        row = {**here, "method": name, **measure(context, problem, CONSTRAINT, METHODS[name])}
        context.shares.update(known_shares([row]))
        append_row(out, {**row, "balance": context.balance})


def bars(rows: Sequence[Row], labels: Mapping[str, str]) -> Iterator[str]:
    """Say for each editor by what factor the gap fell, and what that cost."""
    pairs = {(row["method"], row["seed"]): row for row in rows if not row["error"]}
    columns = (f"{each}, {what}" for what in UNTOUCHED.values() for each in ("ratio", "lost"))
    yield f"| editor | {' | '.join(columns)} |"
    yield "|---|" + "---|" * 2 * len(UNTOUCHED)
    for name in (*EDITORS, *WIDER):
        cells = [cell for other in UNTOUCHED for cell in compared(pairs, name, other)]
        if all(cells):
            yield f"| {labels[name]} | {' | '.join(cells)} |"


def compared(pairs: Mapping[tuple[str, int], Row], method: str, other: str) -> tuple[str, str]:
    """Divide a method's mean gap by another's, and tell the mean balanced accuracy it lost."""
    seeds = [seed for name, seed in pairs if name == method and (other, seed) in pairs]
    if not seeds:
        return "", ""
    gap, accuracy = (
        [np.mean([pairs[name, seed][column] for seed in seeds]) for name in (method, other)]
        for column in (f"{CONSTRAINT}_difference", "balanced_accuracy")
    )
    return f"{gap[0] / gap[1]:.2f}", f"{accuracy[1] - accuracy[0]:.3f}"


def markdown(rows: Sequence[Row]) -> str:
    """Write the table, and what each editor's gap is beside the untouched network's."""
    labels = {name: method.label for name, method in METHODS.items()}
    return "\n".join([*lines_of(rows, labels), "", *bars(rows, labels), ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing and write the table."""
    from joblib import Parallel, delayed

    made = parser("Compare methods on tweets.", [TASK], [TASK], [FORM], [CONSTRAINT], METHODS)
    made.set_defaults(seeds=seeds_of("5"), out=Path("text.jsonl"))
    args = made.parse_args(arguments)
    start_over(args)
    Parallel(n_jobs=args.jobs)(
        delayed(run_seed)(seed, [name for _, name in todo], args.dev, args.out)
        for _, _, seed, todo in plan(args)
    )
    hand_over(markdown([row for row in read_rows(args.out) if row["dev"] == args.dev]), args.table)


if __name__ == "__main__":
    main()
