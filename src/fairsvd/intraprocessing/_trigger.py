"""Triggers: what is learned on the input of a network whose weights stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._messages import listed
from ..exceptions import NetworkError
from ..networks import Inputs, fields_of

__all__ = ["RowTrigger", "TokenTrigger", "Trigger", "Triggered"]


class Trigger(nn.Module):
    """A trigger: numbers around a centre, in units of a scale.

    Parameters
    ----------
    centre, scale : Tensor
        Of the shape of the trigger, or one that broadcasts to it.
    shape : tuple of int
        Of the trigger.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, centre: Tensor, scale: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("scale", scale)
        self.weight = nn.Parameter(torch.zeros(shape).to(centre), requires_grad=False)
        self.eval()

    def value(self) -> Tensor:
        """Compute the trigger in units of the rows."""
        return self.centre + self.scale * self.weight

    def array(self) -> NDArray[Any]:
        """Return the trigger as a fitted attribute."""
        return np.asarray(self.value().detach().cpu().numpy())

    def with_weight(self, weight: Tensor) -> Trigger:
        """Copy the trigger with other numbers."""
        made = self.new()
        made.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        return made

    def new(self) -> Trigger:
        """Make an equal trigger."""
        raise NotImplementedError("of a subclass")

    def forward(self, X: Inputs, network: nn.Module) -> Inputs:
        """Put the trigger into rows of the network."""
        raise NotImplementedError("of a subclass")


class RowTrigger(Trigger):
    """A trigger of tables or images: added, or in the place of some columns or pixels.

    Parameters
    ----------
    centre, scale, shape
        As of :class:`Trigger`; the shape is that of a row.
    place : Tensor of bool or None
        True where the trigger replaces the row, of a row's shape; None: it is added.
    bounded : bool
        Whether the trigger stays within a scale of its centre, by a hyperbolic tangent.
    frame : int
        Pixels by which an image is made smaller on every side first; 0: it keeps its size.
    """

    place: Tensor | None

    def __init__(
        self,
        centre: Tensor,
        scale: Tensor,
        shape: tuple[int, ...],
        *,
        place: Tensor | None,
        bounded: bool,
        frame: int = 0,
    ) -> None:
        super().__init__(centre, scale, shape)
        self.register_buffer("place", place)
        self.bounded, self.frame = bounded, frame

    def value(self) -> Tensor:
        """Compute the trigger in units of the rows; 0 where it has no place."""
        weight = torch.tanh(self.weight) if self.bounded else self.weight
        value = self.centre + self.scale * weight
        return value if self.place is None else value * self.place

    def new(self) -> RowTrigger:
        """Make an equal trigger."""
        shape = tuple(self.weight.shape)
        settings: dict[str, Any] = {"bounded": self.bounded, "frame": self.frame}
        return RowTrigger(self.centre, self.scale, shape, place=self.place, **settings)

    def forward(self, X: Inputs, network: nn.Module) -> Inputs:
        """Put the trigger into rows (n, ...)."""
        if isinstance(X, Mapping):
            raise NetworkError(f"this trigger takes one tensor, not [{listed(X)}].")
        if self.frame:
            size = [side - 2 * self.frame for side in X.shape[-2:]]
            X = nn.functional.interpolate(X, size, mode="bilinear", align_corners=False)
            X = nn.functional.pad(X, [self.frame] * 4)
        value = self.value().to(X.dtype)
        return X + value if self.place is None else torch.where(self.place, value, X)


class TokenTrigger(Trigger):
    """Vectors that are appended to the embedded tokens of a text."""

    def new(self) -> TokenTrigger:
        """Make an equal trigger."""
        return TokenTrigger(self.centre, self.scale, tuple(self.weight.shape))

    def forward(self, X: Inputs, network: nn.Module) -> Inputs:
        """Embed the tokens, append the trigger, and let every token attend to it."""
        inputs = dict(X) if isinstance(X, Mapping) else {"input_ids": X}
        ids = inputs.pop("input_ids")
        embed: Any = network.get_input_embeddings
        embedded = embed()(ids)
        own = self.value().to(embedded.dtype).expand(len(ids), -1, -1)
        beside = [len(ids), self.weight.shape[0]]
        # Every token sees the trigger, which is of the first kind of tokens.
        fill = {"attention_mask": 1, "token_type_ids": 0}
        made = {
            name: torch.cat([value, value.new_full(beside, fill[name])], dim=1)
            for name, value in inputs.items()
        }
        return {**made, "inputs_embeds": torch.cat([embedded, own], dim=1)}


class Triggered(nn.Module):
    """A network behind a trigger: one module, called as the network is.

    Parameters
    ----------
    network : nn.Module
        Its weights stay as they are.
    trigger : Trigger
    """

    def __init__(self, network: nn.Module, trigger: Trigger) -> None:
        super().__init__()
        self.network, self.trigger = network, trigger
        self.training = network.training  # exporters warn if a wrapper has another mode

    def forward(self, X: Tensor | None = None, **inputs: Tensor) -> Any:
        """Map rows, or rows by the names of the network's inputs, to the network's output."""
        rows: Inputs = inputs if X is None else X
        fields = fields_of(self.network)
        if X is not None and fields is not None:
            rows = fields.unpack(X)
        made = self.trigger(rows, self.network)
        return self.network(**made) if isinstance(made, Mapping) else self.network(made)
