"""Factors whose bases turn: small rotations beside the singular values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import Factors
from ..masks import MaskVariables
from ._factor_edit import FactorEdit, compress_all

__all__ = ["TurnedEdit", "cayley", "turn"]

# Leading singular vectors that turn among themselves: a rotation of more costs as much as a layer.
MOST_TURNED = 64


@dataclass(frozen=True)
class TurnedEdit(FactorEdit):
    """An edit of factors in which the singular vectors turn within the space that they span.

    The weight is U R_U S (V R_V)^T, removed entries of U and V being zero before they turn.

    Attributes
    ----------
    turns : mapping of "layer/U" and "layer/V" to Tensor of shape (c, k, k)
        Of which :func:`cayley` makes the rotations of the first k singular vectors; none: the
        identity.
    """

    turns: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, edit: FactorEdit) -> TurnedEdit:
        """Make an edit of which nothing has turned yet."""
        return cls(edit.stored, edit.masks, edit.compress, edit.plain, edit.pending)

    def turned(self) -> Iterator[tuple[str, Factors]]:
        """Yield each layer's factors, without the removed entries and turned."""
        for name, f in self.factors.items():
            if f"{name}/U" in self.turns:
                U, V = (turn(getattr(f, side), self.turns[f"{name}/{side}"]) for side in "UV")
                f = replace(f, U=U, V=V)
            yield name, f

    def weights(self) -> dict[str, Tensor]:
        """Multiply out the weights, by their names in the state dict."""
        return {f.parameter: f.weight() for _, f in self.turned()}

    def masked_state(self, variables: MaskVariables) -> dict[str, Tensor]:
        """Return the state without the entries whose variables are not positive."""
        return self.remove(variables.straight_through()).state()

    def kept_state(self) -> Mapping[str, Tensor]:
        """Return the state for a candidate."""
        with torch.no_grad():
            return self.state()

    def _loose_turns(self) -> dict[str, Tensor]:
        """Copy the turns as leaves; what has not turned starts at the identity."""
        leaves = {}
        for name, f in self.stored.items():
            for side in "UV":
                entries, key = getattr(f, side), f"{name}/{side}"
                k = min(MOST_TURNED, entries.shape[2])
                start = self.turns.get(key, entries.new_zeros(len(entries), k, k))
                leaves[key] = start.detach().clone().requires_grad_()
        return leaves

    def loosen(self, plain: Mapping[str, Tensor]) -> tuple[TurnedEdit, list[Tensor]]:
        """Make the singular values and the turns trainable."""
        edit, scales = super().loosen(plain)
        turns = self._loose_turns()
        return replace(edit, turns=turns), [*scales, *turns.values()]  # type: ignore[call-arg, return-value]

    def free(
        self, plain: Mapping[str, Tensor]
    ) -> tuple[TurnedEdit, list[Tensor], list[tuple[Tensor, float]]]:
        """Make the singular values and the turns trainable; no entry moves by itself."""
        edit, scales = super().loosen(plain)
        turns, entries = self._loose_turns(), []
        for name, f in edit.stored.items():
            square = float(f.S.detach().double().square().sum()) / len(f.S)
            reach = (square / (f.U.shape[1] * f.V.shape[1])) ** 0.5
            entries += [(turns[f"{name}/{side}"], reach) for side in "UV"]
        return replace(edit, turns=turns), scales, entries  # type: ignore[call-arg, return-value]

    def detached(self) -> TurnedEdit:
        """Return a copy that later steps do not change."""
        turns = {name: value.detach().clone() for name, value in self.turns.items()}
        return replace(super().detached(), turns=turns)  # type: ignore[call-arg, return-value]

    def attributes(self) -> dict[str, Any]:
        """Return masks, ranks and rotations."""
        rotations: dict[str, dict[str, Any]] = {}
        for key, value in self.turns.items():
            name, _, side = key.rpartition("/")
            array = cayley(value.detach()).cpu().numpy()
            rotations.setdefault(name, {})[side] = array[0] if len(array) == 1 else array
        return {**super().attributes(), "rotations_": rotations}

    def finish(self) -> Callable[[nn.Module], nn.Module] | None:
        """Return the compression of the chosen network, if requested."""
        return partial(compress_all, factors=dict(self.turned())) if self.compress else None


def cayley(turns: Tensor) -> Tensor:
    """Make rotations of free numbers by Cayley's map, differentiably.

    Parameters
    ----------
    turns : Tensor of shape (c, k, k)
        The entries below the diagonal count, in units of 1/sqrt(k): a step of equal length in all
        of them moves each singular vector by about that length, whatever k is.

    Returns
    -------
    rotations : Tensor of shape (c, k, k)
        Orthogonal up to the rounding of the entries; the identity for zeros.
    """
    k = turns.shape[-1]
    # In single precision the solution of a large system is orthogonal to 1e-5 only.
    wide = turns.double() if turns.device.type != "mps" else turns
    lower = torch.tril(wide, -1) / k**0.5
    skew = lower - lower.mT
    one = torch.eye(k, dtype=skew.dtype, device=skew.device)
    return torch.linalg.solve(one - skew, one + skew).to(turns.dtype)


def turn(entries: Tensor, turns: Tensor) -> Tensor:
    """Turn the first singular vectors (c, m, r) among themselves."""
    k = turns.shape[-1]
    return torch.cat([entries[..., :k] @ cayley(turns), entries[..., k:]], dim=2)
