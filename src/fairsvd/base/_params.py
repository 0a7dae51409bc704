"""Legal values of the shared parameters: the one file that uses scikit-learn's private table."""

from __future__ import annotations

from numbers import Integral, Real
from os import PathLike
from typing import Any

import torch
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from ..objective import GAPS, UTILITIES, PhiObjective

__all__ = ["SHARED_CONSTRAINTS", "HasMethods", "Interval", "StrOptions", "positive_int"]


def positive_int() -> Interval:
    """Accept the integers from 1."""
    return Interval(Integral, 1, None, closed="left")


SHARED_CONSTRAINTS: dict[str, Any] = {
    # adopt() says in its own words what a network may be.
    "network": "no_validation",
    "constraint": [StrOptions(set(GAPS)), PhiObjective],
    "tolerance": [Interval(Real, 0, 1, closed="both")],
    "tolerance_fraction": [Interval(Real, 0, 1, closed="right")],
    "utility": [StrOptions({"auto", *UTILITIES}), callable],
    "threshold": [StrOptions({"tune"}), Interval(Real, 0, 1, closed="neither")],
    "pos_label": "no_validation",
    "sensitive_columns": [str, Integral, list, tuple, None],
    "missing_group": [StrOptions({"raise", "ignore", "own_group"})],
    "validation": [Interval(Real, 0, 1, closed="neither"), HasMethods(["split"])],
    "batch_size": [positive_int()],
    "device": [str, torch.device, None],
    "output": [StrOptions({"features", "logits", "probabilities"})],
    "output_key": [str, Integral, None],
    "n_jobs": [Integral, None],
    "memory": [str, PathLike, HasMethods(["cache"]), None],
    "precision": [StrOptions({"full", "mixed"})],
    "on_interrupt": [StrOptions({"raise", "keep"})],
    "verbose": ["verbose"],
    "random_state": ["random_state"],
}
