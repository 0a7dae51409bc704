"""Running sums of squared per-row gradients of a layer, in its factors or its weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._kernels import Kernel
from ._rows import Rows

__all__ = ["Factors", "GradientSums", "LayerSums"]

# Bytes of a chunk of rows on a CPU: data in a core's second-level cache is squared and summed
# several times faster than data from memory.
CACHE_BYTES = 2**21


class Factors(NamedTuple):
    """W[k] ~ U[k] diag(S[k]) V[k]^T: U (c, m, r), S (c, r), V (c, n, r)."""

    U: Tensor
    S: Tensor
    V: Tensor


class GradientSums:
    """Sums of squares of full per-row gradients.

    Parameters
    ----------
    shape : (c, m, n)
        Shape of the weight.
    factors : Factors or None
        Directions of the derivative; None for the entries of the weight.
    n_groups : int
    like : Tensor
        Determines the dtype and device of the sums.

    Attributes
    ----------
    totals : list of Tensor
        (n_groups, c, m, r) and (n_groups, c, r, n), to be multiplied by the squared singular
        values at the end; or (n_groups, c, m, n).
    """

    def __init__(
        self, shape: tuple[int, int, int], factors: Factors | None, n_groups: int, like: Tensor
    ) -> None:
        c, m, n = self.shape = shape
        self.factors = factors
        shapes = [(m, n)]
        if factors is not None:
            self.Ut, self.V = factors.U.mT.contiguous(), factors.V
            rank = factors.S.shape[-1]
            shapes = [(m, rank), (rank, n)]
        self.totals = [like.new_zeros(n_groups, c, *size) for size in shapes]
        self.row_bytes = (c * m * n + sum(t[0].numel() for t in self.totals)) * like.element_size()

    def add(self, rows: Rows, gradients: Tensor, start: int) -> None:
        """Add the gradients (k, c, m, n) of the rows from ``start``, and overwrite them."""
        parts = [gradients.to(self.totals[0].dtype).reshape(-1, *self.shape)]
        if self.factors is not None:
            parts = [torch.matmul(parts[0], self.V), torch.matmul(self.Ut, parts[0])]
        for total, part in zip(self.totals, parts, strict=True):
            rows.add_squares(total, part, start)

    def means(self, counts: Tensor) -> tuple[Tensor, ...]:
        """Divide by the number of rows of each group; a group without rows gets zeros."""
        scale = counts.clamp_min(1).to(self.totals[0])[:, None, None, None]
        for total in self.totals:
            total /= scale
        if self.factors is None:
            return (self.totals[0],)
        squares = self.factors.S.square()[:, None, :]
        hU, hV = self.totals
        return hU.mul_(squares), hV.mT.mul_(squares)


class LayerSums(GradientSums):
    """Sums of squares from the inputs and output gradients of a layer.

    ``begin`` takes the inputs of a batch, ``add_pass`` the output gradients of a backward pass
    (there are several for the Gauss-Newton matrix), and ``end`` closes the batch.

    Parameters
    ----------
    kernel : Kernel
        The computation of the layer.
    factors : Factors or None
    n_groups : int
    like : Tensor
    max_memory : int
        Limit of the temporary memory of the sums over positions.
    """

    def __init__(
        self, kernel: Kernel, factors: Factors | None, n_groups: int, like: Tensor, max_memory: int
    ) -> None:
        super().__init__(kernel.shape, factors, n_groups, like)
        self.kernel = kernel
        on_cpu = like.device.type == "cpu"
        self.max_memory = min(max_memory, CACHE_BYTES) if on_cpu else max_memory
        self.dtype = like.dtype
        # Views are made once, since small operations after large products are slow.
        self.cells = [total[:, 0].unbind() for total in self.totals]

    def begin(self, rows: Rows, uses: Sequence[Tensor]) -> None:
        """Take the inputs of every use of the layer in a batch."""
        self.rows = rows
        self.single = len(uses) == 1 and uses[0].dim() == 2
        uses = [x.to(self.dtype) for x in uses]
        self.x = [uses[0]] if self.single else self.kernel.inputs(uses)
        self.squares: list[Tensor] = []
        self.projected: list[Tensor] = []

    def add_pass(self, uses: Sequence[Tensor]) -> None:
        """Take the output gradients of every use, in the order of ``begin``."""
        uses = [d.to(self.dtype) for d in uses]
        if self.single:
            self._add_single(uses[0])
        else:
            self._add_positions(self.kernel.gradients(uses))

    def end(self) -> None:
        """Close the batch; with one position per row, the products of squares are computed here."""
        if self.single and self.squares:
            self._multiply_squares()
        self.x, self.squares, self.projected = [], [], []

    def _add_single(self, d: Tensor) -> None:
        # Squares are summed over the passes first, so that there is only one product per batch.
        terms = [d] if self.factors is None else [d, d @ self.factors.U[0]]
        if not self.squares:
            self.squares = [terms[0].square(), *(term.square_() for term in terms[1:])]
            return
        for square, term in zip(self.squares, terms, strict=True):
            square.addcmul_(term, term)

    def _multiply_squares(self) -> None:
        parts = list(self.rows.parts(0, len(self.rows)))
        for cells, left, right in zip(self.cells, self.squares, self._input_squares(), strict=True):
            for group, part in parts:
                cells[group].addmm_(left[part].mT, right[part])

    def _input_squares(self) -> Iterator[Tensor]:
        # One after the other, so that less has to fit into a core's cache.
        x = self.x[0]
        if self.factors is not None:
            yield (x @ self.V[0]).square_()
        yield x.square()

    def _add_positions(self, gradients: list[Tensor]) -> None:
        if self._forms_gradient(gradients[0].shape[-1]):
            for start, x, d in self._chunks(gradients):
                self.add(self.rows, _sum_outer(self.kernel, x, d), start)
            return
        if not self.projected:
            self.projected = [self.kernel.project(x, self.V) for x in self.x]
        for start, x, d in self._chunks(gradients):
            self._add_projected(start, x, d)

    def _add_projected(self, start: int, x: list[Tensor], d: list[Tensor]) -> None:
        part = slice(start, start + len(x[0]))
        left = torch.matmul(d[0], self.projected[0][part].mT)
        for more_d, more_p in zip(d[1:], self.projected[1:], strict=True):
            left += torch.matmul(more_d, more_p[part].mT)
        right = _sum_outer(self.kernel, x, [torch.matmul(self.Ut, each) for each in d])
        self.rows.add_squares(self.totals[0], left, start)
        self.rows.add_squares(self.totals[1], right, start)

    def _forms_gradient(self, positions: int) -> bool:
        """Tell whether forming the gradient first takes fewer multiplications than projecting."""
        if self.factors is None:
            return True
        (_, m, n), r = self.shape, self.factors.S.shape[-1]
        return m * n * (positions + 2 * r) <= 2 * positions * r * (m + n)

    def _chunks(self, gradients: list[Tensor]) -> Iterator[tuple[int, list[Tensor], list[Tensor]]]:
        positions = gradients[0].shape[-1]
        copied = self.kernel.workspace(self.x[0], positions) * gradients[0].element_size()
        size = max(1, self.max_memory // (self.row_bytes + copied))
        for start in range(0, len(self.rows), size):
            part = slice(start, start + size)
            yield start, [x[part] for x in self.x], [d[part] for d in gradients]


def _sum_outer(kernel: Kernel, x: list[Tensor], d: list[Tensor]) -> Tensor:
    result = kernel.outer(x[0], d[0])
    for more_x, more_d in zip(x[1:], d[1:], strict=True):
        result += kernel.outer(more_x, more_d)
    return result
