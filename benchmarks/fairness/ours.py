"""Methods of this package, and the controls that are made with them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks.fairness.context import Context, Method, Outcome
from benchmarks.nets import margins

__all__ = ["OURS"]


def edit(context: Context, constraint: str, make: Callable[..., Any], **parameters: Any) -> Outcome:
    """Edit the base network with an editor and the given parameters."""
    from sklearn.model_selection import PredefinedSplit

    parts = (context.train, context.validation)
    X, y, g = (np.concatenate(column) for column in zip(*parts, strict=True))
    fold = np.repeat([-1, 0], [len(part.y) for part in parts])
    editor = make()(
        context.network,
        constraint=constraint,
        validation=PredefinedSplit(fold),
        random_state=context.seed,
        **parameters,
    )
    editor.fit(X, y, sensitive_features=np.asarray(context.groups)[g])
    notes = {
        "removed_fraction": float(getattr(editor, "removed_fraction_", 0.0)),
        "share": best_share(editor.history_),
    }
    return Outcome(np.asarray(editor.predict(context.test_X)), notes)


def best_share(history: pd.DataFrame) -> float:
    """Find the share that the best candidate removed of those that remove something; 0 if none."""
    if "removed_fraction" not in history:
        return 0.0
    removals = history[history["removed_fraction"] > 0]
    best = removals.sort_values(["feasible", "value"], kind="stable").tail(1)
    return float(best["removed_fraction"].sum())


def fairlrf() -> Any:
    """Import late: the other methods need nothing of this package."""
    from fairsvd import FairLRFTransformer

    return FairLRFTransformer


def bias_mask() -> Any:
    """Import late, as :func:`fairlrf` does."""
    from fairsvd import BiasMaskFineTuner

    return BiasMaskFineTuner


def pruner() -> Any:
    """Import late, as :func:`fairlrf` does."""
    from fairsvd import FairPruner

    return FairPruner


def named(name: str) -> Callable[[], Any]:
    """Import an editor by its name, late, as :func:`fairlrf` does."""

    def make() -> Any:
        import fairsvd

        return getattr(fairsvd, name)

    return make


def bmft() -> Any:
    """Give BMFT's values."""
    return bias_mask().bmft


def swift() -> Any:
    """Give SWiFT's values."""
    return bias_mask().swift


def default_edit(context: Context, constraint: str) -> Outcome:
    """Edit with the defaults and remember the share that its best removal took."""
    outcome = edit(context, constraint, fairlrf)
    context.shares[constraint] = outcome.notes["share"]
    return outcome


def edit_at_equal_share(context: Context, constraint: str, criterion: str) -> Outcome:
    """Remove as large a share as the default edit's best removal, by another criterion."""
    if constraint not in context.shares:
        default_edit(context, constraint)
    share = context.shares[constraint]
    settings = {"criterion": criterion, "sparsity": share, "refine": None}
    return edit(context, constraint, fairlrf, **settings)


def rebuilt(network: nn.Module, *, share: float, rank: float, seed: int) -> nn.Module:
    """Copy a network, truncate its hidden layers' SVD and remove entries of U and V at random.

    Parameters
    ----------
    network : nn.Module
    share : float in [0, 1]
        Chance of every entry of U and V to be removed.
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
    """Remove without the way back to the untouched network that the selection rule gives.

    ``FairLRFTransformer`` has the untouched network among its candidates, so that its control rows
    may show that network; here the removal itself has to answer, with its one threshold chosen.
    """
    if random and constraint not in context.shares:
        default_edit(context, constraint)
    share, rank = (context.shares[constraint], 1.0) if random else (0.0, 0.5)
    module = rebuilt(context.network, share=share, rank=rank, seed=context.seed)
    outcome, _ = context.select([partial(margins, module)], constraint, first=1)
    return Outcome(outcome.predictions, {**outcome.notes, "share": share})


OURS = {
    "fairlrf": Method(default_edit, False, "FairLRF (default)"),
    "fairlrf-curvature": Method(
        partial(edit, make=fairlrf, criterion="curvature", refine=None), False, "FairLRF, curvature"
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
    "truncated-svd": Method(
        partial(edit, make=fairlrf, rank=0.5, sparsity=0.0, refine=None),
        False,
        "truncated SVD, rank .5",
    ),
    "bias-mask": Method(partial(edit, make=bias_mask), False, "bias mask (default)"),
    "bias-mask-random": Method(
        partial(edit, make=bias_mask, importance="random"), False, "bias mask, random, equal size"
    ),
    "bias-mask-bias-only": Method(
        partial(edit, make=bias_mask, rank_by="bias"), False, "bias mask, bias importance only"
    ),
    "bias-mask-all": Method(
        partial(edit, make=bias_mask, keep=1.0), False, "bias mask, everything tuned"
    ),
    "bias-mask-head": Method(
        partial(edit, make=bias_mask, impair_epochs=0), False, "bias mask, last layer only"
    ),
    "bias-mask-batch": Method(
        partial(edit, make=bias_mask, importance="batch_gradient"), False, "bias mask, batch"
    ),
    "pruner": Method(partial(edit, make=pruner), False, "weight pruning, learned (default)"),
    "pruner-curvature": Method(
        partial(edit, make=pruner, criterion="curvature", ranking="global", refine=None),
        False,
        "weight pruning, curvature (FairPrune)",
    ),
    "pruner-unit": Method(
        partial(edit, make=pruner, criterion="unit", refine=None), False, "unit pruning by the gap"
    ),
    "gap": Method(partial(edit, make=named("GapFineTuner")), False, "gap fine-tuning"),
    "gap-descent": Method(
        partial(edit, make=named("GapFineTuner"), mode="descent"), False, "gap descent"
    ),
    "perturbation": Method(
        partial(edit, make=named("RandomPerturbation")), False, "random perturbation"
    ),
    "layer-wise": Method(
        partial(edit, make=named("LayerwiseOptimizer")), False, "layer-wise optimisation"
    ),
    "adversarial-fine-tuning": Method(
        partial(edit, make=named("AdversarialFineTuner")),
        False,
        "adversarial fine-tuning",
    ),
    "adversarial-debiasing": Method(
        partial(edit, make=named("AdversarialDebiasing")), False, "adversarial debiasing"
    ),
    "selective": Method(
        partial(edit, make=named("SelectiveFineTuner")), False, "selective fine-tuning"
    ),
    "bmft": Method(partial(edit, make=bmft), False, "BMFT's values"),
    "swift": Method(partial(edit, make=swift), False, "SWiFT's values"),
}
