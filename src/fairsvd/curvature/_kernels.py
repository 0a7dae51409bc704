"""Compute the gradient of one row from a layer's inputs and output gradients.

Every kind of layer is treated as c independent products: an input of n values and an output of m
values at each of T positions. The gradient of one row with respect to the weight (c, m, n) is the
sum over the positions of (output gradient)(input)^T. A kernel brings the tensors of its layer into
that form, and computes the two products with as few copies as possible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

__all__ = ["Kernel", "LinearKernel", "make_kernel"]


class Kernel(Protocol):
    """The operations of a kind of layer that the sums need."""

    shape: tuple[int, int, int]

    def inputs(self, uses: Sequence[Tensor]) -> list[Tensor]:
        """Bring the inputs of all uses of the layer into the form of the other methods."""

    def gradients(self, uses: Sequence[Tensor]) -> list[Tensor]:
        """Bring the output gradients of all uses into the shape (N, c, m, T)."""

    def workspace(self, x: Tensor, positions: int) -> int:
        """Count the temporary values per row inside ``outer``, without the result."""

    def project(self, x: Tensor, V: Tensor) -> Tensor:
        """Multiply the input at every position by V^T: (N, c, r, T)."""

    def outer(self, x: Tensor, d: Tensor) -> Tensor:
        """Sum d a^T over the positions: d (k, c, e, T) gives (k, c, e, n)."""


class _Comparable:
    """Makes kernels equal if they compute the same thing."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)


class LinearKernel(_Comparable):
    """A linear map of (N, n) or (N, ..., n); more uses count as more positions.

    Parameters
    ----------
    m, n : int
        Widths of output and input.
    """

    def __init__(self, m: int, n: int) -> None:
        self.shape = (1, m, n)

    def inputs(self, uses: Sequence[Tensor]) -> list[Tensor]:
        """Concatenate the positions of all uses: one tensor (N, T, in)."""
        flat = [x.reshape(len(x), -1, x.shape[-1]) for x in uses]
        return [flat[0] if len(flat) == 1 else torch.cat(flat, 1)]

    def gradients(self, uses: Sequence[Tensor]) -> list[Tensor]:
        """Concatenate the output gradients likewise: one tensor (N, 1, out, T)."""
        return [self.inputs(uses)[0].mT[:, None]]

    def workspace(self, x: Tensor, positions: int) -> int:
        """Return 0, since nothing is copied."""
        return 0

    def project(self, x: Tensor, V: Tensor) -> Tensor:
        """Multiply by V^T: (N, 1, r, T)."""
        return (x @ V[0]).mT[:, None]

    def outer(self, x: Tensor, d: Tensor) -> Tensor:
        """Sum d a^T over the positions: (k, 1, e, in)."""
        return torch.bmm(d[:, 0], x)[:, None]


class ConvKernel(_Comparable):
    """``nn.Conv2d`` with any stride, padding, padding mode, dilation and groups.

    Parameters
    ----------
    layer : nn.Conv2d
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        c, inside = layer.groups, layer.in_channels // layer.groups
        self.window = (inside, *layer.kernel_size)
        self.shape = (c, layer.out_channels // c, math.prod(self.window))
        self.stride, self.dilation = layer.stride, layer.dilation
        self.mode = layer.padding_mode
        self.pad, self.padding = _split_padding(layer)
        steps = (*layer.stride, *layer.kernel_size)
        self.pointwise = steps == (1, 1, 1, 1) and not any(self.padding)

    def inputs(self, uses: Sequence[Tensor]) -> list[Tensor]:
        """Pad the inputs if the convolution itself cannot: (N, channels, height, width) each."""
        if not any(self.pad):
            return list(uses)
        mode = "constant" if self.mode == "zeros" else self.mode
        return [F.pad(x, self.pad, mode=mode) for x in uses]

    def gradients(self, uses: Sequence[Tensor]) -> list[Tensor]:
        """View the output gradients as (N, c, m, T)."""
        c, m, _ = self.shape
        return [d.reshape(len(d), c, m, -1) for d in uses]

    def workspace(self, x: Tensor, positions: int) -> int:
        """Count the values of the unfolded input if it is needed."""
        unfolded = not (self.pointwise or self._grouped(x, positions))
        return math.prod(self.shape[::2]) * positions if unfolded else 0

    def project(self, x: Tensor, V: Tensor) -> Tensor:
        """Convolve with V instead of the weight, without unfolding: (N, c, r, T)."""
        c, _, r = V.shape
        weight = V.mT.reshape(c * r, *self.window)
        maps = F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, c)
        return maps.reshape(len(x), c, r, -1)

    def outer(self, x: Tensor, d: Tensor) -> Tensor:
        """Sum d a^T over the positions: (k, c, e, n)."""
        if not self.pointwise and self._grouped(x, d.shape[-1]):
            return self._weight_gradient(x, d)
        k, (c, _, n) = len(x), self.shape
        unfolded = x if self.pointwise else self._unfold(x)
        return torch.matmul(d, unfolded.reshape(k, c, n, -1).mT)

    def _grouped(self, x: Tensor, positions: int) -> bool:
        """Tell whether one group per row is faster than unfolding (measured on a CPU)."""
        # oneDNN, which runs float32 on the CPU, is fast, but falls back to unfolding on maps of at
        # most 8 x 8. Other libraries compute weight gradients of groups slowly.
        on_onednn = x.device.type == "cpu" and x.dtype == torch.float32
        large = self.shape[0] > 1 or positions > 64
        return on_onednn and large and torch.backends.mkldnn.is_available()

    def _unfold(self, x: Tensor) -> Tensor:
        return F.unfold(x, self.window[1:], self.dilation, self.padding, self.stride)

    def _weight_gradient(self, x: Tensor, d: Tensor) -> Tensor:
        # The weight gradient of a convolution with one group per row is each row's gradient.
        k, (c, _, n), e = len(x), self.shape, d.shape[2]
        height, width = self._map_size(x)
        gradient = conv2d_weight(
            x.reshape(1, -1, *x.shape[2:]),
            (k * c * e, *self.window),
            d.reshape(1, k * c * e, height, width),
            self.stride,
            self.padding,
            self.dilation,
            k * c,
        )
        return gradient.reshape(k, c, e, n)

    def _map_size(self, x: Tensor) -> list[int]:
        sizes = zip(
            x.shape[2:], self.window[1:], self.stride, self.padding, self.dilation, strict=True
        )
        return [(size + 2 * p - g * (k - 1) - 1) // s + 1 for size, k, s, p, g in sizes]


def make_kernel(layer: nn.Module) -> Kernel | None:
    """Return the kernel of a layer, or None if only ``torch.func`` can differentiate it."""
    # A subclass with its own forward pass can use its weight in any way.
    if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
        return LinearKernel(layer.out_features, layer.in_features)
    if isinstance(layer, nn.Conv2d) and type(layer).forward is nn.Conv2d.forward:
        return ConvKernel(layer)
    return None


def _split_padding(layer: nn.Conv2d) -> tuple[list[int], tuple[int, ...]]:
    """Split a padding into the parts of F.pad (last axis first) and of conv2d."""
    if layer.padding == "same":
        spans = [g * (k - 1) for g, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        sides = [(span // 2, span - span // 2) for span in spans]
    else:
        amounts = (0, 0) if layer.padding == "valid" else layer.padding
        sides = [(int(amount), int(amount)) for amount in amounts]
    if layer.padding_mode == "zeros" and all(low == high for low, high in sides):
        return [0, 0, 0, 0], tuple(low for low, _ in sides)
    return [*sides[1], *sides[0]], (0, 0)
