"""The output layer alone: what enters it is kept for all rows, whose logits follow from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..arrays import Batches
from ..base import Task
from ..layers import layer_parameters
from ..networks import to_logits

__all__ = ["KeptHead", "keep_head"]

# What a layer returns whose softmax or sigmoid the network returns.
BEFORE_SOFTMAX = {"probabilities": "logits", "one_probability": "one_logit"}


@dataclass(frozen=True)
class KeptHead:
    """A linear output layer, and what enters it.

    Attributes
    ----------
    features : Tensor of shape (n_rows, width)
        In single precision or wider, on the CPU.
    run : callable
        Maps (entries of the layer by the names that the module gives them, features) to logits
        (n_rows, n_classes), up to a number that is added to all logits of a row.
    """

    features: Tensor
    run: Callable[[Mapping[str, Tensor], Tensor], Tensor]


def keep_head(task: Task, state: Mapping[str, Tensor], rows: Batches) -> KeptHead | None:
    """Compute what enters the output layer in one pass over the rows.

    Parameters
    ----------
    task : Task
    state : mapping of name to Tensor
        Entries of the network that replace the module's.
    rows : Batches

    Returns
    -------
    kept : KeptHead or None
        None: the layer is not linear, it does not get one vector for every row, or the network's
        logits are not those of the layer.
    """
    data, module = task.data, task.module
    head = module.get_submodule(data.output_layer)
    if not isinstance(head, nn.Linear):
        return None
    local = {id(value): name for name, value in head.named_parameters()}
    own = layer_parameters(module, data.output_layer)
    of_head = {name: local[id(value)] for name, value in own.items()}
    kind = BEFORE_SOFTMAX.get(data.kind, data.kind)
    features, whole = data.head_inputs(module, state, rows)

    def run(entries: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        values = {of_head[name]: entries[name] for name in of_head}
        return to_logits(functional_call(head, values, (inputs,)), kind)

    if features.shape[1] != head.in_features:
        return None
    with torch.no_grad():
        alone = run({name: state.get(name, own[name]).to(features) for name in own}, features)
    # What follows the layer, such as a scale, shows in the logits; a softmax shifts those of a row.
    alike = alone.shape == whole.shape
    if not alike or not torch.allclose(_centred(alone), _centred(whole), 1e-3, 1e-3):
        return None
    return KeptHead(features, run)


def _centred(logits: Tensor) -> Tensor:
    """Shift the logits of each row to the mean 0, which changes no probability."""
    return logits - logits.mean(dim=1, keepdim=True)
