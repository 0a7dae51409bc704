"""The objective of Savani et al.: balanced accuracy within a limit of the bias, else nothing."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from ._gap_names import GAPS

__all__ = ["PhiObjective", "bin_counts", "resamples"]


class PhiObjective(BaseEstimator):
    """The objective phi, by which an editor chooses in the place of its own rule.

    Pass it as ``constraint=`` of an editor. Candidate and threshold are then those of the largest

        phi = utility where gap < epsilon - slack, else 0,

    the mean over bootstrap resamples of the validation rows, at an even grid of thresholds. The
    gap of this measure is also what methods that follow gradients penalise.

    Parameters
    ----------
    measure : str, default="demographic_parity"
        One of the gaps that ``constraint=`` takes. The paper's bias measures are
        "demographic_parity" (SPD), "equal_opportunity" (EOD) and "signed_average_odds" (AOD).
    epsilon : float in (0, 1], default=0.05
        The gap that is accepted, a difference of rates; takes the place of the editor's
        ``tolerance``.
    slack : float in [0, epsilon), default=0.01
        What the gap has to stay below ``epsilon`` where the choice is made; takes the place of
        ``tolerance_fraction``.
    n_bootstrap : int, default=5
        Resamples of the validation rows; 0: the rows as they are, once.
    n_thresholds : int, default=501
        Probabilities of ``classes_[1]`` from 0 to 1, at least 3, above which it is predicted; the
        paper's code takes 501 or 1001. Not used with more than two classes, whose predictions are
        the largest logits, or where the editor's ``threshold`` is a number.
    random_state : int, default=0
        Seed of the resamples, which all candidates and thresholds share.

    See Also
    --------
    RandomPerturbation, LayerwiseOptimizer, AdversarialFineTuner : Methods of the same paper.

    Notes
    -----
    From arXiv:2006.08564 and its released code. The utility is balanced accuracy unless the
    editor's ``utility`` names another one; with several classes and groups, utility and gap are
    those of this package. The first maximum wins: of the candidates the earliest, the untouched
    network being the first, then the lowest threshold. Only validation rows are looked at, whether
    the network is over-fitted to the editing rows or not.

    At both ends of the grid everybody is predicted alike, for which no measure of rates shows any
    bias, so that a balanced accuracy of 1/2 is what phi prefers to every network outside of the
    limit. The fit warns where that is the result (``ConstantPredictionsWarning``).

    Deviations: the resamples are drawn once and shared, so that thresholds and candidates compare
    on equal rows, where the code draws anew for each of them; the untouched network is among the
    candidates; a resample in which the gap cannot be measured counts 0, where the code takes the
    missing rate for 0; where phi is 0 everywhere, the untouched network is kept at its threshold
    of largest utility and a ``ConstraintNotMetWarning`` is raised, where the code would return the
    threshold 0, everybody positive.

    Examples
    --------
    >>> from fairsvd import PhiObjective, RandomPerturbation
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> phi = PhiObjective("equal_opportunity", epsilon=0.1)
    >>> editor = RandomPerturbation(constraint=phi, n_trials=20, random_state=0)
    >>> editor = editor.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> bool(editor.history_["value"].max() > 0.5)
    True
    """

    def __init__(
        self,
        measure: str = "demographic_parity",
        *,
        epsilon: float = 0.05,
        slack: float = 0.01,
        n_bootstrap: int = 5,
        n_thresholds: int = 501,
        random_state: int = 0,
    ) -> None:
        self.measure = measure
        self.epsilon = epsilon
        self.slack = slack
        self.n_bootstrap = n_bootstrap
        self.n_thresholds = n_thresholds
        self.random_state = random_state

    @property
    def limit(self) -> float:
        """Gap from which on phi is 0."""
        return float(self.epsilon) - float(self.slack)

    def check(self) -> None:
        """Check the parameters.

        Raises
        ------
        ValueError
            One of them is out of its range; it is named.
        """
        if self.measure not in GAPS:
            raise ValueError(
                f"measure={self.measure!r} of PhiObjective is none of {', '.join(GAPS)}: pass one "
                "of these."
            )
        _check_number("epsilon", self.epsilon, 0 < _real(self.epsilon) <= 1, "in (0, 1]")
        within = 0 <= _real(self.slack) < self.epsilon
        _check_number("slack", self.slack, within, f"in [0, epsilon={self.epsilon})")
        for name, least in (("n_bootstrap", 0), ("n_thresholds", 3), ("random_state", 0)):
            value = getattr(self, name)
            _check_number(
                name,
                value,
                isinstance(value, Integral) and _real(value) >= least,
                f"an integer of at least {least}",
            )


def _real(value: Any) -> float:
    """Read a number; anything else compares with nothing."""
    return float(value) if isinstance(value, Real) else float("nan")


def _check_number(name: str, value: Any, fits: bool, wanted: str) -> None:
    if not fits:
        raise ValueError(f"{name}={value!r} of PhiObjective: pass a number {wanted}.")


def resamples(n_rows: int, objective: PhiObjective) -> Iterator[NDArray[np.int64]]:
    """Yield how often each row is drawn, resample by resample; the same ones every time.

    Nothing is kept: drawing them again costs little beside what they are drawn for.

    Parameters
    ----------
    n_rows : int
    objective : PhiObjective
    """
    if objective.n_bootstrap == 0:
        yield np.ones(n_rows, dtype=np.int64)
        return
    for seed in np.random.SeedSequence(objective.random_state).spawn(objective.n_bootstrap):
        drawn = np.random.default_rng(seed).integers(n_rows, size=n_rows)
        yield np.bincount(drawn, minlength=n_rows)


def bin_counts(
    cells: NDArray[np.int64],
    bins: NDArray[np.int64],
    n_cells: int,
    n_cuts: int,
    weights: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Count the rows of every cell that each of many cuts predicts negative and positive.

    Parameters
    ----------
    cells : ndarray of shape (n,), int64
        Codes in [0, n_cells).
    bins : ndarray of shape (n,), int64
        How many cuts, from the lowest on, a row lies above: in [0, n_cuts].
    n_cells, n_cuts : int
    weights : ndarray of shape (n,), optional
        How often each row counts; None: once.

    Returns
    -------
    counts : ndarray of shape (n_cells, 2, n_cuts), float64
        Indexed [cell, predicted, cut].
    """
    size = n_cells * (n_cuts + 1)
    found = np.bincount(cells * (n_cuts + 1) + bins, weights, minlength=size)
    up_to = found.reshape(n_cells, n_cuts + 1).astype(np.float64).cumsum(axis=1)
    counts = np.empty((n_cells, 2, n_cuts))
    # What lies above so few cuts is below this one.
    counts[:, 0] = up_to[:, :-1]
    counts[:, 1] = up_to[:, -1:] - up_to[:, :-1]
    return counts
