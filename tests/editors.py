"""One table of editors, a row each, for tests of what all of them keep to."""

from __future__ import annotations

from fairsvd import (
    AdversarialDebiasing,
    AdversarialFineTuner,
    BiasMaskFineTuner,
    FairLRFTransformer,
    FairPruner,
    GapFineTuner,
    LayerwiseOptimizer,
    RandomPerturbation,
    SelectiveFineTuner,
)

# Class, parameters of a quick fit, a grid of one of its own parameters.
EDITORS = {
    "FairLRF": (FairLRFTransformer, {"max_steps": 3, "gap_weight": 1.0}, {"sparsity": [0.0, 0.1]}),
    "bias mask": (
        BiasMaskFineTuner,
        {"impair_epochs": 1, "repair_epochs": 1, "min_steps": 3, "gap_weight": 1.0},
        {"tuned_fraction": [0.1, 1.0]},
    ),
    "BMFT": (BiasMaskFineTuner.bmft, {"impair_epochs": 1}, {"tuned_fraction": [0.1, 1.0]}),
    "SWiFT": (BiasMaskFineTuner.swift, {"impair_epochs": 1}, {"gap_weight": [0.1, 0.5]}),
    "pruner": (FairPruner, {"max_steps": 3, "gap_weight": 1.0}, {"sparsity": [0.0, 0.1]}),
    "pruner, curvature": (
        FairPruner,
        {"criterion": "curvature", "privileged_weight": 1.0, "refine": None},
        {"sparsity": [0.0, 0.1]},
    ),
    "gap": (GapFineTuner, {"max_steps": 3}, {"gap_weight": [0.3, 3.0]}),
    "gap, descent": (GapFineTuner, {"max_steps": 3, "mode": "descent"}, {"scope": ["all", "head"]}),
    "gap, spectrum": (
        GapFineTuner,
        {"max_steps": 3, "scope": "spectrum"},
        {"learning_rate": [1e-3, 1e-2]},
    ),
    "adversarial": (
        AdversarialFineTuner,
        {"epochs": 2, "critic_steps": 3, "actor_steps": 3, "gap_weight": 5.0},
        {"gap_weight": [1.0, 20.0]},
    ),
    "debiasing": (AdversarialDebiasing, {"max_steps": 5, "alpha": 1.0}, {"alpha": [0.3, 3.0]}),
    "perturbation": (RandomPerturbation, {"n_trials": 5}, {"scale": [0.05, 0.2]}),
    "layer-wise": (LayerwiseOptimizer, {"parameters": 2, "n_calls": 12}, {"parameters": [1, 2]}),
    "selective": (
        SelectiveFineTuner,
        {"epochs": 3, "min_steps": 3, "top_k": 0.5, "generator": "smoothed"},
        {"top_k": [0.3, 1.0]},
    ),
    "AIM-Fair": (
        SelectiveFineTuner.aim_fair,
        {"epochs": 3, "generator": "smoothed"},
        {"granularity": ["tensor", "unit"]},
    ),
    "pruner, units": (FairPruner, {"criterion": "unit", "refine": None}, {"sparsity": [0.0, 0.3]}),
}


def make(name, network=None, **parameters):
    kind, quick, _ = EDITORS[name]
    return kind(network, **{**quick, "random_state": 0, **parameters})
