"""GapMonitor: gaps over windows of time, and an alarm by a sequential test."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from .._rng import stage_rng
from ..metrics import hard_counts
from ..objective import STATISTICS, estimate_gaps, gap
from ._evidence import log_evidence

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GapMonitor"]

# Gaps that are the largest difference of shares of rows, and the statistics that they compare.
WATCHED = {
    "demographic_parity": ("selection_rate",),
    "equal_opportunity": ("tpr",),
    "equalized_odds": ("tpr", "fpr"),
    "accuracy_parity": ("accuracy",),
    **{name: (name,) for name in STATISTICS if name not in ("f1", "balanced_accuracy")},
}
# A guess is a mean over the past as if one row of each outcome had been seen before.
PRIOR = 1.0
# Weight that is kept for pairs of groups that come later than the first window.
RESERVE = 0.1


class GapMonitor:
    """Watch a gap over windows of time; the alarm rings falsely with a chance that is stated.

    Parameters
    ----------
    gap : str, default="equalized_odds"
        "demographic_parity", "equal_opportunity", "equalized_odds", "accuracy_parity", or a
        statistic that is a share of rows, such as "ppv" or "false_omission_rate".
    tolerance : float in [0, 1), default=0.1
        The accepted difference between any two groups.
    false_alarm : float in (0, 1), default=0.01
        Chance that the alarm ever rings, over any number of windows, while in all of them no true
        difference exceeds the tolerance; rates may change from window to window.
    memory : float in (0, 1], default=0.7
        Weight of a window's rows in the guess for the window after the next, and so on. Less reacts
        faster to a change, and more slowly to a small difference.
    pos_label : label or None, default=None
        The positive class; None means the second of two.
    labels : sequence of two labels or None, default=None
        The classes in order. None: those of the first window, which must hold both.
    missing_group : {"raise", "ignore", "own_group"}, default="ignore"
        Rows whose group is missing: an error, left out, or a group "missing".

    Attributes
    ----------
    table : DataFrame
        One row for each window: window, n, gap, low, high (95 % interval of this window's gap),
        evidence, and alarm, whether it has rung by then.
    alarm : bool
        Whether the alarm has rung; it does not go off again.
    evidence : float
        Weighted mean over all pairs of groups (and rates) of the evidence that their difference
        exceeds the tolerance. The alarm rings at 1 / false_alarm.

    Notes
    -----
    The evidence of each ordered pair of groups is a likelihood ratio against the nearest rates that
    are allowed, multiplied over windows; the alternative is a mean of earlier windows
    (arXiv:2203.09785). Its weighted mean over pairs, with a tenth kept for groups that come later,
    is again such evidence, so that no look has to be paid for. The first window serves as a guess
    alone. The rows of a window must be independent.

    Examples
    --------
    >>> import numpy as np
    >>> from fairsvd.monitor import GapMonitor
    >>> rng, monitor = np.random.default_rng(0), GapMonitor("equal_opportunity", tolerance=0.1)
    >>> for week in range(10):
    ...     y, group = rng.integers(2, size=400), rng.integers(2, size=400)
    ...     late = 0.3 * group * (week >= 5)  # from week 5 on the model misses more of group 1
    ...     predicted = np.where(rng.random(400) < 0.1 + late, 1 - y, y)
    ...     monitor = monitor.update(y, predicted, group, window=week)
    >>> int(monitor.table.loc[monitor.table["alarm"], "window"].iloc[0])
    8
    """

    def __init__(
        self,
        gap: str = "equalized_odds",
        tolerance: float = 0.1,
        *,
        false_alarm: float = 0.01,
        memory: float = 0.7,
        pos_label: Any = None,
        labels: Any = None,
        missing_group: str = "ignore",
    ) -> None:
        if gap not in WATCHED:
            raise ValueError(f"gap={gap!r}: wanted one of {', '.join(WATCHED)}.")
        for name, value, fits in (
            ("tolerance", tolerance, 0 <= tolerance < 1),
            ("false_alarm", false_alarm, 0 < false_alarm < 1),
            ("memory", memory, 0 < memory <= 1),
        ):
            if not fits:
                raise ValueError(f"{name}={value!r}: wanted a number within 0 and 1.")
        self.gap, self.tolerance, self.false_alarm, self.memory = (
            gap,
            tolerance,
            false_alarm,
            memory,
        )
        self.pos_label, self.labels, self.missing_group = pos_label, labels, missing_group
        self._rows: list[dict[str, Any]] = []
        # Remembered hits and rows by (statistic, group).
        self._past: dict[tuple[str, Any], NDArray[np.float64]] = {}
        # Of every ordered pair of groups: its weight, and the logarithm of its evidence.
        self._pairs: dict[tuple[str, Any, Any], tuple[float, float]] = {}
        self._n_late = 0

    @property
    def evidence(self) -> float:
        """The evidence so far; 1 says nothing, 1 / false_alarm rings the alarm."""
        if not self._pairs:
            return 1.0
        weights, logs = np.array(list(self._pairs.values())).T
        # What no pair has yet stays at 1.
        unspent = max(0.0, 1 - float(weights.sum()))
        return float(np.exp(min(logsumexp([*logs, 0.0], b=[*weights, unspent]), 700.0)))

    @property
    def alarm(self) -> bool:
        """Whether the alarm has rung."""
        return bool(self._rows) and bool(self._rows[-1]["alarm"])

    @property
    def table(self) -> pd.DataFrame:
        """One row for each window."""
        import pandas as pd

        columns = ["window", "n", "gap", "low", "high", "evidence", "alarm"]
        return pd.DataFrame(self._rows, columns=columns)

    def update(
        self, y_true: Any, y_pred: Any, sensitive_features: Any, *, window: Any = None
    ) -> Self:
        """Take the rows of one window.

        Parameters
        ----------
        y_true, y_pred, sensitive_features : array-like
            Labels, predicted labels and groups of the window's rows. Groups may be new.
        window : object, optional
            Its name in the table, such as a date; None: its number.

        Returns
        -------
        self : GapMonitor

        Raises
        ------
        ValueError
            If the rows do not fit, or there are more than two classes.
        """
        options = {"pos_label": self.pos_label, "missing_group": self.missing_group}
        counts, pos, groups = hard_counts(
            y_true, y_pred, sensitive_features, labels=self.labels, **options
        )
        if pos is None:
            raise ValueError(f"there are {counts.shape[1]} classes: a GapMonitor watches two.")
        if self.labels is None:
            self.labels = np.unique(np.asarray(y_true)).tolist()
            if len(self.labels) != 2:
                raise ValueError("the first window has one label only: name both in labels=.")
        shares = {name: _shares(counts, name, pos) for name in WATCHED[self.gap]}
        self._weigh(shares, list(groups.labels))
        found = estimate_gaps(counts, [self.gap], pos, stage_rng(len(self._rows), "bootstrap"))
        rung = self.alarm or self.evidence >= 1 / self.false_alarm
        self._rows.append(
            {
                "window": len(self._rows) if window is None else window,
                "n": int(counts.sum()),
                "gap": float(gap(counts, self.gap, pos)),
                "low": found[self.gap].low,
                "high": found[self.gap].high,
                "evidence": self.evidence,
                "alarm": rung,
            }
        )
        return self

    def read(
        self, paths: Iterable[str | PathLike[str]], *, target: str, pred: str, sensitive: Any
    ) -> Self:
        """Take one window from each of some CSV files, in their order.

        Parameters
        ----------
        paths : iterable of path
        target, pred : str
            Columns of labels and of predicted labels.
        sensitive : str or list of str
            Columns of groups.

        Returns
        -------
        self : GapMonitor
        """
        import pandas as pd

        for path in paths:
            frame = pd.read_csv(path)
            missing = [c for c in (target, pred, *_as_list(sensitive)) if c not in frame]
            if missing:
                raise ValueError(f"{path} has no column {missing[0]!r}, it has {list(frame)}.")
            self.update(frame[target], frame[pred], frame[_as_list(sensitive)], window=str(path))
        return self

    def plot(self, ax: Any = None) -> Any:
        """Draw the gaps with their intervals, the tolerance, and the windows of the alarm.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            None: a new figure.

        Returns
        -------
        ax : matplotlib Axes
        """
        import matplotlib.pyplot as plt

        table = self.table
        if ax is None:
            _, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
        places = np.arange(len(table))
        measured = table["gap"].to_numpy()
        ends = table[["low", "high"]].to_numpy().T
        ax.vlines(places, ends[0], ends[1], color="0.6", linewidth=3)
        ax.plot(places, measured, "o-", color="tab:blue", label=self.gap.replace("_", " "))
        ax.axhline(self.tolerance, color="black", linestyle="--", label="tolerance")
        rung = table["alarm"].to_numpy(dtype=bool)
        ax.plot(places[rung], measured[rung], "o", color="tab:red", label="alarm")
        ax.set_xticks(places, [str(each) for each in table["window"]], rotation=45, ha="right")
        ax.set_ylabel("gap")
        ax.legend()
        return ax

    def _weigh(
        self, shares: dict[str, tuple[NDArray[Any], NDArray[Any]]], labels: list[Any]
    ) -> None:
        """Multiply the evidence of every pair by that of a window, then remember the window."""
        places = list(permutations(range(len(labels)), 2))
        for name, (hits, rows) in shares.items():
            for a, b in places:
                pair, both = (name, labels[a], labels[b]), [a, b]
                guess = self._guess(name, labels[a]), self._guess(name, labels[b])
                found = log_evidence(hits[both], rows[both], guess, self.tolerance)
                weight, log = self._pairs.get(pair) or (self._share(len(places) * len(shares)), 0.0)
                self._pairs[pair] = weight, log + found
            seen = dict(zip(labels, np.column_stack([hits, rows]), strict=True))
            for group in {key[1] for key in self._past if key[0] == name} | set(seen):
                past = self._past.get((name, group), np.zeros(2))
                self._past[name, group] = self.memory * past + seen.get(group, np.zeros(2))

    def _share(self, n_pairs: int) -> float:
        """Give a new pair its weight; those of all that may still come add up to 1 at most."""
        if not self._rows:
            return (1 - RESERVE) / n_pairs
        self._n_late += 1
        return RESERVE / (self._n_late * (self._n_late + 1))

    def _guess(self, name: str, group: Any) -> float:
        """Guess a group's rate from earlier windows; one half before the first."""
        hits, rows = self._past.get((name, group), np.zeros(2))
        return float((hits + PRIOR) / (rows + 2 * PRIOR))


def _as_list(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _shares(
    counts: NDArray[np.int64], name: str, pos: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count the rows of every group that a statistic counts, and those it is measured on."""
    neg = 1 - pos
    cells = counts[:, [pos, neg, pos, neg], [pos, pos, neg, neg]].astype(np.float64)
    top, bottom = (cells @ np.array(weights, dtype=float) for weights in STATISTICS[name][:2])
    return top, bottom
