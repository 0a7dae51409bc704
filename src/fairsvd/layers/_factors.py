"""The factored weight of one layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

__all__ = ["Factors", "factorise", "full_rank"]


@dataclass(frozen=True)
class Factors:
    """Truncated singular value decomposition of a layer's weight, one for each group.

    Attributes
    ----------
    U : Tensor of shape (c, m, r)
        c is 1 for a linear layer and the number of groups for a convolution.
    S : Tensor of shape (c, r)
    V : Tensor of shape (c, n, r)
    shape : tuple of int
        Of the weight.
    """

    U: Tensor
    S: Tensor
    V: Tensor
    shape: tuple[int, ...]

    def weight(self) -> Tensor:
        """Multiply the factors out, in the shape of the layer's weight."""
        return ((self.U * self.S.unsqueeze(1)) @ self.V.mT).reshape(self.shape)

    def truncated(self, rank: int) -> Factors:
        """Keep the first singular vectors; all of them where the rank is not smaller."""
        if rank >= self.S.shape[1]:
            return self
        U, V = self.U[..., :rank].contiguous(), self.V[..., :rank].contiguous()
        return replace(self, U=U, S=self.S[:, :rank], V=V)

    def masked(self, keep_u: Tensor, keep_v: Tensor) -> Factors:
        """Zero the entries of U and V whose mask is zero or False."""
        return replace(self, U=self.U * keep_u, V=self.V * keep_v)


def weight_blocks(layer: nn.Module) -> Tensor:
    """Read a layer's weight as (c, m, n): c independent blocks of m x n."""
    weight = layer.get_parameter("weight").detach()
    blocks = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return weight.reshape(blocks, weight.shape[0] // blocks, -1)


def full_rank(layer: nn.Module) -> int:
    """Return the highest rank that a layer's weight (each block of it) can have."""
    return min(weight_blocks(layer).shape[1:])


def resolve_solver(layer: nn.Module, rank: int, solver: str) -> str:
    """Placeholder until the randomised solver is in."""
    return "full"


def factorise(layer: nn.Module, rank: int, solver: str = "auto") -> Factors:
    """Factor a layer's weight as U S V^T, truncated to ``rank``.

    The decomposition runs in float64 on the weight's device and is returned in its dtype.

    Parameters
    ----------
    layer : Linear or Conv2d
    rank : int
        At most :func:`full_rank` of the layer.
    """
    weight = layer.get_parameter("weight")
    U, S, Vh = torch.linalg.svd(weight_blocks(layer).double(), full_matrices=False)
    U, S, V = U[..., :rank], S[..., :rank], Vh[..., :rank, :].mT
    dtype = weight.dtype
    return Factors(U.to(dtype), S.to(dtype), V.to(dtype).contiguous(), tuple(weight.shape))
