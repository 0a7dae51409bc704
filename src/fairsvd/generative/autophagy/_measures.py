"""Measure how far synthetic rows are from real ones, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from ..cells import ImageCodec, make_codec, stack

__all__ = ["MEASURES", "compare", "frechet_distance", "measure", "share_ratio"]

MEASURES = (
    "share",
    "share_ratio",
    "frechet_distance",
    "variance_ratio",
    "extinct_categories",
    "detector_auc",
    "extinct",
)

Floats = NDArray[np.float64]

# Wider tables are compared in their first principal components, since covariances of more columns
# than rows are unreliable.
MOST_COLUMNS = 32

# Least rows of either kind for a detector to learn from.
LEAST_ROWS = 10


@dataclass(frozen=True)
class Compared:
    """Real and synthetic rows in the same encoding.

    Attributes
    ----------
    real, synthetic : ndarray of shape (n, d)
        Standardised by the real rows' mean and standard deviation.
    real_codes, synthetic_codes : ndarray of shape (n, n_categories), int64
        Categories; -1 where missing.
    """

    real: Floats
    synthetic: Floats
    real_codes: NDArray[np.int64]
    synthetic_codes: NDArray[np.int64]


def compare(X: Any, synthetic: Any) -> Compared:
    """Encode real and synthetic rows in the same way.

    Numbers and ranks are standardised (a missing one becomes the mean, and a column flags it),
    categories become one column per level. More than 32 columns are reduced to the first 32
    principal components of the real rows.

    Parameters
    ----------
    X, synthetic : DataFrame or ndarray
        Tables with the same columns, or images.
    """
    codec = make_codec(stack([X, synthetic]))
    n, encoded = len(X), codec.encoded
    features = np.column_stack([*_numbers(encoded.numbers, n), *_levels(encoded.codes)])
    features = features - features[:n].mean(axis=0)
    spread = features[:n].std(axis=0)
    # One scale for all pixels, so that a nearly constant corner is not magnified.
    scale = spread.mean() if isinstance(codec, ImageCodec) else spread
    features = _reduce(features / np.where(scale > 0, scale, 1), n)
    return Compared(features[:n], features[n:], encoded.codes[:n], encoded.codes[n:])


def _numbers(numbers: NDArray[Any], n_real: int) -> Iterator[Floats]:
    """Yield the columns with means for missing values, and the flags of the missing values."""
    known = ~np.isnan(numbers)
    counts = np.maximum(known[:n_real].sum(axis=0), 1)
    mean = np.where(known, numbers, 0)[:n_real].sum(axis=0) / counts
    yield np.where(known, numbers, mean)
    lacking = ~known.all(axis=0)
    yield (~known[:, lacking]).astype(np.float64)


def _levels(codes: NDArray[np.int64]) -> Iterator[Floats]:
    """Yield one column for each level of each category."""
    for column in codes.T:
        yield (column[:, None] == np.unique(column)).astype(np.float64)


def _reduce(features: Floats, n_real: int) -> Floats:
    if features.shape[1] <= MOST_COLUMNS:
        return features
    _, _, directions = np.linalg.svd(features[:n_real], full_matrices=False)
    return np.asarray(features @ directions[:MOST_COLUMNS].T)


def frechet_distance(A: Floats, B: Floats) -> float:
    """Compute the squared 2-Wasserstein distance of the Gaussians fitted to two sets of rows.

    Parameters
    ----------
    A, B : ndarray of shape (n, d)
        At least two rows each; n may differ. Distances of small sets are biased upwards: two
        sets of n rows of one distribution are about d / n apart.

    Returns
    -------
    distance : float >= 0
        |mean difference|^2 + tr(S_A + S_B - 2 (S_A^{1/2} S_B S_A^{1/2})^{1/2}).
    """
    first, second = (np.atleast_2d(np.cov(M, rowvar=False)) for M in (A, B))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ second @ root), 0, None)).sum()
    shift = np.square(A.mean(axis=0) - B.mean(axis=0)).sum()
    return float(max(0.0, shift + np.trace(first) + np.trace(second) - 2 * cross))


def share_ratio(counts: NDArray[Any], real_counts: NDArray[Any]) -> Floats:
    """Compare imbalance with the real rows: (majority / cell) over (real majority / real cell).

    Parameters
    ----------
    counts, real_counts : ndarray of shape (n_cells,)
        The majority is the largest real cell.

    Returns
    -------
    ratio : ndarray of shape (n_cells,)
        Above 1 if the cell is rarer, relative to the majority, than among the real rows;
        infinite if the cell is extinct, NaN if the majority is extinct too.
    """
    largest = real_counts.argmax()
    with np.errstate(divide="ignore", invalid="ignore"):
        now = counts[largest] / counts.astype(np.float64)
    return np.asarray(now / (real_counts[largest] / real_counts))


def measure(
    compared: Compared, real: NDArray[Any], synthetic: NDArray[Any], detector: Any, seed: int
) -> dict[str, float]:
    """Measure the rows of one cell.

    Parameters
    ----------
    compared : Compared
    real, synthetic : ndarray of bool
        Marks the cell's rows.
    detector : "auto", None or classifier
    seed : int

    Returns
    -------
    measures : dict of str to float
        ``frechet_distance``, ``variance_ratio`` (summed over features), ``extinct_categories``
        (levels that the cell has among real but not among synthetic rows), ``detector_auc`` (0.5:
        cannot be told apart). NaN if there are too few rows.
    """
    A, B = compared.real[real], compared.synthetic[synthetic]
    enough = min(len(A), len(B)) > 1
    spread = A.var(axis=0, ddof=1).sum() if enough else 0.0
    codes = zip(compared.real_codes[real].T, compared.synthetic_codes[synthetic].T, strict=True)
    return {
        "frechet_distance": frechet_distance(A, B) if enough else np.nan,
        "variance_ratio": B.var(axis=0, ddof=1).sum() / spread if spread > 0 else np.nan,
        "extinct_categories": float(sum(len(np.setdiff1d(a, b)) for a, b in codes)),
        "detector_auc": detector_auc(A, B, detector, seed),
    }


def detector_auc(A: Floats, B: Floats, detector: Any, seed: int) -> float:
    """Measure how well a classifier tells two sets of rows apart, in three folds.

    Parameters
    ----------
    A, B : ndarray of shape (n, d)
    detector : "auto", None or classifier with ``predict_proba``
        "auto": 20 extremely randomised trees. None: no measurement.
    seed : int

    Returns
    -------
    auc : float in [0, 1]
        NaN without a detector or with fewer than 10 rows in a set.
    """
    if detector is None or min(len(A), len(B)) < LEAST_ROWS:
        return float("nan")
    X = np.concatenate([A, B])
    y = np.repeat([0, 1], [len(A), len(B)])
    forest = ExtraTreesClassifier(20, min_samples_leaf=5, random_state=seed)
    judge = forest if isinstance(detector, str) else clone(detector)
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    scores = cross_val_predict(judge, X, y, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(y, scores))
