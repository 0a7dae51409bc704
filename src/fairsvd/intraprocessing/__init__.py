"""Methods that search or tune the parameters of a trained network."""

from __future__ import annotations

from ._adapters import AdapterFineTuner
from ._adversarial import AdversarialFineTuner
from ._debiasing import AdversarialDebiasing
from ._direct_effect import DirectEffectFineTuner
from ._gap import GapFineTuner
from ._influence import InfluenceTuner
from ._layerwise import LayerwiseOptimizer
from ._minimal_change import MinimalChangeTuner
from ._perturbation import RandomPerturbation
from ._reprogrammer import FairReprogrammer
from ._temper import AttentionTemper

__all__ = [
    "AdapterFineTuner",
    "AdversarialDebiasing",
    "AdversarialFineTuner",
    "AttentionTemper",
    "DirectEffectFineTuner",
    "FairReprogrammer",
    "GapFineTuner",
    "InfluenceTuner",
    "LayerwiseOptimizer",
    "MinimalChangeTuner",
    "RandomPerturbation",
]
