"""Steps of equal size for very large tensors, at hardly any memory beside their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["FactoredRMS"]

# How much of the average of squared gradients each step keeps, as Adam's second moment does.
KEPT = 0.999
TINY = 1e-8

# Rows of a matrix that are updated at once: what is computed in full precision is a part of it.
ROWS = 256


class FactoredRMS(torch.optim.Optimizer):
    """Divide gradients by their root mean square, known for rows and columns alone.

    Adam whose second moment is the product of a row and a column, as in Adafactor
    (arXiv:1804.04235). Deviations from that: the bias of the averages is corrected as in Adam, the
    first moment is one of gradients, there is no clipping, and the rate does not depend on the
    parameters. The second moment is in single precision, whatever the type of the parameters.

    Parameters
    ----------
    params : iterable of Tensor of shape (m, n, ...)
        All dimensions behind the first count as one.
    lr : float
    momentum : float in [0, 1), default=0.0
        How much of the average of gradients each step keeps; with 0 there is none to be held.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], group["momentum"])

    def _update(self, parameter: Tensor, gradient: Tensor, rate: float, momentum: float) -> None:
        state, gradient = self.state[parameter], gradient.flatten(start_dim=1)
        if not state:
            settings: Any = {"dtype": torch.float32, "device": parameter.device}
            state["steps"] = 0
            state["rows"] = torch.zeros(len(gradient), 1, **settings)
            state["columns"] = torch.zeros(1, gradient.shape[1], **settings)
            if momentum:
                state["mean"] = torch.zeros_like(gradient)
        state["steps"] += 1
        rows, columns, parts = state["rows"], state["columns"], range(0, len(gradient), ROWS)
        of_columns = torch.zeros_like(columns)
        for start in parts:
            square = gradient[start : start + ROWS].float().square()
            rows[start : start + ROWS].lerp_(square.mean(dim=1, keepdim=True), 1 - KEPT)
            of_columns += square.sum(dim=0, keepdim=True)
        columns.lerp_(of_columns / len(gradient), 1 - KEPT)
        if momentum:
            gradient = state["mean"].lerp_(gradient, 1 - momentum)
            rate /= 1 - momentum ** state["steps"]
        # The mean of the rows is the mean of all, and so is that of the columns.
        correction = 1 - KEPT ** state["steps"]
        size = (columns / rows.mean().clamp_min(torch.finfo(torch.float32).tiny)).sqrt_()
        for start in parts:
            own = parameter[start : start + ROWS]
            spread = (rows[start : start + ROWS] / correction).sqrt_() * size
            change = gradient[start : start + ROWS].float() / spread.add_(TINY)
            own.copy_(own.float().sub_(change.view(own.shape), alpha=rate))
