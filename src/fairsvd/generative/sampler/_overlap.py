"""The overlap region: rows of a group's largest class that look like its other classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from ..._rng import stage_rng
from ..cells import make_codec
from ._data import SamplerData
from ._strategy import check_sources

__all__ = ["find_overlap", "mark_overlap"]

FOLDS = 5
TREES = 50


def find_overlap(data: SamplerData, limit: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Find the overlap rows of every group.

    Parameters
    ----------
    data : SamplerData
    limit : float in (0, 1)
        A row of the group's largest class overlaps if the probability that forests trained on
        other rows of the group give to all other classes together is above.
    rng : numpy.random.Generator

    Returns
    -------
    overlap : ndarray of shape (n,), bool
        False in groups whose classes are too small for two folds, and without a group.
    """
    encoded = make_codec(data.X).encoded
    features = np.hstack([np.nan_to_num(encoded.numbers, nan=-1e9), encoded.codes])
    overlap = np.zeros(len(data.X), dtype=bool)
    for group in range(len(data.groups)):
        rows = np.flatnonzero(data.group_codes == group)
        largest = np.bincount(data.y_codes[rows]).argmax() if len(rows) else -1
        other = data.y_codes[rows] != largest
        n_folds = min(FOLDS, int(other.sum()), int((~other).sum()))
        if n_folds < 2:
            continue
        seeds = rng.integers(2**31 - 1, size=2).tolist()
        forest = RandomForestClassifier(TREES, min_samples_leaf=2, random_state=seeds[0])
        folds = StratifiedKFold(n_folds, shuffle=True, random_state=seeds[1])
        found = cross_val_predict(forest, features[rows], other, cv=folds, method="predict_proba")
        overlap[rows] = (found[:, 1] > limit) & ~other
    return overlap


def mark_overlap(
    data: SamplerData, drawn: NDArray[np.int64], limit: float, least: int, seed: int
) -> NDArray[np.bool_]:
    """Find the overlap rows, and check that every cell keeps enough others to learn from.

    Raises
    ------
    GroupError
        If a cell that rows are drawn for has fewer than ``least`` others.
    """
    # A stream of its own, so that everything else is drawn as without the region.
    found = find_overlap(data, limit, stage_rng(seed, "edit"))
    clear = data.cells[(data.cells >= 0) & ~found]
    counts = np.bincount(clear, minlength=len(data.keys)).reshape(drawn.shape)
    check_sources(drawn, counts, data.keys, least)
    return found
