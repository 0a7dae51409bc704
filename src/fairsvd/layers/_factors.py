"""The factored weight of one layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..networks import LayerWeight, layer_weights
from ._svd import exact_svd, in_float64, randomised_pays, randomised_svd

__all__ = ["Factors", "factorise", "full_rank", "resolve_solver"]

SOLVERS = ("auto", "full", "randomized")

# Full decompositions of larger matrices run in float32: in float64 they take sixteen times the
# memory of the float32 weight while they last, which is more than all other parts of an edit.
LARGE = 2**22


@dataclass(frozen=True)
class Factors:
    """Truncated singular value decomposition of a layer's weight, one for each block.

    Attributes
    ----------
    U : Tensor of shape (c, m, r)
        c is 1 for a linear layer, the number of groups for a convolution, and 3 for the packed
        query, key and value projections of an attention layer.
    S : Tensor of shape (c, r)
    V : Tensor of shape (c, n, r)
    shape : tuple of int
        Shape of the weight.
    parameter : str
        Name of the weight in the network.
    """

    U: Tensor
    S: Tensor
    V: Tensor
    shape: tuple[int, ...]
    parameter: str = "weight"

    def weight(self) -> Tensor:
        """Multiply the factors, in the shape of the layer's weight."""
        return ((self.U * self.S.unsqueeze(1)) @ self.V.mT).reshape(self.shape)

    def truncated(self, rank: int) -> Factors:
        """Keep the first ``rank`` singular vectors, or all if there are not more."""
        if rank >= self.S.shape[1]:
            return self
        U, V = self.U[..., :rank].contiguous(), self.V[..., :rank].contiguous()
        return replace(self, U=U, S=self.S[:, :rank], V=V)

    def reaches(self) -> tuple[float, float]:
        """Return how far a weight moves, in root mean square, if all of U (or V) moves by 1."""
        square = float(self.S.detach().double().square().sum()) / len(self.S)
        return (square / self.V.shape[1]) ** 0.5, (square / self.U.shape[1]) ** 0.5

    def detached(self) -> Factors:
        """Copy what an optimiser changes: the singular values, and U and V if they move."""
        U, V = (side.detach().clone() if side.requires_grad else side for side in (self.U, self.V))
        return replace(self, U=U, S=self.S.detach().clone(), V=V)

    def masked(self, keep_u: Tensor, keep_v: Tensor) -> Factors:
        """Zero the entries of U and V whose mask is zero or False."""
        return replace(self, U=self.U * keep_u, V=self.V * keep_v)


def read_weight(layer: nn.Module | LayerWeight) -> LayerWeight:
    """Return the weight of a linear or convolution layer, or a weight unchanged."""
    return layer if isinstance(layer, LayerWeight) else layer_weights(layer)[""]


def full_rank(layer: nn.Module | LayerWeight) -> int:
    """Return the highest rank that each block of a layer's weight can have."""
    return min(read_weight(layer).matrices().shape[1:])


def resolve_solver(layer: nn.Module | LayerWeight, rank: int, solver: str) -> str:
    """Resolve which decomposition :func:`factorise` runs for a layer.

    Parameters
    ----------
    layer : Linear, Conv2d or LayerWeight
    rank : int
        Rank of the factors.
    solver : {"auto", "full", "randomized"}
        "auto" means "randomized" if each block of the weight is at least 512 x 512 and the rank
        is low enough for it to be faster (about a tenth of the full rank), else "full".

    Returns
    -------
    solver : {"full", "randomized"}

    Raises
    ------
    ValueError
        If the solver is none of the three.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {list(SOLVERS)}; got {solver!r}.")
    if solver != "auto":
        return solver
    return "randomized" if randomised_pays(full_rank(layer), rank) else "full"


def factorise(layer: nn.Module | LayerWeight, rank: int, solver: str = "auto") -> Factors:
    """Factor a layer's weight as U S V^T, truncated to ``rank``.

    The decomposition runs in float64 on the weight's device (on the CPU if the device has no
    float64) and is returned in the weight's dtype. A full one of over 4 million entries runs in
    float32; its product is right to some 1e-6 of the largest singular value. The randomised one has
    its own generator, so equal weights, ranks and solvers give equal factors for every
    ``random_state`` of an editor.

    Parameters
    ----------
    layer : Linear, Conv2d or LayerWeight
    rank : int
        At most :func:`full_rank` of the layer.
    solver : {"auto", "full", "randomized"}, default="auto"
        "full" computes all singular values, then truncates. "randomized" computes only the leading
        ones: the product's error is within 1 % of the least possible one, and each singular value
        within 1 %. "auto": see :func:`resolve_solver`.

    Returns
    -------
    factors : Factors
    """
    weight = read_weight(layer)
    value = weight.value
    randomised = resolve_solver(weight, rank, solver) == "randomized"
    decompose = randomised_svd if randomised else exact_svd
    matrices = weight.matrices()
    lean = not randomised and matrices[0].numel() > LARGE and value.dtype != torch.float64
    matrices = matrices.float() if lean else in_float64(matrices)
    U, S, V = (side.to(value.device, value.dtype) for side in decompose(matrices, rank))
    return Factors(U, S, V.contiguous(), tuple(value.shape), weight.parameter)
