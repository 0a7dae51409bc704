"""The hypernetwork: a set encoder and a linear readout of a generator's parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ._emittable import Generator, make_layer

__all__ = ["Emission", "HyperNetwork"]

# Added to variances, in units of the table's; a column that is constant in a set stays nearly so.
RIDGE = 1e-6

# Number of rows encoded at a time outside training.
BLOCK = 1024

# Standard deviation of the readout's starting weights times the root of their width. It is small,
# so that the start is near the generator's own weights for every data set.
READOUT_SCALE = 0.1


class Emission(NamedTuple):
    """Generators for some data sets.

    Attributes
    ----------
    weights : dict of str to Tensor of shape (n_sets, ...)
        The generator's parameters by name.
    location : Tensor of shape (n_sets, d) or None
    factor : Tensor of shape (n_sets, d, d) or None
        A row z of the generator means ``location + factor @ z``; None: z itself.
    """

    weights: dict[str, Tensor]
    location: Tensor | None
    factor: Tensor | None

    def restore(self, rows: Tensor) -> Tensor:
        """Undo the normalisation of rows (n_sets, n, ...)."""
        if self.location is None or self.factor is None:
            return rows
        if rows.shape[2:] != self.location.shape[1:]:
            raise ValueError(
                f"generator draws rows of the shape {tuple(rows.shape[2:])}, but a row of X has "
                f"{tuple(self.location.shape[1:])}: its draw(noise) has to return (n, n_columns)."
            )
        return self.location[:, None] + rows @ self.factor.mT

    def one(self, k: int) -> Emission:
        """Return the generator of one data set as a batch of one."""
        keep = slice(k, k + 1)
        weights = {name: tensor[keep] for name, tensor in self.weights.items()}
        if self.location is None or self.factor is None:
            return Emission(weights, None, None)
        return Emission(weights, self.location[keep], self.factor[keep])


class HyperNetwork(nn.Module):
    """Map data sets to generators, independently of the order of their rows.

    A small network encodes each row. The codes, and for tables the rows and their squares, are
    averaged over the rows, and 1/n is appended. A linear readout makes the entries of every named
    parameter of the generator. Outside training the averages are clamped to their range in
    training.

    Parameters
    ----------
    generator : Generator
        Provides names, shapes and starting values; it is neither kept nor changed.
    row_shape : sequence of int
        Shape of one row: (d,) or (C, H, W).
    hidden : sequence of int, default=(32, 32)
        Widths of the network that encodes rows.
    outer : bool, default=False
        Whether to append the output of three more layers on the average.
    normalize : {"whiten", "scale", "table"}, default="whiten"
        How a data set is normalised before it is encoded. "whiten": by its own mean and
        covariance, so that the emitted generator follows affine changes of the data exactly.
        "scale": by its own mean and standard deviations. "table": not at all. Images always
        use "table".
    rng : torch.Generator
        Source of the starting weights.

    Notes
    -----
    Deviations from arXiv 2405.13977: the moments, 1/n (without it the network could not learn
    corrections that depend on the number of rows), the normalisation and the clamp.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        generator: Generator,
        row_shape: Sequence[int],
        hidden: Sequence[int] = (32, 32),
        *,
        outer: bool = False,
        normalize: str = "whiten",
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.is_table = len(row_shape) == 1
        self.normalize = normalize if self.is_table else "table"
        self.shapes = {name: tuple(p.shape) for name, p in generator.named_parameters()}
        size, widths = math.prod(row_shape), list(hidden)
        self.encoder = _relu_layers([size, *widths], rng)
        width = widths[-1] + (2 * size if self.is_table else 0) + 1
        self.outer = _relu_layers([width] + 3 * [widths[-1]], rng) if outer else None
        n_read = width + (widths[-1] if outer else 0)
        n_entries = sum(map(math.prod, self.shapes.values()))
        self.readout = make_layer(nn.Linear, n_read, n_entries, generator=rng)
        self._init_readout(generator, rng)
        self.register_buffer("low", torch.full((width - 1,), math.nan))
        self.register_buffer("high", torch.full((width - 1,), math.nan))

    def _init_readout(self, generator: Generator, rng: torch.Generator) -> None:
        """Start at the generator's own weights, with a small dependence on the data."""
        scale = READOUT_SCALE / math.sqrt(self.readout.in_features)
        nn.init.normal_(self.readout.weight, 0, scale, generator=rng)
        with torch.no_grad():
            self.readout.bias.copy_(torch.cat([p.flatten() for p in generator.parameters()]))

    def forward(self, sets: Tensor) -> Emission:
        """Map data sets (n_sets, n, ...) to their generators."""
        location, factor = self.affine(sets)
        pooled = self.features(normalise(sets, location, factor)).mean(dim=1)
        if self.training:
            self._observe(pooled.detach())
        return self._emit(pooled, sets.shape[1], location, factor)

    def of_rows(self, rows: Any) -> Emission:
        """Emit for one data set of any size, read block by block.

        Parameters
        ----------
        rows : Tensor (n, d), or sized images whose slices are tensors (m, C, H, W)
        """
        location, factor = self.affine(rows[:][None]) if self.is_table else (None, None)
        total = torch.zeros(1, len(self.low))
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK][None]
            total += self.features(normalise(block, location, factor)).sum(dim=1)
        return self._emit(total / len(rows), len(rows), location, factor)

    def affine(self, sets: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Compute location (n_sets, d) and factor (n_sets, d, d) of every set, in double inside.

        With fewer than 2 d rows the covariance cannot be inverted safely, so its entries off the
        diagonal are shrunk. A single row keeps the table's scale.
        """
        if not self.is_table:
            return None, None
        if self.normalize == "table":
            return _identity(sets)
        n, d = sets.shape[1:]
        rows = sets.double()
        location = rows.mean(dim=1)
        centred = rows - location[:, None]
        covariance = centred.mT @ centred / n
        diagonal = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1) + RIDGE)
        if n == 1:
            diagonal = torch.eye(d, dtype=rows.dtype, device=rows.device).expand_as(covariance)
        if self.normalize == "scale" or d == 1 or n == 1:
            return location.to(sets), diagonal.sqrt().to(sets)
        shrink = max(0.0, 1 - n / (2 * d))
        eye = torch.eye(d, dtype=rows.dtype, device=rows.device)
        mixed = (1 - shrink) * (covariance + RIDGE * eye) + shrink * diagonal
        return location.to(sets), torch.linalg.cholesky(mixed).to(sets)

    def features(self, rows: Tensor) -> Tensor:
        """Encode rows (n_sets, n, ...) one by one, (n_sets, n, n_features)."""
        flat = rows.flatten(2)
        encoded = self.encoder(flat)
        return torch.cat([encoded, flat, flat.square()], dim=-1) if self.is_table else encoded

    def _observe(self, pooled: Tensor) -> None:
        # fmin and fmax ignore the NaN of a range that has seen nothing yet.
        self.low = torch.fmin(self.low, pooled.amin(0))
        self.high = torch.fmax(self.high, pooled.amax(0))

    def _emit(
        self, pooled: Tensor, n: int, location: Tensor | None, factor: Tensor | None
    ) -> Emission:
        if not self.training:
            pooled = torch.fmax(torch.fmin(pooled, self.high), self.low)
        summary = torch.cat([pooled, torch.full_like(pooled[:, :1], 1 / n)], dim=1)
        if self.outer is not None:
            summary = torch.cat([summary, self.outer(summary)], dim=1)
        flat = self.readout(summary)
        parts = flat.split([math.prod(shape) for shape in self.shapes.values()], dim=1)
        weights = {
            name: part.reshape(-1, *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        return Emission(weights, location, factor)


def normalise(sets: Tensor, location: Tensor | None, factor: Tensor | None) -> Tensor:
    """Normalise data sets (n_sets, n, ...), the inverse of :meth:`Emission.restore`."""
    if location is None or factor is None:
        return sets
    centred = (sets - location[:, None]).mT
    return torch.linalg.solve_triangular(factor, centred, upper=False).mT


def _identity(sets: Tensor) -> tuple[Tensor, Tensor]:
    n_sets, _, d = sets.shape
    return sets.new_zeros(n_sets, d), torch.eye(d, dtype=sets.dtype, device=sets.device).expand(
        n_sets, d, d
    )


def _relu_layers(widths: Sequence[int], rng: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [make_layer(nn.Linear, n_in, n_out, generator=rng), nn.ReLU()]
    return nn.Sequential(*layers)
