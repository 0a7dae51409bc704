"""A critic that reads the features of a whole batch, and the forward pass that gives them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..base import EditData

__all__ = ["Critic", "forward_with_features"]

# Savani et al., code: three hidden layers with this dropout.
N_HIDDEN, DROPOUT = 3, 0.2


class Critic:
    """Network from the features of a batch, concatenated row by row, to its signed biases.

    A linear layer, three times linear, ReLU and dropout, and a linear layer.

    Parameters
    ----------
    sample : Tensor of shape (n, n_features)
        Features of some rows; their means and their common scale standardise what comes in.
    n_rows : int
        Of a batch.
    width : int
        Of the hidden layers.
    n_outputs : int
    generator : torch.Generator
        Draws the first weights and every dropout, on the CPU.

    Attributes
    ----------
    parameters : list of Tensor
        Weight and bias of each layer in turn; leaves that require gradients.
    """

    def __init__(
        self,
        sample: Tensor,
        n_rows: int,
        width: int,
        n_outputs: int,
        *,
        generator: torch.Generator,
    ) -> None:
        self.generator = generator
        self.mean = sample.mean(dim=0)
        spread = (sample - self.mean).square().mean().sqrt()
        self.scale = torch.where(spread > 0, spread, 1.0)
        self.parameters: list[Tensor] = []
        n_inputs = n_rows * sample.shape[1]
        for before, after in pairwise([n_inputs, *[width] * (N_HIDDEN + 1), n_outputs]):
            for shape in ((after, before), (after,)):
                drawn = torch.empty(shape, dtype=torch.float64)
                # torch's own range for linear layers.
                drawn.uniform_(-(before**-0.5), before**-0.5, generator=generator)
                self.parameters.append(drawn.to(sample).requires_grad_())

    def __call__(self, features: Tensor, *, training: bool) -> Tensor:
        """Predict the biases (n_outputs,) of a batch from its features (n_rows, width).

        While training, dropout is on and gradients reach the critic; otherwise dropout is off and
        they reach the features alone.
        """
        values = [p if training else p.detach() for p in self.parameters]
        first, *hidden, last = zip(values[::2], values[1::2], strict=True)
        x = ((features - self.mean) / self.scale).reshape(-1)
        x = nn.functional.linear(x, *first)
        for layer in hidden:
            x = nn.functional.relu(nn.functional.linear(x, *layer))
            if training:
                x = x * self._dropout(x)
        return nn.functional.linear(x, *last)

    def _dropout(self, x: Tensor) -> Tensor:
        kept = torch.rand(x.shape, generator=self.generator) >= DROPOUT
        return kept.to(x) / (1 - DROPOUT)


def forward_with_features(
    module: nn.Module, data: EditData
) -> Callable[[Mapping[str, Tensor], Tensor], tuple[Tensor, Tensor]]:
    """Make a forward pass that gives logits and what enters the output layer, both differentiable.

    Parameters
    ----------
    module : nn.Module
    data : EditData

    Returns
    -------
    forward : callable
        Maps (entries of the state to replace, X) to logits (n, n_classes) and features
        (n, width).
    """
    target = module.get_submodule(data.output_layer)

    def forward(state: Mapping[str, Tensor], X: Tensor) -> tuple[Tensor, Tensor]:
        thread, entered = threading.get_ident(), list[Tensor]()

        def note(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # The same network may be running in another thread.
            if threading.get_ident() == thread:
                entered.append(inputs[0])

        handle = target.register_forward_pre_hook(note)
        try:
            logits = data.forward(module, state, X)
        finally:
            handle.remove()
        return logits, entered[-1].reshape(len(X), -1).to(data.dtype)

    return forward
