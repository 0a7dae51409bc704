"""Every registered editor, and further configurations of some, to run whatever holds for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import fairsvd.comparison  # noqa: F401  (editors are registered once their families are imported)
from attending import NEED_ATTENTION, attending
from fairsvd import (
    AdapterFineTuner,
    BiasMaskFineTuner,
    FairLRFTransformer,
    FairPruner,
    FairReprogrammer,
    GapFineTuner,
    NetworkEditor,
    SelectiveFineTuner,
)
from fairsvd.base import EDITORS, QUICK

# A grid of parameters that every editor has.
ANY_GRID: dict[str, Sequence[Any]] = {"tolerance": [0.02, 0.5]}

# Grids of registered editors' own parameters, in the place of the one above.
OWN_GRIDS: dict[str, dict[str, Sequence[Any]]] = {
    "AdapterFineTuner": {"variant": ["plain", "orthogonal"]},
    "AdversarialDebiasing": {"alpha": [0.3, 3.0]},
    "AdversarialFineTuner": {"gap_weight": [1.0, 20.0]},
    "AttentionTemper": {"granularity": ["model", "head"]},
    "BiasMaskFineTuner": {"tuned_fraction": [0.1, 1.0]},
    "DirectEffectFineTuner": {"effect_weight": [0.0, 10.0]},
    "FairLRFTransformer": {"sparsity": [0.0, 0.1]},
    "FairPruner": {"sparsity": [0.0, 0.1]},
    "FairReprogrammer": {"learning_rate": [0.01, 0.1]},
    "GapFineTuner": {"gap_weight": [0.3, 3.0]},
    "InfluenceTuner": {"strength": [0.0, 1.0]},
    "LayerwiseOptimizer": {"parameters": [1, 2]},
    "MinimalChangeTuner": {"n_examples": [1, 8]},
    "RandomPerturbation": {"scale": [0.05, 0.2]},
    "SelectiveFineTuner": {"top_k": [0.3, 1.0]},
}


class Configuration(NamedTuple):
    """One way to run an editor.

    Attributes
    ----------
    kind : callable
        The class, or a class method that makes an editor with the values of a paper.
    quick : dict
        Parameters under which a fit takes a moment.
    grid : dict
        Values of one of its own parameters.
    """

    kind: Callable[..., NetworkEditor]
    quick: Mapping[str, Any]
    grid: Mapping[str, Sequence[Any]]


def registered() -> dict[str, Configuration]:
    """Make a row for every editor of the registry, by the name of its class."""
    return {
        name: Configuration(kind, QUICK[name], OWN_GRIDS.get(name, ANY_GRID))
        for name, kind in EDITORS.items()
    }


# What else some of them can do.
BESIDE = {
    "AIM-Fair": Configuration(
        SelectiveFineTuner.aim_fair,
        {"epochs": 3, "generator": "smoothed"},
        {"granularity": ["tensor", "unit"]},
    ),
    "AdapterFineTuner, unlearning": Configuration(
        AdapterFineTuner,
        {"max_steps": 3, "variant": "unlearning", "strength": 1.0},
        {"rank": [1, 4]},
    ),
    "BMFT": Configuration(
        BiasMaskFineTuner.bmft, {"impair_epochs": 1}, {"tuned_fraction": [0.1, 1.0]}
    ),
    "SWiFT": Configuration(
        BiasMaskFineTuner.swift, {"impair_epochs": 1}, {"gap_weight": [0.1, 0.5]}
    ),
    "FairLRFTransformer, imitating": Configuration(
        FairLRFTransformer,
        {"max_steps": 4, "objective": "teacher", "joint": "finetune", "n_teachers": 1},
        {"sparsity": [0.0, 0.1]},
    ),
    "BiasMaskFineTuner, imitating": Configuration(
        BiasMaskFineTuner,
        {
            "impair_epochs": 1,
            "repair_epochs": 1,
            "min_steps": 3,
            "objective": "teacher",
            "joint": "head",
            "n_teachers": 1,
        },
        {"tuned_fraction": [0.1, 1.0]},
    ),
    "FairPruner, curvature": Configuration(
        FairPruner,
        {"criterion": "curvature", "gap_weight": 1.0, "refine": None},
        {"sparsity": [0.0, 0.1]},
    ),
    "FairReprogrammer, adversary": Configuration(
        FairReprogrammer,
        {"max_steps": 3, "objective": "adversary", "adversary_weight": 0.5},
        {"adversary_weight": [0.05, 3.0]},
    ),
    "FairPruner, units": Configuration(
        FairPruner, {"criterion": "unit", "refine": None}, {"sparsity": [0.0, 0.3]}
    ),
    "GapFineTuner, descent": Configuration(
        GapFineTuner, {"max_steps": 3, "mode": "descent"}, {"scope": ["all", "head"]}
    ),
    "GapFineTuner, imitating": Configuration(
        GapFineTuner,
        {"max_steps": 4, "objective": "teacher", "joint": "refit", "n_teachers": 1},
        {"scope": ["all", "head"]},
    ),
    "GapFineTuner, spectrum": Configuration(
        GapFineTuner,
        {"max_steps": 3, "n_teachers": 1, "scope": "spectrum"},
        {"learning_rate": [1e-3, 1e-2]},
    ),
}

# Sorted: every process of a run must collect the same tests in the same order.
CONFIGURATIONS: dict[str, Configuration] = dict(sorted({**registered(), **BESIDE}.items()))

# One configuration for each way to make candidates, for what the template does for all of them:
# networks behind the given one, paths of factors, units that go, a trigger before the network,
# states without training, and epochs on generated rows.
TEMPLATES = (
    "BlindPostProcessor",
    "FairLRFTransformer",
    "FairPruner, units",
    "FairReprogrammer",
    "RandomPerturbation",
    "SelectiveFineTuner",
)


def make(name: str, network: Any = None, **parameters: Any) -> NetworkEditor:
    """Make an editor by the name of its configuration, for a quick fit.

    An editor that needs attention gets the network behind a layer of it.
    """
    kind, quick, _ = CONFIGURATIONS[name]
    network = attending(network) if name in NEED_ATTENTION else network
    return kind(network, **{**quick, "random_state": 0, **parameters})
