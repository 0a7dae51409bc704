"""Tables with a shortcut: a column that goes with the group, and the group with the label."""

from __future__ import annotations

import numpy as np

from helpers import Rows, mlp, trained


def shortcut_rows(n_rows, agreement, seed=0, *, strength=2.5, separation=0.8):
    """Draw rows (n, 6): two columns lean on the label, one on the group, three are noise.

    ``agreement`` is the share of rows whose group has the label's code: with 0.95 two of four cells
    are rare, and a network that trusts the shortcut is wrong on them.
    """
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n_rows)
    group = np.where(rng.random(n_rows) < agreement, y, 1 - y)
    X = rng.normal(size=(n_rows, 6))
    X[:, :2] += separation * (2 * y[:, None] - 1)
    X[:, 2] = 0.5 * X[:, 2] + strength * (2 * group - 1) / 2
    return Rows(X.astype(np.float32), y, group)


def shortcut_network(agreement=0.95):
    """Train a network on such rows; it trusts the shortcut."""
    return trained(mlp(), shortcut_rows(1500, agreement, seed=1), n_steps=150)


def worst_cell(editor, rows):
    """Compute the accuracy of an editor's worst (label, group) cell."""
    right = editor.predict(rows.X) == rows.y
    cells = [right[(rows.y == y) & (rows.group == g)].mean() for y in (0, 1) for g in (0, 1)]
    return min(cells)
