"""Networks as users bring them, small: residual, depthwise, transformers, tied weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from helpers import Rows

WIDTH = 8


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, with batch normalisation (arXiv:1512.03385)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = None
        if stride != 1 or before != after:
            shortcut = nn.Conv2d(before, after, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """Two stages of ResNet-18 with the stem for small images: a 3 x 3 convolution, no pooling."""

    def __init__(self, n_outputs: int = 2, width: int = WIDTH) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(BasicBlock(width, width, 1), BasicBlock(width, width, 1))
        self.layer2 = nn.Sequential(
            BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width, 1)
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class InvertedResidual(nn.Sequential):
    """Widen, filter every channel on its own, narrow (arXiv:1801.04381)."""

    def __init__(self, before: int, after: int, stride: int, widening: int = 3) -> None:
        inside = before * widening
        self.skips = stride == 1 and before == after
        super().__init__(
            nn.Conv2d(before, inside, 1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inside, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        return x + out if self.skips else out


class MobileNet(nn.Module):
    """Depthwise-separable convolutions, a grouped one, dropout before the head."""

    def __init__(self, n_outputs: int = 2, width: int = WIDTH) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(inplace=True),
            InvertedResidual(width, width, 1),
            InvertedResidual(width, 2 * width, 2),
            nn.Conv2d(2 * width, 4 * width, 1, groups=2),
            nn.Hardswish(inplace=True),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(4 * width, n_outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class PatchEmbedding(nn.Module):
    """Patches by a convolution, a class token, positions (arXiv:2010.11929)."""

    def __init__(self, width: int, patch: int, size: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 1 + (size // patch) ** 2, width) * 0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.positions


class VisionTransformer(nn.Module):
    """Transformer layers of torch's own."""

    def __init__(
        self,
        n_outputs: int = 2,
        width: int = 2 * WIDTH,
        depth: int = 2,
        size: int = 16,
        norm_first: bool = True,
    ) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(width, 8, size)
        layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width, 0.1, "gelu", batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embedding(x))[:, 0])


class SelfAttention(nn.Module):
    """Attention from linear layers, queries, keys and values in one."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            heads,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        shape = (n, length, 3, self.heads, width // self.heads)
        q, k, v = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    """Attention and two linear layers, each with a shortcut and a learned scale."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.scale * self.attn(self.norm1(x))
        return x + self.scale * self.mlp(self.norm2(x))


class OwnTransformer(nn.Module):
    """Transformer layers from linear layers, averaged over the patches."""

    def __init__(self, n_outputs: int = 2, width: int = 2 * WIDTH, depth: int = 2) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(width, 8, 16)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embedding(x))).mean(1))


class WindowTransformer(nn.Module):
    """Attention within windows of the image, which stand as rows of their own (as in Swin)."""

    def __init__(self, n_outputs: int = 2, width: int = WIDTH) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.block = Block(width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x)
        n, width = x.shape[:2]
        windows = x.reshape(n, width, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1)
        windows = self.block(windows.reshape(4 * n, 4, width))
        return self.head(self.norm(windows.reshape(n, 16, width).mean(1)))


class Tied(nn.Module):
    """Two layers with one weight, and an embedding whose weight takes the way back as well."""

    def __init__(self, n_outputs: int = 2, width: int = 2 * WIDTH) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.embed = nn.Linear(48, width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.head = nn.Linear(48, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.embed(self.pool(x)))
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.head(F.linear(x, self.embed.weight.T))


class TiedHead(nn.Module):
    """A hidden layer whose weight also makes the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.first, self.hidden = nn.Linear(12, 6), nn.Linear(6, 2)
        self.back, self.head = nn.Linear(2, 6), nn.Linear(6, 2)
        self.head.weight = self.hidden.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(self.pool(x)))
        return self.head(x + torch.tanh(self.back(torch.tanh(self.hidden(x)))))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet": ResNet,
    "depthwise": MobileNet,
    "ViT": VisionTransformer,
    "ViT, norm last": lambda: VisionTransformer(norm_first=False),
    "ViT of linear layers": OwnTransformer,
    "windows": WindowTransformer,
    "tied": Tied,
    "tied head": TiedHead,
}


def build(name: str) -> nn.Module:
    """Build a network; the caller's generator is not touched."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NETWORKS[name]().eval()


def small_images(n_rows: int = 60, seed: int = 0) -> Rows:
    """Draw images (n, 3, 16, 16): the class brightens one channel, the group leaks into it."""
    rng = np.random.default_rng(seed)
    y, group = np.arange(n_rows) % 2, np.arange(n_rows) // 2 % 2
    X = rng.normal(size=(n_rows, 3, 16, 16))
    X[:, 0] += (0.4 * y + 0.3 * group)[:, None, None]
    X[:, 2] += group[:, None, None]
    return Rows(X.astype(np.float32), y, group)
