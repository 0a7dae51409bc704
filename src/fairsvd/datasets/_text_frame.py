"""Rows of named inputs, such as tokenised texts, as an array that searches can slice."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._messages import listed
from ..containers import as_known, is_frame
from ._frame_arguments import as_row_indices, rows_alone

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TextFrame"]


class TextFrame:
    """Rows of several named inputs of a network: token ids, their mask, and others.

    It can be the X of every editor and of scikit-learn's searches, splitters and Pipelines. A
    network gets the inputs of a batch by their names (``input_ids=``, ``attention_mask=``), as
    transformers' models take them; ``output_key="logits"`` of the editor says where such a model's
    scores are.

    Parameters
    ----------
    inputs : mapping of str to array-like of shape (n, ...)
        What a tokeniser returns with ``padding=True`` (a BatchEncoding, or any dictionary of
        arrays, tensors or lists of lists), real numbers each.
    data : DataFrame, default=None
        Further columns, a row for each text. ``sensitive_columns=`` of an editor, a scorer or
        ``JointStratifiedKFold`` finds columns by name; the network gets none of them.

    Attributes
    ----------
    inputs : dict of str to ndarray
    data : DataFrame or None
    shape : tuple (n,)

    Raises
    ------
    ValueError
        If an input is no array of real numbers, or the inputs (and ``data``) have different
        numbers of rows; the message names it.

    See Also
    --------
    ImageFrame : Files of images.

    Notes
    -----
    ``frame[3]`` is a dictionary of one row; slices, boolean masks and integer arrays give
    TextFrames. Rows to predict may be padded to another length than those of ``fit``. A row's
    prediction does not depend on the rows beside it, but does, by rounding, on its padding.

    A torch ``Dataset`` whose items are such dictionaries, or tuples that begin with one, is taken
    as well; a search wants a TextFrame.

    Examples
    --------
    >>> from fairsvd import TextFrame
    >>> words = {"input_ids": [[2, 7, 3], [2, 3, 0]], "attention_mask": [[1, 1, 1], [1, 1, 0]]}
    >>> frame = TextFrame(words)
    >>> len(frame), frame[[1]].inputs["input_ids"].tolist()
    (2, [[2, 3, 0]])
    """

    ndim = 1

    def __init__(self, inputs: Mapping[str, Any], data: pd.DataFrame | None = None) -> None:
        if not isinstance(inputs, Mapping) or not inputs:
            raise ValueError(
                f"inputs must be a mapping of names to arrays, got {type(inputs).__name__}"
                f"{' without any' if isinstance(inputs, Mapping) else ''}: pass what the tokeniser "
                "returns."
            )
        self.inputs = {name: _as_rows(name, values) for name, values in inputs.items()}
        self.data = None if data is None else as_known(data, "data")
        if self.data is not None and not is_frame(self.data):
            raise ValueError(f"data must be a DataFrame, got {type(data).__name__}")
        lengths = {name: len(values) for name, values in self.inputs.items()}
        if self.data is not None:
            lengths["data"] = len(self.data)
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the inputs have different numbers of rows: {lengths}")

    @property
    def shape(self) -> tuple[int]:
        """Count the rows."""
        return (len(self),)

    def __len__(self) -> int:
        """Count the rows."""
        return len(next(iter(self.inputs.values())))

    def __repr__(self) -> str:
        """Describe the frame."""
        shapes = {name: values.shape[1:] for name, values in self.inputs.items()}
        return f"TextFrame({len(self)} rows of {shapes})"

    def __getitem__(self, key: Any) -> Any:
        """Return one row as a dictionary for an integer, and a TextFrame for anything else."""
        if isinstance(key, tuple):
            key = rows_alone(key)
        if isinstance(key, Integral) and not isinstance(key, bool):
            return {name: values[key] for name, values in self.inputs.items()}
        rows = np.arange(len(self))[key if isinstance(key, slice) else as_row_indices(key)]
        if rows.ndim != 1:
            raise IndexError(f"rows of a TextFrame are chosen by one axis, got {rows.ndim}")
        part = copy.copy(self)
        part.inputs = {name: values[rows] for name, values in self.inputs.items()}
        part.data = None if self.data is None else self.data.iloc[rows]
        return part

    def __array__(self, *_: Any, **__: Any) -> NDArray[Any]:
        """Refuse, since the inputs have names."""
        raise TypeError(
            "a TextFrame does not become one array, since its inputs have names "
            f"([{listed(list(self.inputs))}]): pass it to editors, searches and splitters, or read "
            "frame.inputs."
        )


def _as_rows(name: Any, values: Any) -> NDArray[Any]:
    if not isinstance(name, str):
        raise ValueError(f"inputs must be named as the network's arguments, got the name {name!r}")
    try:
        array = np.asarray(as_known(values, name))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the input {name!r} makes no array ({error}): tokenise with padding=True, so that all "
            "rows have one length"
        ) from error
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"the input {name!r} must be an array of numbers with a row for each text, got "
            f"{array.dtype} of the shape {array.shape}: tokenise words, and leave out what the "
            "network does not take"
        )
    return array
