"""A critic of whole batches: its inputs, and the signed soft biases that it predicts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..arrays import to_device
from ..base import EditData
from ..objective import Constraint, compared
from ..training import AHEAD

__all__ = ["Critic", "SignedBias", "forward_with_features"]

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
        Rows of a batch.
    width : int
        Width of the hidden layers.
    n_outputs : int
    generator : torch.Generator
        Draws the initial weights and every dropout, on the CPU.

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
        self.dropout = self._draw_dropout(self.parameters[1].detach())

    def __call__(self, features: Tensor, *, training: bool) -> Tensor:
        """Predict the biases (n_outputs,) of a batch from its features (n_rows, width).

        While training, dropout is on and gradients reach the critic; otherwise dropout is off and
        they reach the features alone.
        """
        values = [p if training else p.detach() for p in self.parameters]
        first, *hidden, last = zip(values[::2], values[1::2], strict=True)
        x = ((features - self.mean) / self.scale).reshape(-1)
        x = nn.functional.linear(x, *first)
        factors = next(self.dropout) if training else None
        for number, layer in enumerate(hidden):
            x = nn.functional.relu(nn.functional.linear(x, *layer))
            if factors is not None:
                x = x * factors[number]
        return nn.functional.linear(x, *last)

    def _draw_dropout(self, like: Tensor) -> Iterator[Tensor]:
        """Yield the factors (N_HIDDEN, width) of each step, drawn and sent for many at once."""
        shape, of_step = like.shape, self.generator
        while True:
            drawn = [torch.rand(shape, generator=of_step) for _ in range(AHEAD * N_HIDDEN)]
            kept = to_device(torch.stack(drawn) >= DROPOUT, like.device).to(like.dtype)
            yield from (kept / (1 - DROPOUT)).split(N_HIDDEN)


def forward_with_features(
    module: nn.Module, data: EditData
) -> Callable[[Mapping[str, Tensor], Tensor], tuple[Tensor, Tensor]]:
    """Make a forward pass that returns logits and the output layer's inputs, differentiably.

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
            logits = data.forward(module, state, X, tapped=True)
        finally:
            handle.remove()
        return logits, entered[-1].reshape(len(X), -1).to(data.dtype)

    return forward


@dataclass(frozen=True)
class SignedBias:
    """Signed differences of soft rates between a group and all others.

    There is one for every rate that the constraint compares, for every class (only one for two
    classes, where the positive class is enough, and for accuracies) and for every group (only one
    for two groups: the first's rate minus the second's).

    Attributes
    ----------
    constraint : Constraint
    n_classes, n_groups : int
    """

    constraint: Constraint
    n_classes: int
    n_groups: int

    @property
    def rates(self) -> tuple[str, ...]:
        """Names of the rates that are compared."""
        return compared(self.constraint.gap)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rates, classes, groups."""
        single = self.n_classes == 2 or self.rates == ("accuracy",)
        groups = 1 if self.n_groups == 2 else self.n_groups
        return len(self.rates), 1 if single else self.n_classes, groups

    def __call__(
        self, probabilities: Tensor, y: Tensor, groups: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Measure a batch.

        Parameters
        ----------
        probabilities : Tensor of shape (n, n_classes)
        y, groups : Tensor of shape (n,), int64
        weights : Tensor of shape (n,)
            Weight of each row in the means.

        Returns
        -------
        values : Tensor of shape (n_rates, n_classes or 1, n_groups or 1), in [-1, 1]
            0 where they cannot be measured.
        known : boolean Tensor of that shape
            Whether the batch holds rows of the group, and of another.
        """
        member = (groups[:, None] == torch.arange(self.n_groups, device=y.device)).to(weights)
        member = member * weights[:, None]
        scores, true = self._columns(probabilities, y)
        condition = {"tpr": true, "fpr": 1 - true}
        parts = [
            _against_rest(scores, member, condition.get(rate, torch.ones_like(true)))
            for rate in self.rates
        ]
        values, known = (
            torch.stack(part)[..., : self.shape[2]] for part in zip(*parts, strict=True)
        )
        return values, known

    def _columns(self, probabilities: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (n, n_columns) whose means are the rates, and each row's class."""
        classes = torch.arange(self.n_classes, device=y.device)
        true = (y[:, None] == classes).to(probabilities)
        if self.rates == ("accuracy",):
            return (probabilities * true).sum(dim=1, keepdim=True), true[:, :1]
        if self.n_classes == 2:
            pos = self.constraint.pos
            return probabilities[:, pos : pos + 1], true[:, pos : pos + 1]
        return probabilities, true

    def size(self, values: Tensor, known: Tensor) -> Tensor:
        """Reduce signed differences to one number, as the constraint's gap does.

        The largest over groups; over rates the largest, or the mean for average odds, which for
        signed average odds is taken before the sign is lost; the mean over the classes that can
        be compared.
        """
        if self.constraint.gap == "signed_average_odds":
            total = torch.where(known, values, 0.0).sum(dim=0)
            values = (total / known.sum(dim=0).clamp(min=1))[None]
            known = known.any(dim=0)[None]
        worst = torch.where(known, values.abs(), 0.0).amax(dim=2)
        measured = known.any(dim=2)
        if self.constraint.gap == "average_odds":
            of_class = worst.sum(dim=0) / measured.sum(dim=0).clamp(min=1)
        else:
            of_class = worst.amax(dim=0)
        return of_class.sum() / measured.any(dim=0).sum().clamp(min=1)


def _against_rest(scores: Tensor, member: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the others' weighted mean from each group's (n_columns, n_groups), if known."""
    mass = torch.einsum("nc,ng->cg", condition, member)
    total = torch.einsum("nc,nc,ng->cg", scores, condition, member)
    others = 1 - torch.eye(member.shape[1], dtype=member.dtype, device=member.device)
    rest, rest_total = mass @ others, total @ others
    known = (mass > 0) & (rest > 0)
    # Denominators of 1 where nothing is known: 0/0 would turn every gradient into NaN.
    own_mean = total / torch.where(known, mass, 1.0)
    difference = own_mean - rest_total / torch.where(known, rest, 1.0)
    return torch.where(known, difference, 0.0), known
