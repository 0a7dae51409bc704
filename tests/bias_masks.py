"""Quick editors by bias masks."""

from __future__ import annotations

from fairsvd import BiasMaskFineTuner
from helpers import (
    last_wins,
)


def quick(network=None, kind=BiasMaskFineTuner, **parameters):
    """Make an editor of a few updates and one weight of the bias."""
    defaults = {"impair_epochs": 2, "repair_epochs": 2, "min_steps": 4, "gap_weight": 1.0}
    return kind(network, **{**defaults, "random_state": 0, **parameters})


class LastWins(last_wins(BiasMaskFineTuner)):
    """Chooses its last edit."""
