"""TuningEditor: the base of editors that minimise a loss."""

from __future__ import annotations

from ..base import NetworkEditor, StrOptions, parameter, with_parameters

__all__ = ["TuningEditor"]


@with_parameters
class TuningEditor(NetworkEditor):
    """Base class of the editors that tune a network under a loss.

    Parameters
    ----------
    balance : {"auto", "cells", "classes"} or None, default="auto"
        How the cross-entropy weighs rows: every (label, group) cell alike, every class alike, or
        every row alike. "auto": "cells" where some cell holds less than half the rows that
        independence of label and group would give it, else "classes".

    Attributes
    ----------
    balance_ : {"cells", "classes"} or None
        How the cross-entropy weighed rows.
    """

    balance: str | None = parameter(StrOptions({"auto", "cells", "classes"}), None, default="auto")

    def _loss_balance(self) -> str | None:
        return self.balance
