"""The methods of this package, and the controls that use them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks.fairness.context import Context, Method, Outcome
from benchmarks.nets import margins
from benchmarks.visits import counted
from fairsvd.base import EDITORS as REGISTERED
from fairsvd.comparison import compare  # noqa: F401 (registers every editor)

__all__ = ["EDITORS", "OURS", "class_of"]

LABELS = {
    "fairlrf": ("FairLRFTransformer", "FairLRF (default)"),
    "bias-mask": ("BiasMaskFineTuner", "bias mask (default)"),
    "pruner": ("FairPruner", "weight pruning, learned (default)"),
    "gap": ("GapFineTuner", "gap fine-tuning"),
    "perturbation": ("RandomPerturbation", "random perturbation"),
    "layer-wise": ("LayerwiseOptimizer", "layer-wise optimisation"),
    "adversarial-fine-tuning": ("AdversarialFineTuner", "adversarial fine-tuning"),
    "adversarial-debiasing": ("AdversarialDebiasing", "adversarial debiasing"),
    "selective": ("SelectiveFineTuner", "selective fine-tuning"),
    "rule": ("BlindPostProcessor", "fair rule, cells fine-tuned (default)"),
    "direct-effect": ("DirectEffectFineTuner", "direct effect of the group's columns"),
    "minimal-change": ("MinimalChangeTuner", "minimal change on counter-examples"),
    "adapters": ("AdapterFineTuner", "low-rank adapters, adversarial (default)"),
    "influence": ("InfluenceTuner", "influence weights (FairIF-style)"),
    "trigger": ("FairReprogrammer", "trigger on the input, network frozen (default)"),
}

# The base networks of tables and images have no attention. Its rows edit a network of their own
# (``own_base`` of :func:`edit`), and ``bench_attention.py`` has it on sentences.
ELSEWHERE = {"AttentionTemper"}

# An editor that is new in the package has a row under the name of its class.
KNOWN = {kind for kind, _ in LABELS.values()}
EDITORS = LABELS | {name: (name, name) for name in sorted(set(REGISTERED) - KNOWN - ELSEWHERE)}

# Does a low rank keep the bias of the base network (arXiv:2405.18572)? The largest is every layer's
# full rank.
RANKS = (1, 2, 4, 8, 64)


def class_of(editor: str) -> Callable[..., Any]:
    """Import an editor's class, or a preset such as ``BiasMaskFineTuner.bmft``, when it is used."""
    import fairsvd

    return attrgetter(editor)(fairsvd)


def edit(
    context: Context, constraint: str, editor: str, *, own_base: bool = False, **parameters: Any
) -> Outcome:
    """Edit the base network with an editor and the given parameters.

    ``own_base``: the editor trains the network that it makes where it is given none.
    """
    from sklearn.model_selection import PredefinedSplit

    parts = (context.train, context.validation)
    X, y, g = (np.concatenate(column) for column in zip(*parts, strict=True))
    fold = np.repeat([-1, 0], [len(part.y) for part in parts])
    images = context.train.X.ndim == 4
    edited = class_of(editor)(
        None if own_base else context.network,
        constraint=constraint,
        validation=PredefinedSplit(fold),
        random_state=context.seed,
        **parameters,
    )
    with counted(context.network) if images else nullcontext() as visits:
        fitted = edited.fit(X, y, sensitive_features=np.asarray(context.groups)[g])
    notes = {} if visits is None else {"epochs": visits.epochs(len(context.train.y))}
    notes |= {
        "removed_fraction": float(getattr(fitted, "removed_fraction_", 0.0)),
        "share": best_share(fitted.history_),
    }
    return Outcome(np.asarray(fitted.predict(context.test_X)), notes)


def best_share(history: pd.DataFrame) -> float:
    """Find the share that the best removal removed; 0 if no candidate removes anything."""
    if "removed_fraction" not in history:
        return 0.0
    removals = history[history["removed_fraction"] > 0]
    best = removals.sort_values(["feasible", "value"], kind="stable").tail(1)
    return float(best["removed_fraction"].sum())


def default_share(context: Context, constraint: str) -> float:
    """Find the share that the default edit's best removal removed; edit first if necessary."""
    if constraint not in context.shares:
        outcome = edit(context, constraint, "FairLRFTransformer")
        context.shares[constraint] = outcome.notes["share"]
    return context.shares[constraint]


def edit_at_equal_share(context: Context, constraint: str, criterion: str) -> Outcome:
    """Remove as large a share as the default edit's best removal, by another criterion."""
    settings = {"criterion": criterion, "sparsity": default_share(context, constraint)}
    return edit(context, constraint, "FairLRFTransformer", refine=None, **settings)


def rebuilt(network: nn.Module, *, share: float, rank: float, seed: int) -> nn.Module:
    """Copy a network, truncate its hidden layers' SVD and remove entries of U and V at random.

    Parameters
    ----------
    network : nn.Module
    share : float in [0, 1]
        Probability with which every entry of U and V is removed.
    rank : float in (0, 1]
        Share of the singular values that stays.
    seed : int
    """
    generator, made = torch.Generator().manual_seed(seed), copy.deepcopy(network)
    layers = [m for m in made.modules() if isinstance(m, nn.Linear | nn.Conv2d)][:-1]
    for layer in layers:
        weight = layer.weight.data
        factors = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        kept = max(1, round(rank * len(factors[1])))
        U, S, V = factors[0][:, :kept], factors[1][:kept], factors[2][:kept]
        U, V = (F * (torch.rand(F.shape, generator=generator) >= share) for F in (U, V))
        layer.weight.data = ((U * S) @ V).reshape(weight.shape)
    return made


