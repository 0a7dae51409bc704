"""How a hypernetwork is built and trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...training import tune
from ._emittable import Generator, as_generator
from ._gaussian import GaussianGenerator, MixtureGenerator
from ._loss import HyperLoss
from ._vae import ImageVAE, TableVAE

__all__ = ["Training", "built_generator", "set_sizes", "trained"]

# Share of the steps, and of the learning rate: a correction of a few per cent is not settled at
# a rate that finds the rest quickly.
SCHEDULE = ((0.6, 1.0), (0.25, 0.3), (0.15, 0.1))

# A training set has at least as many rows, unless every cell has fewer, and at most as many.
LEAST_ROWS, MOST_ROWS = 4, 128


@dataclass(frozen=True)
class Training:
    """What ``HyperGenerator`` was asked for, of its training.

    Attributes
    ----------
    n_steps : int
    learning_rate : float
    name : str
        On the progress bar.
    verbose : int
    """

    n_steps: int
    learning_rate: float
    name: str
    verbose: int


def built_generator(
    given: Any, row_shape: tuple[int, ...], settings: dict[str, Any], rng: torch.Generator
) -> Generator:
    """Make the generator whose weights are to be emitted.

    Parameters
    ----------
    given : {"gaussian", "mixture", "vae"} or nn.Module
        A module is copied.
    row_shape : tuple of int
    settings : dict
        ``n_components``, ``latent_size``, ``covariance``.
    rng : torch.Generator
        Of starting weights.

    Raises
    ------
    ValueError
        A Gaussian is asked for on images, or the module is no generator.
    """
    if isinstance(given, nn.Module):
        return as_generator(copy.deepcopy(given)).requires_grad_(False)
    is_table = len(row_shape) == 1
    if given == "vae":
        kind: Any = TableVAE if is_table else ImageVAE
        shape: Any = row_shape[0] if is_table else row_shape
        return kind(shape, settings["latent_size"], generator=rng).requires_grad_(False)
    if not is_table:
        raise ValueError(
            f"generator={given!r} draws rows of tables and X holds images: use 'vae' or a module."
        )
    d, covariance = row_shape[0], settings["covariance"]
    if given == "gaussian":
        return GaussianGenerator(d, covariance).requires_grad_(False)
    made = MixtureGenerator(d, settings["n_components"], covariance, generator=rng)
    return made.requires_grad_(False)


def set_sizes(given: Any, counts: NDArray[Any]) -> tuple[int, int]:
    """Say how many rows a training set has, at least and at most.

    Parameters
    ----------
    given : int, tuple of two int, or None
        None: from the smallest cell's rows, within [4, 32], to those of the table, at most 128.
    counts : ndarray of shape (n_cells,)
        Rows in each cell.

    Raises
    ------
    ValueError
        They are no two numbers in order, from 1.
    """
    if given is None:
        low = min(max(LEAST_ROWS, int(counts.min())), 32, int(counts.sum()))
        return low, max(low, min(MOST_ROWS, int(counts.sum())))
    sizes = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
    if len(sizes) != 2 or any(isinstance(s, bool) or int(s) != s for s in sizes):
        raise ValueError(f"set_size={given!r}: pass a count of rows, a pair (low, high), or None.")
    low, high = map(int, sizes)
    if not 1 <= low <= high:
        raise ValueError(f"set_size={given!r}: wanted 1 <= low <= high.")
    return low, high


def trained(loss: HyperLoss, sets: Iterable[Tensor], training: Training) -> list[float]:
    """Train the hypernetwork of a loss in place.

    Parameters
    ----------
    loss : HyperLoss
    sets : iterable of Tensor
        Endless batches of data sets.
    training : Training

    Returns
    -------
    losses : list of float
        One a step.

    Raises
    ------
    ValueError
        The loss is no longer finite.
    """
    losses: list[float] = []

    def recorded(batch: Tensor) -> Tensor:
        value = loss(batch)
        losses.append(value.item())
        if not torch.isfinite(value):
            raise ValueError(
                f"The loss is {losses[-1]} at step {len(losses)} of {training.n_steps}: lower "
                f"learning_rate={training.learning_rate}, or autophagy_weight={loss.weight}."
            )
        return value

    loss.network.train()
    endless = iter(sets)
    with _bar(training) as tick:
        for n_steps, rate in _phases(training):
            steps = tune(
                recorded,
                list(loss.network.parameters()),
                endless,
                n_steps=n_steps,
                learning_rate=rate,
                every=n_steps,
                progress=tick,
            )
            for _ in steps:
                pass
    loss.network.eval()
    return losses


def _phases(training: Training) -> Iterator[tuple[int, float]]:
    done, share = 0, 0.0
    for part, factor in SCHEDULE:
        share += part
        until = round(share * training.n_steps)
        if until > done:
            yield until - done, factor * training.learning_rate
        done = until


@contextmanager
def _bar(training: Training) -> Iterator[Callable[[], None] | None]:
    if not training.verbose:
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(desc=training.name, total=training.n_steps, unit=" steps") as bar:
        yield bar.update
