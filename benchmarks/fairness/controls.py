"""The controls; they use nothing of this package."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import nn

from benchmarks.fairness.context import Context, Method, Outcome
from benchmarks.nets import fine_tune, margins, mlp
from benchmarks.passes import refit, short_fine_tune

__all__ = ["CONTROLS", "REFIT", "SHORT"]

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
    """Choose among fine-tuned modules, each of which comes with its penalty."""
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
    """Retrain the last layer on training rows that are balanced over (label, group) cells.

    This follows deep feature reweighting (Kirichenko et al., arXiv:2204.02937).
    """
    names = [name for name, _ in context.network.named_parameters()][-2:]
    candidates = tuned(context, constraint, [0.0], balance="cells", names=names, rate=1e-2)
    return choose_module(context, constraint, candidates)


def short_tuning(context: Context, constraint: str, penalty: float) -> Outcome:
    """Fine-tune for five epochs, as users do with a pretrained network, and keep the last one.

    Only its threshold is chosen: the selection rule may not take the untouched network instead.
    The penalty is on equalized odds for every constraint.
    """
    module = short_fine_tune(context.network, context.train, penalty=penalty, seed=context.seed)
    return context.select([partial(margins, module)], constraint, first=1)[0]


def plain_refit(context: Context, constraint: str) -> Outcome:
    """Train the tables' network anew, stopped early, with one threshold under the gap.

    It shows how much of a rule's lead on refitted cells is a better model.
    """
    network = mlp(context.train.X.shape[1], context.seed + 1)
    refit(network, context.train, context.validation, seed=context.seed)
    outcome, _ = context.select([partial(margins, network)], constraint, first=1)
    return outcome


CONTROLS = {
    "untouched": Method(at_half, False, "untouched, threshold .5"),
    "untouched-utility": Method(for_utility, False, "untouched, threshold for utility"),
    "untouched-gap": Method(one_threshold, False, "untouched, one threshold under the gap"),
    "plain-fine-tuning": Method(plain_fine_tuning, False, "plain fine-tuning"),
    "soft-gap-fine-tuning": Method(soft_gap_fine_tuning, False, "full fine-tuning, soft gap"),
    "last-layer": Method(last_layer, False, "last layer on balanced cells"),
}
# It is for tables, whose network is small.
REFIT = {"plain-refit": Method(plain_refit, False, "plain refit, stopped early, one threshold")}
# They are in the tables of images, where networks come pretrained.
SHORT = {
    "short-fine-tuning": Method(partial(short_tuning, penalty=0.0), False, "five epochs, plain"),
    "short-soft-gap": Method(partial(short_tuning, penalty=1.0), False, "five epochs, soft gap"),
}
