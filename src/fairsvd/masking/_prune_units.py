"""Whole units, scored by what their removal does to the soft gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..base import EditData, rows_a_step
from ..layers import weight_name
from ..objective import SHARPNESS, Constraint, shifted, soft_gap
from ._pruned import Pruned

__all__ = ["unit_biases", "unit_effects"]


def unit_biases(module: nn.Module, layers: Sequence[str]) -> dict[str, list[str]]:
    """Find the biases that go with the units of each weight, by parameter names.

    Of a weight that several layers share these are the biases of all of them.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found: dict[str, list[str]] = {weight_name(layer): [] for layer in layers}
    owner = {id(module.get_submodule(n).get_parameter("weight")): weight_name(n) for n in layers}
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)) and part.bias is not None:
            own = found.get(owner.get(id(part.weight), ""), [])
            name = names.get(id(part.bias))
            if name is not None and name not in own:
                own.append(name)
    return found


def unit_effects(
    module: nn.Module,
    data: EditData,
    constraint: Constraint,
    edit: Pruned,
    biases: Mapping[str, Sequence[str]],
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
    biases : mapping of weight name to names of its units' biases

    Returns
    -------
    effects : dict of weight name to Tensor of shape (n_units,)
        Below zero where the gap is predicted to fall.
    """
    own = dict(module.named_parameters())
    state = edit.state()
    for names in biases.values():
        state.update({name: own[name].detach() for name in names if name not in state})
    leaves = {name: value.clone().requires_grad_() for name, value in state.items()}
    gradients = _gradients(module, data, leaves, _gap_gradient(data, constraint, module, state))
    effects = {}
    for weight, names in biases.items():
        parts = [-(state[n] * gradients[n]).reshape(len(state[n]), -1) for n in (weight, *names)]
        effects[weight] = torch.cat(parts, dim=1).sum(dim=1)
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
