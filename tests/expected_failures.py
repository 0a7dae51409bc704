"""The check of scikit-learn that editors fail, and why."""

from __future__ import annotations

from typing import Any

__all__ = ["fails"]

# With weights of 0 alone they would pass (test_weights.py).
BY_DRAWS = {
    "check_sample_weight_equivalence_on_dense_data": "which rows are set apart for validation, and "
    "which are drawn in a training step, depends on the number of rows that are passed: rows of "
    "weight 2 and repeated rows give equal networks in expectation only"
}


def fails(estimator: Any) -> dict[str, str]:
    """Return the reason by the name of the check, for every editor."""
    return BY_DRAWS
