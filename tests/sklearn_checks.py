"""scikit-learn's checks of editors: the one that they fail, and those that one editor shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

__all__ = ["checks_of_edits", "fails"]

# With weights of 0 alone they would pass (test_weights.py).
BY_DRAWS = {
    "check_sample_weight_equivalence_on_dense_data": "which rows are set apart for validation, and "
    "which are drawn in a training step, depends on the number of rows that are passed: rows of "
    "weight 2 and repeated rows give equal networks in expectation only"
}

# They show how X, y and weights are read, which the template does alike for every editor.
READING = {
    "check_classifier_data_not_an_array",
    "check_classifiers_classes",
    "check_dtype_object",
    "check_estimator_sparse_array",
    "check_estimator_sparse_matrix",
    "check_estimators_dtypes",
    "check_estimators_nan_inf",
    "check_f_contiguous_array_estimator",
    "check_fit2d_predict1d",
    "check_n_features_in",
    "check_n_features_in_after_fitting",
    "check_positive_only_tag_during_fit",
    "check_readonly_memmap_input",
    "check_sample_weights_list",
    "check_sample_weights_not_an_array",
    "check_sample_weights_pandas_series",
    "check_sample_weights_shape",
    "check_supervised_y_2d",
    "check_transformer_data_not_an_array",
}


def fails(estimator: Any) -> dict[str, str]:
    """Return the reason by the name of the check, for every editor."""
    return BY_DRAWS


def checks_of_edits(editors: Iterable[Any]) -> list[Any]:
    """List (editor, check) but for the checks that the first editor passes for all.

    These are the ones of reading, those that repeat another with an X that cannot be written, and
    the one that editors fail.
    """
    found = []
    for editor in editors:
        for each, check in estimator_checks_generator(editor):
            name = getattr(check, "func", check).__name__
            read_only = getattr(check, "keywords", {}).get("readonly_memmap")
            if not (read_only or name in READING | BY_DRAWS.keys()):
                found.append(pytest.param(each, check, id=f"{type(editor).__name__}-{name}"))
    return found
