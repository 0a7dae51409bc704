"""What a fitted editor says about itself: the chosen candidate, its utility, what was removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..networks import layer_weights
from ..objective import UNBALANCED_UTILITY, PhiObjective

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["chosen_candidate", "gap_request", "removed_frame", "resolved_utility"]

# How "auto" is resolved goes together for the losses and for the utility.
UTILITY_OF_BALANCE = {"cells": UNBALANCED_UTILITY, "classes": "balanced_accuracy"}


def chosen_candidate(history: pd.DataFrame) -> int:
    """Find the candidate that was chosen.

    Parameters
    ----------
    history : DataFrame
        ``history_`` of a fitted editor, with the columns feasible and value.

    Returns
    -------
    position : int
        The first of the highest value among the feasible ones, or among all where none is.
    """
    ranks = list(zip(history["feasible"].tolist(), history["value"].tolist(), strict=True))
    return max(range(len(ranks)), key=ranks.__getitem__)


def resolved_utility(editor: Any) -> str | None:
    """Say which utility an editor was judged by.

    Parameters
    ----------
    editor : NetworkEditor
        Fitted.

    Returns
    -------
    name : str or None
        One of ``objective.UTILITIES``; None for a callable, and where ``utility="auto"`` but the
        editor does not tell how it was resolved.
    """
    if isinstance(editor.utility, str) and editor.utility != "auto":
        return str(editor.utility)
    if editor.utility == "auto" and isinstance(getattr(editor, "constraint", ""), PhiObjective):
        return "balanced_accuracy"
    told = editor.utility == "auto" and getattr(editor, "balance", "auto") == "auto"
    return UTILITY_OF_BALANCE.get(getattr(editor, "balance_", "")) if told else None


def gap_request(editor: Any) -> tuple[str, float, float]:
    """Say which gap an editor was asked to close, and how far.

    Returns
    -------
    name : str
        One of ``objective.GAPS``.
    tolerance, target : float
        What is accepted, and beyond what a gap counts against a candidate.
    """
    asked = editor.constraint
    if isinstance(asked, PhiObjective):
        return asked.measure, float(asked.epsilon), asked.limit
    return asked, float(editor.tolerance), float(editor.tolerance_fraction * editor.tolerance)


def _share_removed(mask: NDArray[np.bool_]) -> float:
    return float(1 - mask.mean())


def removed_frame(editor: Any) -> pd.DataFrame:
    """Tabulate what was removed from which layer.

    Parameters
    ----------
    editor : FairLRFTransformer
        Fitted.

    Returns
    -------
    table : DataFrame
        Index: the edited layers. Columns: weight (its shape, text), rank ("kept of full", text),
        and U_removed and V_removed, shares of the entries in [0, 1].
    """
    import pandas as pd

    rows = []
    for name, masks in editor.masks_.items():
        full = min(masks["U"].shape[-2], masks["V"].shape[-2])
        rows.append(
            {
                "layer": name,
                "weight": " x ".join(map(str, _weight_shape(editor.module_, name))),
                "rank": f"{editor.ranks_[name]} of {full}",
                "U_removed": _share_removed(masks["U"]),
                "V_removed": _share_removed(masks["V"]),
            }
        )
    return pd.DataFrame(rows).set_index("layer")


def _weight_shape(module: nn.Module, layer: str) -> tuple[int, ...]:
    """Shape of a layer's weight; a compressed layer multiplies it out."""
    known = layer_weights(module).get(layer)
    weight: Any = module.get_submodule(layer).weight if known is None else known.value
    return tuple(weight.shape)
