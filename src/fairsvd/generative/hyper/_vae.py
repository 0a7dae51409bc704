"""Variational autoencoders as generators of tables and images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ._emittable import Generator, make_layer

__all__ = ["ImageVAE", "TableVAE"]

# Softplus of this is 1.
UNIT = math.log(math.e - 1)

# Least scale of the decoder's noise; without it the likelihood of a copied row is unbounded.
LEAST_SCALE = 1e-2

# Scale of the decoder's noise in pixels at the start, in their standard deviations.
PIXEL_SCALE = 0.5


def _divergence(mean: Tensor, scale: Tensor) -> Tensor:
    """Compute KL(N(mean, scale^2) || N(0, 1)) of every row."""
    return 0.5 * (mean.square() + scale.square() - 1 - 2 * scale.log()).sum(-1)


def _gaussian_nll(X: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Compute -log N(X; mean, scale^2) of every row, summed over its numbers."""
    each = 0.5 * ((X - mean) / scale).square() + scale.log() + 0.5 * math.log(2 * math.pi)
    return each.flatten(1).sum(1)


class _VAE(Generator):
    """Base of both: a Gaussian posterior and a Gaussian decoder."""

    encoder: nn.Module
    decoder: nn.Module
    raw_scale: nn.Parameter

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.latent_size = latent_size

    def _scale(self) -> Tensor:
        return softplus(self.raw_scale) + LEAST_SCALE

    def nll(self, X: Tensor, noise: Tensor) -> Tensor:
        """Compute the negative evidence lower bound of rows with one posterior draw each."""
        mean, raw = self.encoder(X).chunk(2, dim=-1)
        scale = softplus(raw) + LEAST_SCALE
        decoded = self.decoder(mean + scale * noise[:, : self.latent_size])
        return _gaussian_nll(X, decoded, self._scale()) + _divergence(mean, scale)

    def natural(self, location: Tensor | None, factor: Tensor | None) -> dict[str, Tensor]:
        """Return the weights, with the decoder's scale instead of its raw parameter."""
        named = super().natural(location, factor)
        del named["raw_scale"]
        return named | {"scale": self._scale()}


class TableVAE(_VAE):
    """Variational autoencoder of rows (n, d); draws include the decoder's noise.

    Parameters
    ----------
    n_features : int
    latent_size : int, default=4
    hidden : sequence of int, default=(32,)
        Widths of the encoder's hidden layers; the decoder has them in reverse order.
    generator : torch.Generator
        Source of the starting weights.
    """

    def __init__(
        self,
        n_features: int,
        latent_size: int = 4,
        hidden: Sequence[int] = (32,),
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__(latent_size)
        self.noise_size = latent_size + n_features
        widths = list(hidden)
        self.encoder = _mlp([n_features, *widths, 2 * latent_size], generator)
        self.decoder = _mlp([latent_size, *widths[::-1], n_features], generator)
        self.raw_scale = nn.Parameter(torch.full((n_features,), UNIT))

    def draw(self, noise: Tensor) -> Tensor:
        """Map noise (n, latent_size + d) to rows (n, d)."""
        latent, rest = noise[:, : self.latent_size], noise[:, self.latent_size :]
        return self.decoder(latent) + self._scale() * rest


class ImageVAE(_VAE):
    """Variational autoencoder of images (n, C, H, W); a draw is the decoder's mean.

    The encoder has two convolutions of stride 2 and one linear layer; the decoder mirrors it.

    Parameters
    ----------
    shape : tuple of int
        (C, H, W).
    latent_size : int, default=8
    channels : int, default=8
        Channels of the first convolution; the second has twice as many.
    generator : torch.Generator
        Source of the starting weights.
    """

    def __init__(
        self,
        shape: Sequence[int],
        latent_size: int = 8,
        channels: int = 8,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__(latent_size)
        self.noise_size = latent_size
        depth, height, width = shape
        small = (2 * channels, math.ceil(height / 4), math.ceil(width / 4))
        stride: dict[str, Any] = {"stride": 2, "padding": 1, "generator": generator}
        self.encoder = nn.Sequential(
            make_layer(nn.Conv2d, depth, channels, 3, **stride),
            nn.ReLU(),
            make_layer(nn.Conv2d, channels, 2 * channels, 3, **stride),
            nn.ReLU(),
            nn.Flatten(),
            make_layer(nn.Linear, math.prod(small), 2 * latent_size, generator=generator),
        )
        self.decoder = nn.Sequential(
            make_layer(nn.Linear, latent_size, math.prod(small), generator=generator),
            nn.ReLU(),
            nn.Unflatten(1, small),
            nn.Upsample(size=(math.ceil(height / 2), math.ceil(width / 2))),
            make_layer(nn.Conv2d, 2 * channels, channels, 3, padding=1, generator=generator),
            nn.ReLU(),
            nn.Upsample(size=(height, width)),
            make_layer(nn.Conv2d, channels, depth, 3, padding=1, generator=generator),
        )
        start = math.log(math.expm1(PIXEL_SCALE))
        self.raw_scale = nn.Parameter(torch.full((depth, 1, 1), start))

    def draw(self, noise: Tensor) -> Tensor:
        """Map noise (n, latent_size) to images (n, C, H, W)."""
        return self.decoder(noise)


def _mlp(widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [make_layer(nn.Linear, n_in, n_out, generator=generator), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
