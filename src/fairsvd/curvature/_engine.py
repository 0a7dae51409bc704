"""The one pass over the rows that fills the sums of every chosen layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ._checks import (
    check_factors,
    check_logits,
    check_options,
    check_seen,
    find_layer,
    find_weight,
    unchanged_inputs,
    weight_shape,
)
from ._func import per_sample_gradients
from ._kernels import make_kernel
from ._precision import autocasting, wide_logits, widened_dtype
from ._record import Use, evaluating, recording
from ._rows import Batch, Rows, sorted_batches
from ._sums import GradientSums, LayerSums

__all__ = ["Batch", "CurvaturePass", "Gradient"]

Gradient: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class CurvaturePass:
    """One pass over batches that sums squared per-row gradients of several layers.

    Parameters
    ----------
    module : nn.Module
        Its flags, modes, gradients and hooks are as before when the pass ends.
    factors : mapping of layer name to (U, S, V) or None
        None stands for the weight itself.
    n_groups : int
    to_logits : callable
    hessian : {"fisher", "ggn"}
    max_memory : int
    autocast : torch.dtype or None
    gradient : callable or None
        Gradient of a row's own loss in its logits, from the logits and the codes of the rows, in
        the place of the cross-entropy's; ``hessian`` is then without a meaning.
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
        # Half for the rows that wait to be sorted, half for the gradients of single rows.
        self.half = max_memory // 2
        self.names = list(factors)
        self.layers: dict[str, nn.Module] = {}
        self.hooked: dict[str, LayerSums] = {}
        self.others: dict[str, GradientSums] = {}
        for name, triple in factors.items():
            self._add_layer(name, triple)

    def _add_layer(self, name: str, triple: tuple[Tensor, Tensor, Tensor] | None) -> None:
        layer = find_layer(self.module, name)
        kernel = make_kernel(layer)
        weight = find_weight(name, layer, needs_parameter=kernel is None)
        shape = weight_shape(layer, weight)
        like = weight.new_empty(0, dtype=widened_dtype(weight.dtype))
        factors = None if triple is None else check_factors(name, triple, shape, like)
        if kernel is None:
            self.others[name] = GradientSums(shape, factors, self.n_groups, like)
        else:
            self.layers[name] = layer
            self.hooked[name] = LayerSums(kernel, factors, self.n_groups, like, self.half)

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
        check_seen(set(self.layers) - seen, any(counts))
        sums = self.hooked | self.others
        return {name: sums[name].means(torch.tensor(counts)) for name in self.names}

    def _add_batch(self, rows: Rows, x: Tensor, y: Tensor) -> set[str]:
        with torch.enable_grad(), recording(self.layers) as recorded:
            logits = wide_logits(self.module, x, self.to_logits, self.autocast)
        with torch.no_grad():
            check_logits(logits, rows, labelled=self.gradient is None)
            uses = {name: calls for name, calls in recorded.items() if calls}
            for name, calls in uses.items():
                self.hooked[name].begin(rows, unchanged_inputs(name, calls, len(rows)))
            for cotangent, last in self._gradients(logits, y):
                self._add_hooked(uses, logits, cotangent, last)
                self._add_others(rows, x, cotangent)
        return set(uses)

    def _gradients(self, logits: Tensor, y: Tensor) -> Iterator[tuple[Tensor, bool]]:
        if self.gradient is None:
            return _cotangents(logits, y, self.hessian)
        return iter([(self.gradient(logits, y).to(logits), True)])

    def _add_hooked(
        self, uses: Mapping[str, list[Use]], logits: Tensor, cotangent: Tensor, last: bool
    ) -> None:
        """Take the output gradients of all layers at once; no weight gradient is computed."""
        edges = [use.edge for calls in uses.values() for use in calls]
        if not edges or not logits.requires_grad:
            return
        gradients = iter(
            torch.autograd.grad(logits, edges, cotangent, retain_graph=not last, allow_unused=True)
        )
        for name, calls in uses.items():
            # A use that does not reach the logits comes back as None: zero.
            found = [_or_zero(next(gradients), use) for use in calls]
            self.hooked[name].add_pass(found)
            if last:
                self.hooked[name].end()

    def _add_others(self, rows: Rows, x: Tensor, cotangent: Tensor) -> None:
        if not self.others:
            return
        row_bytes = sum(sums.row_bytes for sums in self.others.values())
        step = max(1, self.half // row_bytes)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            gradients = per_sample_gradients(
                self.module,
                list(self.others),
                x[part],
                cotangent[part],
                self.to_logits,
                self.autocast,
            )
            for name, sums in self.others.items():
                sums.add(rows, gradients[name], start)


def _or_zero(gradient: Tensor | None, use: Use) -> Tensor:
    return use.x.new_zeros(use.shape) if gradient is None else gradient


def _cotangents(logits: Tensor, y: Tensor, hessian: str) -> Iterator[tuple[Tensor, bool]]:
    """Yield the vectors whose backward passes are squared, and whether each is the last one."""
    p = torch.softmax(logits, 1)
    if hessian == "fisher":
        yield p.scatter_(1, y[:, None], -1, reduce="add"), True
        return
    # diag(p) - p p^T has rank C - 1: its Cholesky factor (Tanabe and Sagae, 1992) needs one pass
    # fewer than its usual square root sqrt(p_c) (e_c - p), a single one for two classes.
    tails = p.flip(1).cumsum(1).flip(1)
    tiny = torch.finfo(p.dtype).tiny
    for j in range(p.shape[1] - 1):
        after = tails[:, j + 1]
        vector = torch.zeros_like(p)
        vector[:, j] = 1
        vector[:, j + 1 :] = -p[:, j + 1 :] / after.clamp_min(tiny)[:, None]
        size = (p[:, j] * after / tails[:, j].clamp_min(tiny)).sqrt()
        yield vector * size[:, None], j == p.shape[1] - 2
