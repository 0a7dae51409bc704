"""Generators as modules whose weights a hypernetwork supplies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

__all__ = ["Generator", "as_generator", "draw_rows", "make_layer", "natural_form", "row_nll"]


class Generator(nn.Module):
    """Base class of generators: pure functions of weights, rows and normal noise.

    A subclass implements :meth:`nll` and :meth:`draw`, and :meth:`natural` if another form of its
    tensors is better to compare. All of them run under ``torch.func.vmap`` for many sets of
    weights at a time, so no step may depend on values (``if x > 0``), draw random numbers or write
    to buffers. The hypernetwork passes rows that it has normalised.

    Attributes
    ----------
    noise_size : int
        Number of independent standard normal numbers that one row needs.
    has_density : bool
        Whether :meth:`nll` is exact and not a bound.
    """

    noise_size: int
    has_density: bool = False

    def nll(self, X: Tensor, noise: Tensor) -> Tensor:
        """Compute -log p of rows (n, ...), or an upper bound, as (n,); noise is (n, k)."""
        raise NotImplementedError

    def draw(self, noise: Tensor) -> Tensor:
        """Map noise (n, noise_size) to rows (n, ...), differentiably in the weights."""
        raise NotImplementedError

    def natural(self, location: Tensor | None, factor: Tensor | None) -> dict[str, Tensor]:
        """Return the named tensors by which two sets of weights are compared.

        Parameters
        ----------
        location : Tensor of shape (d,) or None
        factor : Tensor of shape (d, d) or None
            A normalised row z stands for the row ``location + factor @ z``.
        """
        named: dict[str, Tensor] = dict(self.named_parameters())
        if location is not None and factor is not None:
            named |= {"location": location, "factor": factor}
        return named

    def forward(self, method: str, *args: Any) -> Any:
        """Call a method by name, since ``functional_call`` supplies weights to ``forward`` only."""
        return getattr(self, method)(*args)


class _Adapter(Generator):
    """Wraps any module with ``nll``, ``draw`` and ``noise_size`` as a Generator."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module
        self.noise_size = int(module.noise_size)
        self.has_density = bool(getattr(module, "has_density", False))

    def nll(self, X: Tensor, noise: Tensor) -> Tensor:
        return self.module.nll(X, noise)

    def draw(self, noise: Tensor) -> Tensor:
        return self.module.draw(noise)

    def natural(self, location: Tensor | None, factor: Tensor | None) -> dict[str, Tensor]:
        natural = getattr(self.module, "natural", super().natural)
        return natural(location, factor)


def as_generator(module: Any) -> Generator:
    """Return a module as a Generator.

    Parameters
    ----------
    module : Generator, or nn.Module with ``nll``, ``draw`` and ``noise_size``

    Raises
    ------
    ValueError
        If it lacks one of them, or has no parameters that a hypernetwork could emit.
    """
    missing = [name for name in ("nll", "draw", "noise_size") if not hasattr(module, name)]
    if missing:
        raise ValueError(
            f"generator is a {type(module).__name__} without {', '.join(missing)}: a generator "
            "needs nll(X, noise) -> (n,), draw(noise) -> rows, and noise_size, the count of normal "
            "numbers per row."
        )
    if not any(True for _ in module.parameters()):
        raise ValueError(f"generator {type(module).__name__} has no parameters to emit.")
    return module if isinstance(module, Generator) else _Adapter(module)


def make_layer(kind: type[nn.Module], *args: Any, generator: torch.Generator, **kwargs: Any) -> Any:
    """Make a linear or convolution layer, initialised from ``generator`` only."""
    layer: Any = kind(*args, device="meta", **kwargs).to_empty(device="cpu")
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(layer.weight[0].numel())
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


def row_nll(
    generator: Generator, weights: Mapping[str, Tensor], sets: Tensor, noise: Tensor
) -> Tensor:
    """Compute -log p of every row of every data set under the weights of its set.

    Parameters
    ----------
    generator : Generator
    weights : mapping of str to Tensor of shape (n_sets, ...)
    sets : Tensor of shape (n_sets, n, ...)
    noise : Tensor of shape (n_sets, n, noise_size)

    Returns
    -------
    nll : Tensor of shape (n_sets, n)
    """

    def of_one_set(tensors: dict[str, Tensor], rows: Tensor, z: Tensor) -> Tensor:
        return functional_call(generator, tensors, ("nll", rows, z))

    return vmap(of_one_set)(dict(weights), sets, noise)


def draw_rows(generator: Generator, weights: Mapping[str, Tensor], noise: Tensor) -> Tensor:
    """Draw rows from every set of weights.

    Parameters
    ----------
    generator : Generator
    weights : mapping of str to Tensor of shape (n_sets, ...)
    noise : Tensor of shape (n_sets, n, noise_size)

    Returns
    -------
    rows : Tensor of shape (n_sets, n, ...)
        In the normalised units of their set.
    """

    def of_one_set(tensors: dict[str, Tensor], z: Tensor) -> Tensor:
        return functional_call(generator, tensors, ("draw", z))

    return vmap(of_one_set)(dict(weights), noise)


def natural_form(
    generator: Generator,
    weights: Mapping[str, Tensor],
    location: Tensor | None,
    factor: Tensor | None,
) -> dict[str, Tensor]:
    """Put every set of weights into natural form, tensors of shape (n_sets, ...)."""
    if location is None or factor is None:
        return vmap(lambda tensors: functional_call(generator, tensors, ("natural", None, None)))(
            dict(weights)
        )

    def of_one_set(tensors: dict[str, Tensor], at: Tensor, by: Tensor) -> dict[str, Tensor]:
        return functional_call(generator, tensors, ("natural", at, by))

    return vmap(of_one_set)(dict(weights), location, factor)
