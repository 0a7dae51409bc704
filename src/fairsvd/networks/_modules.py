"""The default networks for tables and images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MLP", "ConvNet", "make_buffer", "make_layer"]


def make_layer(kind: type[nn.Module], *args: Any, generator: Any, **kwargs: Any) -> Any:
    """Make a layer with torch's usual initialisation, drawn from ``generator`` only."""
    # Like torch.nn.utils.skip_init in half the time: nothing is drawn on "meta".
    layer: Any = kind(*args, device="meta", **kwargs)
    for name, parameter in list(layer.named_parameters()):
        setattr(layer, name, nn.Parameter(torch.empty(parameter.shape, device="cpu")))
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(layer.weight[0].numel())
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


def make_buffer(values: Tensor | None, shape: tuple[int, ...], default: float) -> Tensor:
    """Copy what the user gave into a buffer's shape, or fill it with one number."""
    values = torch.full(shape, default) if values is None else values
    return values.detach().clone().to(torch.get_default_dtype()).reshape(shape)


class MLP(nn.Module):
    """Fully connected network that standardises its inputs.

    Parameters
    ----------
    n_features : int
        Width of a row.
    n_outputs : int
        Number of logits.
    hidden : sequence of int, default=(64, 64)
        Widths of the hidden layers, each followed by a ReLU.
    mean, scale : Tensor of shape (n_features,), optional
        Rows become (row - mean) / scale; kept as buffers. Default: 0 and 1.
    generator : torch.Generator, optional
        Source of the initial weights. Default: torch's global one.

    Examples
    --------
    >>> import torch
    >>> MLP(3, 2, generator=torch.Generator().manual_seed(0))(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        hidden: Sequence[int] = (64, 64),
        *,
        mean: Tensor | None = None,
        scale: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", make_buffer(mean, (n_features,), 0.0))
        self.register_buffer("scale", make_buffer(scale, (n_features,), 1.0))
        layers: list[nn.Module] = []
        width = n_features
        for size in hidden:
            layers += [make_layer(nn.Linear, width, size, generator=generator), nn.ReLU()]
            width = size
        self.hidden = nn.Sequential(*layers)
        self.output = make_layer(nn.Linear, width, n_outputs, generator=generator)

    def forward(self, X: Tensor) -> Tensor:
        """Map rows (n, n_features) to logits (n, n_outputs)."""
        return self.output(self.hidden((X - self.mean) / self.scale))


class ConvNet(nn.Module):
    """Small convolutional network that standardises its inputs.

    Every convolution is 3 x 3, followed by a ReLU and a 2 x 2 maximum pooling; the maps are
    averaged to 3 x 3 and pass one hidden layer. Any image size works.

    Parameters
    ----------
    in_channels : int
        Channels of an image.
    n_outputs : int
        Number of logits.
    channels : sequence of int, default=(16, 32, 64)
        Channels of the convolutions.
    hidden : int, default=64
        Width of the hidden linear layer.
    mean, scale : Tensor of shape (in_channels,), optional
        Per-channel location and scale, kept as buffers. Default: 0 and 1.
    generator : torch.Generator, optional
        Source of the initial weights. Default: torch's global one.

    Examples
    --------
    >>> import torch
    >>> net = ConvNet(3, 2, generator=torch.Generator().manual_seed(0))
    >>> net(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 2])
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        in_channels: int,
        n_outputs: int,
        channels: Sequence[int] = (16, 32, 64),
        hidden: int = 64,
        *,
        mean: Tensor | None = None,
        scale: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", make_buffer(mean, (in_channels, 1, 1), 0.0))
        self.register_buffer("scale", make_buffer(scale, (in_channels, 1, 1), 1.0))
        layers: list[nn.Module] = []
        width = in_channels
        for size in channels:
            conv = make_layer(nn.Conv2d, width, size, 3, padding=1, generator=generator)
            layers += [conv, nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
            width = size
        self.convolutions = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten())
        linear = make_layer(nn.Linear, width * 9, hidden, generator=generator)
        self.hidden = nn.Sequential(linear, nn.ReLU())
        self.output = make_layer(nn.Linear, hidden, n_outputs, generator=generator)

    def forward(self, X: Tensor) -> Tensor:
        """Map images (n, in_channels, height, width) to logits (n, n_outputs)."""
        maps = self.convolutions((X - self.mean) / self.scale)
        return self.output(self.hidden(maps))
