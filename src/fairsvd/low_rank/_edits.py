"""An edit of factored layers: which entries are kept, and the weights that result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..base import Candidate
from ..caching import Cache, Entry
from ..layers import Factors, chosen_weights, compress_layer, factorise, full_rank, resolve_solver
from ..masks import removed_fraction
from ..objective import Verdict

__all__ = [
    "Edit",
    "all_kept",
    "entries",
    "factors_of",
    "masked_factors",
    "untouched_attributes",
]


@dataclass(frozen=True)
class Edit:
    """Factors with their removed entries zeroed, and what was tuned beside them.

    Attributes
    ----------
    factors : dict of layer name to Factors
    masks : dict of "layer/U" and "layer/V" to Tensor
        True (or 1) where an entry is kept.
    plain : mapping of parameter name to Tensor
        Biases and the output layer, where they changed.
    """

    factors: dict[str, Factors]
    masks: Mapping[str, Tensor]
    plain: Mapping[str, Tensor] = field(default_factory=dict)

    def weights(self) -> dict[str, Tensor]:
        """Multiply out the weights, by their names in the state dict."""
        return {f.parameter: f.weight() for f in self.factors.values()}

    def state(self) -> dict[str, Tensor]:
        """Everything that differs from the untouched network's state dict."""
        return {**self.weights(), **self.plain}

    def detached(self) -> Edit:
        """Copy, so that later steps do not change it."""
        factors = {n: replace(f, S=f.S.detach().clone()) for n, f in self.factors.items()}
        return replace(
            self, factors=factors, plain={n: p.detach().clone() for n, p in self.plain.items()}
        )

    def candidate(
        self,
        params: Mapping[str, Any],
        attributes: Mapping[str, Any],
        compress: bool,
        verdict: Verdict | None = None,
        logits: Tensor | None = None,
    ) -> Candidate:
        """Pack as a candidate with its fitted attributes."""
        removed = removed_fraction(self.masks)
        fitted = {**attributes, "masks_": mask_arrays(self.masks), "removed_fraction_": removed}
        fitted["ranks_"] = {name: f.S.shape[1] for name, f in self.factors.items()}
        with torch.no_grad():
            state = {name: value.detach().clone() for name, value in self.state().items()}
        finish = partial(_compressed, factors=self.factors) if compress else None
        record = {**params, "removed_fraction": removed}
        return Candidate(state, record, fitted, finish, verdict, logits)


def factors_of(
    module: nn.Module, ranks: Mapping[str, int], solver: str, cache: Cache
) -> dict[str, Factors]:
    """Factor layers before truncation, so that one decomposition serves every rank.

    Where the solver is the randomised one, which computes no more than was asked for, the
    factors are of the given rank.
    """
    layers = chosen_weights(module, ranks)
    solvers = {name: resolve_solver(layers[name], r, solver) for name, r in ranks.items()}
    wanted = {
        name: r if solvers[name] == "randomized" else full_rank(layers[name])
        for name, r in ranks.items()
    }

    def compute() -> Entry:
        found = {n: factorise(layers[n], wanted[n], solvers[n]) for n in layers}
        parts = {f"{n}/{side}": getattr(f, side) for n, f in found.items() for side in "USV"}
        return Entry(parts)

    tensors = cache.fetch("factors", {"ranks": wanted, "solvers": solvers}, compute).tensors
    found = {}
    for name, layer in layers.items():
        value = layer.value
        # Contiguous, as what comes from a file is: products of other layouts round differently.
        U, S, V = (tensors[f"{name}/{s}"].to(value.device).contiguous() for s in "USV")
        found[name] = Factors(U, S, V, tuple(value.shape), layer.parameter)
    return found


def masked_factors(factors: Mapping[str, Factors], masks: Mapping[str, Tensor]) -> Edit:
    """Zero what the masks remove."""
    masked = {n: f.masked(masks[f"{n}/U"], masks[f"{n}/V"]) for n, f in factors.items()}
    return Edit(masked, masks)


def entries(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Entries of U and V under the names that masks use."""
    return {f"{n}/{side}": getattr(f, side) for n, f in factors.items() for side in "UV"}


def all_kept(factors: Mapping[str, Factors]) -> Edit:
    """Keep every entry."""
    masks = {n: torch.ones_like(v, dtype=torch.bool) for n, v in entries(factors).items()}
    return masked_factors(factors, masks)


def untouched_attributes(factors: Mapping[str, Factors], full: Mapping[str, int]) -> dict[str, Any]:
    """Fitted attributes of an editor that edited nothing."""
    masks = {}
    for name, f in factors.items():
        for side, rows in (("U", f.U.shape[1]), ("V", f.V.shape[1])):
            masks[f"{name}/{side}"] = torch.ones(len(f.S), rows, full[name], dtype=torch.bool)
    return {"masks_": mask_arrays(masks), "removed_fraction_": 0.0, "ranks_": dict(full)}


def mask_arrays(masks: Mapping[str, Tensor]) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Boolean arrays by layer and side; a single block of weights has no leading dimension."""
    arrays: dict[str, dict[str, NDArray[np.bool_]]] = {}
    for key, mask in masks.items():
        name, _, side = key.rpartition("/")
        array = mask.detach().bool().cpu().numpy()
        arrays.setdefault(name, {})[side] = array[0] if len(array) == 1 else array
    return arrays


def _compressed(module: nn.Module, factors: Mapping[str, Factors]) -> nn.Module:
    for name, f in factors.items():
        compress_layer(module, name, f)
    return module
