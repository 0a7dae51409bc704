"""Count how often an edit visits rows: what it costs, in epochs and whatever the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["Visits", "counted"]

# A pass without gradients costs a third of one with them.
FORWARD = 1 / 3


@dataclass
class Visits:
    """Rows that went through a network.

    Attributes
    ----------
    learned : int
        With gradients; a row that is learned from three times counts three times.
    judged : int
        Without gradients.
    """

    learned: int = 0
    judged: int = 0

    def epochs(self, n_rows: int) -> float:
        """Express the visits in passes over rows: learning counts 1, judging a third."""
        return (self.learned + FORWARD * self.judged) / n_rows


@contextmanager
def counted(network: nn.Module) -> Iterator[Visits]:
    """Count the rows that enter the first layer with a weight of a network, or of copies of it.

    Layers of the same kind and shape are not told apart, so the first layer must be the only one
    of its kind and shape.

    Parameters
    ----------
    network : nn.Module
        Copies are told by the kind and the shape of that layer, whatever its weights are.
    """
    first = _first(network)
    shape, visits = first.weight.shape, Visits()

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if type(module) is not type(first) or module.weight.shape != shape:
            return
        if torch.is_grad_enabled():
            visits.learned += len(inputs[0])
        else:
            visits.judged += len(inputs[0])

    hook = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        yield visits
    finally:
        hook.remove()


def _first(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(getattr(module, "weight", None), torch.Tensor):
            return module
    raise ValueError("the network has no layer with a weight, so that nothing can be counted")
