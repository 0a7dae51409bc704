"""Rows of four cells of different sizes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

COUNTS = {(0, "F"): 12, (0, "M"): 48, (1, "F"): 20, (1, "M"): 40}


def small_task():
    """Rows of `COUNTS`, with a column that gives the group away and its one-hot form."""
    rng = np.random.default_rng(7)
    y = np.repeat([key[0] for key in COUNTS], list(COUNTS.values()))
    sex = np.repeat([key[1] for key in COUNTS], list(COUNTS.values()))
    order = rng.permutation(len(y))
    y, sex = y[order], sex[order]
    X = pd.DataFrame({"age": rng.integers(18, 80, len(y)), "score": rng.normal(size=len(y)) + y})
    X["job"] = rng.choice(["a", "b", "c"], len(y))
    return X, y, pd.Series(sex, name="sex")


def cells_of(y_res):
    return dict(Counter(zip(np.asarray(y_res).tolist(), y_res.index.tolist(), strict=True)))
