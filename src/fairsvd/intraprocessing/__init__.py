"""Methods that search or tune the parameters of a trained network."""

from __future__ import annotations

from ._adversarial import AdversarialFineTuner
from ._debiasing import AdversarialDebiasing
from ._direct_effect import DirectEffectFineTuner
from ._gap import GapFineTuner
from ._influence import InfluenceTuner
from ._layerwise import LayerwiseOptimizer
from ._minimal_change import MinimalChangeTuner
from ._perturbation import RandomPerturbation

__all__ = [
    "AdversarialDebiasing",
    "AdversarialFineTuner",
    "DirectEffectFineTuner",
    "GapFineTuner",
    "InfluenceTuner",
    "LayerwiseOptimizer",
    "MinimalChangeTuner",
    "RandomPerturbation",
]
