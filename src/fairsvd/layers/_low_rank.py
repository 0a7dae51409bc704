"""Layers stored as two thin factors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ._factors import Factors

__all__ = ["LowRankConv2d", "LowRankLinear", "compress_layer"]


def _as_parameter(values: Tensor) -> nn.Parameter:
    # Contiguous, since a transposed view is slower, and file formats refuse it.
    return nn.Parameter(values.detach().clone(memory_format=torch.contiguous_format))


class LowRankLinear(nn.Module):
    """A linear layer stored as two thin factors.

    Parameters
    ----------
    left : Tensor of shape (out_features, rank)
    right : Tensor of shape (rank, in_features)
    bias : Tensor of shape (out_features,), optional

    Attributes
    ----------
    weight : Tensor of shape (out_features, in_features)
        The product, computed when it is read.
    """

    def __init__(self, left: Tensor, right: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.left = _as_parameter(left)
        self.right = _as_parameter(right)
        self.bias = None if bias is None else _as_parameter(bias)

    @property
    def weight(self) -> Tensor:
        """Multiply the factors."""
        return self.left @ self.right

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return self.right.shape[1]

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.left.shape[0]

    def forward(self, X: Tensor) -> Tensor:
        """Apply the right factor, then the left one."""
        return nn.functional.linear(nn.functional.linear(X, self.right), self.left, self.bias)


class LowRankConv2d(nn.Module):
    """A convolution stored as a thin convolution and a 1 x 1 convolution.

    Parameters
    ----------
    layer : Conv2d
        Provides the geometry (stride, padding, dilation, groups) and the bias.
    factors : Factors
        Factors of its weight.

    Attributes
    ----------
    weight : Tensor of the original layer's weight shape
        The product, computed when it is read.
    """

    def __init__(self, layer: nn.Conv2d, factors: Factors) -> None:
        super().__init__()
        blocks, rank = factors.S.shape
        # skip_init, since an initialisation would draw from torch's global generator for nothing.
        self.thin = skip_init(
            nn.Conv2d,
            layer.in_channels,
            blocks * rank,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=blocks,
            bias=False,
            padding_mode=layer.padding_mode,
        )
        self.mix = skip_init(
            nn.Conv2d,
            blocks * rank,
            layer.out_channels,
            1,
            groups=blocks,
            bias=layer.bias is not None,
        )
        self.shape = factors.shape
        left = factors.U * factors.S.unsqueeze(1)
        self.thin.weight = _as_parameter(factors.V.mT.reshape(self.thin.weight.shape))
        self.mix.weight = _as_parameter(left.reshape(self.mix.weight.shape))
        if layer.bias is not None:
            self.mix.bias = _as_parameter(layer.bias)

    @property
    def weight(self) -> Tensor:
        """Multiply the factors."""
        blocks = self.thin.groups
        rank = self.thin.out_channels // blocks
        left = self.mix.weight.reshape(blocks, -1, rank)
        return (left @ self.thin.weight.reshape(blocks, rank, -1)).reshape(self.shape)

    @property
    def bias(self) -> Tensor | None:
        """Bias of the layer."""
        return self.mix.bias

    def forward(self, X: Tensor) -> Tensor:
        """Apply the thin convolution, then mix its maps."""
        return self.mix(self.thin(X))


def compress_layer(module: nn.Module, name: str, factors: Factors) -> bool:
    """Replace a layer by its factors if they hold fewer numbers than its weight.

    Every place that shares the layer gets the same replacement. Returns whether it was replaced.
    Not replaced are a network that is itself the layer (``name=""``), the projections of attention
    layers, which use their weights directly, a layer that shares its weight with another one, and
    a layer with hooks or a forward pass of its own.
    """
    rank = factors.S.shape[1]
    rows, columns = factors.U.shape[1], factors.V.shape[1]
    if not name or rank * (rows + columns) >= rows * columns:
        return False
    if not _can_be_replaced(module, name):
        return False
    layer = module.get_submodule(name)
    if isinstance(layer, nn.Conv2d):
        thin: nn.Module = LowRankConv2d(layer, factors)
    else:
        left = factors.U[0] * factors.S[0]
        bias = getattr(layer, "bias", None)
        thin = LowRankLinear(left, factors.V[0].T, bias)
    thin.train(layer.training)
    # named_children lists a shared layer only once.
    for parent in list(module.modules()):
        for key, child in list(parent._modules.items()):
            if child is layer:
                parent._modules[key] = thin
    return True


def _can_be_replaced(module: nn.Module, name: str) -> bool:
    if isinstance(module.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention):
        return False
    layer = module.get_submodule(name)
    plain = type(layer).forward in (nn.Linear.forward, nn.Conv2d.forward)
    if not plain or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    weight = layer.get_parameter("weight")
    holders = [m for m in module.modules() if any(p is weight for p in m.parameters(recurse=False))]
    return len(holders) == 1
