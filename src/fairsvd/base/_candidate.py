"""A candidate: one edited network, as an editor returns it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from ..objective import Verdict
from ._lazy_state import LazyState

__all__ = ["Candidate"]


@dataclass(frozen=True)
class Candidate:
    """One edited network.

    Attributes
    ----------
    state : mapping of name to Tensor
        The entries of the state dict that differ from the untouched network's.
    params : mapping
        How it was made, for ``history_``.
    attributes : mapping
        Fitted attributes of the editor if this candidate is chosen.
    finish : callable, optional
        Changes the structure of the chosen network (compression).
    verdict : Verdict, optional
        The editor's own verdict, if it has judged the candidate already.
    logits : Tensor, optional
        Logits of the judged rows, if the editor has them.
    reading : mapping, optional
        Fields of :class:`fairsvd.networks.AdoptedNetwork` that ``finish`` changes: what the new
        network returns, and the layer that makes its logits.
    """

    state: Mapping[str, Tensor]
    params: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[nn.Module], nn.Module] | None = None
    verdict: Verdict | None = None
    logits: Tensor | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)

    def owned(self) -> Candidate:
        """Copy the entries that an optimiser goes on to change: those that require gradients."""
        if isinstance(self.state, LazyState):
            return self
        if not any(value.requires_grad for value in self.state.values()):
            return self
        state = {
            name: value.detach().clone() if value.requires_grad else value
            for name, value in self.state.items()
        }
        return replace(self, state=state)
