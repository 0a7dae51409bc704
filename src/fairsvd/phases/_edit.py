"""Edits: the changes that a path makes to a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from ..base import Candidate, Task
from ..masks import MaskVariables, removed_fraction
from ..objective import Verdict

__all__ = ["Deferred", "Edit", "M", "MaskedEdit", "judge_state"]


class Edit(ABC):
    """The difference from the untouched network."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return the entries of the state dict that differ, differentiably."""

    def kept_state(self) -> Mapping[str, Tensor]:
        """Return the same for a candidate, which may be kept for long."""
        with torch.no_grad():
            return self.state()

    @abstractmethod
    def detached(self) -> Self:
        """Return a copy that later steps do not change."""

    def shown(self) -> Self:
        """Return what a candidate is made of: a copy, or the edit if only its state is used."""
        return self.detached()

    def record(self) -> dict[str, Any]:
        """Return the entries of ``history_`` that describe the edit itself."""
        return {}

    def attributes(self) -> dict[str, Any]:
        """Return the fitted attributes that depend on the edit."""
        return {}

    def finish(self) -> Callable[[nn.Module], nn.Module] | None:
        """Return the function that changes the network's structure if the edit is chosen."""
        return None

    def pack(
        self,
        params: Mapping[str, Any],
        attributes: Mapping[str, Any],
        verdict: Verdict,
        logits: Tensor,
    ) -> Candidate:
        """Make a candidate of the judged edit; its state holds the edit's own tensors."""
        # Of an edit without attributes of its own nothing is kept but its state.
        own = type(self).attributes is not Edit.attributes
        fitted = Deferred(attributes, self.attributes) if own else attributes
        record = {**params, **self.record()}
        return Candidate(self.kept_state(), record, fitted, self.finish(), verdict, logits)


class Deferred(Mapping[str, Any]):
    """Fitted attributes that are computed when they are read: for the chosen candidate alone.

    Parameters
    ----------
    known : mapping
    compute : callable
        Returns further attributes.
    """

    def __init__(
        self, known: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]] = dict
    ) -> None:
        self.known, self.compute = known, compute

    @cached_property
    def all(self) -> dict[str, Any]:
        """All attributes."""
        return {**self.known, **self.compute()}

    def __getitem__(self, name: str) -> Any:
        """Return one attribute."""
        return self.all[name]

    def __iter__(self) -> Iterator[str]:
        """List the names."""
        return iter(self.all)

    def __len__(self) -> int:
        """Count the attributes."""
        return len(self.all)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as plain values."""
        return Deferred, (self.all,)


class MaskedEdit(Edit):
    """An edit that removes entries of the network.

    Attributes
    ----------
    masks : mapping of str to Tensor
        True (or 1) where an entry is kept.
    plain : mapping of str to Tensor
        Parameters beside the weights that the edit replaces.
    """

    masks: Mapping[str, Tensor]
    plain: Mapping[str, Tensor]

    @abstractmethod
    def entries(self) -> dict[str, Tensor]:
        """Return the removable entries, by the names that masks use; removed ones are zero."""

    @abstractmethod
    def remove(self, masks: Mapping[str, Tensor]) -> Self:
        """Zero what the masks remove, differentiably; called on the edit that keeps every entry."""

    @abstractmethod
    def units(self) -> list[dict[str, Tensor]]:
        """Return the removable entries of each layer, by the names that masks use."""

    @abstractmethod
    def masked_state(self, variables: MaskVariables) -> dict[str, Tensor]:
        """Return the state without the entries whose variables are not positive.

        Called on an edit that keeps every entry. Differentiable: the gradient of a mask passes to
        its variable unchanged, and what the edit tunes beside the masks gets its own.
        """

    def applied(self) -> Self:
        """Return the edit with its removal carried out, so that later steps need not repeat it."""
        return self

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Return the resulting weights, by their names in the state dict."""

    @abstractmethod
    def loosen(self, plain: Mapping[str, Tensor]) -> tuple[Self, list[Tensor]]:
        """Make a factor for each layer trainable, and ``plain`` parameters beside the weights.

        Returns
        -------
        edit : MaskedEdit
            Depends on the leaves.
        leaves : list of Tensor
            The factors, one tensor per layer.
        """

    @abstractmethod
    def free(
        self, plain: Mapping[str, Tensor]
    ) -> tuple[Self, list[Tensor], list[tuple[Tensor, float]]]:
        """Make every number trainable, the removable entries too.

        Returns
        -------
        edit : MaskedEdit
            Depends on the leaves.
        scales : list of Tensor
            The factors, one tensor per layer.
        entries : list of (Tensor, float)
            And how far a weight moves, in root mean square, if all numbers of the tensor move by 1.
        """

    def record(self) -> dict[str, Any]:
        """Return the removed share."""
        return {"removed_fraction": removed_fraction(self.masks)}


M = TypeVar("M", bound=MaskedEdit)


def judge_state(
    task: Task,
    state: Mapping[str, Tensor],
    params: Mapping[str, Any],
    attributes: Mapping[str, Any],
    judge: Callable[[Tensor], Verdict] | None = None,
) -> Candidate:
    """Judge a state of the module, by the task's judge or another, and pack it with its logits."""
    logits = task.data.logits(task.module, state)
    verdict = (task.data.judge if judge is None else judge)(logits)
    return Candidate(state, params, attributes, verdict=verdict, logits=logits)
