"""Removal of any entries by a score: curvature or a control, at once or in rounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from torch import Tensor, nn

from .._rng import torch_generator
from ..base import Candidate, Task
from ..masks import curvature_scores, lowest_masks, magnitude_scores, random_scores
from ..networks import copied
from ..objective import shift_logits
from ._best import Best
from ._budget import FORWARD
from ._edit import M
from ._path import START_FRACTION

__all__ = ["SPARSITIES", "ScoredRemoval", "judge_removals"]

SPARSITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)

# Weights of the other side's curvature that are searched: FairPrune's choice and equal weight.
PRIVILEGED_WEIGHTS = (1 / 3, 1.0)

Tried = Iterator[tuple[dict[str, object], M]]


@dataclass(frozen=True, kw_only=True)
class ScoredRemoval(Task, ABC, Generic[M]):
    """Everything that removal by a score needs, except the kind of entries.

    Attributes
    ----------
    whole : MaskedEdit
        The edit that keeps every entry.
    criterion : {"curvature", "magnitude", "random"}
        A subclass may have more.
    sparsities : sequence of float
    privileged_weight : float or None
        None: searched, with both signs.
    hessian : {"fisher", "ggn"}
    n_rounds : int
        Rounds of removal, re-scored before each.
    max_memory : int
        Limit in bytes of the temporary memory of the curvature.
    privileged : int or None
        Code of the privileged group.
    rng : numpy.random.Generator
    attributes : dict
        Fitted attributes that do not depend on the candidate.
    module, data, constraint
        See :class:`fairsvd.base.Task`.
    """

    whole: M
    criterion: str
    sparsities: Sequence[float]
    privileged_weight: float | None
    hessian: str
    n_rounds: int
    max_memory: int
    privileged: int | None
    rng: np.random.Generator
    attributes: dict[str, Any]

    @abstractmethod
    def first_curvature(self) -> Mapping[str, Tensor]:
        """Measure the curvature of the untouched network's loss in every entry, (2, ...)."""

    @abstractmethod
    def curvature(self, edit: M) -> Mapping[str, Tensor]:
        """Measure the curvature of an edited network's loss in every entry, (2, ...)."""

    @abstractmethod
    def block_of(self, name: str) -> str:
        """Name the block in which an entry is ranked."""

    def edits(self) -> Tried[M]:
        """Yield (params, edit) for every sparsity and every form of the score."""
        if tuple(self.sparsities) == (0,):
            return  # The untouched network is a candidate already.
        if self.criterion == "magnitude":
            yield from self.one_shot({}, magnitude_scores(self.whole.entries()))
        elif self.criterion == "random":
            generator = torch_generator(self.rng)
            yield from self.one_shot({}, random_scores(self.whole.entries(), generator))
        else:
            first = self.first_curvature()
            for params in self._forms():
                yield from self.in_rounds(params, first, self.curvature, self._scores_for(params))

    @property
    def visits(self) -> float:
        """Count the visits of rows that the removals cost."""
        scored = self.criterion not in ("magnitude", "random")
        n = len(self.sparsities) * (len(self._forms()) if scored else 1)
        rounds = 1 + n * (self.n_rounds - 1) if scored else 0
        return n * FORWARD * len(self.data.judged) + rounds * len(self.data.editing)

    def one_shot(self, params: dict[str, object], scores: Mapping[str, Tensor]) -> Tried[M]:
        """Remove the lowest scores, for every sparsity."""
        for fraction in self.sparsities:
            masks = lowest_masks(scores, fraction, block_of=self.block_of)
            yield {**params, "sparsity": fraction}, self.whole.remove(masks)

    def in_rounds(
        self,
        params: dict[str, object],
        first: Mapping[str, Tensor],
        measure: Callable[[M], Mapping[str, Tensor]],
        score: Callable[[M, Mapping[str, Tensor]], Mapping[str, Tensor]],
    ) -> Tried[M]:
        """Remove in ``n_rounds`` rounds, for every sparsity.

        Parameters
        ----------
        params : dict
            Settings of the removal, for the record.
        first : mapping of name to Tensor
            Measured on the untouched network, for the first round.
        measure : callable
            Measures an edited network, before each later round.
        score : callable
            Turns an edit and what was measured on it into scores.
        """
        if self.n_rounds == 1:
            yield from self.one_shot(params, score(self.whole, first))
            return
        for fraction in self.sparsities:
            masks: dict[str, Tensor] | None = None
            edit, measured = self.whole, first
            for round_ in range(1, self.n_rounds + 1):
                scores = score(edit, measured)
                masks = lowest_masks(
                    scores, fraction * round_ / self.n_rounds, masks, self.block_of
                )
                edit = self.whole.remove(masks)
                if round_ < self.n_rounds:
                    measured = measure(edit)
            yield {**params, "sparsity": fraction}, edit

    def _forms(self) -> list[dict[str, object]]:
        if self.privileged is None:
            return [{"privileged_weight": 0.0, "protects": "all"}]
        if self.privileged_weight is not None:
            return [{"privileged_weight": self.privileged_weight, "protects": "unprivileged"}]
        sides = ("unprivileged", "privileged")
        return [
            {"privileged_weight": t, "protects": side} for side in sides for t in PRIVILEGED_WEIGHTS
        ]

    def _scores_for(
        self, params: Mapping[str, object]
    ) -> Callable[[M, Mapping[str, Tensor]], dict[str, Tensor]]:
        def scores(edit: M, curvature: Mapping[str, Tensor]) -> dict[str, Tensor]:
            protect = {name: h[0] for name, h in curvature.items()}
            sacrifice = {name: h[1] for name, h in curvature.items()}
            if params["protects"] == "privileged":
                protect, sacrifice = sacrifice, protect
            weight = float(params["privileged_weight"])  # type: ignore[arg-type]
            return curvature_scores(edit.entries(), protect, sacrifice, weight)

        return scores

    def pass_settings(self) -> dict[str, Any]:
        """Return the settings of a curvature pass at the operating threshold, for two sides."""
        data = self.data
        return {
            "n_groups": 2,
            "to_logits": lambda out: shift_logits(data.to_logits(out), data.margin),
            "hessian": self.hessian,
            "max_memory": self.max_memory,
            "autocast": data.measured_in,
        }

    def sides(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield batches whose group is 1 for the privileged rows and 0 for all others.

        The score compares these two sides whatever the number of groups.
        """
        for X, y, groups in self.data.editing_batches():
            yield X, y, (groups == (-1 if self.privileged is None else self.privileged)).long()

    def edited(self, edit: M) -> nn.Module:
        """Build the edited network without changing the module."""
        edited = copied(self.module)
        unknown = edited.load_state_dict(dict(edit.state()), strict=False).unexpected_keys
        assert not unknown, f"an edit of {unknown}, which the network does not have"
        return edited


def judge_removals(removal: ScoredRemoval[M], start: Best[M]) -> Iterator[Candidate]:
    """Judge every removal by a score.

    Parameters
    ----------
    removal : ScoredRemoval
    start : Best
        Receives every edit; a tuning starts from the best.
    """
    limit, judge = START_FRACTION * removal.constraint.tolerance, removal.data.judge
    for params, edit in removal.edits():
        logits = removal.data.logits(removal.module, edit.state())
        curves = judge.curves(logits)
        start.offer(judge(curves, limit).rank, edit)
        yield edit.pack({"stage": "removal", **params}, removal.attributes, judge(curves), logits)
        del edit
