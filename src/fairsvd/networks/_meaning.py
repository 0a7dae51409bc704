"""Whether a network returns logits or probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..exceptions import NetworkError
from ._scores import PROBABILITIES, range_outside

__all__ = ["Meaning", "find_meaning"]

# Values in [0, 1] of so many rows and so wide a spread are taken for probabilities without a doubt:
# as logits they would predict one class for every row.
CLEAR_ROWS, CLEAR_SPREAD = 100, 0.5

AMBIGUOUS = (
    "All values that the network returns on {n} rows are in [0, 1], from {low:.2g} to {high:.2g}, "
    "{sums}. They are taken for probabilities, but they could be logits. Say which by output_kind="
    "'probabilities' or 'logits'."
)


@dataclass(frozen=True)
class Meaning:
    """What the scores of a network are.

    Attributes
    ----------
    kind : {"logits", "one_logit", "probabilities", "one_probability", "sigmoids"}
    why : str
        How that is known.
    doubt : str, default=""
        A warning if it is not certain.
    """

    kind: str
    why: str
    doubt: str = ""

    @property
    def note(self) -> str:
        """Say what the output was taken for."""
        what = "logits"
        if self.kind in PROBABILITIES:
            what = "probabilities; they are converted to log-probabilities"
            if self.kind == "sigmoids":
                what += " of columns that do not add up to 1, each counted by its share"
        return f"The network returns {what} ({self.why})."


def find_meaning(scores: Tensor, last: str, asked: str, told: str | None) -> Meaning:
    """Find out what scores are.

    Parameters
    ----------
    scores : Tensor of shape (n, n_outputs)
        Of some rows.
    last : {"layer", "squashing", "unknown"}
        What was applied last (:class:`~._trace.Trace`).
    asked : {"auto", "logits", "probabilities"}
        The user's ``output_kind``.
    told : {"logits", "probabilities"} or None
        What the criterion of the network's training says.

    Raises
    ------
    NetworkError
        ``asked`` does not agree with the values or with the criterion.
    """
    if asked != "auto":
        _check_asked(scores, asked, told)
        return Meaning(_kind(scores, asked), "as output_kind says")
    if told is not None:
        _check_told(scores, told)
        return Meaning(_kind(scores, told), "as its criterion says")
    if last == "layer":
        return Meaning(_kind(scores, "logits"), "a linear layer makes them")
    if not in_unit_interval(scores):
        return Meaning(_kind(scores, "logits"), f"on {len(scores)} rows they leave [0, 1]")
    if last == "squashing":
        return Meaning(_kind(scores, "probabilities"), "a sigmoid or softmax makes them")
    kind = _kind(scores, "probabilities")
    why = f"on {len(scores)} rows they are in [0, 1]"
    if kind == "probabilities":
        return Meaning(kind, why + " and add up to 1")
    return Meaning(kind, why, _doubt(scores))


def in_unit_interval(scores: Tensor) -> bool:
    """Tell whether all values are in [0, 1]."""
    return bool((scores >= 0).all() and (scores <= 1).all())


def _kind(scores: Tensor, meaning: str) -> str:
    if scores.shape[1] == 1:
        return "one_logit" if meaning == "logits" else "one_probability"
    if meaning == "logits":
        return "logits"
    sums = scores.sum(dim=1)
    adds_up = torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
    return "probabilities" if adds_up else "sigmoids"


def _doubt(scores: Tensor) -> str:
    low, high = (float(each) for each in scores.aminmax())
    if len(scores) >= CLEAR_ROWS and high - low >= CLEAR_SPREAD:
        return ""
    sums = "in one column" if scores.shape[1] == 1 else "in rows that do not add up to 1"
    return AMBIGUOUS.format(n=len(scores), low=low, high=high, sums=sums)


def _check_asked(scores: Tensor, asked: str, told: str | None) -> None:
    if told not in (None, asked):
        raise NetworkError(
            f"output_kind={asked!r}, but the criterion of the skorch net takes its module's output "
            f"for {told}: leave output_kind='auto', or give the net another criterion."
        )
    if asked == "probabilities" and (found := range_outside(scores)):
        raise NetworkError(
            f"output_kind='probabilities', but the network returns values {found}, and "
            "probabilities are in [0, 1]. Pass output_kind='logits' or 'auto'."
        )


def _check_told(scores: Tensor, told: str) -> None:
    if told == "probabilities" and (found := range_outside(scores)):
        raise NetworkError(
            "the criterion of the skorch net (NLLLoss or BCELoss) takes its module's output for "
            f"probabilities, but the module returns values {found}. End it with a softmax or "
            "sigmoid, or give the net a criterion for logits (CrossEntropyLoss, "
            "BCEWithLogitsLoss)."
        )
