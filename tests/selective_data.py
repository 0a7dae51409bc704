"""Rows, synthetic sets and quick editors for the tests of selective fine-tuning."""

from __future__ import annotations

import numpy as np

from fairsvd import SelectiveFineTuner
from helpers import Rows, last_wins, mlp, table, trained


class LastWins(last_wins(SelectiveFineTuner)):
    """Chooses its last edit."""


def quick(network=None, kind=LastWins, **parameters):
    """Make an editor of a few updates and one mask."""
    defaults = {"epochs": 1, "min_steps": 5, "top_k": 0.5, "random_state": 0}
    return kind(network, **{**defaults, **parameters})


def made_set(rows, n_per_cell=20, shift=0.5, seed=0):
    """Draw balanced rows around the means of the cells, off by the shift."""
    rng = np.random.default_rng(seed)
    cells = [(k, g) for k in np.unique(rows.y) for g in np.unique(rows.group)]
    parts = [
        rows.X[(rows.y == k) & (rows.group == g)].mean(axis=0)
        + rng.normal(size=(n_per_cell, *rows.X.shape[1:]))
        for k, g in cells
    ]
    labels = np.repeat(cells, n_per_cell, axis=0)
    X = (np.concatenate(parts) + shift).astype(np.float32)
    return X, labels[:, 0], labels[:, 1]


def biased_rows(shape, counts, seed=0):
    """Draw rows with given counts of the cells, in cells' order."""
    rng = np.random.default_rng(seed)
    cells = [(k, g) for k in range(shape[0]) for g in range(shape[1])]
    labels = np.repeat(cells, counts, axis=0)
    X = rng.normal(size=(len(labels), 6)) + 0.8 * labels[:, :1] - 0.5 * labels[:, 1:]
    return Rows(X.astype(np.float32), labels[:, 0], labels[:, 1])


def planted(n_rows=1200, seed=0):
    """Biased rows (cells of 5/45/45/5 %), balanced test rows, a network that took the shortcut."""

    def draw(counts, rng):
        y, g = (np.repeat(codes, counts) for codes in ((0, 0, 1, 1), (0, 1, 0, 1)))
        X = rng.normal(size=(len(y), 6))
        X[:, :3] += 0.6 * (2 * y - 1)[:, None]
        X[:, 3:5] += 0.9 * (2 * g - 1)[:, None]
        return Rows(X.astype(np.float32), y, g)

    rng = np.random.default_rng(seed)
    rows = draw([int(n_rows * share) for share in (0.05, 0.45, 0.45, 0.05)], rng)
    return rows, draw([500] * 4, rng), draw([400] * 4, rng), trained(mlp(), rows, n_steps=150)


def worst_cell(predictions, rows):
    right = predictions == rows.y
    return min(right[(rows.y == k) & (rows.group == g)].mean() for k in (0, 1) for g in (0, 1))


def ready(**changes):
    rows = table()
    parts = dict(zip(("X", "y", "g"), made_set(rows), strict=True))
    parts.update(changes)
    return tuple(parts.values())
