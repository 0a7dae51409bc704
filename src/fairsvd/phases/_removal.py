"""Removal by a score: curvature and its controls, at once or in rounds, whatever is removed."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from torch import Tensor, nn

from .._rng import torch_generator
from ..base import EditData
from ..masks import curvature_scores, lowest_masks, magnitude_scores, random_scores
from ..objective import shifted
from ._path import E

__all__ = ["SPARSITIES", "ScoredRemoval"]

SPARSITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)

# Weights of the other side's curvature that are searched: FairPrune's choice and equal weight.
TRADEOFFS = (1 / 3, 1.0)

Tried = Iterator[tuple[dict[str, object], E]]


@dataclass(frozen=True, kw_only=True)
class ScoredRemoval(ABC, Generic[E]):
    """Everything that removal by a score needs, except what the entries are.

    Attributes
    ----------
    module : nn.Module
    data : EditData
    criterion : {"curvature", "magnitude", "random"}
        A subclass may know more.
    sparsities : sequence of float
    tradeoff : float or None
        None: searched, with both signs.
    hessian : {"fisher", "ggn"}
    n_steps : int
        Rounds of removal, re-scored before each.
    max_memory : int
        Limit in bytes of the temporary memory of the curvature.
    privileged : int or None
        Code of the privileged group.
    rng : numpy.random.Generator
    """

    module: nn.Module
    data: EditData
    criterion: str
    sparsities: Sequence[float]
    tradeoff: float | None
    hessian: str
    n_steps: int
    max_memory: int
    privileged: int | None
    rng: np.random.Generator

    @abstractmethod
    def nothing(self) -> E:
        """Return the edit that keeps every entry."""

    @abstractmethod
    def entries(self, edit: E) -> Mapping[str, Tensor]:
        """Return what can be removed, by the names that masks use; what is gone is zero."""

    @abstractmethod
    def masked(self, masks: Mapping[str, Tensor]) -> E:
        """Return the edit that removes what the masks say."""

    @abstractmethod
    def first_curvature(self) -> Mapping[str, Tensor]:
        """Measure the curvature of the untouched network's loss in every entry, (2, ...)."""

    @abstractmethod
    def curvature(self, edit: E) -> Mapping[str, Tensor]:
        """Measure the curvature of an edited network's loss in every entry, (2, ...)."""

    @abstractmethod
    def block_of(self, name: str) -> str:
        """Tell which entries are ranked together."""

    def edits(self) -> Tried[E]:
        """Yield what was tried and the edit, for every sparsity and every form of the score."""
        if tuple(self.sparsities) == (0,):
            return  # The untouched network is a candidate already.
        if self.criterion == "magnitude":
            yield from self.one_shot({}, magnitude_scores(self.entries(self.nothing())))
        elif self.criterion == "random":
            generator = torch_generator(self.rng)
            yield from self.one_shot({}, random_scores(self.entries(self.nothing()), generator))
        else:
            first = self.first_curvature()
            for params in self._forms():
                yield from self.in_rounds(params, first, self.curvature, self._scores_for(params))

    def one_shot(self, params: dict[str, object], scores: Mapping[str, Tensor]) -> Tried[E]:
        """Remove the lowest scores, for every sparsity."""
        for fraction in self.sparsities:
            masks = lowest_masks(scores, fraction, block_of=self.block_of)
            yield {**params, "sparsity": fraction}, self.masked(masks)

    def in_rounds(
        self,
        params: dict[str, object],
        first: Mapping[str, Tensor],
        measure: Callable[[E], Mapping[str, Tensor]],
        score: Callable[[E, Mapping[str, Tensor]], Mapping[str, Tensor]],
    ) -> Tried[E]:
        """Remove in ``n_steps`` rounds, for every sparsity.

        Parameters
        ----------
        params : dict
            What is tried, for the record.
        first : mapping of name to Tensor
            Measured on the untouched network, for the first round.
        measure : callable
            Measures an edited network, before each later round.
        score : callable
            Turns an edit and what was measured on it into scores.
        """
        if self.n_steps == 1:
            yield from self.one_shot(params, score(self.nothing(), first))
            return
        for fraction in self.sparsities:
            masks: dict[str, Tensor] | None = None
            edit, measured = self.nothing(), first
            for round_ in range(1, self.n_steps + 1):
                scores = score(edit, measured)
                masks = lowest_masks(scores, fraction * round_ / self.n_steps, masks, self.block_of)
                edit = self.masked(masks)
                if round_ < self.n_steps:
                    measured = measure(edit)
            yield {**params, "sparsity": fraction}, edit

    def _forms(self) -> list[dict[str, object]]:
        if self.privileged is None:
            return [{"tradeoff": 0.0, "protects": "all"}]
        if self.tradeoff is not None:
            return [{"tradeoff": self.tradeoff, "protects": "unprivileged"}]
        sides = ("unprivileged", "privileged")
        return [{"tradeoff": t, "protects": side} for side in sides for t in TRADEOFFS]

    def _scores_for(
        self, params: Mapping[str, object]
    ) -> Callable[[E, Mapping[str, Tensor]], dict[str, Tensor]]:
        def scores(edit: E, curvature: Mapping[str, Tensor]) -> dict[str, Tensor]:
            protect = {name: h[0] for name, h in curvature.items()}
            sacrifice = {name: h[1] for name, h in curvature.items()}
            if params["protects"] == "privileged":
                protect, sacrifice = sacrifice, protect
            weight = float(params["tradeoff"])  # type: ignore[arg-type]
            return curvature_scores(self.entries(edit), protect, sacrifice, weight)

        return scores

    def pass_settings(self) -> dict[str, Any]:
        """Give the settings of a curvature pass at the operating threshold, for two sides."""
        data = self.data
        return {
            "n_groups": 2,
            "to_logits": lambda out: shifted(data.to_logits(out), data.margin),
            "hessian": self.hessian,
            "max_memory": self.max_memory,
            "autocast": data.autocast,
        }

    def sides(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches whose group is 1 for the privileged rows and 0 for all others.

        The score compares these two sides whatever the number of groups.
        """
        for X, y, groups in self.data.editing_batches():
            yield X, y, (groups == (-1 if self.privileged is None else self.privileged)).long()

    def edited(self, edit: E) -> nn.Module:
        """Build the edited network; the module stays as it is."""
        edited = copy.deepcopy(self.module)
        unknown = edited.load_state_dict(dict(edit.state()), strict=False).unexpected_keys
        assert not unknown, f"an edit of {unknown}, which the network does not have"
        return edited
