"""Masks on the weights themselves: bias-mask fine-tuning and pruning."""

from __future__ import annotations

from ._bias_mask import BiasMaskFineTuner
from ._pruner import FairPruner

__all__ = ["BiasMaskFineTuner", "FairPruner"]
