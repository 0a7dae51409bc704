"""Methods of AIF360, run on its tables of labels, groups and scores."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..interop import resample_by_weight
from ..low_rank import FairLRFTransformer
from ._answers import Answer
from ._editors import FRACTION, edit
from ._fold import Fold, as_network, train

__all__ = ["eq_odds", "post_process_as_given", "reject_option", "reweigh", "reweigh_as_given"]

REJECT_NAMES = {
    "equalized_odds": "Average odds difference",
    "average_odds": "Average odds difference",
    "demographic_parity": "Statistical parity difference",
    "equal_opportunity": "Equal opportunity difference",
}
# Small, since RejectOptionClassification measures every pair of a threshold and a margin in pandas.
REJECT_ROWS, REJECT_THRESHOLDS, REJECT_MARGINS = 5000, 50, 20

# What AIF360 says of each extra that is not installed; nothing here needs one of them.
NOT_INSTALLED = "will be unavailable"

Roles = tuple[list[dict[str, float]], list[dict[str, float]]]


def _algorithms(kind: str) -> ModuleType:
    """Import a module of AIF360's algorithms without its messages about extras."""
    with _without_messages(NOT_INSTALLED):
        return import_module(f"aif360.algorithms.{kind}")


@contextmanager
def _without_messages(text: str) -> Iterator[None]:
    """Leave messages with a text out of the root log, and the log itself as it was."""
    root, silent = logging.getLogger(), logging.NullHandler()

    def wanted(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    root.addFilter(wanted)
    # Without any handler logging.warning would set one up for good.
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)
        root.removeFilter(wanted)


def attribute(fold: Fold) -> tuple[str, NDArray[np.float64]]:
    """Return the name of the protected attribute and its value in every row of the problem.

    Numbers are kept; other labels, including intersections, become their codes.
    """
    groups = fold.problem.groups
    labels: Any = groups.labels
    if not all(isinstance(label, (int, float)) for label in labels):
        labels = range(groups.n_groups)
    return " x ".join(groups.names), np.asarray(labels, dtype=np.float64)[groups.codes]


def roles(fold: Fold) -> Roles:
    """Return the unprivileged and the privileged group; the latter has more positive labels.

    Raises
    ------
    ValueError
        If there are more than two groups.
    """
    groups = fold.problem.groups
    if groups.n_groups != 2:
        raise ValueError(
            f"AIF360 compares two groups, but these rows have {groups.n_groups}. Pass an instance "
            "that names the privileged ones."
        )
    name, values = attribute(fold)
    rows, pair = fold.fitting, np.unique(values).tolist()
    shares = [fold.positive(rows)[values[rows] == value].mean() for value in pair]
    privileged = int(np.argmax(shares))
    return [{name: pair[1 - privileged]}], [{name: pair[privileged]}]


def as_dataset(
    fold: Fold,
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    scores: NDArray[np.float64] | None = None,
) -> Any:
    """Build AIF360's table of labels (1 favourable, 0 not), groups and scores."""
    import pandas as pd
    from aif360.datasets import BinaryLabelDataset

    name, values = attribute(fold)
    table = BinaryLabelDataset(
        favorable_label=1.0,
        unfavorable_label=0.0,
        df=pd.DataFrame({name: values[rows], "label": labels.astype(np.float64)}),
        label_names=["label"],
        protected_attribute_names=[name],
    )
    if scores is not None:
        table.scores = scores.reshape(-1, 1)
    weights = fold.weights(rows)
    if weights is not None:
        table.instance_weights = weights.copy()
    return table


def eq_odds(fold: Fold, constraint: str) -> NDArray[np.int64]:
    """Run EqOddsPostprocessing, which always closes equalized odds, for any constraint."""
    processor = _algorithms("postprocessing").EqOddsPostprocessing(*roles(fold), seed=fold.seed)
    return _post_process(processor, fold, fold.choosing)


def reject_option(fold: Fold, constraint: str) -> NDArray[np.int64]:
    """Run RejectOptionClassification on at most 5,000 rows, with average for equalized odds."""
    if constraint not in REJECT_NAMES:
        raise ValueError(
            f"RejectOptionClassification does not know {constraint}; it knows "
            f"{', '.join(REJECT_NAMES)}."
        )
    limit = FRACTION * fold.problem.tolerance
    processor = _algorithms("postprocessing").RejectOptionClassification(
        *roles(fold),
        num_class_thresh=REJECT_THRESHOLDS,
        num_ROC_margin=REJECT_MARGINS,
        metric_name=REJECT_NAMES[constraint],
        metric_ub=limit,
        metric_lb=-limit,
    )
    drawn = np.random.default_rng(fold.seed).permutation(fold.choosing)[:REJECT_ROWS]
    return _post_process(processor, fold, np.sort(drawn))


def post_process_as_given(processor: Any, fold: Fold, constraint: str) -> NDArray[np.int64]:
    """Run a copy of the user's post-processor with its own groups."""
    return _post_process(copy.deepcopy(processor), fold, fold.choosing)


def _post_process(processor: Any, fold: Fold, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fit on the base network's scores and its predictions at the threshold for utility."""
    processor.fit(as_dataset(fold, rows, fold.positive(rows)), _prediction_table(fold, rows))
    fixed = processor.predict(_prediction_table(fold, fold.test))
    return fold.codes_of_positive(fixed.labels)


def _prediction_table(fold: Fold, rows: NDArray[np.int64]) -> Any:
    hard = (fold.at_threshold(rows) == fold.problem.pos).astype(np.int64)
    return as_dataset(fold, rows, hard, fold.scores(rows))


def reweigh(fold: Fold, constraint: str) -> Answer:
    """Train a base network on rows drawn by the weights of Reweighing."""
    processor = _algorithms("preprocessing").Reweighing(*roles(fold))
    return _train_reweighed(processor, fold, constraint)


def reweigh_as_given(processor: Any, fold: Fold, constraint: str) -> Answer:
    """Train a base network by a copy of the user's Reweighing with its own groups."""
    return _train_reweighed(copy.deepcopy(processor), fold, constraint)


def _train_reweighed(processor: Any, fold: Fold, constraint: str) -> Answer:
    """Resample, train, and choose a single threshold as editors do."""
    if fold.adopted.frozen:
        raise ValueError(
            "Reweighing trains a network, but base came trained: use base=None, or a skorch net "
            "that is not frozen."
        )
    rows = fold.training
    table = as_dataset(fold, rows, fold.positive(rows))
    weights = processor.fit_transform(table).instance_weights
    codes = fold.problem.codes[rows], fold.groups(rows)
    drawn = resample_by_weight(rows, *codes, weights, random_state=fold.seed)[0]
    network = as_network(train(fold.problem, fold, drawn, weighted=False))
    # An edit without changes, whose fit only chooses the threshold.
    return edit(FairLRFTransformer(network, sparsity=0, refine=None), fold, constraint)
