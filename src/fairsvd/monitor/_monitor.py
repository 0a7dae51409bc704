"""GapMonitor: gaps over windows of time, and an alarm by a sequential test."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from .._messages import listed
from .._rng import stage_rng
from ..groups import split_columns
from ..metrics import hard_counts
from ..objective import STATISTICS, estimate_gaps, gap
from ._watch import Watch

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GapMonitor"]

# Names what is watched without each_attribute.
TOGETHER = "all attributes together"
# Gaps that are the largest difference of shares of rows, and the statistics that they compare.
WATCHED = {
    "demographic_parity": ("selection_rate",),
    "equal_opportunity": ("tpr",),
    "equalized_odds": ("tpr", "fpr"),
    "accuracy_parity": ("accuracy",),
    **{name: (name,) for name in STATISTICS if name not in ("f1", "balanced_accuracy")},
}


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
        difference exceeds the tolerance; rates may change from window to window. With several
        attributes it is that of all together.
    each_attribute : bool, default=False
        How several columns of groups are watched: False, by their intersections; True, by the
        groups of each column alone, with an alarm for each. Rows whose group is missing in one
        column count in the others.
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
        One row for each window, with ``each_attribute`` for each attribute in it: window,
        attribute (with ``each_attribute``), n, gap, low, high (95 % interval of this window's
        gap), evidence, and alarm, whether it has rung by then.
    alarm : bool
        Whether an alarm has rung; it does not go off again.
    alarms : dict of str to bool
        Whether that of each attribute has rung.
    evidence : float
        Weighted mean over all pairs of groups (and rates) of the evidence that their difference
        exceeds the tolerance; of several attributes the largest. An alarm rings at
        n_attributes / false_alarm.

    Notes
    -----
    The evidence of each ordered pair of groups is a likelihood ratio against the nearest rates that
    are allowed, multiplied over windows; the alternative is a mean of earlier windows
    (arXiv:2203.09785). Its weighted mean over pairs, with a tenth kept for groups that come later,
    is again such evidence, so that no look has to be paid for. The first window serves as a guess
    alone. The rows of a window must be independent; the attributes need not be, since the chances
    of their false alarms are added up.

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
        each_attribute: bool = False,
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
        self.gap, self.tolerance, self.memory = gap, tolerance, memory
        self.false_alarm = false_alarm
        self.pos_label, self.labels, self.missing_group = pos_label, labels, missing_group
        self.each_attribute = each_attribute
        self._rows: list[dict[str, Any]] = []
        # By attribute, in the order of the columns.
        self._watches: dict[str, Watch] = {}
        self._rung: dict[str, bool] = {}
        self._n_windows = 0

    @property
    def evidence(self) -> float:
        """The evidence so far; 1 says nothing, n_attributes / false_alarm rings the alarm."""
        return max((watch.evidence for watch in self._watches.values()), default=1.0)

    @property
    def alarm(self) -> bool:
        """Whether an alarm has rung."""
        return any(self._rung.values())

    @property
    def alarms(self) -> dict[str, bool]:
        """Whether the alarm of each attribute has rung, or that of their intersections."""
        return dict(self._rung)

    @property
    def table(self) -> pd.DataFrame:
        """One row for each window, and for each attribute that is watched alone."""
        import pandas as pd

        columns = ["window", "n", "gap", "low", "high", "evidence", "alarm"]
        if self.each_attribute:
            columns.insert(1, "attribute")
        return pd.DataFrame(self._rows, columns=columns)

    def update(
        self, y_true: Any, y_pred: Any, sensitive_features: Any, *, window: Any = None
    ) -> Self:
        """Take the rows of one window.

        Parameters
        ----------
        y_true, y_pred, sensitive_features : array-like
            Labels, predicted labels and groups of the window's rows. Groups may be new, columns
            of groups may not.
        window : object, optional
            Its name in the table, such as a date; None: its number.

        Returns
        -------
        self : GapMonitor

        Raises
        ------
        ValueError
            If the rows do not fit, there are more than two classes, or the columns of groups are
            others than those of the first window.
        """
        columns = self._columns(sensitive_features)
        if self._watches and list(columns) != list(self._watches):
            raise ValueError(
                f"the groups are by {listed(columns)}, and were by {listed(self._watches)} in the "
                "first window: watch others by a new monitor."
            )
        labels = self._labels_of(y_true)
        options = {"pos_label": self.pos_label, "missing_group": self.missing_group}
        found = []
        for name, groups in columns.items():
            counts, pos, own = hard_counts(y_true, y_pred, groups, labels=labels, **options)
            if pos is None:
                raise ValueError(f"there are {len(labels)} classes: a GapMonitor watches two.")
            found.append((name, counts, pos, list(own.labels)))
        # Nothing is kept of a window that does not fit.
        self.labels = labels
        if not self._watches:
            self._watches = {name: Watch(self.tolerance, self.memory) for name in columns}
        for each in found:
            self._take(*each, self._n_windows if window is None else window)
        self._n_windows += 1
        return self

    def _columns(self, sensitive_features: Any) -> dict[str, Any]:
        """Name the attributes that are watched alone, or all of them together."""
        if not self.each_attribute:
            return {TOGETHER: sensitive_features}
        columns, names = split_columns(sensitive_features)
        keys = [f"column {k}" if name is None else str(name) for k, name in enumerate(names)]
        return dict(zip(keys, columns, strict=True))

    def _labels_of(self, y_true: Any) -> list[Any]:
        """Return the classes in order."""
        if self.labels is not None:
            return list(self.labels)
        labels = np.unique(np.asarray(y_true)).tolist()
        if len(labels) < 2:
            raise ValueError("the first window has one label only: name both in labels=.")
        return labels

    def _take(
        self, name: str, counts: NDArray[np.int64], pos: int, labels: list[Any], window: Any
    ) -> None:
        """Take a window's counts of the groups of one attribute."""
        watch = self._watches[name]
        watch.weigh({rate: _shares(counts, rate, pos) for rate in WATCHED[self.gap]}, labels)
        found = estimate_gaps(counts, [self.gap], pos, stage_rng(self._n_windows, "bootstrap"))
        limit = len(self._watches) / self.false_alarm
        self._rung[name] = self._rung.get(name, False) or watch.evidence >= limit
        self._rows.append(
            {
                "window": window,
                "attribute": name,
                "n": int(counts.sum()),
                "gap": float(gap(counts, self.gap, pos)),
                "low": found[self.gap].low,
                "high": found[self.gap].high,
                "evidence": watch.evidence,
                "alarm": self._rung[name],
            }
        )

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
        from ._plot import draw_windows

        return draw_windows(self.table, self.gap.replace("_", " "), self.tolerance, ax)


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
