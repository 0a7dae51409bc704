"""Removal of U and V entries by a score: the paper's own procedure, reconstructed, and controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..caching import Entry
from ..curvature import group_curvature
from ..layers import Factors
from ..phases import SPARSITIES, ScoredRemoval
from ._edits import Edit, all_kept, entries, masked_factors

__all__ = ["SPARSITIES", "Removal"]


@dataclass(frozen=True, kw_only=True)
class Removal(ScoredRemoval[Edit]):
    """Everything that removal by a score needs.

    Attributes
    ----------
    factors : dict of name to Factors
    measured : dict of name to Factors
        The factors before truncation, with which the curvature is measured: one measurement
        serves every rank.
    module, data, criterion, sparsities, tradeoff, hessian, n_steps, max_memory, privileged, rng
        See :class:`ScoredRemoval`.
    """

    factors: dict[str, Factors]
    measured: dict[str, Factors]

    def nothing(self) -> Edit:
        """Return the factors with every entry kept."""
        return all_kept(self.factors)

    def entries(self, edit: Edit) -> dict[str, Tensor]:
        """Entries of U and V."""
        return entries(edit.factors)

    def masked(self, masks: Mapping[str, Tensor]) -> Edit:
        """Zero what the masks remove."""
        return masked_factors(self.factors, masks)

    def block_of(self, name: str) -> str:
        """Rank within a layer."""
        return layer_of(name)

    def _truncated(self) -> bool:
        return any(f.S.shape[1] < min(f.U.shape[1], f.V.shape[1]) for f in self.factors.values())

    def edits(self) -> Iterator[tuple[dict[str, object], Edit]]:
        """Yield what was tried and the edit, for every sparsity and every form of the score."""
        if tuple(self.sparsities) == (0,) and self._truncated():
            # At full rank that is the untouched network.
            yield {"sparsity": 0.0}, self.nothing()
        yield from super().edits()

    def first_curvature(self) -> dict[str, Tensor]:
        """Curvature of the untouched network's loss, cut to the rank of the factors."""
        parts = {
            "criterion": "curvature",
            "factors": {name: (f.S.shape[1], f.shape) for name, f in self.measured.items()},
            "hessian": self.hessian,
            "margin": self.data.margin,
            "privileged": self.privileged,
        }
        entry = self.data.cache.fetch(
            "curvature", parts, lambda: Entry(self._measure(self.module, self.measured))
        )
        return {
            key: h[..., : self.factors[layer_of(key)].S.shape[1]].to(self.data.device)
            for key, h in entry.tensors.items()
        }

    def curvature(self, edit: Edit) -> dict[str, Tensor]:
        """Curvature of what is left."""
        return self._measure(self.edited(edit), edit.factors)

    def _measure(self, module: nn.Module, factors: Mapping[str, Factors]) -> dict[str, Tensor]:
        triples = {name: (f.U, f.S, f.V) for name, f in factors.items()}
        found = group_curvature(module, triples, self.sides(), **self.pass_settings())
        return {
            f"{n}/{side}": h
            for n, pair in found.items()
            for side, h in zip("UV", pair, strict=True)
        }


def layer_of(name: str) -> str:
    """Tell the layer of a mask; its U and V are ranked together."""
    return name.rpartition("/")[0]
