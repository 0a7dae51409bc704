"""Training of a skorch net in which rows are drawn as often as their weights say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler, Subset

from ..arrays import LabelledRows, draw_order, repeat_rows
from ..exceptions import NetworkError

__all__ = ["drawing_by_weight"]


class WeightedOrder(Sampler[int]):
    """The positions of one pass after another; a row comes as often as its weight says.

    Parameters
    ----------
    weights : Tensor of shape (n,)
    shuffle : bool
        Whether every pass has a new order.
    generator : torch.Generator or None
        None: torch's global one.
    """

    def __init__(self, weights: Tensor, shuffle: bool, generator: torch.Generator | None) -> None:
        self.weights, self.shuffle, self.generator = weights, shuffle, generator

    def __len__(self) -> int:
        """Count the positions of a pass."""
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        """Draw one pass."""
        n, generator = len(self.weights), self.generator
        if self.shuffle:
            yield from draw_order(n, self.weights, generator).tolist()
            return
        offset = float(torch.rand((), generator=generator, dtype=torch.float64))
        yield from repeat_rows(self.weights, offset).tolist()


@contextmanager
def drawing_by_weight(net: Any, rows: LabelledRows) -> Iterator[None]:
    """Let a skorch net draw its training rows by their weights for a block.

    So every loss, metric and callback of the net sees the rows in their shares; nothing of the net
    is changed afterwards.

    Parameters
    ----------
    net : skorch net
    rows : LabelledRows
        Those of its training; without weights nothing is done.

    Raises
    ------
    NetworkError
        The net has a sampler of its own, or a dataset of which the rows cannot be told.
    """
    if rows.weights is None:
        yield
        return
    given = net.iterator_train
    net.iterator_train = _iterator_of(given, rows.weights)
    try:
        yield
    finally:
        net.iterator_train = given


def _iterator_of(given: Callable[..., Any], weights: Tensor) -> Callable[..., Any]:
    def iterate(dataset: Any, **settings: Any) -> Any:
        if settings.get("sampler") is not None or settings.get("batch_sampler") is not None:
            raise NetworkError(
                "network has a sampler of its own (iterator_train__sampler), which knows nothing "
                "of sample_weight: leave it out, or train the net first and pass "
                "FrozenEstimator(net)."
            )
        shuffle = bool(settings.pop("shuffle", False))
        order = WeightedOrder(_weights_of(dataset, weights), shuffle, settings.get("generator"))
        return given(dataset, sampler=order, **settings)

    return iterate


def _weights_of(dataset: Any, weights: Tensor) -> Tensor:
    """Find the weights of the rows of a dataset, which may be a part of the rows of the fit."""
    own = getattr(getattr(dataset, "rows", None), "weights", None)
    if isinstance(own, Tensor) and len(own) == len(dataset):
        return own
    positions = np.arange(len(dataset))
    while isinstance(dataset, Subset):
        positions = np.asarray(dataset.indices)[positions]
        dataset = dataset.dataset
    if len(dataset) != len(weights):
        raise NetworkError(
            f"network has a {type(dataset).__name__} of {len(dataset)} rows as dataset= for "
            f"{len(weights)} rows of fit, so that sample_weight cannot be told to its rows: use "
            "skorch's own, or train the net first and pass FrozenEstimator(net)."
        )
    return weights[torch.as_tensor(positions)]
