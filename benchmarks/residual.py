"""ResNet-18 in plain torch (arXiv:1512.03385), of any width."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

__all__ = ["ResidualNetwork"]


class Block(nn.Module):
    """Two 3 x 3 convolutions around a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            convolution = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(out)) + self.shortcut(x))


class ResidualNetwork(nn.Module):
    """Eight blocks in four stages: ResNet-18, whose width is 64 and weights 11 million.

    Parameters
    ----------
    n_classes : int
    width : int, default=64
        Channels of the first stage; each further stage has twice as many.
    """

    def __init__(self, n_classes: int, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        widths = (width, width, 2 * width, 4 * width, 8 * width)
        stages = []
        for stage, (before, after) in enumerate(itertools.pairwise(widths)):
            stages += [Block(before, after, 1 if stage == 0 else 2), Block(after, after, 1)]
        self.blocks = nn.Sequential(*stages)
        self.output = nn.Linear(8 * width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.blocks(self.stem(x)).mean(dim=(2, 3)))
