"""The pass over the rows that fills the sums of every chosen layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ._checks import (
    Target,
    check_factors,
    check_inputs,
    check_logits,
    check_options,
    check_seen,
    find_target,
)
from ._func import gradients_by_row
from ._kernels import LinearKernel
from ._precision import autocasting, sum_dtype, wide_logits
from ._record import Record, Use, Watched, evaluating, recording
from ._rows import Batch, Rows, sorted_batches
from ._sums import Factors, GradientSums, LayerSums

__all__ = ["Batch", "CurvaturePass", "Gradient"]

Gradient: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class CurvaturePass:
    """One pass over batches that sums squared per-row gradients of several layers.

    Parameters
    ----------
    module : nn.Module
        Its flags, modes, gradients and hooks are restored when the pass ends.
    factors : mapping of layer name to (U, S, V) or None
        None means the weight itself.
    n_groups : int
    to_logits : callable
    hessian : {"fisher", "ggn"}
    max_memory : int
    autocast : torch.dtype or None
    gradient : callable or None
        Maps the logits and codes of rows to the gradients of their losses in the logits, instead
        of the cross-entropy's; ``hessian`` is then ignored.
    """

    def __init__(
        self,
        module: nn.Module,
        factors: Mapping[str, tuple[Tensor, Tensor, Tensor] | None],
        *,
        n_groups: int,
        to_logits: Callable[[Tensor], Tensor],
        hessian: str,
        max_memory: int,
        autocast: torch.dtype | None,
        gradient: Gradient | None = None,
    ) -> None:
        check_options(n_groups, hessian, max_memory, autocast)
        self.module, self.n_groups = module, n_groups
        self.to_logits, self.hessian, self.autocast = to_logits, hessian, autocast
        self.gradient = gradient
        # Half is for the rows that wait to be sorted, half for the gradients of single rows.
        self.half = max_memory // 2
        self.targets: dict[str, Target] = {}
        self.apart: set[str] | None = None
        # Several for a weight whose matrices are run separately.
        self.sums: dict[str, list[GradientSums]] = {}
        for name, triple in factors.items():
            self._add_target(name, triple)
        self.watched = {
            name: Watched(target.value, target.layers)
            for name, target in self.targets.items()
            if target.kernel is not None
        }

    def _add_target(self, name: str, triple: tuple[Tensor, Tensor, Tensor] | None) -> None:
        target = self.targets[name] = find_target(self.module, name)
        like = target.value.new_empty(0, dtype=sum_dtype(target.value.dtype))
        factors = None if triple is None else check_factors(name, triple, target.shape, like)
        kernel = target.kernel
        if kernel is None:
            self.sums[name] = [GradientSums(target.shape, factors, self.n_groups, like)]
            return
        step = kernel.shape[0]
        self.sums[name] = [
            LayerSums(kernel, _take_blocks(factors, start, step), self.n_groups, like, self.half)
            for start in range(0, target.blocks, step)
        ]

    def run(self, batches: Iterable[Batch]) -> dict[str, tuple[Tensor, ...]]:
        """Pass once over the batches and return the means of each layer over each group."""
        counts = [0] * self.n_groups
        seen: set[str] = set()
        with evaluating(self.module):
            for rows, x, y in sorted_batches(batches, self.n_groups, self.half):
                with autocasting(x.device, None):
                    seen |= self._add_batch(rows, x, y)
                for group, part in rows.parts(0, len(rows)):
                    counts[group] += part.stop - part.start
        check_seen(set(self.targets) - seen, any(counts))
        return {name: self._means(name, torch.tensor(counts)) for name in self.targets}

    def _means(self, name: str, counts: Tensor) -> tuple[Tensor, ...]:
        parts = [sums.means(counts) for sums in self.sums[name]]
        if len(parts) == 1:
            return parts[0]
        return tuple(torch.cat(blocks, dim=1) for blocks in zip(*parts, strict=True))

    def _add_batch(self, rows: Rows, x: Tensor, y: Tensor) -> set[str]:
        with torch.enable_grad(), recording(self.watched) as record:
            logits = wide_logits(self.module, x, self.to_logits, self.autocast)
        if self.apart is None and len(x):
            self.apart = self._find_apart(x, record)
        # A weight that is also used in other ways gets its whole gradient from torch.func.
        others = [name for name in self.targets if name in record.other | (self.apart or set())]
        with torch.no_grad():
            check_logits(logits, rows, labelled=self.gradient is None)
            calls = self._begin(rows, record, set(others))
            for cotangent, last in self._gradients(logits, y):
                _add_recorded(calls, logits, cotangent, last)
                self._add_others(others, rows, x, cotangent)
        return {name for name, uses in record.uses.items() if uses} | set(others)

    def _find_apart(self, x: Tensor, record: Record) -> set[str]:
        """Find the weights whose layers do not have the rows in the first dimension of their input.

        Rows may be cut into windows, or be in another dimension. With several dimensions one batch
        is not enough, since another dimension can have its size. A weight that is computed anew
        has no name to differentiate by, and is refused when it is met.
        """
        named = {n for n in self.watched if isinstance(self.targets[n].value, nn.Parameter)}
        records = {len(x): record}
        linear = [n for n, t in self.targets.items() if isinstance(t.kernel, LinearKernel)]
        if any(use.x.dim() > 2 for name in linear for use in record.uses[name]):
            for n_rows in (1, 2):
                few = x[:1].expand(n_rows, *x.shape[1:])
                with torch.enable_grad(), recording(self.watched) as records[n_rows]:
                    wide_logits(self.module, few, self.to_logits, self.autocast)
        apart = set(self.targets) - set(self.watched)
        for n_rows, each in records.items():
            for name in named:
                if not all(use.keeps_rows(n_rows) for use in each.uses[name]):
                    apart.add(name)
        return apart

    def _begin(
        self, rows: Rows, record: Record, others: set[str]
    ) -> list[tuple[LayerSums, list[Use]]]:
        """Pass the inputs of a batch to their sums."""
        calls = []
        for name, uses in record.uses.items():
            for block, sums in enumerate(self.sums[name]):
                of_block = [use for use in uses if use.block == block]
                if of_block and name not in others and isinstance(sums, LayerSums):
                    sums.begin(rows, check_inputs(name, of_block, len(rows)))
                    calls.append((sums, of_block))
        return calls

    def _gradients(self, logits: Tensor, y: Tensor) -> Iterator[tuple[Tensor, bool]]:
        if self.gradient is None:
            return _cotangents(logits, y, self.hessian)
        return iter([(self.gradient(logits, y).to(logits), True)])

    def _add_others(self, names: Sequence[str], rows: Rows, x: Tensor, cotangent: Tensor) -> None:
        if not names:
            return
        weights = [self.targets[name].parameter for name in names]
        row_bytes = sum(sums.row_bytes for name in names for sums in self.sums[name])
        step = max(1, self.half // row_bytes)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            gradients = gradients_by_row(
                self.module, weights, x[part], cotangent[part], self.to_logits, self.autocast
            )
            for name, weight in zip(names, weights, strict=True):
                whole = gradients[weight].reshape(-1, *self.targets[name].shape)
                each = whole.shape[1] // len(self.sums[name])
                for sums, gradient in zip(self.sums[name], whole.split(each, dim=1), strict=True):
                    sums.add(rows, gradient, start)


def _add_recorded(
    calls: Sequence[tuple[LayerSums, list[Use]]], logits: Tensor, cotangent: Tensor, last: bool
) -> None:
    """Add the output gradients of all uses at once, without computing weight gradients."""
    edges = [use.edge for _, uses in calls for use in uses]
    if not edges or not logits.requires_grad:
        return
    gradients = iter(
        torch.autograd.grad(logits, edges, cotangent, retain_graph=not last, allow_unused=True)
    )
    for sums, uses in calls:
        # The gradient of a use that does not reach the logits is None, which means zero.
        sums.add_pass([_or_zero(next(gradients), use) for use in uses])
        if last:
            sums.end()


def _take_blocks(factors: Factors | None, start: int, size: int) -> Factors | None:
    """Return the factors of some of a weight's matrices."""
    return None if factors is None else Factors(*(each[start : start + size] for each in factors))


def _or_zero(gradient: Tensor | None, use: Use) -> Tensor:
    return use.x.new_zeros(use.shape) if gradient is None else gradient


def _cotangents(logits: Tensor, y: Tensor, hessian: str) -> Iterator[tuple[Tensor, bool]]:
    """Yield the vectors whose backward passes are squared, and whether each is the last."""
    p = torch.softmax(logits, 1)
    if hessian == "fisher":
        yield p.scatter_(1, y[:, None], -1, reduce="add"), True
        return
    # diag(p) - p p^T has rank C - 1. Its Cholesky factor (Tanabe and Sagae, 1992) needs one pass
    # fewer than the usual square root sqrt(p_c) (e_c - p), so a single one for two classes.
    tails = p.flip(1).cumsum(1).flip(1)
    tiny = torch.finfo(p.dtype).tiny
    for j in range(p.shape[1] - 1):
        after = tails[:, j + 1]
        vector = torch.zeros_like(p)
        vector[:, j] = 1
        vector[:, j + 1 :] = -p[:, j + 1 :] / after.clamp_min(tiny)[:, None]
        size = (p[:, j] * after / tails[:, j].clamp_min(tiny)).sqrt()
        yield vector * size[:, None], j == p.shape[1] - 2
