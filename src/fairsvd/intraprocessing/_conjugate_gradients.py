"""Linear systems of a matrix that is only known by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["CG_STEPS", "solve"]

# Steps of conjugate gradients; they end once the residual is this share of the first one.
CG_STEPS, CG_TOLERANCE = 50, 1e-4


def solve(product: Callable[[Tensor], Tensor], right: Tensor, most: int = CG_STEPS) -> Tensor:
    """Solve linear systems of one positive definite matrix by conjugate gradients.

    Parameters
    ----------
    product : callable
        Multiplies the matrix and vectors (k, p).
    right : Tensor of shape (k, p)
    most : int
        Products at most; an earlier end leaves the solution nearer to 0.
    """
    solution, residual, direction = torch.zeros_like(right), right, right
    size = first = residual.square().sum(dim=1, keepdim=True)
    for _ in range(most):
        if bool((size <= CG_TOLERANCE**2 * first).all()):
            break
        turned = product(direction)
        length = (direction * turned).sum(dim=1, keepdim=True)
        step = size / torch.where(length > 0, length, torch.inf)
        solution, residual = solution + step * direction, residual - step * turned
        size, before = residual.square().sum(dim=1, keepdim=True), size
        direction = residual + size / torch.where(before > 0, before, torch.inf) * direction
    return solution
