"""Quick fits of every editor on the networks of the zoo."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

import zoo
from editors import CONFIGURATIONS
from fairsvd import FairLRFTransformer, FairPruner, GapFineTuner
from fairsvd.networks import raw_output
from helpers import last_wins, trained

ROWS = zoo.small_images()
X = torch.tensor(ROWS.X)

REMOVAL = {"sparsity": 0.1, "gap_weight": 1.0, "refine": None}
# Class and parameters of a quick fit: every editor, and what else it can do.
KINDS = {
    **{name: (row.kind, row.quick) for name, row in CONFIGURATIONS.items()},
    **{
        f"FairLRFTransformer, {criterion}": (
            FairLRFTransformer,
            {"criterion": criterion, **REMOVAL},
        )
        for criterion in ("curvature", "magnitude", "random")
    },
    "FairLRFTransformer, ggn in rounds, all": (
        FairLRFTransformer,
        {"criterion": "curvature", "hessian": "ggn", "n_rounds": 2, "layers": "all", **REMOVAL},
    ),
    "FairLRFTransformer, thin": (
        FairLRFTransformer,
        {"rank": 0.5, "max_steps": 3, "gap_weight": 1.0},
    ),
    **{
        f"FairPruner, {criterion}": (FairPruner, {"criterion": criterion, **REMOVAL})
        for criterion in ("curvature", "magnitude", "random")
    },
    "FairPruner, units": (FairPruner, {"criterion": "unit", "sparsity": 0.3, "refine": None}),
    **{
        f"GapFineTuner, {scope}": (
            GapFineTuner,
            {"max_steps": 3, "scope": scope, "gap_weight": 1.0},
        )
        for scope in ("head", "bias")
    },
}


@cache
def network(name: str) -> nn.Module:
    """A network that was trained for a few steps; nobody may change it."""
    return trained(zoo.build(name), ROWS, 4)


def make(kind, module, **parameters):
    """Make an editor of which the last edit is chosen."""
    cls, quick = KINDS[kind]
    owner = getattr(cls, "__self__", cls)
    last = last_wins(owner)
    last = last if owner is cls else getattr(last, cls.__name__)
    return last(module, **{**quick, "random_state": 0, "threshold": 0.4, **parameters})


def fit(editor):
    return editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


def probabilities(module, offset=0.0):
    with torch.no_grad():
        logits = raw_output(module, X).double()
    return (logits - torch.tensor([0.0, offset])).softmax(1).numpy()
