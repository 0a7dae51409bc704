"""Build and train a hypernetwork."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...arrays import to_device
from ...base import progress_bar
from ...networks import plain_copy
from ...training import tune
from ._emittable import Generator, as_generator
from ._gaussian import GaussianGenerator, MixtureGenerator
from ._loss import HyperLoss
from ._vae import ImageVAE, TableVAE

__all__ = ["Training", "build_generator", "set_sizes", "train"]

# Shares of the steps and factors of the learning rate: the fast rate finds most of the solution,
# the slow ones its last few per cent.
SCHEDULE = ((0.6, 1.0), (0.25, 0.3), (0.15, 0.1))

# Least and most rows of a training set; it may have fewer if the table does.
LEAST_ROWS, MOST_ROWS = 4, 128


@dataclass(frozen=True)
class Training:
    """Training parameters of a ``HyperGenerator``.

    Attributes
    ----------
    n_steps : int
    learning_rate : float
    name : str
        Title of the progress bar.
    verbose : int
    device : str
    """

    n_steps: int
    learning_rate: float
    name: str
    verbose: int
    device: str


def build_generator(
    choice: Any, row_shape: tuple[int, ...], settings: dict[str, Any], rng: torch.Generator
) -> Generator:
    """Make the generator whose weights are emitted.

    Parameters
    ----------
    choice : {"gaussian", "mixture", "vae"} or nn.Module
        A module is copied.
    row_shape : tuple of int
    settings : dict
        ``n_components``, ``latent_size``, ``covariance``.
    rng : torch.Generator
        Source of the starting weights.

    Raises
    ------
    ValueError
        If a Gaussian or mixture is chosen for images, or the module is not a generator.
    """
    if isinstance(choice, nn.Module):
        return as_generator(plain_copy(choice)[0]).requires_grad_(False)
    is_table = len(row_shape) == 1
    if choice == "vae":
        kind: Any = TableVAE if is_table else ImageVAE
        shape: Any = row_shape[0] if is_table else row_shape
        return kind(shape, settings["latent_size"], generator=rng).requires_grad_(False)
    if not is_table:
        raise ValueError(
            f"generator={choice!r} draws rows of tables but X holds images: use 'vae' or a module."
        )
    d, covariance = row_shape[0], settings["covariance"]
    if choice == "gaussian":
        return GaussianGenerator(d, covariance).requires_grad_(False)
    mixture = MixtureGenerator(d, settings["n_components"], covariance, generator=rng)
    return mixture.requires_grad_(False)


def set_sizes(set_size: Any, counts: NDArray[Any]) -> tuple[int, int]:
    """Return the least and the most rows of a training set.

    Parameters
    ----------
    set_size : int, tuple of two int, or None
        None: from the rows of the smallest cell, within [4, 32], to the rows of the table, at
        most 128.
    counts : ndarray of shape (n_cells,)
        Rows in each cell.

    Raises
    ------
    ValueError
        If they are not two integers with 1 <= low <= high.
    """
    if set_size is None:
        low = min(max(LEAST_ROWS, int(counts.min())), 32, int(counts.sum()))
        return low, max(low, min(MOST_ROWS, int(counts.sum())))
    sizes = tuple(set_size) if isinstance(set_size, (tuple, list)) else (set_size, set_size)
    if len(sizes) != 2 or any(isinstance(s, bool) or int(s) != s for s in sizes):
        raise ValueError(
            f"set_size={set_size!r}: pass a count of rows, a pair (low, high), or None."
        )
    low, high = map(int, sizes)
    if not 1 <= low <= high:
        raise ValueError(f"set_size={set_size!r}: wanted 1 <= low <= high.")
    return low, high


def train(loss: HyperLoss, sets: Iterable[Tensor], training: Training) -> list[float]:
    """Train the hypernetwork of a loss in place, on a device and back on the CPU.

    Parameters
    ----------
    loss : HyperLoss
    sets : iterable of Tensor
        Endless batches of data sets.
    training : Training

    Returns
    -------
    losses : list of float
        One value per step.

    Raises
    ------
    ValueError
        If the loss becomes NaN or infinite.
    """
    losses: list[float] = []

    def record_loss(batch: Tensor) -> Tensor:
        value = loss(batch)
        losses.append(value.item())
        if not torch.isfinite(value):
            raise ValueError(
                f"The loss is {losses[-1]} at step {len(losses)} of {training.n_steps}: lower "
                f"learning_rate={training.learning_rate}, or autophagy_weight={loss.weight}."
            )
        return value

    loss.network.to(training.device).train()
    loss.generator.to(training.device)
    endless = (to_device(batch, training.device) for batch in sets)
    total = training.n_steps
    with progress_bar(training.verbose, training.name, unit=" steps", total=total) as progress:
        for n_steps, rate in _phases(training):
            steps = tune(
                record_loss,
                list(loss.network.parameters()),
                endless,
                n_steps=n_steps,
                learning_rate=rate,
                every=n_steps,
                progress=progress,
            )
            for _ in steps:
                pass
    loss.network.cpu().eval()
    loss.generator.cpu()
    return losses


def _phases(training: Training) -> Iterator[tuple[int, float]]:
    done, share = 0, 0.0
    for part, factor in SCHEDULE:
        share += part
        until = round(share * training.n_steps)
        if until > done:
            yield until - done, factor * training.learning_rate
        done = until
