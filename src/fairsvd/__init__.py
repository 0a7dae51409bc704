"""Edit trained neural networks so that their errors fall more evenly on groups of people.

The public names are imported on first use, so that ``import fairsvd`` alone costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "AdversarialDebiasing",
    "AdversarialFineTuner",
    "BiasMaskFineTuner",
    "CellSampler",
    "Comparison",
    "ConvNet",
    "FairLRFTransformer",
    "FairLRFTransformerCV",
    "FairPruner",
    "GapFineTuner",
    "HyperGenerator",
    "ImageFrame",
    "JointStratifiedKFold",
    "LayerwiseOptimizer",
    "LowRankConv2d",
    "LowRankLinear",
    "NetworkEditor",
    "PhiObjective",
    "RandomPerturbation",
    "SelectiveFineTuner",
    "__version__",
    "autophagy_audit",
    "best_under_gap",
    "compare",
    "datasets",
    "exceptions",
    "fairness_score",
    "fairness_scorer",
    "generative",
    "group_table",
    "interop",
]

if TYPE_CHECKING:
    from . import datasets, exceptions, generative, interop
    from .base import NetworkEditor
    from .comparison import Comparison, compare
    from .datasets import ImageFrame
    from .generative import CellSampler, HyperGenerator, autophagy_audit
    from .intraprocessing import (
        AdversarialDebiasing,
        AdversarialFineTuner,
        GapFineTuner,
        LayerwiseOptimizer,
        RandomPerturbation,
    )
    from .layers import LowRankConv2d, LowRankLinear
    from .low_rank import FairLRFTransformer, FairLRFTransformerCV
    from .masking import BiasMaskFineTuner, FairPruner
    from .metrics import fairness_score, fairness_scorer, group_table
    from .model_selection import JointStratifiedKFold, best_under_gap
    from .networks import MLP, ConvNet
    from .objective import PhiObjective
    from .selective import SelectiveFineTuner
else:
    # Under `else`, so that type checkers see the imports above and still refuse a misspelt name.
    _SUBMODULES = frozenset({"datasets", "exceptions", "generative", "interop"})
    _HOMES = {
        "AdversarialDebiasing": "intraprocessing",
        "AdversarialFineTuner": "intraprocessing",
        "BiasMaskFineTuner": "masking",
        "CellSampler": "generative",
        "Comparison": "comparison",
        "ConvNet": "networks",
        "FairLRFTransformer": "low_rank",
        "FairLRFTransformerCV": "low_rank",
        "FairPruner": "masking",
        "GapFineTuner": "intraprocessing",
        "HyperGenerator": "generative",
        "ImageFrame": "datasets",
        "JointStratifiedKFold": "model_selection",
        "LayerwiseOptimizer": "intraprocessing",
        "LowRankConv2d": "layers",
        "LowRankLinear": "layers",
        "MLP": "networks",
        "NetworkEditor": "base",
        "PhiObjective": "objective",
        "RandomPerturbation": "intraprocessing",
        "SelectiveFineTuner": "selective",
        "autophagy_audit": "generative",
        "best_under_gap": "model_selection",
        "compare": "comparison",
        "fairness_score": "metrics",
        "fairness_scorer": "metrics",
        "group_table": "metrics",
    }

    def __getattr__(name: str) -> object:
        """Import the module that holds ``name`` when it is first asked for."""
        if name in _SUBMODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value  # so that the next access does not come here
        return value


def __dir__() -> list[str]:
    """List what is here and what would be imported on first use."""
    return sorted({*globals(), *__all__})
