"""The objective of Savani et al.: balanced accuracy if the bias is within a limit, else 0."""

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
    """The objective phi, which replaces an editor's own rule of choice.

    Pass it as ``constraint=`` of an editor, which then chooses candidate and threshold of largest

        phi = utility where gap < epsilon - slack, else 0,

    averaged over bootstrap resamples of the validation rows, on an even grid of thresholds. Methods
    that follow gradients penalise the gap of this measure.

    Parameters
    ----------
    measure : str, default="demographic_parity"
        One of the gaps that ``constraint=`` takes. The paper's bias measures are
        "demographic_parity" (SPD), "equal_opportunity" (EOD) and "signed_average_odds" (AOD).
    epsilon : float in (0, 1], default=0.05
        The accepted gap, a difference of rates; replaces the editor's ``tolerance``.
    slack : float in [0, epsilon), default=0.01
        How far the gap must stay below ``epsilon`` on the rows of the choice; replaces
        ``tolerance_fraction``.
    n_bootstrap : int, default=5
        Resamples of the validation rows; 0: the rows as they are, once.
    n_thresholds : int, default=501
        Number of thresholds from 0 to 1 on the probability of ``classes_[1]``, at least 3; the
        paper's code takes 501 or 1001. Not used with more than two classes, whose predictions are
        the largest logits, or if the editor's ``threshold`` is a number.
    random_state : int, default=0
        Seed of the resamples, which all candidates and thresholds share.

    See Also
    --------
    RandomPerturbation, LayerwiseOptimizer, AdversarialFineTuner : Methods of the same paper.

    Notes
    -----
    From arXiv:2006.08564 and its released code. The utility is balanced accuracy unless the
    editor's ``utility`` names another one; with several classes and groups, utility and gap are
    those of this package. The first maximum wins: that of the earliest candidate (the untouched
    network is the first), then that of the lowest threshold. Only validation rows are used, whether
    the network is over-fitted to the editing rows or not.

    At both ends of the grid all rows get the same prediction, in which no measure of rates shows
    any bias. Phi therefore prefers its balanced accuracy of 1/2 to every network outside the limit.
    The fit warns if that is the result (``ConstantPredictionsWarning``).

    Deviations: the resamples are drawn once and shared, so that thresholds and candidates compare
    on equal rows, while the code draws new ones for each of them; the untouched network is among
    the candidates; a resample in which the gap cannot be measured counts 0, while the code sets the
    missing rate to 0; if phi is 0 everywhere, the untouched network is kept at its threshold of
    largest utility and a ``ConstraintNotMetWarning`` is raised, while the code would return the
    threshold 0, which predicts everybody positive.

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
        """Smallest gap for which phi is 0."""
        return float(self.epsilon) - float(self.slack)

    def check(self) -> None:
        """Check the parameters.

        Raises
        ------
        ValueError
            A parameter is out of its range; the message names it.
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
    """Convert a number to float; anything else to NaN, which fails every comparison."""
    return float(value) if isinstance(value, Real) else float("nan")


def _check_number(name: str, value: Any, fits: bool, legal: str) -> None:
    if not fits:
        raise ValueError(f"{name}={value!r} of PhiObjective: pass a number {legal}.")


def resamples(n_rows: int, objective: PhiObjective) -> Iterator[NDArray[np.int64]]:
    """Yield how often each row is drawn, resample by resample; the same ones every time.

    They are not stored: drawing them again costs little compared with their use.

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
    weights: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """Count the rows of every cell that each of many cuts predicts negative and positive.

    Parameters
    ----------
    cells : ndarray of shape (n,), int64
        Codes in [0, n_cells).
    bins : ndarray of shape (n,), int64
        Number of cuts below each row: in [0, n_cuts].
    n_cells, n_cuts : int
    weights : ndarray of shape (n,), optional
        How often each row counts; None: once.

    Returns
    -------
    counts : ndarray of shape (n_cells, 2, n_cuts), float64
        Indexed [cell, predicted, cut].
    """
    size = n_cells * (n_cuts + 1)
    binned = np.bincount(cells * (n_cuts + 1) + bins, weights, minlength=size)
    up_to = binned.reshape(n_cells, n_cuts + 1).astype(np.float64).cumsum(axis=1)
    counts = np.empty((n_cells, 2, n_cuts))
    # A row above at most k cuts is not above cut k.
    counts[:, 0] = up_to[:, :-1]
    counts[:, 1] = up_to[:, -1:] - up_to[:, :-1]
    return counts
