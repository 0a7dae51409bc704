"""Edit trained neural networks so that their errors fall more evenly on groups of people.

The public names are imported on first use, so that ``import fairsvd`` alone costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

# Where each public name is at home; a class that is added to the package gets its line here.
_HOMES = {
    "AdapterFineTuner": "intraprocessing",
    "AdversarialDebiasing": "intraprocessing",
    "AdversarialFineTuner": "intraprocessing",
    "AttentionNet": "networks",
    "AttentionTemper": "intraprocessing",
    "BiasMaskFineTuner": "masking",
    "BlindPostProcessor": "postprocessing",
    "CellSampler": "generative",
    "Comparison": "comparison",
    "ConFairReweigher": "conformance",
    "ConvNet": "networks",
    "CountLimit": "objective",
    "DifFair": "conformance",
    "DirectEffectFineTuner": "intraprocessing",
    "FairLRFTransformer": "low_rank",
    "FairLRFTransformerCV": "low_rank",
    "FairPruner": "masking",
    "FairReprogrammer": "intraprocessing",
    "GapFineTuner": "intraprocessing",
    "EachAttribute": "objective",
    "GapLimit": "objective",
    "HyperGenerator": "generative",
    "ImageFrame": "datasets",
    "InfluenceTuner": "intraprocessing",
    "JointStratifiedKFold": "model_selection",
    "LayerwiseOptimizer": "intraprocessing",
    "LowRankConv2d": "layers",
    "LowRankLinear": "layers",
    "MLP": "networks",
    "MinimalChangeTuner": "intraprocessing",
    "MinimumRate": "objective",
    "NetworkEditor": "base",
    "NoHarm": "objective",
    "PhiObjective": "objective",
    "RandomPerturbation": "intraprocessing",
    "RatioLimit": "objective",
    "SelectiveFineTuner": "selective",
    "TextFrame": "datasets",
    "autophagy_audit": "generative",
    "best_under_gap": "model_selection",
    "compare": "comparison",
    "disparity_table": "metrics",
    "fairness_score": "metrics",
    "fairness_scorer": "metrics",
    "feedback_audit": "generative",
    "group_table": "metrics",
    "load": "persistence",
    "save": "persistence",
}
_SUBMODULES = frozenset(
    "datasets exceptions generative interop metrics monitor report testing".split()
)

__all__ = sorted(["__version__", *_SUBMODULES, *_HOMES])

if TYPE_CHECKING:
    from . import datasets as datasets
    from . import exceptions as exceptions
    from . import generative as generative
    from . import interop as interop
    from . import metrics as metrics
    from . import monitor as monitor
    from . import report as report
    from . import testing as testing
    from .base import NetworkEditor as NetworkEditor
    from .comparison import Comparison as Comparison
    from .comparison import compare as compare
    from .conformance import ConFairReweigher as ConFairReweigher
    from .conformance import DifFair as DifFair
    from .datasets import ImageFrame as ImageFrame
    from .datasets import TextFrame as TextFrame
    from .generative import CellSampler as CellSampler
    from .generative import HyperGenerator as HyperGenerator
    from .generative import autophagy_audit as autophagy_audit
    from .generative import feedback_audit as feedback_audit
    from .intraprocessing import *
    from .layers import LowRankConv2d as LowRankConv2d
    from .layers import LowRankLinear as LowRankLinear
    from .low_rank import *
    from .masking import *
    from .metrics import disparity_table as disparity_table
    from .metrics import fairness_score as fairness_score
    from .metrics import fairness_scorer as fairness_scorer
    from .metrics import group_table as group_table
    from .model_selection import JointStratifiedKFold as JointStratifiedKFold
    from .model_selection import best_under_gap as best_under_gap
    from .networks import MLP as MLP
    from .networks import AttentionNet as AttentionNet
    from .networks import ConvNet as ConvNet
    from .objective import CountLimit as CountLimit
    from .objective import EachAttribute as EachAttribute
    from .objective import GapLimit as GapLimit
    from .objective import MinimumRate as MinimumRate
    from .objective import NoHarm as NoHarm
    from .objective import PhiObjective as PhiObjective
    from .objective import RatioLimit as RatioLimit
    from .persistence import load as load
    from .persistence import save as save
    from .postprocessing import *
    from .selective import *
else:
    # Under `else`, so that type checkers see the imports above and still refuse a misspelt name.
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
