"""Facts of a fitted editor: the chosen candidate, its utility, the removed entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ..networks import layer_weights
from ..objective import GAPS, UNBALANCED_UTILITY, PhiObjective

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["chosen_candidate", "gap_request", "removed_frame", "utility_name"]

# The utility that "auto" means for each balance of the losses.
UTILITY_OF_BALANCE = {"cells": UNBALANCED_UTILITY, "classes": "balanced_accuracy"}


def chosen_candidate(history: pd.DataFrame) -> int:
    """Find the chosen candidate.

    Parameters
    ----------
    history : DataFrame
        ``history_`` of a fitted editor, with the column chosen.

    Returns
    -------
    position : int
    """
    return history["chosen"].tolist().index(True)


def utility_name(editor: Any) -> str | None:
    """Return the utility by which an editor's candidates were judged.

    Parameters
    ----------
    editor : NetworkEditor
        Fitted.

    Returns
    -------
    name : str or None
        One of ``objective.UTILITIES``; None for a callable, and if the editor does not record how
        it resolved ``utility="auto"``.
    """
    if isinstance(editor.utility, str) and editor.utility != "auto":
        return str(editor.utility)
    if editor.utility == "auto" and isinstance(getattr(editor, "constraint", ""), PhiObjective):
        return "balanced_accuracy"
    recorded = editor.utility == "auto" and getattr(editor, "balance", "auto") == "auto"
    return UTILITY_OF_BALANCE.get(getattr(editor, "balance_", "")) if recorded else None


def gap_request(editor: Any) -> tuple[str, float, float]:
    """Return the gap that an editor closes, and how far.

    Returns
    -------
    name : str
        One of ``objective.GAPS``, or what a requirement measures; of several the excess.
    tolerance, target : float
        The accepted gap, and the gap above which a candidate is penalised.
    """
    constraint = editor.constraint
    if isinstance(constraint, PhiObjective):
        return constraint.measure, float(constraint.epsilon), constraint.limit
    if not isinstance(constraint, str) or constraint not in GAPS:
        resolved = editor._report.constraint
        names = [each.name for each in resolved.requirements]
        name = names[0] if len(names) == 1 else f"excess over {', '.join(names)}"
        return name, resolved.limit, resolved.target
    return constraint, float(editor.tolerance), float(editor.tolerance_fraction * editor.tolerance)


def removed_frame(editor: Any) -> pd.DataFrame:
    """Tabulate the removed entries of every layer.

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
                "U_removed": float(1 - masks["U"].mean()),
                "V_removed": float(1 - masks["V"].mean()),
            }
        )
    return pd.DataFrame(rows).set_index("layer")


def _weight_shape(module: nn.Module, layer: str) -> tuple[int, ...]:
    """Return the shape of a layer's weight, also of a compressed layer."""
    listed = layer_weights(module).get(layer)
    weight: Any = module.get_submodule(layer).weight if listed is None else listed.value
    return tuple(weight.shape)
