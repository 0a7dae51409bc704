"""Removal by a score: the paper's own procedure, reconstructed, and its controls."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .._rng import torch_generator
from ..base import EditData
from ..caching import Entry
from ..curvature import group_curvature
from ..layers import Factors
from ..masks import curvature_scores, lowest_masks, magnitude_scores, random_scores
from ..networks import to_logits
from ..objective import shifted
from ._edits import Edit, masked_factors

__all__ = ["SPARSITIES", "Removal"]

SPARSITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)

# Weights of the other side's curvature that are searched: FairPrune's choice and equal weight.
TRADEOFFS = (1 / 3, 1.0)


@dataclass(frozen=True)
class Removal:
    """Everything that removal by a score needs.

    Attributes
    ----------
    module : nn.Module
    data : EditData
    factors : dict of name to Factors
    measured : dict of name to Factors
        The factors before truncation, with which the curvature is measured: one measurement
        serves every rank.
    criterion : {"curvature", "magnitude", "random"}
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
    factors: dict[str, Factors]
    measured: dict[str, Factors]
    criterion: str
    sparsities: Sequence[float]
    tradeoff: float | None
    hessian: str
    n_steps: int
    max_memory: int
    privileged: int | None
    rng: np.random.Generator

    def nothing(self) -> Edit:
        """Return the factors with every entry kept."""
        values = entries(self.factors)
        ones = {name: torch.ones_like(v, dtype=torch.bool) for name, v in values.items()}
        return masked_factors(self.factors, ones)

    def _truncated(self) -> bool:
        return any(f.S.shape[1] < min(f.U.shape[1], f.V.shape[1]) for f in self.factors.values())

    def edits(self) -> Iterator[tuple[dict[str, object], Edit]]:
        """Yield what was tried and the edit, for every sparsity and every form of the score."""
        values = entries(self.factors)
        if tuple(self.sparsities) == (0,):
            # At full rank that is the untouched network, a candidate already.
            if self._truncated():
                yield {"sparsity": 0.0}, self.nothing()
        elif self.criterion == "magnitude":
            yield from self._one_shot({}, magnitude_scores(values))
        elif self.criterion == "random":
            yield from self._one_shot({}, random_scores(values, torch_generator(self.rng)))
        else:
            first = self._first_curvature()
            for params in self._forms():
                yield from self._by_curvature(params, first)

    def _forms(self) -> list[dict[str, object]]:
        if self.privileged is None:
            return [{"tradeoff": 0.0, "protects": "all"}]
        if self.tradeoff is not None:
            return [{"tradeoff": self.tradeoff, "protects": "unprivileged"}]
        sides = ("unprivileged", "privileged")
        return [{"tradeoff": t, "protects": side} for side in sides for t in TRADEOFFS]

    def _one_shot(
        self, params: dict[str, object], scores: Mapping[str, Tensor]
    ) -> Iterator[tuple[dict[str, object], Edit]]:
        for fraction in self.sparsities:
            masks = lowest_masks(scores, fraction, block_of=layer_of)
            yield {**params, "sparsity": fraction}, masked_factors(self.factors, masks)

    def _by_curvature(
        self, params: dict[str, object], first: Mapping[str, Tensor]
    ) -> Iterator[tuple[dict[str, object], Edit]]:
        if self.n_steps == 1:
            yield from self._one_shot(params, self._scores(self.factors, first, params))
            return
        for fraction in self.sparsities:
            masks: dict[str, Tensor] | None = None
            edit, curvature = Edit(self.factors, {}), first
            for round_ in range(1, self.n_steps + 1):
                scores = self._scores(edit.factors, curvature, params)
                masks = lowest_masks(scores, fraction * round_ / self.n_steps, masks, layer_of)
                edit = masked_factors(self.factors, masks)
                if round_ < self.n_steps:
                    curvature = self._curvature(self._edited(edit.factors), edit.factors)
            yield {**params, "sparsity": fraction}, edit

    def _first_curvature(self) -> dict[str, Tensor]:
        """Curvature of the untouched network's loss, cut to the rank of the factors."""
        parts = {
            "criterion": "curvature",
            "factors": {name: (f.S.shape[1], f.shape) for name, f in self.measured.items()},
            "hessian": self.hessian,
            "margin": self.data.margin,
            "privileged": self.privileged,
        }
        entry = self.data.cache.fetch(
            "curvature", parts, lambda: Entry(self._curvature(self.module, self.measured))
        )
        return {
            key: h[..., : self.factors[layer_of(key)].S.shape[1]].to(self.data.device)
            for key, h in entry.tensors.items()
        }

    def _curvature(self, module: nn.Module, factors: Mapping[str, Factors]) -> dict[str, Tensor]:
        """Curvature of every entry at the operating threshold, (2, ...): see :meth:`_sides`."""
        data = self.data
        found = group_curvature(
            module,
            {name: (f.U, f.S, f.V) for name, f in factors.items()},
            self._sides(),
            n_groups=2,
            to_logits=lambda out: shifted(to_logits(out, data.kind), data.margin),
            hessian=self.hessian,
            max_memory=self.max_memory,
            autocast=data.autocast,
        )
        return {
            f"{n}/{side}": h
            for n, pair in found.items()
            for side, h in zip("UV", pair, strict=True)
        }

    def _sides(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches whose group is 1 for the privileged rows and 0 for all others.

        The score compares these two sides whatever the number of groups.
        """
        for X, y, groups in self.data.editing_batches():
            yield X, y, (groups == (-1 if self.privileged is None else self.privileged)).long()

    def _edited(self, factors: Mapping[str, Factors]) -> nn.Module:
        edited = copy.deepcopy(self.module)
        edited.load_state_dict(Edit(dict(factors), {}).weights(), strict=False)
        return edited

    def _scores(
        self,
        factors: Mapping[str, Factors],
        curvature: Mapping[str, Tensor],
        params: Mapping[str, object],
    ) -> dict[str, Tensor]:
        protect = {name: h[0] for name, h in curvature.items()}
        sacrifice = {name: h[1] for name, h in curvature.items()}
        if params["protects"] == "privileged":
            protect, sacrifice = sacrifice, protect
        weight = params["tradeoff"]
        return curvature_scores(entries(factors), protect, sacrifice, float(weight))  # type: ignore[arg-type]


def entries(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Entries of U and V under the names that masks use."""
    return {f"{n}/{side}": getattr(f, side) for n, f in factors.items() for side in "UV"}


def layer_of(name: str) -> str:
    """Tell the layer of a mask; its U and V are ranked together."""
    return name.rpartition("/")[0]
