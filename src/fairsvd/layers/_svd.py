"""Singular value decompositions of many matrices at once: exact, and randomised.

Both compute in float64, so that the factors of a float32 weight are right to its last digits.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["exact_svd", "in_float64", "randomised_pays", "randomised_svd"]

# Steps and oversampling are what a matrix of independent normal numbers needs, the slowest one to
# converge. Measured there, ranks up to a tenth: the worst singular value 0.5 % off at 2048 x 2048,
# 0.75 % at 4096 x 4096, the truncated product's error 0.05 % above the least possible.
POWER_STEPS = 7
OVERSAMPLING = 0.75
LEAST_OVERSAMPLING = 64
SEED = 0

# Measured on one CPU thread, square matrices of 64 to 2048 and others up to 1:9: where the range
# is at most a fifth as wide as the matrix, the randomised decomposition takes at most half of the
# exact one's time (a fifth for long matrices). Below 512 the exact one takes a tenth of a second
# at most: there is little to gain.
LEAST_SIZE = 512
WIDEST_SHARE = 0.2


def in_float64(matrices: Tensor) -> Tensor:
    """Convert to float64 where the matrices lie; on the CPU where the device has no float64."""
    place = "cpu" if matrices.device.type == "mps" else matrices.device
    return matrices.to(place).to(torch.float64)


def exact_svd(A: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute all singular values, then keep the first ``rank``; (c, m, n) as U, S and V."""
    U, S, Vh = torch.linalg.svd(A, full_matrices=False)
    return U[..., :rank], S[..., :rank], Vh[..., :rank, :].mT


def range_width(rank: int) -> int:
    """Count the columns that the iteration carries for ``rank`` singular vectors."""
    return rank + max(LEAST_OVERSAMPLING, round(OVERSAMPLING * rank))


def randomised_pays(size: int, rank: int) -> bool:
    """Tell whether the randomised decomposition is the faster one, with a margin.

    Parameters
    ----------
    size : int
        The smaller one of a matrix's two dimensions.
    rank : int
        Number of singular values wanted.
    """
    return size >= LEAST_SIZE and range_width(rank) <= WIDEST_SHARE * size


def randomised_svd(A: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the first singular values and vectors from the range of A, found by power iteration.

    The draws come from a generator of their own with a fixed seed, on the CPU for every device:
    the factors are a function of the matrix and the rank.

    Parameters
    ----------
    A : Tensor of shape (c, m, n), float64
        c independent matrices.
    rank : int
        Number of singular values wanted, at most min(m, n).

    Returns
    -------
    U : Tensor of shape (c, m, rank)
    S : Tensor of shape (c, rank)
    V : Tensor of shape (c, n, rank)

    Notes
    -----
    The error of the truncated product is within 1 % of the least possible one (Frobenius norm),
    every singular value within 1 % and never above the exact one, also where the spectrum is
    flat; measured up to 4096 x 4096, larger flat ones converge a little more slowly. Not held to
    this is what lies below 1e-7 of the largest singular value: the last digit of a float32
    weight. U and V are orthonormal as closely as those of an exact decomposition.

    Halko, Martinsson and Tropp (arXiv:0909.4061). Added to theirs: more oversampling, and the
    shift of Feng, Yu, Xie and Tang (arXiv:2404.09276), which halves the number of power steps on
    a flat spectrum. The last step has no shift and is orthonormalised half-way, so that small
    singular values beside large ones keep their digits.
    """
    if A.shape[-2] > A.shape[-1]:  # the iteration runs on the shorter side
        V, S, U = randomised_svd(A.mT.contiguous(), rank)
        return U, S, V
    Q = _range(A, min(A.shape[-2], range_width(rank)))
    Z = torch.linalg.qr((Q.mT @ A).mT).Q
    U, S, Wh = torch.linalg.svd(A @ Z, full_matrices=False)
    return U[..., :rank], S[..., :rank], Z @ Wh[..., :rank, :].mT


def _range(A: Tensor, width: int) -> Tensor:
    """Orthonormal columns (c, m, width) that nearly span the leading left singular vectors.

    Matrices are multiplied from the left throughout: the products are the same and faster, since
    the factor with few columns is then read along its rows.
    """
    c, m, n = A.shape
    generator = torch.Generator().manual_seed(SEED)
    start = torch.randn(c, width, n, generator=generator, dtype=A.dtype).to(A.device)
    Q = torch.linalg.qr((start @ A.mT).mT).Q
    # Multiplying A A^T out once pays where many steps would multiply by a long A.
    gram = A @ A.mT if m * n + m * width * POWER_STEPS < 2 * n * width * POWER_STEPS else None
    shift = A.new_zeros(c, 1, 1)
    for _ in range(POWER_STEPS):
        product = (Q.mT @ A) @ A.mT if gram is None else Q.mT @ gram
        Q, R = torch.linalg.qr(product.mT - shift * Q)
        least = torch.linalg.svdvals(R)[..., -1:, None]
        # Stays below half the least wanted eigenvalue, so that no wanted one is passed over.
        shift = torch.where(least > shift, (least + shift) / 2, shift)
    return Q
