"""Tables of all gaps, from predictions or counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..objective import GAPS, gap, ratio
from ._scores import hard_counts

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["gap_table", "gaps_frame"]


def gaps_frame(counts: NDArray[Any], pos: int | None) -> pd.DataFrame:
    """Make the table of :func:`gap_table` from counts.

    Parameters
    ----------
    counts : ndarray of shape (n_groups, n_classes, n_classes)
        Indexed [group, true, predicted].
    pos : int or None
        As in :func:`rates_frame`.

    Returns
    -------
    table : DataFrame
        Index: the names of the gaps; columns difference, ratio.
    """
    import pandas as pd

    columns = {
        "difference": [float(gap(counts, name, pos)) for name in GAPS],
        "ratio": [float(ratio(counts, name, pos)) for name in GAPS],
    }
    return pd.DataFrame(columns, index=pd.Index(GAPS, name="gap"))


def gap_table(
    y_true: Any,
    y_pred: Any,
    sensitive_features: Any,
    *,
    pos_label: Any = None,
    labels: Sequence[Any] | None = None,
    missing_group: str = "raise",
    sample_weight: Any = None,
) -> pd.DataFrame:
    """Tabulate every gap as a difference and as a ratio.

    Parameters
    ----------
    y_true, y_pred, sensitive_features : array-like
        As in :func:`group_table`.
    pos_label, labels, missing_group, sample_weight : optional
        As in :func:`group_table`.

    Returns
    -------
    table : DataFrame
        Index: the names of the gaps. Columns: difference and ratio, in [0, 1], as in
        :func:`fairness_score`.

    Raises
    ------
    ValueError
        As in :func:`fairness_score`.

    Examples
    --------
    >>> from fairsvd.metrics import gap_table
    >>> y_true, y_pred = [0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 1, 0]
    >>> table = gap_table(y_true, y_pred, ["f", "f", "f", "m", "m", "m"])
    >>> float(table.loc["equal_opportunity", "difference"])
    0.5
    """
    counts, pos, _ = hard_counts(
        y_true,
        y_pred,
        sensitive_features,
        pos_label=pos_label,
        labels=labels,
        missing_group=missing_group,
        sample_weight=sample_weight,
    )
    return gaps_frame(counts, pos)
