"""Estimated sizes of the real rows' (label, group) cells, if their groups are not known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import nn

from ..arrays import LabelledRows
from ..base import EditData
from ..networks import all_features

__all__ = ["estimate_shares"]

# Maximum number of rows that are used of either set.
MOST_ROWS = 4000

# Added to the spread within the cells, as a share of its mean over the features.
RIDGE = 1e-3

Seed = int | np.random.SeedSequence

# Weight of the condition that the shares of a class's groups add up to 1.
STRICT = 1e3


def estimate_shares(
    module: nn.Module, data: EditData, synthetic: LabelledRows, n_groups: int, seed: Seed
) -> NDArray[np.float64]:
    """Estimate the shares of the cells by mean features.

    Within a class, the mean feature of the real rows is the mean of its groups' mean features,
    weighted by their shares. The nearest such weights are taken, in the metric of the spread within
    the cells. A difference between real and synthetic rows that points from one group to another is
    mistaken for a share.

    Parameters
    ----------
    module : nn.Module
    data : EditData
        Its editing rows are the real ones.
    synthetic : LabelledRows
        They have groups, and rows in every cell.
    n_groups : int
    seed : int or numpy.random.SeedSequence
        Seed of the draw of rows.

    Returns
    -------
    shares : ndarray of shape (n_classes, n_groups), float64
        Adds up to 1; a class has its share of the real rows.
    """
    rng = np.random.default_rng(seed)
    rows = data.editing.repeated(data.n_groups)
    real, y = _features(module, data, rows, rng)
    generated, cells = _features(module, data, synthetic, rng, n_groups)
    means = np.zeros((data.n_classes * n_groups, generated.shape[1]))
    for cell in np.unique(cells):
        means[cell] = generated[cells == cell].mean(axis=0)
    spread = np.cov((generated - means[cells]).T.reshape(generated.shape[1], -1))
    spread = np.atleast_2d(spread)
    spread += RIDGE * max(np.trace(spread) / len(spread), 1e-12) * np.eye(len(spread))
    whiten = np.linalg.cholesky(np.linalg.inv(spread)).T
    counts = np.bincount(rows.y.numpy(), minlength=data.n_classes) / len(rows)
    shares = np.zeros((data.n_classes, n_groups))
    for k in np.flatnonzero(counts):
        group_means = whiten @ means[k * n_groups : (k + 1) * n_groups].T
        target = whiten @ real[y == k].mean(axis=0)
        system = np.vstack([group_means, np.full(n_groups, STRICT)])
        weights, _ = nnls(system, np.append(target, STRICT))
        shares[k] = counts[k] * weights / weights.sum()
    return shares


def _features(
    module: nn.Module,
    data: EditData,
    rows: LabelledRows,
    rng: np.random.Generator,
    n_groups: int = 1,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Compute features of up to ``MOST_ROWS`` rows, as many of every cell, and their cells."""
    cells = (rows.cells(n_groups) if n_groups > 1 else rows.y).numpy()
    order = rng.permutation(len(cells))
    order = order[np.argsort(cells[order], kind="stable")]
    counts = np.bincount(cells)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    most = max(1, MOST_ROWS // int(np.count_nonzero(counts)))
    chosen = np.sort(order[place < most])
    features = all_features(module, rows.X.subset(chosen), data.output_layer)
    return features.double().numpy(), cells[chosen]
