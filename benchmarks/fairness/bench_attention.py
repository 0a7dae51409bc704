r"""Compare attention temperatures with other editors on sentences from templates.

The base network is a small BERT, or MiniLM-L6, trained on sentences in which a doubtful word said
of somebody young is unkind more often than of somebody old (``templates.py``). Rows of edits, of
the choice and of the test have no such link. As in ``bench_methods.py``, every row is written to a
JSON-lines file at once.

    python benchmarks/fairness/bench_attention.py --seeds 5 --out attention.jsonl --resume
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.fairness.bench_images import CONSTRAINT, lines_of
from benchmarks.fairness.bench_methods import (
    Row,
    append_row,
    hand_over,
    measure,
    parser,
    plan,
    read_rows,
    seeds_of,
    start_over,
)
from benchmarks.fairness.context import Context, Method
from benchmarks.fairness.controls import CONTROLS
from benchmarks.fairness.ours import OURS, own
from benchmarks.fairness.templates import TASK, load_sentences, miniature, minilm
from benchmarks.tasks import Rows


class Reader(NamedTuple):
    """How a base network is made: its maker, learning rate, batches, passes, rows of the task."""

    make: Callable[[int], tuple[nn.Module, Callable[[list[str]], np.ndarray]]]
    rate: float
    size: int
    epochs: int
    n_rows: int


READERS = {
    "small": Reader(miniature, 1e-3, 64, 15, 3000),
    "minilm": Reader(minilm, 5e-5, 32, 2, 1200),
}
TEMPER = "AttentionTemper"
METHODS: dict[str, Method] = {
    **CONTROLS,
    "temper": own(TEMPER, "attention temperatures, layers (default)"),
    "temper-model": own(TEMPER, "attention temperatures, one", granularity="model"),
    "temper-head": own(TEMPER, "attention temperatures, heads", granularity="head"),
    **{name: OURS[name] for name in ("perturbation", "layer-wise", "gap", "fairlrf")},
}


def taught(network: nn.Module, rows: Rows, how: Reader, seed: int) -> nn.Module:
    """Train a base network in place by Adam; in evaluation mode."""
    X, y = torch.from_numpy(rows.X), torch.from_numpy(rows.y)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=how.rate)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of dropout
        network.train()
        for _ in range(how.epochs):
            for batch in torch.randperm(len(y), generator=generator).split(how.size):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(X[batch]), y[batch]).backward()
                optimizer.step()
    return network.eval()


def run_seed(reader: str, seed: int, names: Sequence[str], out: Path) -> None:
    """Measure the missing methods of one base network."""
    torch.set_num_threads(1)
    how = READERS[reader]
    network, tokenise = how.make(seed)
    problem, biased = load_sentences(seed, tokenise, how.n_rows)
    context = Context.of(problem, taught(network, biased, how, seed))
    here = {"task": TASK, "form": reader, "seed": seed, "dev": False}
    for name in names:
        row = {**here, "method": name, **measure(context, problem, CONSTRAINT, METHODS[name])}
        append_row(out, row)
        print({key: row.get(key) for key in ("form", "seed", "method", "psi", "error")}, flush=True)


def markdown(rows: Sequence[Row]) -> str:
    """Write a table for each base network."""
    labels = {name: method.label for name, method in METHODS.items()}
    lines: list[str] = []
    for reader in READERS:
        own_rows = [row for row in rows if row["form"] == reader]
        if own_rows:
            lines += [f"### {reader}", "", *lines_of(own_rows, labels), ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing and write the tables."""
    about = "Compare attention temperatures with other editors on sentences."
    made = parser(about, [TASK], [TASK], list(READERS), [CONSTRAINT], METHODS)
    made.set_defaults(seeds=seeds_of("5"), forms=["small"], out=Path("attention.jsonl"))
    args = made.parse_args(arguments)
    start_over(args)
    for _, reader, seed, todo in plan(args):
        run_seed(reader, seed, [name for _, name in todo], args.out)
    hand_over(markdown(read_rows(args.out)), args.table)


if __name__ == "__main__":
    main()
