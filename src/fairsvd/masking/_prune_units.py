"""Whole units, scored by what their removal does to the soft gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..base import EditData
from ..layers import chosen_weights
from ..networks import layer_weights
from ..objective import SHARPNESS, Constraint, shifted, soft_gap
from ..phases import rows_a_step
from ._pruned import Pruned

__all__ = ["Bias", "unit_biases", "unit_effects"]

# A parameter's name, and which of its entries are the biases of a weight's units.
Bias: TypeAlias = tuple[str, slice]


def unit_biases(module: nn.Module, layers: Sequence[str]) -> dict[str, list[Bias]]:
    """Find the biases that go with the units of each weight, by parameter names.

    Of a weight that several layers share these are the biases of all of them.
    """
    chosen = chosen_weights(module, layers).values()
    found: dict[str, list[Bias]] = {weight.parameter: [] for weight in chosen}
    for weight in layer_weights(module).values():
        own = found.get(weight.parameter)
        if own is not None and weight.bias is not None and weight.bias not in own:
            own.append(weight.bias)
    return found


def unit_effects(
    module: nn.Module,
    data: EditData,
    constraint: Constraint,
    edit: Pruned,
    biases: Mapping[str, Sequence[Bias]],
) -> dict[str, Tensor]:
    """First-order change of the soft gap on the editing rows when a unit's output is zeroed.

    A unit's output z is linear in its weights and bias, so that ``-sum z dgap/dz``, over rows and
    positions, is ``-(w . dgap/dw + b dgap/db)``, which needs no look at z itself.

    Parameters
    ----------
    module : nn.Module
    data : EditData
    constraint : Constraint
        Names the gap.
    edit : Pruned
        What has been removed so far.
    biases : mapping of weight name to its units' biases

    Returns
    -------
    effects : dict of weight name to Tensor of shape (n_units,)
        Below zero where the gap is predicted to fall.
    """
    own = dict(module.named_parameters())
    state = edit.state()
    for some in biases.values():
        state.update({name: own[name].detach() for name, _ in some if name not in state})
    leaves = {name: value.clone().requires_grad_() for name, value in state.items()}
    gradients = _gradients(module, data, leaves, _gap_gradient(data, constraint, module, state))
    products = {name: -(state[name] * gradients[name]) for name in state}
    effects = {}
    for weight, some in biases.items():
        parts = [products[weight], *(products[name][rows] for name, rows in some)]
        effects[weight] = torch.cat([p.reshape(len(p), -1) for p in parts], dim=1).sum(dim=1)
    return effects


def _gap_gradient(
    data: EditData, constraint: Constraint, module: nn.Module, state: Mapping[str, Tensor]
) -> Tensor:
    """Gradient (n_editing, n_classes) of the soft gap at the operating threshold, in the logits.

    Of all rows at once: a gap is no sum over rows.
    """
    rows = data.editing
    logits = data.logits(module, state, rows.X).double().requires_grad_()
    gap = soft_gap(
        torch.softmax(SHARPNESS * shifted(logits, data.margin), dim=1),
        rows.y,
        rows.groups,
        None,
        constraint.gap,
        constraint.pos,
        data.n_groups,
    )
    return torch.autograd.grad(gap, logits)[0]


def _gradients(
    module: nn.Module, data: EditData, leaves: Mapping[str, Tensor], of_logits: Tensor
) -> dict[str, Tensor]:
    """Carry the gradient in the logits back to the leaves, batch by batch."""
    sums = {name: torch.zeros_like(value) for name, value in leaves.items()}
    start = 0
    for X, _, _ in data.editing_batches(rows_a_step(data)):
        logits = data.forward(module, leaves, X)
        outputs = of_logits[start : start + len(X)].to(logits)
        start += len(X)
        found = torch.autograd.grad(logits, list(leaves.values()), outputs, allow_unused=True)
        for total, gradient in zip(sums.values(), found, strict=True):
            if gradient is not None:
                total += gradient
    return sums
