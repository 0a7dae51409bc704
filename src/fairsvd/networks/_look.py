"""A first look at a network: what it returns, and whether it can be edited."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._rng import seeded_globally
from .._warn import warn
from ..arrays import Batches
from ..exceptions import NetworkError, OutputKindWarning
from ._copy import unwrapped
from ._finite import check_finite
from ._meaning import Meaning, find_meaning, in_unit_interval
from ._plain import first_parameter
from ._scores import OutputKey, check_range, check_rows, raw_output, to_logits
from ._trace import Trace, moves_scores, trace

__all__ = ["Answer", "Question", "look", "probe_rows"]

# Rows whose values tell logits from probabilities, if nothing else does.
MEANING_ROWS = 512


@dataclass(frozen=True)
class Question:
    """What the network's output has to be.

    Attributes
    ----------
    X : Batches
        Rows that it takes.
    n_classes : int
    key : str, int or None
        Place of the scores in the output.
    output_kind : {"auto", "logits", "probabilities"}
        What the user says the scores are.
    told : {"logits", "probabilities"} or None
        What the criterion of the network's training says.
    """

    X: Batches
    n_classes: int
    key: OutputKey
    output_kind: str
    told: str | None


@dataclass(frozen=True)
class Answer:
    """What the network's output is.

    Attributes
    ----------
    kind : str
        Kind of the output, as in :func:`to_logits`.
    layer : str
        Name of the layer that makes the logits.
    notes : tuple of str
    """

    kind: str
    layer: str
    notes: tuple[str, ...]


def look(module: nn.Module, question: Question, given: nn.Module | None) -> Answer:
    """Run a few rows through a network; find out what it returns and refuse what cannot be edited.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode.
    question : Question
    given : nn.Module or None
        The user's own module, of which it is a copy.

    Raises
    ------
    NetworkError
    """
    probe = probe_rows(module, question.X)
    seen = _run(module, probe, question.key)
    if given is not None:
        _check_copied(seen, given)
    if seen.layer is None:
        raise NetworkError(
            "network has no Linear or Conv2d layer that runs and is not empty (of zero inputs or "
            "outputs), so there is nothing to edit."
        )
    _check_width(seen.scores, question.n_classes)
    _check_gradient(module, probe, question.key, seen)
    meaning = _find_meaning(module, question, seen)
    check_finite(to_logits(seen.scores, meaning.kind), question.X, module)
    if meaning.doubt:
        warn(meaning.doubt, OutputKindWarning)
    notes = tuple(filter(None, [meaning.note, meaning.doubt]))
    return Answer(meaning.kind, seen.layer, notes)


def _run(module: nn.Module, probe: Tensor, key: OutputKey) -> Trace:
    """Trace a run on a few rows; refuse a network that is only built by it."""
    before = {name for name, _ in module.named_parameters()}
    # A network that makes its layers when it runs would draw from the global generator.
    with seeded_globally(0):
        seen = trace(module, probe, key)
    made = [name for name, _ in module.named_parameters() if name not in before]
    if made:
        raise NetworkError(
            f"the network made its parameters {made} in its first pass, so they were never "
            "trained. Call it on a batch of rows and train it before it is edited."
        )
    check_rows(seen.scores, len(probe))
    return seen


def _check_copied(seen: Trace, given: nn.Module) -> None:
    """Refuse a network whose copy still runs the user's own module."""
    if not seen.leaves.isdisjoint(map(id, unwrapped(given).parameters())):
        raise NetworkError(
            "a copy of the network still runs the parameters of the original: the module keeps a "
            "function that is bound to them (a lambda, or a compiled or patched forward). Make it "
            "a method of the class."
        )


def _check_gradient(module: nn.Module, probe: Tensor, key: OutputKey, seen: Trace) -> None:
    """Refuse a network that hides layers from gradients; a head for another purpose is none."""
    with seeded_globally(0):
        hidden = [name for name in seen.unreached if moves_scores(module, probe, key, name)]
    if hidden or not seen.has_gradient:
        raise NetworkError(
            f"no gradient of the network's output reaches its layers {hidden or [seen.layer]}: its "
            "forward detaches a tensor, leaves torch (by numpy(), tolist() or item()), runs under "
            "torch.no_grad() or inference_mode(), or computes activations again for the gradient "
            "(torch.utils.checkpoint). Remove that from the forward, and put no_grad() around the "
            "calls that need no gradient."
        )


def _find_meaning(module: nn.Module, question: Question, seen: Trace) -> Meaning:
    scores, X = seen.scores, question.X
    if seen.last == "unknown" and question.output_kind == "auto" and in_unit_interval(scores):
        # More values tell more.
        n_rows = max(len(scores), X.block_size(MEANING_ROWS))
        with torch.no_grad():
            scores = raw_output(module, probe_rows(module, X, n_rows), question.key)
    meaning = find_meaning(scores, seen.last, question.output_kind, question.told)
    check_range(scores, meaning.kind)
    return meaning


def probe_rows(module: nn.Module, X: Batches, n_rows: int = 32) -> Tensor:
    """Read a few rows in the module's dtype and on its device."""
    like = first_parameter(module)
    return X.astype(like.dtype)[:n_rows].to(like.device)


def _check_width(output: Tensor, n_classes: int) -> None:
    width = output.shape[1]
    if width != n_classes and not (width == 1 and n_classes == 2):
        raise NetworkError(
            f"the network has {width} outputs, but y holds {n_classes} classes. It must have one "
            "output per class (or one for two classes): pass rows of every class of the network, "
            "or another network."
        )
