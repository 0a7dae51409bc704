"""Measure how many steps the default network is trained for, and what they are worth, by rows.

Of more than 50,000 rows some are held out, and the training ends once these are predicted no
better. The accuracy on rows that no training sees is compared with that after all epochs.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from fairsvd.arrays import LabelledRows, as_batches
from fairsvd.datasets import make_biased_classification
from fairsvd.networks import adopt

TEST_ROWS = 20_000
# The accuracy that may be lost by stopping early.
BAR = 0.005


def train(n_rows: int, seed: int, *, full: bool) -> tuple[int, float, float]:
    """Train once; return the steps, the seconds and the accuracy on other rows."""
    from fairsvd.networks import _default

    data = make_biased_classification(n_rows + TEST_ROWS, random_state=seed)
    X, y = torch.as_tensor(data.data, dtype=torch.float32), torch.as_tensor(data.target)
    groups = torch.zeros(n_rows, dtype=torch.int64)
    rows = LabelledRows(as_batches(X[:n_rows].numpy()), y[:n_rows], groups)
    many, _default.MANY_ROWS = _default.MANY_ROWS, n_rows if full else _default.MANY_ROWS
    try:
        start = time.perf_counter()
        rng = np.random.default_rng(seed)
        adopted = adopt(None, rows, np.arange(2), batch_size=256, rng=rng)
        spent = time.perf_counter() - start
    finally:
        _default.MANY_ROWS = many
    with torch.no_grad():
        right = adopted.module(X[n_rows:]).argmax(dim=1) == y[n_rows:]
    steps = sum(len(epoch["batches"]) for epoch in adopted.net.history)
    return steps, spent, float(right.double().mean())


def main() -> int:
    """Print the table; the exit status is 1 where stopping early costs accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--full", type=int, default=200_000, help="train in full up to these rows")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| rows | steps | seconds | accuracy | steps in full | seconds | accuracy |")
    print("|---|---|---|---|---|---|---|")
    missed = False
    for n_rows in options.rows:
        found = [train(n_rows, options.seed, full=False)]
        if n_rows <= options.full:
            found.append(train(n_rows, options.seed, full=True))
            missed |= found[1][2] - found[0][2] > BAR
        cells = [f"{steps:,} | {spent:.0f} | {accuracy:.4f}" for steps, spent, accuracy in found]
        print(f"| {n_rows:,} | " + " | ".join(cells) + " |", flush=True)
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