def removal_as_it_is(context: Context, constraint: str, random: bool) -> Outcome:
    """Remove, and do not let the selection rule choose the untouched network instead.

    ``FairLRFTransformer`` has the untouched network among its candidates, so its control rows may
    show that network. Here the removal itself is measured, with its one threshold chosen.
    """
    share, rank = (default_share(context, constraint), 1.0) if random else (0.0, 0.5)
    module = rebuilt(context.network, share=share, rank=rank, seed=context.seed)
    outcome, _ = context.select([partial(margins, module)], constraint, first=1)
    return Outcome(outcome.predictions, {**outcome.notes, "share": share})


def own(editor: str, label: str, **parameters: Any) -> Method:
    """Make a row of the table out of an editor; none needs the group to predict."""
    return Method(partial(edit, editor=editor, **parameters), False, label)


OURS = {
    **{name: own(editor, label) for name, (editor, label) in EDITORS.items()},
    "fairlrf-long": own(
        "FairLRFTransformer", "FairLRF, no budget", max_epochs=np.inf, max_steps=300
    ),
    "fairlrf-curvature": own(
        "FairLRFTransformer", "FairLRF, curvature", criterion="curvature", refine=None
    ),
    "fairlrf-random": Method(
        partial(edit_at_equal_share, criterion="random"), False, "random removal, equal share"
    ),
    "fairlrf-magnitude": Method(
        partial(edit_at_equal_share, criterion="magnitude"), False, "magnitude removal, equal share"
    ),
    "removal-as-it-is": Method(
        partial(removal_as_it_is, random=True), False, "random removal, equal share, no way back"
    ),
    "svd-as-it-is": Method(
        partial(removal_as_it_is, random=False), False, "truncated SVD, rank .5, no way back"
    ),
    "truncated-svd": own(
        "FairLRFTransformer", "truncated SVD, rank .5", rank=0.5, sparsity=0.0, refine=None
    ),
    "bias-mask-random": own(
        "BiasMaskFineTuner", "bias mask, random, equal size", importance="random"
    ),
    "bias-mask-bias-only": own(
        "BiasMaskFineTuner", "bias mask, bias importance only", rank_by="bias"
    ),
    "bias-mask-all": own("BiasMaskFineTuner", "bias mask, everything tuned", tuned_fraction=1.0),
    "bias-mask-head": own("BiasMaskFineTuner", "bias mask, last layer only", impair_epochs=0),
    "bias-mask-batch": own("BiasMaskFineTuner", "bias mask, batch", importance="batch_gradient"),
    "pruner-curvature": own(
        "FairPruner",
        "weight pruning, curvature (FairPrune)",
        criterion="curvature",
        ranking="global",
        refine=None,
    ),
    "pruner-unit": own("FairPruner", "unit pruning by the gap", criterion="unit", refine=None),
    "rule-refit": own("BlindPostProcessor", "fair rule, cells refitted", joint="refit"),
    "rule-head": own("BlindPostProcessor", "fair rule, last layer for cells", joint="head"),
    "fairlrf-soft-gap": own("FairLRFTransformer", "FairLRF, soft gap", objective="soft_gap"),
    "bias-mask-soft-gap": own("BiasMaskFineTuner", "bias mask, soft gap", objective="soft_gap"),
    "pruner-soft-gap": own("FairPruner", "weight pruning, soft gap", objective="soft_gap"),
    "gap-soft-gap": own("GapFineTuner", "gap fine-tuning, soft gap", objective="soft_gap"),
    "gap-descent": own("GapFineTuner", "gap descent", mode="descent"),
    "adapters-plain": own("AdapterFineTuner", "low-rank adapters, plain", variant="plain"),
    "adapters-orthogonal": own(
        "AdapterFineTuner", "low-rank adapters, orthogonal", variant="orthogonal"
    ),
    "adapters-unlearning": own(
        "AdapterFineTuner", "low-rank adapters, unlearning", variant="unlearning"
    ),
    **{
        f"adapters-rank-{rank}": own(
            "AdapterFineTuner",
            f"low-rank adapters, soft gap, rank {rank}",
            variant="plain",
            gap_weight=1.0,
            rank=rank,
        )
        for rank in RANKS
    },
    "fairlrf-bases": own("FairLRFTransformer", "FairLRF, bases turn, too", refine="bases"),
    "fairlrf-spectrum-only": own(
        "FairLRFTransformer", "FairLRF, nothing removed", criterion="magnitude", sparsity=0.0
    ),
    "fairlrf-bases-only": own(
        "FairLRFTransformer",
        "FairLRF, nothing removed, bases turn, too",
        criterion="magnitude",
        sparsity=0.0,
        refine="bases",
    ),
    "trigger-soft-gap": own(
        "FairReprogrammer", "trigger on the input, soft gap", objective="soft_gap"
    ),
    "trigger-adversary": own(
        "FairReprogrammer", "trigger on the input, adversary", objective="adversary"
    ),
    "trigger-patch": own("FairReprogrammer", "trigger: patch in a corner", trigger="patch"),
    "trigger-border": own("FairReprogrammer", "trigger: border of the image", trigger="border"),
    "temper": own("AttentionTemper", "attention temperatures, own AttentionNet", own_base=True),
    "temper-off": own(
        "AttentionTemper",
        "the same AttentionNet, untouched",
        own_base=True,
        factors=[1.0],
        n_trials=0,
    ),
    "bmft": own("BiasMaskFineTuner.bmft", "BMFT's values"),
    "swift": own("BiasMaskFineTuner.swift", "SWiFT's values"),
}
