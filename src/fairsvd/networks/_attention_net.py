"""The default network of a table for methods that need attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._modules import make_buffer, make_layer

__all__ = ["AttentionNet"]


class SelfAttention(nn.Module):
    """Attention of vectors (n, n_vectors, width) to each other, by heads side by side."""

    def __init__(self, width: int, n_heads: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value = (
            make_layer(nn.Linear, width, width, generator=generator) for _ in range(3)
        )

    def forward(self, Z: Tensor) -> Tensor:
        """Return what each vector gathers, in the shape of ``Z``."""
        query, key, value = (
            layer(Z).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        return attended.transpose(1, 2).flatten(2)


class AttentionNet(nn.Module):
    """One layer of attention over the columns of a table, which standardises its inputs.

    A column is a vector, its direction times its value plus an offset of its own. The columns
    attend to each other; what comes out is added to them, and all of them together pass one hidden
    layer. Time and memory grow with the square of the number of columns.

    Parameters
    ----------
    n_features : int
        Width of a row.
    n_outputs : int
        Number of logits.
    width : int, default=8
        Length of a column's vector; a multiple of ``n_heads``.
    n_heads : int, default=1
        Heads of the attention.
    hidden : int, default=64
        Width of the hidden layer.
    mean, scale : Tensor of shape (n_features,), optional
        Rows become (row - mean) / scale; kept as buffers. Default: 0 and 1.
    generator : torch.Generator, optional
        Source of the initial weights. Default: torch's global one.

    Notes
    -----
    :class:`AttentionTemper` trains one if it gets no network. The vectors are those of
    FT-Transformer (arXiv:2106.11959), which has several layers, norms, and an own vector that
    gathers the row.

    Examples
    --------
    >>> import torch
    >>> from fairsvd import AttentionNet
    >>> AttentionNet(3, 2, generator=torch.Generator().manual_seed(0))(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        width: int = 8,
        n_heads: int = 1,
        hidden: int = 64,
        *,
        mean: Tensor | None = None,
        scale: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if width % n_heads:
            raise ValueError(f"width={width} is no multiple of n_heads={n_heads}.")
        self.register_buffer("mean", make_buffer(mean, (n_features,), 0.0))
        self.register_buffer("scale", make_buffer(scale, (n_features,), 1.0))
        self.directions, self.offsets = (
            nn.Parameter(torch.empty(n_features, width).uniform_(-1, 1, generator=generator))
            for _ in range(2)
        )
        self.attention = SelfAttention(width, n_heads, generator)
        inner = make_layer(nn.Linear, n_features * width, hidden, generator=generator)
        self.hidden = nn.Sequential(nn.Flatten(), inner, nn.ReLU())
        self.output = make_layer(nn.Linear, hidden, n_outputs, generator=generator)

    def forward(self, X: Tensor) -> Tensor:
        """Map rows (n, n_features) to logits (n, n_outputs)."""
        Z = ((X - self.mean) / self.scale).unsqueeze(2) * self.directions + self.offsets
        return self.output(self.hidden(Z + self.attention(Z)))
