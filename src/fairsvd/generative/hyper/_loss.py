"""The loss of a hypernetwork: the likelihood, and a penalty on its own samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...arrays import to_device
from ._emittable import Generator, draw_rows, natural_form, row_nll
from ._network import Emission, HyperNetwork, normalise

__all__ = ["HyperLoss", "mean_nll", "pairs_gap", "squared_gap"]

# Floor of a tensor's scale, per entry in units of the table; without it a tensor near zero in all
# data sets would get an unbounded weight.
SCALE_FLOOR = 1e-3


@dataclass(frozen=True)
class HyperLoss:
    """Loss of a batch of data sets: -log p + weight * autophagy penalty.

    Attributes
    ----------
    network : HyperNetwork
    generator : Generator
    weight : float
        Weight of the penalty; 0: plain likelihood, without any draws.
    n_draws : int
        Number of synthetic data sets for each real one.
    penalty : {"pairs", "detached", "through"}
        See :class:`fairsvd.HyperGenerator`.
    rng : torch.Generator
        Source of all noise.
    """

    network: HyperNetwork
    generator: Generator
    weight: float
    n_draws: int
    penalty: str
    rng: torch.Generator

    def __call__(self, sets: Tensor) -> Tensor:
        """Compute the loss of data sets (n_sets, n, ...), a scalar."""
        emission = self.network(sets)
        loss = mean_nll(self.generator, emission, sets, self._noise(sets, sets.shape[1]))
        if self.weight == 0:
            return loss
        return loss + self.weight * self._penalty(emission, sets)

    def _noise(self, sets: Tensor, n: int) -> Tensor:
        """Draw for ``n`` rows of each set on the CPU, so that all devices get the same."""
        noise = torch.randn(len(sets), n, self.generator.noise_size, generator=self.rng)
        return to_device(noise, sets.device)

    def _penalty(self, emission: Emission, sets: Tensor) -> Tensor:
        through = self.penalty == "through"
        target = self._natural(emission)
        with torch.set_grad_enabled(through):
            drawn = self._draw_sets(emission, sets)
        if not bool(drawn.isfinite().all()):
            # The NaN loss tells the caller; moments of such rows cannot be factored.
            return drawn.new_tensor(torch.nan)
        again = self._natural(self.network(drawn))
        again = {k: v.unflatten(0, (len(sets), self.n_draws)) for k, v in again.items()}
        if through:
            return squared_gap(target, again, scaled=False)
        target = {name: tensor.detach() for name, tensor in target.items()}
        if self.penalty == "pairs":
            return pairs_gap(target, again)
        return squared_gap(target, again, scaled=True)

    def _natural(self, emission: Emission) -> dict[str, Tensor]:
        return natural_form(self.generator, *emission)

    def _draw_sets(self, emission: Emission, sets: Tensor) -> Tensor:
        """Draw ``n_draws`` data sets of the same size from each emitted generator."""
        n_sets, n = sets.shape[:2]
        noise = self._noise(sets, self.n_draws * n)
        rows = emission.restore(draw_rows(self.generator, emission.weights, noise))
        return rows.reshape(n_sets * self.n_draws, n, *sets.shape[2:])


def mean_nll(generator: Generator, emission: Emission, sets: Tensor, noise: Tensor) -> Tensor:
    """Compute the mean -log p of rows under their set's generator, per number of a row.

    Parameters
    ----------
    generator : Generator
    emission : Emission
        Generators of the same sets.
    sets : Tensor of shape (n_sets, n, ...)
        In units of the table.
    noise : Tensor of shape (n_sets, n, noise_size)

    Returns
    -------
    nll : Tensor, a scalar
        In nats per number, so that the penalty has the same weight in a table of any width.
    """
    rows = normalise(sets, emission.location, emission.factor)
    nll = row_nll(generator, emission.weights, rows, noise).mean()
    if emission.factor is not None:
        nll = nll + emission.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1).mean()
    return nll / sets[0, 0].numel()


def squared_gap(
    target: Mapping[str, Tensor], again: Mapping[str, Tensor], *, scaled: bool
) -> Tensor:
    """Compute the squared gap between generators and the average of their re-estimates.

    Parameters
    ----------
    target : mapping of str to Tensor of shape (n_sets, ...)
    again : mapping of str to Tensor of shape (n_sets, n_draws, ...)
    scaled : bool
        True averages the gaps of the tensors, each relative to the tensor's size; False sums
        them unscaled.

    Returns
    -------
    gap : Tensor, a scalar
    """
    gaps = []
    for name, tensor in target.items():
        gap = (tensor - again[name].mean(dim=1)).flatten(1).square().sum(1)
        gaps.append(gap.mean() / (_scale(tensor) if scaled else 1))
    return torch.stack(gaps).mean() if scaled else torch.stack(gaps).sum()


def pairs_gap(target: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> Tensor:
    """Compute the scaled squared gap between generators and the expected re-estimate.

    The average of (target - a) (target - b) over pairs of different draws has the expectation
    (target - E a)^2, without the bias that squaring an average of few draws has. It can be below 0.

    Parameters
    ----------
    target : mapping of str to Tensor of shape (n_sets, ...)
    again : mapping of str to Tensor of shape (n_sets, n_draws, ...)
        At least two draws.

    Returns
    -------
    gap : Tensor, a scalar
    """
    gaps = []
    for name, tensor in target.items():
        each = (tensor[:, None] - again[name]).flatten(2)
        n_draws = each.shape[1]
        both = each.sum(1).square().sum(-1) - each.square().sum((1, 2))
        gaps.append(both.mean() / (n_draws * (n_draws - 1)) / _scale(tensor))
    return torch.stack(gaps).mean()


def _scale(tensor: Tensor) -> Tensor:
    """Compute the mean squared size of a tensor over data sets, without gradient."""
    flat = tensor.detach().flatten(1)
    return flat.square().sum(1).mean() + SCALE_FLOOR * flat.shape[1]
