"""Tables with a column of every type, for the tests of samplers and generators."""

from __future__ import annotations

import numpy as np
import pandas as pd

MAKERS = {
    "float64": lambda rng, n: rng.normal(size=n),
    "float32": lambda rng, n: rng.normal(size=n).astype(np.float32),
    "int64": lambda rng, n: rng.integers(-50, 90, n),
    "uint8": lambda rng, n: rng.integers(0, 256, n).astype(np.uint8),
    "huge": lambda rng, n: rng.integers(2**62, 2**63 - 1, n),
    "Int64": lambda rng, n: pd.array(rng.integers(0, 50, n), dtype="Int64"),
    "Float64": lambda rng, n: pd.array(rng.normal(size=n), dtype="Float64"),
    "bool": lambda rng, n: rng.random(n) < 0.3,
    "boolean": lambda rng, n: pd.array(rng.random(n) < 0.3, dtype="boolean"),
    "flag": lambda rng, n: rng.integers(0, 2, n),
    "constant": lambda rng, n: np.full(n, 1.5),
    "zeros": lambda rng, n: np.where(rng.random(n) < 0.7, 0.0, rng.exponential(1000, n)),
    "str": lambda rng, n: rng.choice(["u", "v", "w"], n),
    "object": lambda rng, n: pd.Series(rng.choice([1, 2, 3, 4], n), dtype=object),
    "mixed": lambda rng, n: pd.Series([3, *rng.choice(["x", "y"], n - 1)], dtype=object),
    "category": lambda rng, n: pd.Categorical(rng.choice(list("abc"), n), categories=list("abcz")),
    "ordered": lambda rng, n: pd.Categorical(
        rng.choice(["low", "mid", "high"], n),
        categories=["never", "low", "mid", "high"],
        ordered=True,
    ),
    "date": lambda rng, n: (
        pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), unit="D")
    ),
    "zoned": lambda rng, n: (
        pd.Timestamp("2020-01-01", tz="Europe/Paris")
        + pd.to_timedelta(rng.integers(0, 900, n), unit="h")
    ),
    "span": lambda rng, n: pd.to_timedelta(rng.integers(0, 900, n), unit="h"),
}
CAN_BE_MISSING = sorted(set(MAKERS) - {"int64", "uint8", "huge", "bool", "flag", "constant"})


def mixed_table(
    kinds: list[str], n_rows: int, rng: np.random.Generator, missing: float = 0.0
) -> pd.DataFrame:
    """Draw a table; entries are missing at a rate where their type allows it."""
    table = pd.DataFrame({kind: MAKERS[kind](rng, n_rows) for kind in kinds})
    for kind in kinds:
        if kind in CAN_BE_MISSING and missing:
            table.loc[rng.random(n_rows) < missing, kind] = None
    return table
