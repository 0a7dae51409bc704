"""What both audits share: checks, the bar of loops, and the summary over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...base import progress_bar

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_counts", "check_quantiles", "summarise", "with_bar"]


def check_counts(**counts: Any) -> None:
    """Refuse numbers that are no integers of at least 1."""
    for name, value in counts.items():
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r}: wanted an integer of at least 1.")


def check_quantiles(quantiles: tuple[float, float]) -> None:
    """Refuse what are no two quantiles."""
    if len(quantiles) != 2 or not 0 <= quantiles[0] <= quantiles[1] <= 1:
        raise ValueError(f"quantiles={quantiles!r}: wanted two numbers in [0, 1], in order.")


def with_bar(runs: Iterable[Any], n_seeds: int, verbose: int, name: str) -> list[dict[str, Any]]:
    """Collect the records of all loops, with a progress bar."""
    records: list[dict[str, Any]] = []
    with progress_bar(verbose, name, unit=" loops", total=n_seeds) as progress:
        for run in runs:
            records += run
            progress()
    return records


def summarise(
    runs: pd.DataFrame, measures: Sequence[str], quantiles: tuple[float, float]
) -> pd.DataFrame:
    """Summarise every measure over loops, for each generation and cell."""
    import pandas as pd

    rows = []
    for (generation, cell), part in runs.groupby(["generation", "cell"], sort=False):
        first = {"generation": generation, "cell": cell}
        first |= {name: part[name].iloc[0] for name in ("label", "group")}
        for name in measures:
            values = part[name].to_numpy(dtype=np.float64)
            rows.append(first | {"measure": name} | _summarise_loops(values, quantiles))
    return pd.DataFrame(rows)


def _summarise_loops(values: Any, quantiles: tuple[float, float]) -> dict[str, float]:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return {"median": np.nan, "low": np.nan, "high": np.nan, "mean": np.nan, "n_seeds": 0}
    # Without interpolation, since a share ratio may be infinite.
    low, high = np.quantile(defined, quantiles, method="inverted_cdf")
    summary = {"median": float(np.median(defined)), "low": float(low), "high": float(high)}
    return summary | {"mean": float(defined.mean()), "n_seeds": len(defined)}
