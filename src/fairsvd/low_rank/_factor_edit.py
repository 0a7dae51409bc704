"""An edit of factors: what is removed from them, and what is tuned beside the masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..base import LazyState
from ..layers import Factors, compress_layer
from ..masks import MaskVariables, PackedMasks, removed_fraction
from ..phases import MaskedEdit
from ._rebuild import masked_product, rebuild

__all__ = ["FactorEdit", "compress_all", "keep_all", "untouched_attributes"]


@dataclass(frozen=True)
class FactorEdit(MaskedEdit):
    """Factors, the entries removed from them, and the parameters tuned beside them.

    Attributes
    ----------
    stored : dict of layer name to Factors
    masks : mapping of "layer/U" and "layer/V" to Tensor
        True (or 1) where an entry is kept.
    compress : bool
        Leave the factors in the network.
    plain : mapping of parameter name to Tensor
        Biases and the output layer, if they changed.
    pending : bool
        Whether the stored factors still hold the removed entries, as those of all edits of a fit
        do: an edit then takes no more memory than its masks.
    """

    stored: dict[str, Factors]
    masks: Mapping[str, Tensor]
    compress: bool
    plain: Mapping[str, Tensor] = field(default_factory=dict)
    pending: bool = False

    @property
    def factors(self) -> dict[str, Factors]:
        """The factors with their removed entries zeroed."""
        return dict(self._each())

    def _each(self) -> Iterator[tuple[str, Factors]]:
        for name, f in self.stored.items():
            sides = self.masks[f"{name}/U"], self.masks[f"{name}/V"]
            yield name, f.masked(*sides) if self.pending else f

    def entries(self) -> dict[str, Tensor]:
        """Return the entries of U and V."""
        return entries_of(self.factors)

    def units(self) -> list[dict[str, Tensor]]:
        """Return the entries of U and V, layer by layer."""
        return [entries_of({name: f}) for name, f in self.factors.items()]

    def remove(self, masks: Mapping[str, Tensor]) -> FactorEdit:
        """Zero what the masks remove."""
        return replace(self, masks=masks, pending=True)

    def masked_state(self, variables: MaskVariables) -> dict[str, Tensor]:
        """Return the state without the entries whose variables are not positive."""
        state = dict(self.plain)
        for block in variables.blocks:
            state |= rebuild(block, self.stored)
        return state

    def applied(self) -> FactorEdit:
        """Zero the removed entries for all later steps, unless the factors are large."""
        return self if self._lean else replace(self, stored=self.factors, pending=False)

    @property
    def _lean(self) -> bool:
        """Whether entries are zeroed anew in every step, to hold no copy of large factors."""
        return self.pending and isinstance(self.masks, PackedMasks)

    def loosen(self, plain: Mapping[str, Tensor]) -> tuple[FactorEdit, list[Tensor]]:
        """Make the singular values trainable."""
        S = {name: f.S.clone().requires_grad_() for name, f in self.stored.items()}
        edit = self.applied()
        stored = {name: replace(f, S=S[name]) for name, f in edit.stored.items()}
        return replace(edit, stored=stored, plain=plain), list(S.values())

    def free(
        self, plain: Mapping[str, Tensor]
    ) -> tuple[FactorEdit, list[Tensor], list[tuple[Tensor, float]]]:
        """Make the singular values and the entries of U and V trainable."""
        edit, scales = self.loosen(plain)
        stored = {
            name: replace(f, U=f.U.clone().requires_grad_(), V=f.V.clone().requires_grad_())
            for name, f in edit.stored.items()
        }
        entries = [
            pair for f in stored.values() for pair in zip((f.U, f.V), f.reaches(), strict=True)
        ]
        return replace(edit, stored=stored), scales, entries

    def weights(self) -> dict[str, Tensor]:
        """Multiply out the weights, by their names in the state dict."""
        if self._lean:
            return {
                f.parameter: masked_product(f, self.masks[f"{name}/U"], self.masks[f"{name}/V"])
                for name, f in self.stored.items()
            }
        return {f.parameter: f.weight() for _, f in self._each()}

    def state(self) -> dict[str, Tensor]:
        """Return everything that differs from the untouched network's state dict."""
        return {**self.weights(), **self.plain}

    def kept_state(self) -> Mapping[str, Tensor]:
        """Return the same, weights as the functions that make them from factors and masks."""
        moving = [*self.plain.values(), *(f.S for f in self.stored.values())]
        if not self.pending or any(value.requires_grad for value in moving):
            return super().kept_state()
        weights = {
            f.parameter: partial(_weight, f, self.masks[f"{name}/U"], self.masks[f"{name}/V"])
            for name, f in self.stored.items()
        }
        return LazyState({**weights, **self.plain})

    def detached(self) -> FactorEdit:
        """Return a copy that later steps do not change."""
        stored = {n: f.detached() for n, f in self.stored.items()}
        plain = {n: p.detach().clone() for n, p in self.plain.items()}
        return replace(self, stored=stored, plain=plain)

    def attributes(self) -> dict[str, Any]:
        """Return masks and ranks."""
        return {
            "masks_": mask_arrays(self.masks),
            "removed_fraction_": removed_fraction(self.masks),
            "ranks_": {name: f.S.shape[1] for name, f in self.stored.items()},
        }

    def finish(self) -> Callable[[nn.Module], nn.Module] | None:
        """Return the compression of the chosen network, if requested."""
        return partial(compress_all, factors=self.factors) if self.compress else None


def _weight(f: Factors, keep_u: Tensor, keep_v: Tensor) -> Tensor:
    return f.masked(keep_u, keep_v).weight()


def compress_all(module: nn.Module, factors: Mapping[str, Factors]) -> nn.Module:
    """Leave the factors in the network where that is smaller."""
    for name, f in factors.items():
        compress_layer(module, name, f)
    return module


def entries_of(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Name the entries of U and V as masks do."""
    return {f"{n}/{side}": getattr(f, side) for n, f in factors.items() for side in "UV"}


def keep_all(factors: dict[str, Factors], compress: bool) -> FactorEdit:
    """Make the edit that keeps every entry."""
    # One True for all entries, which takes no memory.
    kept = {
        n: v.new_ones((), dtype=torch.bool).expand_as(v) for n, v in entries_of(factors).items()
    }
    return FactorEdit(factors, kept, compress)


def untouched_attributes(factors: Mapping[str, Factors], full: Mapping[str, int]) -> dict[str, Any]:
    """Return the fitted attributes of an editor that edited nothing."""
    masks = {}
    for name, f in factors.items():
        for side, rows in (("U", f.U.shape[1]), ("V", f.V.shape[1])):
            masks[f"{name}/{side}"] = torch.ones(len(f.S), rows, full[name], dtype=torch.bool)
    return {"masks_": mask_arrays(masks), "removed_fraction_": 0.0, "ranks_": dict(full)}


def mask_arrays(masks: Mapping[str, Tensor]) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Make boolean arrays by layer and side; one block of weights has no leading dimension."""
    arrays: dict[str, dict[str, NDArray[np.bool_]]] = {}
    for key, mask in masks.items():
        name, _, side = key.rpartition("/")
        array = mask.detach().bool().cpu().contiguous().numpy()
        arrays.setdefault(name, {})[side] = array[0] if len(array) == 1 else array
    return arrays
