"""The controls that always stand in the table, and this package's own method."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from context import Context, Method, Outcome
from nets import fine_tune, margins
from torch import nn

__all__ = ["CONTROLS", "OURS"]

PENALTIES = (0.3, 1.0, 3.0)


def at_half(context: Context, constraint: str) -> Outcome:
    """Leave the network alone and predict its more probable class."""
    return Outcome((margins(context.network, context.test_X) > 0).astype(int), {})


def for_utility(context: Context, constraint: str) -> Outcome:
    """Leave the network alone and move its threshold to the best balanced accuracy."""
    return Outcome(context.before, {})


def one_threshold(context: Context, constraint: str) -> Outcome:
    """Leave the network alone and choose its one threshold by the selection rule."""
    return context.select([], constraint)[0]


def choose_module(
    context: Context, constraint: str, modules: Iterable[tuple[float, nn.Module]]
) -> Outcome:
    """Choose among fine-tuned modules, each with the penalty it was made with."""
    made = list(modules)
    scorers = [partial(margins, module) for _, module in made]
    outcome, winner = context.select(scorers, constraint)
    penalty = made[winner - 1][0] if winner else None
    return Outcome(outcome.predictions, {**outcome.notes, "winner": winner, "penalty": penalty})


def tuned(
    context: Context, constraint: str, penalties: Iterable[float], **how: Any
) -> Iterable[tuple[float, nn.Module]]:
    """Fine-tune once for every penalty and give each candidate with its penalty."""
    settings = {"offset": context.offset, "seed": context.seed, "constraint": constraint, **how}
    for penalty in penalties:
        for module in fine_tune(context.network, context.train, penalty=penalty, **settings):
            yield penalty, module


def plain_fine_tuning(context: Context, constraint: str) -> Outcome:
    """Fine-tune every weight on class-balanced cross-entropy, without a gap in the loss."""
    return choose_module(context, constraint, tuned(context, constraint, [0.0]))


def soft_gap_fine_tuning(context: Context, constraint: str) -> Outcome:
    """Fine-tune every weight with the soft gap in the loss."""
    candidates = tuned(context, constraint, PENALTIES, balance=context.balance)
    return choose_module(context, constraint, candidates)


def last_layer(context: Context, constraint: str) -> Outcome:
    """Retrain the last layer on rows that hold every (label, group) cell alike.

    After deep feature reweighting (Kirichenko et al., arXiv:2204.02937), on the training rows.
    """
    names = [name for name, _ in context.network.named_parameters()][-2:]
    candidates = tuned(context, constraint, [0.0], balance="cells", names=names, rate=1e-2)
    return choose_module(context, constraint, candidates)


def edit(context: Context, constraint: str, **parameters: Any) -> Outcome:
    """Edit the base network with ``FairLRFTransformer`` and the given parameters."""
    from sklearn.model_selection import PredefinedSplit

    from fairsvd import FairLRFTransformer

    parts = (context.train, context.validation)
    X, y, g = (np.concatenate(column) for column in zip(*parts, strict=True))
    fold = np.repeat([-1, 0], [len(part.y) for part in parts])
    editor = FairLRFTransformer(
        context.network,
        constraint=constraint,
        validation=PredefinedSplit(fold),
        random_state=context.seed,
        **parameters,
    )
    editor.fit(X, y, sensitive_features=np.asarray(context.groups)[g])
    share = float(editor.removed_fraction_)
    return Outcome(np.asarray(editor.predict(context.test_X)), {"removed_fraction": share})


def default_edit(context: Context, constraint: str) -> Outcome:
    """Edit with the defaults and remember the share that was removed."""
    outcome = edit(context, constraint)
    context.shares[constraint] = outcome.notes["removed_fraction"]
    return outcome


def edit_at_equal_share(context: Context, constraint: str, criterion: str) -> Outcome:
    """Remove as large a share as the default edit did, by another criterion."""
    if constraint not in context.shares:
        default_edit(context, constraint)
    share = context.shares[constraint]
    return edit(context, constraint, criterion=criterion, sparsity=share, refine=None)


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


CONTROLS = {
    "untouched": Method(at_half, False, "untouched, threshold .5"),
    "untouched-utility": Method(for_utility, False, "untouched, threshold for utility"),
    "untouched-gap": Method(one_threshold, False, "untouched, one threshold under the gap"),
    "plain-fine-tuning": Method(plain_fine_tuning, False, "plain fine-tuning"),
    "soft-gap-fine-tuning": Method(soft_gap_fine_tuning, False, "full fine-tuning, soft gap"),
    "last-layer": Method(last_layer, False, "last layer on balanced cells"),
}

OURS = {
    "fairlrf": Method(default_edit, False, "FairLRF (default)"),
    "fairlrf-curvature": Method(
        partial(edit, criterion="curvature", refine=None), False, "FairLRF, curvature"
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
        partial(edit, rank=0.5, sparsity=0.0, refine=None), False, "truncated SVD, rank .5"
    ),
}
