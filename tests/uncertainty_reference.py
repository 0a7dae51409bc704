"""A table whose six gaps differ, and what their uncertainty is by the formulas of large samples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

# [group, true, predicted], cells of different sizes: TPR .8 and .5, FPR .15 and .25.
UNEQUAL = np.array([[[850, 150], [400, 1600]], [[1500, 500], [400, 400]]])

# By the positive class: the gap in the odds of one is .3, of the other .1, and they are opposite.
GAPS_OF_UNEQUAL = {
    "demographic_parity": (1750 / 3000 - 900 / 2800,) * 2,
    "equal_opportunity": (0.1, 0.3),
    "equalized_odds": (0.3, 0.3),
    "average_odds": (0.2, 0.2),
    "signed_average_odds": (0.1, 0.1),
    "accuracy_parity": (2450 / 3000 - 1900 / 2800,) * 2,
}


def errors(pos: int) -> tuple[dict[str, float], dict[str, float]]:
    """Standard errors of the difference of each rate: of the groups, and if they were alike."""
    turned = UNEQUAL if pos == 1 else UNEQUAL[:, ::-1, ::-1]
    (tn, fp), (fn, tp) = np.moveaxis(turned, 0, -1)
    everybody = tn + fp + fn + tp
    shares = {
        "selection": (fp + tp, everybody),
        "tpr": (tp, fn + tp),
        "fpr": (fp, tn + fp),
        "accuracy": (tn + tp, everybody),
    }
    own, equal = {}, {}
    for name, (hits, n) in shares.items():
        rate, pooled = hits / n, hits.sum() / n.sum()
        own[name] = np.sqrt((rate * (1 - rate) / n).sum())
        equal[name] = np.sqrt(pooled * (1 - pooled) * (1 / n).sum())
    return own, equal


def of_gaps(error: dict[str, float], pos: int) -> dict[str, float]:
    """Standard error of every gap; the larger one of the odds is known by its rate."""
    both = np.hypot(error["tpr"], error["fpr"]) / 2
    return {
        "demographic_parity": error["selection"],
        "equal_opportunity": error["tpr"],
        "equalized_odds": error["tpr" if pos == 1 else "fpr"],
        "average_odds": both,
        "signed_average_odds": both,
        "accuracy_parity": error["accuracy"],
    }


def check_uncertainty(table: pd.DataFrame, pos: int) -> None:
    """Compare difference, low, high and noise_floor of ``UNEQUAL`` with the formulas."""
    own, equal = errors(pos)
    expected = {name: values[pos] for name, values in GAPS_OF_UNEQUAL.items()}
    assert table["difference"].to_dict() == pytest.approx(expected)
    for name, error in of_gaps(own, pos).items():
        # 95 % of a normal distribution are 1.96 standard errors on each side; 90 % were 1.64.
        low, high = table.loc[name, ["low", "high"]]
        assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.08), name
        assert (low + high) / 2 == pytest.approx(expected[name], abs=0.25 * error), name
    # The mean of the absolute value of a normal variable is sqrt(2 / pi) of its deviation.
    floors = {name: np.sqrt(2 / np.pi) * error for name, error in of_gaps(equal, pos).items()}
    drawn = np.abs(np.random.default_rng(0).normal(size=(2, 100_000)))
    drawn *= np.array([[equal["tpr"]], [equal["fpr"]]])
    floors["equalized_odds"] = drawn.max(axis=0).mean()
    floors["average_odds"] = drawn.mean()
    for name, floor in floors.items():
        assert table.loc[name, "noise_floor"] == pytest.approx(floor, rel=0.07), name
