"""The default network, which is built and trained if the user has none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, PrintLog
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from .._rng import one_torch_thread, torch_generator
from ..arrays import LabelledRows
from ._layout import laid_out
from ._modules import MLP, ConvNet
from ._settled import MANY_ROWS, fit_until_settled
from ._weighted import drawing_by_weight

__all__ = ["RowDataset", "channel_statistics", "default_net", "fit_net", "train_default"]

# At least 20 epochs, and as many steps as rows up to 1,500: enough for tables of tens of thousands
# of rows, and fast on tiny ones. Beyond, held-out rows end the training.
MIN_EPOCHS, MAX_STEPS = 20, 1500


class RowDataset(Dataset[Any]):
    """Rows and labels as a torch dataset.

    Parameters
    ----------
    rows : LabelledRows
    labels : Tensor of shape (n_rows,)
        In the dtype of the criterion.
    """

    def __init__(self, rows: LabelledRows, labels: Tensor) -> None:
        self.rows = rows
        self.labels = labels

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[Any, Tensor]:
        """Read one row, with named inputs as a dictionary."""
        X = self.rows.X[position : position + 1]
        if (fields := self.rows.X.fields) is None:
            return X[0], self.labels[position]
        return {name: part[0] for name, part in fields.unpack(X).items()}, self.labels[position]


class BatchDataset(RowDataset):
    """Like :class:`RowDataset`, but reads whole batches, augmented if the rows allow it.

    Parameters
    ----------
    rows, labels
        As in :class:`RowDataset`.
    generator : torch.Generator
        Used only if rows are augmented.
    """

    def __init__(self, rows: LabelledRows, labels: Tensor, generator: torch.Generator) -> None:
        super().__init__(rows, labels)
        self.generator = generator

    def __getitems__(self, positions: list[int]) -> tuple[Tensor, Tensor]:
        """Read the rows of a batch for :func:`collate`."""
        X = self.rows.X.for_training(np.asarray(positions), self.generator)
        return X, self.labels[positions]


def collate(batch: Any) -> Any:
    """Return a batch that was read as a whole; collate a list of rows as torch does.

    Lists occur if the user trains the net further on other arrays.
    """
    return batch if isinstance(batch, tuple) else default_collate(batch)


def channel_statistics(rows: LabelledRows, block: int = 1024) -> tuple[Tensor, Tensor]:
    """Compute mean and scale of every feature (or image channel) in one pass, in float64.

    Rows count as often as their weights say.

    A constant feature has scale 1, so that it becomes zero instead of infinity.
    """
    count, total, squares = 0.0, torch.zeros(()), torch.zeros(())
    shift: Tensor | None = None
    batches, start = rows.X.astype(torch.float64), 0
    for X in map(Tensor.double, batches.blocks(batches.block_size(block))):
        axes = [0, *range(2, X.ndim)]
        if shift is None:
            # Sums of squares around a value near the mean lose no digits.
            shift = X.mean(dim=axes, keepdim=True)
        centred = X - shift
        weighted, mass = centred, float(len(X))
        if rows.weights is not None:
            own = rows.weights[start : start + len(X)]
            weighted, mass = centred * own.reshape(-1, *[1] * (X.ndim - 1)), float(own.sum())
        start += len(X)
        total = total + weighted.sum(dim=axes)
        squares = squares + (weighted * centred).sum(dim=axes)
        count += mass * (X[0].numel() // X.shape[1])
    offset = total / count
    deviation = (squares / count - offset.square()).clamp_min(0).sqrt()
    mean = offset + (shift.flatten() if shift is not None else 0)
    tiny = 10 * torch.finfo(torch.float32).eps * mean.abs()
    return mean, torch.where(deviation > tiny, deviation, torch.ones_like(deviation))


def default_net(
    rows: LabelledRows,
    classes: NDArray[Any],
    *,
    batch_size: int,
    rng: np.random.Generator,
    device: str,
    of_table: type[nn.Module] = MLP,
    callbacks: Sequence[Callback] = (),
) -> NeuralNetClassifier:
    """Build the default skorch net for ``rows``, untrained, drawing from ``rng`` only.

    Tables get a network of the class ``of_table``, images a :class:`ConvNet`. Adam at 1e-3,
    cross-entropy, max(20 epochs, min(1500, n_rows) steps). Of more than 50,000 rows this is the
    most; see :func:`train_default`.
    """
    steps_per_epoch = -(-len(rows) // batch_size)
    epochs = max(MIN_EPOCHS, -(-min(MAX_STEPS, len(rows)) // steps_per_epoch))
    kind = of_table if is_table(rows) else ConvNet
    width = rows.X.item_shape[0]
    return NeuralNetClassifier(
        kind(width, len(classes), generator=torch_generator(rng)),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=batch_size,
        max_epochs=epochs,
        classes=np.arange(len(classes)),
        train_split=None,
        iterator_train__shuffle=True,
        iterator_train__generator=torch_generator(rng),
        iterator_train__collate_fn=collate,
        callbacks=list(callbacks),
        verbose=0,
        device=device,
    )


def is_table(rows: LabelledRows) -> bool:
    """Tell whether rows are those of a table, not images."""
    return len(rows.X.item_shape) == 1


def train_default(net: NeuralNetClassifier, rows: LabelledRows, rng: np.random.Generator) -> None:
    """Set the input statistics of the default net and train it.

    Up to 50,000 rows are all trained on, for as many epochs as the net says. Of more rows 10,000
    are held out, and the training ends earlier if these are predicted no better any more.

    Tables train under one torch thread, since more threads slow down so small a network and
    change its bits.

    Parameters
    ----------
    net : skorch net
        From :func:`default_net`; changed in place.
    rows : LabelledRows
    rng : numpy.random.Generator
        Draws augmentations and the held-out rows.
    """
    mean, scale = channel_statistics(rows)
    for name, values in (("mean", mean), ("scale", scale)):
        buffer = net.module.get_buffer(name)
        buffer.copy_(values.to(buffer.dtype).reshape(buffer.shape))
    rows = replace(rows, X=laid_out(net.module, rows.X))
    with one_torch_thread() if is_table(rows) else nullcontext(), drawing_by_weight(net, rows):
        net.initialize()
        generator = torch_generator(rng)

        def as_dataset(part: LabelledRows) -> BatchDataset:
            return BatchDataset(part, part.y, generator)

        if len(rows) > MANY_ROWS:
            fit_until_settled(net, rows, rng, net.max_epochs, as_dataset)
        else:
            fit_net(net, as_dataset(rows), None)


def fit_net(net: Any, X: Any, y: Any) -> None:
    """Train an initialised skorch net as its ``fit`` does, but raise an interrupt of the user.

    skorch catches KeyboardInterrupt and returns a half-trained net as if it were finished. Its
    early-stopping callbacks raise the same exception, which is therefore caught by its origin.
    """
    net.notify("on_train_begin", X=X, y=y)
    try:
        with _without_unseen_log(net):
            net.fit_loop(X, y)
    except KeyboardInterrupt as interrupt:
        if not _raised_by_callback(interrupt):
            raise
    net.notify("on_train_end", X=X, y=y)


@contextmanager
def _without_unseen_log(net: Any) -> Iterator[None]:
    """Leave skorch's log out of a block if it prints nothing.

    Even then it formats a table in every epoch: a quarter of the time of a small training.
    """
    callbacks = net.callbacks_
    if not net.verbose:
        net.callbacks_ = [pair for pair in callbacks if not _prints_only_if_verbose(pair[1])]
    try:
        yield
    finally:
        net.callbacks_ = callbacks


def _prints_only_if_verbose(callback: Any) -> bool:
    return type(callback) is PrintLog and callback.sink is print


def _raised_by_callback(interrupt: BaseException) -> bool:
    trace = interrupt.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    owner = trace.tb_frame.f_locals.get("self") if trace is not None else None
    return isinstance(owner, Callback)
