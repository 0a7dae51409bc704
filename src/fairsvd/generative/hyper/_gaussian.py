"""Gaussian and Gaussian-mixture generators."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ._emittable import Generator

__all__ = ["GaussianGenerator", "MixtureGenerator"]

# Softplus of this is 1, the scale at the start.
UNIT = math.log(math.e - 1)

# Least scale of any direction, in units of the normalised rows.
LEAST_SCALE = 1e-3

# Spread of the components of a mixture at the start, since equal ones would stay equal.
SPREAD = 0.7


def _lower_positions(n_features: int) -> Tensor:
    """Map entries of a matrix to places in its packed strict triangle; the last place holds 0."""
    rows, columns = torch.tril_indices(n_features, n_features, offset=-1)
    positions = torch.full((n_features, n_features), len(rows))
    positions[rows, columns] = torch.arange(len(rows))
    return positions


def _cholesky(raw_scale: Tensor, lower: Tensor | None, positions: Tensor) -> Tensor:
    """Make lower triangles (..., d, d) with positive diagonals from unconstrained numbers."""
    diagonal = torch.diag_embed(softplus(raw_scale) + LEAST_SCALE)
    if lower is None:
        return diagonal
    packed = torch.cat([lower, torch.zeros_like(lower[..., :1])], dim=-1)
    return diagonal + packed[..., positions]


def _log_density(X: Tensor, mean: Tensor, L: Tensor) -> Tensor:
    """Compute the log density of rows (n, d) under N(mean, L L^T)."""
    z = torch.linalg.solve_triangular(L, (X - mean).mT, upper=False)
    log_det = L.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
    return -0.5 * (z.square().sum(-2) + X.shape[-1] * math.log(2 * math.pi)) - log_det


class GaussianGenerator(Generator):
    """Gaussian rows, N(mean, L L^T). The natural form is mean and covariance.

    Parameters
    ----------
    n_features : int
    covariance : {"full", "diag"}, default="full"

    Examples
    --------
    >>> import torch
    >>> from fairsvd.generative import GaussianGenerator
    >>> GaussianGenerator(2).nll(torch.zeros(1, 2), torch.zeros(1, 2)).exp().item()  # 2 pi
    6.29...
    """

    positions: Tensor
    has_density = True

    def __init__(self, n_features: int, covariance: str = "full") -> None:
        super().__init__()
        self.noise_size = n_features
        self.mean = nn.Parameter(torch.zeros(n_features))
        self.raw_scale = nn.Parameter(torch.full((n_features,), UNIT))
        full = covariance == "full" and n_features > 1
        size = n_features * (n_features - 1) // 2
        self.lower = nn.Parameter(torch.zeros(size)) if full else None
        self.register_buffer("positions", _lower_positions(n_features))

    def _factor(self) -> Tensor:
        return _cholesky(self.raw_scale, self.lower, self.positions)

    def nll(self, X: Tensor, noise: Tensor) -> Tensor:
        """Compute -log p of rows (n, d); the noise is ignored."""
        return -_log_density(X, self.mean, self._factor())

    def draw(self, noise: Tensor) -> Tensor:
        """Map noise (n, d) to rows (n, d)."""
        return self.mean + noise @ self._factor().mT

    def natural(self, location: Tensor | None, factor: Tensor | None) -> dict[str, Tensor]:
        """Return the mean (d,) and the covariance (d, d)."""
        mean: Tensor = self.mean
        L = self._factor()
        if location is not None and factor is not None:
            mean, L = location + factor @ mean, factor @ L
        return {"mean": mean, "covariance": L @ L.mT}


class MixtureGenerator(Generator):
    """A mixture of Gaussians.

    The natural form is weights, means and covariances. The first noise number of a row chooses its
    component, so no gradient reaches the mixture weights through a draw.

    Parameters
    ----------
    n_features : int
    n_components : int, default=3
    covariance : {"full", "diag"}, default="full"
    generator : torch.Generator
        Source of the starting means.
    """

    positions: Tensor
    has_density = True

    def __init__(
        self,
        n_features: int,
        n_components: int = 3,
        covariance: str = "full",
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.noise_size = n_features + 1
        start = torch.randn(n_components, n_features, generator=generator)
        self.logits = nn.Parameter(torch.zeros(n_components))
        self.means = nn.Parameter(SPREAD * start)
        self.raw_scales = nn.Parameter(torch.full((n_components, n_features), UNIT))
        full = covariance == "full" and n_features > 1
        size = n_features * (n_features - 1) // 2
        self.lowers = nn.Parameter(torch.zeros(n_components, size)) if full else None
        self.register_buffer("positions", _lower_positions(n_features))

    def _factors(self) -> Tensor:
        return _cholesky(self.raw_scales, self.lowers, self.positions)

    def nll(self, X: Tensor, noise: Tensor) -> Tensor:
        """Compute -log p of rows (n, d); the noise is ignored."""
        each = _log_density(X, self.means[:, None], self._factors())
        return -torch.logsumexp(each + self.logits.log_softmax(0)[:, None], dim=0)

    def draw(self, noise: Tensor) -> Tensor:
        """Map noise (n, d + 1) to rows (n, d)."""
        uniform = torch.special.ndtr(noise[:, :1].detach())
        ends = self.logits.softmax(0).cumsum(0)[:-1]
        component = (uniform > ends).sum(dim=1)
        spread = self._factors()[component] @ noise[:, 1:, None]
        return self.means[component] + spread.squeeze(-1)

    def natural(self, location: Tensor | None, factor: Tensor | None) -> dict[str, Tensor]:
        """Return weights (k,), means (k, d) and covariances (k, d, d)."""
        means: Tensor = self.means
        L = self._factors()
        if location is not None and factor is not None:
            means, L = location + means @ factor.mT, factor @ L
        named: dict[str, Any] = {"weights": self.logits.softmax(0), "means": means}
        return named | {"covariances": L @ L.mT}
