"""Scores of whole units by the effect of their removal on the soft gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..arrays import to_device
from ..base import Task
from ..layers import chosen_weights
from ..networks import layer_weights
from ..objective import SHARPNESS, shift_logits, soft_gap
from ..phases import count_step_rows

__all__ = ["Bias", "unit_biases", "unit_effects"]

# A parameter's name, and which of its entries are the biases of a weight's units.
Bias: TypeAlias = tuple[str, slice]


def unit_biases(module: nn.Module, layers: Sequence[str]) -> dict[str, list[Bias]]:
    """Find the biases that belong to the units of each weight, by parameter names.

    For a weight that several layers share, these are the biases of all of them.
    """
    chosen = chosen_weights(module, layers).values()
    biases: dict[str, list[Bias]] = {weight.parameter: [] for weight in chosen}
    for weight in layer_weights(module).values():
        of_weight = biases.get(weight.parameter)
        if of_weight is not None and weight.bias is not None and weight.bias not in of_weight:
            of_weight.append(weight.bias)
    return biases


def unit_effects(
    task: Task, state: Mapping[str, Tensor], biases: Mapping[str, Sequence[Bias]]
) -> dict[str, Tensor]:
    """Predict to first order how the soft gap changes when a unit's output is zeroed.

    The gap is that of the editing rows. A unit's output z is linear in its weights and bias, so
    ``-sum z dgap/dz``, over rows and positions, is ``-(w . dgap/dw + b dgap/db)``, which does not
    need z itself.

    Parameters
    ----------
    task : Task
        Its constraint names the gap.
    state : mapping of parameter name to Tensor
        Parameters of the network that were changed so far, among them every weight of ``biases``.
    biases : mapping of weight name to its units' biases

    Returns
    -------
    effects : dict of weight name to Tensor of shape (n_units,)
        Below zero where the gap is predicted to fall.
    """
    parameters = dict(task.module.named_parameters())
    names = [name for each in biases.values() for name, _ in each if name not in state]
    state = {**state, **{name: parameters[name].detach() for name in names}}
    leaves = {name: value.clone().requires_grad_() for name, value in state.items()}
    gradients = _gradients(task, leaves, _gap_gradient(task, state))
    products = {name: -(state[name] * gradients[name]) for name in state}
    effects = {}
    for weight, of_weight in biases.items():
        parts = [products[weight], *(products[name][rows] for name, rows in of_weight)]
        effects[weight] = torch.cat([p.reshape(len(p), -1) for p in parts], dim=1).sum(dim=1)
    return effects


def _gap_gradient(task: Task, state: Mapping[str, Tensor]) -> Tensor:
    """Compute the gradient (n_editing, n_classes) of the soft gap in the shifted logits.

    It is taken at the operating threshold, and for all rows at once: a gap is no sum over rows.
    """
    data, rows = task.data, task.data.editing
    logits = data.logits(task.module, state, rows.X).double().requires_grad_()
    gap = soft_gap(
        torch.softmax(SHARPNESS * shift_logits(logits, data.margin), dim=1),
        rows.y,
        rows.groups,
        rows.weights,
        task.constraint.gap,
        task.constraint.pos,
        data.n_groups,
    )
    return torch.autograd.grad(gap, logits)[0]


def _gradients(task: Task, leaves: Mapping[str, Tensor], of_logits: Tensor) -> dict[str, Tensor]:
    """Carry the gradient in the logits back to the leaves, batch by batch."""
    data, sums = task.data, {name: torch.zeros_like(value) for name, value in leaves.items()}
    start = 0
    # Every row once: their weights are in the gradients already.
    for X, _, _ in data.editing.batches(count_step_rows(data), data.device):
        logits = data.forward(task.module, leaves, to_device(X, data.device, data.dtype))
        outputs = of_logits[start : start + len(X)].to(logits)
        start += len(X)
        gradients = torch.autograd.grad(logits, list(leaves.values()), outputs, allow_unused=True)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            if gradient is not None:
                total += gradient
    return sums
