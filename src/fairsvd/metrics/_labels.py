"""Labels of any type as codes that all arrays share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._messages import listed
from ..containers import label_codes

__all__ = ["Encoded", "check_table_size", "encode_labels"]

MOST_COUNTS = 2**27


class Encoded(NamedTuple):
    """Labels as codes: the classes, the codes of each array, and the code of the positive class."""

    classes: list[Any]
    codes: list[NDArray[np.int64]]
    pos: int | None  # None with more than two classes: one versus the rest


def _order_classes(present: list[Any], labels: Sequence[Any] | None, pos_label: Any) -> list[Any]:
    """Order the classes: those of ``labels`` first, the others sorted; at least two."""
    first = [] if labels is None else list(np.asarray(labels).tolist())
    extra = [label for label in dict.fromkeys(present) if label not in first]
    try:
        classes = first + sorted(extra)
    except TypeError as error:
        raise ValueError(
            f"The labels [{listed(extra, show=repr)}] have types that cannot be compared: give "
            "y_true and y_pred labels of the same type."
        ) from error
    if len(classes) == 1:
        # Like fairlearn, take a single 0 or 1 for one of the pair 0, 1.
        default = [0, 1] if classes[0] in (0, 1) else classes
        classes = default if pos_label is None or pos_label in default else [*classes, pos_label]
    if len(classes) < 2:
        raise ValueError(
            f"y_true and y_pred have the single label {classes[0]!r}: name both classes in "
            "labels=, or the positive one in pos_label=."
        )
    return classes


def _positive_code(classes: list[Any], pos_label: Any) -> int | None:
    if len(classes) > 2:
        if pos_label is not None:
            raise ValueError(
                f"pos_label={pos_label!r} was given with {len(classes)} classes, of which each is "
                "compared with the rest: use pos_label=None (or make y binary)."
            )
        return None
    if pos_label is None:
        return 1
    if pos_label not in classes:
        raise ValueError(
            f"pos_label={pos_label!r} is not among the classes [{listed(classes, show=repr)}]."
        )
    return classes.index(pos_label)


def encode_labels(arrays: dict[str, Any], labels: Sequence[Any] | None, pos_label: Any) -> Encoded:
    """Encode arrays of labels with common codes.

    Parameters
    ----------
    arrays : dict of str to array-like of shape (n_samples,)
        Arrays of labels by their names in error messages.
    labels : sequence or None
        Classes in the order of their codes; other labels follow, sorted.
    pos_label : label or None
        None means the second class.

    Returns
    -------
    encoded : Encoded
        Classes, codes and the positive code.

    Raises
    ------
    ValueError
        If labels are missing or cannot be compared, lengths differ, there is a single class, or
        ``pos_label`` is not a class or was given with more than two.
    """
    distinct = {what: label_codes(array, what) for what, array in arrays.items()}
    lengths = {what: len(codes) for what, (_, codes) in distinct.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The lengths differ: {lengths}. Wanted one entry per row in all.")
    present = [label for values, _ in distinct.values() for label in values]
    classes = _order_classes(present, labels, pos_label)
    place = {label: k for k, label in enumerate(classes)}
    codes = [
        np.array([place[v] for v in values], dtype=np.int64)[codes]
        for values, codes in distinct.values()
    ]
    return Encoded(classes, codes, _positive_code(classes, pos_label))


def check_table_size(n_classes: int, n_groups: int) -> None:
    """Refuse a table of counts that is too large for memory.

    Raises
    ------
    ValueError
        If there are more than 2**27 (group, true, predicted) counts, 1 GiB.
    """
    if n_groups * n_classes**2 > MOST_COUNTS:
        raise ValueError(
            f"y_true and y_pred hold {n_classes} distinct labels, and there are {n_groups} groups: "
            f"a table of counts has {n_groups} x {n_classes} x {n_classes} entries. If these are "
            "scores or numbers of rows, pass class labels; if not, merge classes or groups."
        )
