"""The tuning loop of all methods, with a pause at every candidate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ._factored import FactoredRMS

__all__ = ["tune"]

B = TypeVar("B")

# Parameters of more bytes (64 MiB) are updated one by one, as soon as their gradients are there.
LARGE_BYTES = 2**26

# Beside so many bytes of parameters (64 MiB), Adam's second moment of a matrix of over 1 MiB is
# held as a row and a column: a copy of the network less.
VAST_BYTES, MATRIX_BYTES = 2**26, 2**20

# Adam's first moment keeps so much of itself in a step.
MOMENTUM = 0.9


def tune(
    loss: Callable[[B], Tensor],
    parameters: Sequence[Tensor],
    batches: Iterable[B],
    *,
    n_steps: int,
    learning_rate: float | Sequence[float],
    every: int,
    schedule: str = "constant",
    optimizer: str | Sequence[str] = "adam",
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    update_masks: Sequence[Tensor | None] | None = None,
    after_step: Callable[[], None] | None = None,
    progress: Callable[[], None] | None = None,
) -> Iterator[int]:
    """Minimise a loss over ``parameters``, pausing at every candidate.

    Parameters
    ----------
    loss : callable
        Maps a batch to a scalar Tensor.
    parameters : sequence of Tensor
        Leaves that require gradients; changed in place.
    batches : iterable
        Endless batches: from :class:`CellBatches`, or of whatever type ``loss`` takes.
    n_steps : int
    learning_rate : float or sequence of float
        One rate for all parameters, or one for each.
    every : int
        Steps between two candidates; the last step always is a candidate.
    schedule : {"constant", "cosine"}, default="constant"
        "cosine": the rates fall to 0 along half a cosine wave.
    optimizer : {"adam", "sgd", "factored"} or a sequence of these, default="adam"
        One for all parameters, or one for each. "factored" is :class:`FactoredRMS`, for matrices;
        without weight decay "adam" holds its second moment so for large matrices, if the parameters
        take more than 64 MiB.
    momentum : float in [0, 1), default=0.9
        Of "sgd".
    weight_decay : float, default=0.0
    update_masks : sequence of Tensor or None, optional
        For each parameter a tensor in [0, 1] that broadcasts to it and multiplies its *update*.
        Where it is 0 the parameter keeps its bits, whatever the optimiser does with momentum,
        second moments and weight decay. None: not masked.
    after_step : callable, optional
        Called after each update (a projection, say).
    progress : callable, optional
        Called once per step.

    Yields
    ------
    step : int
        Steps made so far; the caller reads the parameters before it asks for the next.
    """
    masks = update_masks or [None] * len(parameters)
    rates = learning_rate if isinstance(learning_rate, Sequence) else [learning_rate] * len(masks)
    each = list(zip(parameters, rates, masks, strict=True))
    kinds = [optimizer] * len(each) if isinstance(optimizer, str) else list(optimizer)
    size = sum(parameter.nbytes for parameter in parameters)
    if size > VAST_BYTES and not weight_decay:
        kinds = [_lean(kind, p) for kind, p in zip(kinds, parameters, strict=True)]
    large = size > LARGE_BYTES or len(set(kinds)) > 1
    parts = [([one], kind) for one, kind in zip(each, kinds, strict=True)]
    if not large:
        parts = [(each, kinds[0])]
    updates = [_Update.make(part, kind, momentum, weight_decay) for part, kind in parts]
    hooks = []
    if large:
        hooks = [
            p.register_post_accumulate_grad_hook(u)
            for p, u in zip(parameters, updates, strict=True)
        ]
    try:
        # No variable holds a batch, so its rows are freed before the next batch is read.
        for step, value in zip(range(1, n_steps + 1), map(loss, batches), strict=False):
            if schedule == "cosine":
                left = (1 + math.cos(math.pi * (step - 1) / n_steps)) / 2
                for update in updates:
                    update.slow_down(left)
            value.backward()
            if not large:
                updates[0]()
            if after_step is not None:
                after_step()
            if progress is not None:
                progress()
            if step % every == 0 or step == n_steps:
                yield step
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class _Update:
    """Updates some parameters from their gradients, which it then clears.

    Called with one parameter as soon as its gradient is there, it keeps a large network's gradients
    from being held all at once; what each parameter gets is the same.
    """

    optimizer: torch.optim.Optimizer
    rates: list[float]
    masked: list[tuple[Tensor, Tensor]]

    @classmethod
    def make(
        cls,
        part: Sequence[tuple[Tensor, float, Tensor | None]],
        name: str,
        momentum: float,
        weight_decay: float,
    ) -> _Update:
        parameters, rates = [p for p, _, _ in part], [rate for _, rate, _ in part]
        optimizer = _make_optimizer(name, parameters, rates, momentum, weight_decay)
        optimizer.zero_grad(set_to_none=True)
        own_rates = [group["lr"] for group in optimizer.param_groups]
        return cls(optimizer, own_rates, [(p, mask) for p, _, mask in part if mask is not None])

    def slow_down(self, share: float) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share

    def __call__(self, *_: Tensor) -> None:
        before = [parameter.detach().clone() for parameter, _ in self.masked]
        self.optimizer.step()
        for (parameter, mask), old in zip(self.masked, before, strict=True):
            _mask_update(parameter, old, mask)
        self.optimizer.zero_grad(set_to_none=True)


def _lean(kind: str, parameter: Tensor) -> str:
    """Name the optimiser of a parameter beside many others, where memory counts."""
    matrix = parameter.ndim > 1 and parameter.nbytes > MATRIX_BYTES
    return "lean adam" if kind == "adam" and matrix else kind


def _make_optimizer(
    name: str,
    parameters: Sequence[Tensor],
    rates: Sequence[float],
    momentum: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    if name in ("factored", "lean adam"):
        kept = MOMENTUM if name == "lean adam" else 0.0
        return FactoredRMS(parameters, lr=rates[0], momentum=kept)
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    settings: dict[str, Any] = {"weight_decay": weight_decay, "fused": fused}
    # One group for each rate: a fused step is a call for each group.
    groups: Any = [
        {"params": [p for p, r in zip(parameters, rates, strict=True) if r == each], "lr": each}
        for each in dict.fromkeys(rates)
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=momentum, **settings)
    return torch.optim.Adam(groups, **settings)


def _mask_update(parameter: Tensor, old: Tensor, mask: Tensor) -> None:
    """Undo the share of an update that its mask blocks: exactly all at 0 and nothing at 1."""
    with torch.no_grad():
        parameter.copy_(torch.lerp(old, parameter, mask.expand_as(parameter).to(parameter)))
