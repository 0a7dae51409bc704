"""What an editor is given, what it returns, and how one of its candidates is chosen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..arrays import Batches, LabelledRows
from ..networks import fast_logits, to_logits
from ..objective import Judge, Verdict

__all__ = ["Candidate", "EditData", "Outcome", "choose", "edited_copy"]


@dataclass(frozen=True)
class Candidate:
    """One edited network.

    Attributes
    ----------
    state : mapping of name to Tensor
        The entries of the state dict that differ from the untouched network's.
    params : mapping
        What made it, for ``history_``.
    attributes : mapping
        Fitted attributes of the editor should it be chosen.
    finish : callable, optional
        Changes the structure of the chosen network (compression).
    verdict : Verdict, optional
        Where the editor has judged it already.
    """

    state: Mapping[str, Tensor]
    params: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[nn.Module], nn.Module] | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class EditData:
    """Everything an edit may look at.

    Attributes
    ----------
    editing : LabelledRows
        Rows to compute losses and curvature on.
    judged : Batches
        Rows of the judge: validation, then a sample of the editing rows.
    judge : Judge
    untouched : Tensor of shape (n_judged, n_classes)
        Logits of the judged rows before any edit.
    kind : str
        What the module's output is (see ``networks.to_logits``).
    output_layer : str
        Name of the layer that makes the logits.
    n_classes, n_groups : int
    group_labels : tuple
        Empty without sensitive features: no fairness term then, and one pseudo group.
    margin : float
        The untouched network's threshold of highest utility, in units of the margin.
    batch_size : int
    device : torch.device
    dtype : torch.dtype
        Of the network.
    """

    editing: LabelledRows
    judged: Batches
    judge: Judge
    untouched: Tensor
    kind: str
    output_layer: str
    n_classes: int
    n_groups: int
    group_labels: tuple[Any, ...]
    margin: float
    batch_size: int
    device: torch.device
    dtype: torch.dtype

    @property
    def has_groups(self) -> bool:
        """Tell whether there is a fairness term."""
        return len(self.group_labels) > 0

    def forward(self, module: nn.Module, state: Mapping[str, Tensor], X: Tensor) -> Tensor:
        """Logits of the module with some entries of its state replaced; differentiable."""
        output = functional_call(module, dict(state), (X,)) if state else module(X)
        return to_logits(output, self.kind)

    def editing_batches(self, size: int = 1024) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (x, y, groups) of all editing rows in order, for passes without training."""
        for X, y, groups in self.editing.batches(size, self.device):
            yield X.to(self.dtype), y, groups

    def logits(self, module: nn.Module, state: Mapping[str, Tensor]) -> Tensor:
        """Logits of the judged rows."""

        def run(X: Tensor) -> Tensor:
            return self.forward(module, state, X.to(self.device, self.dtype))

        return fast_logits(run, self.judged)


@dataclass(frozen=True)
class Outcome:
    """The chosen candidate and the record of all.

    Attributes
    ----------
    candidate : Candidate
    verdict : Verdict
    history : list of dict
        A row for each candidate.
    """

    candidate: Candidate
    verdict: Verdict
    history: list[dict[str, Any]]


def choose(module: nn.Module, candidates: Iterable[Candidate], data: EditData) -> Outcome:
    """Judge the untouched network and every candidate, keep the best and the record.

    Ties go to the earlier candidate, the untouched network being the first. An editor that has
    attributes to set when nothing was edited yields a candidate with an empty state first.
    """
    best = Candidate({})
    verdict = data.judge(data.untouched)
    history: list[dict[str, Any]] = []
    for candidate in candidates:
        if not candidate.state and not history:
            best = candidate
            history.append(_record(candidate, verdict))
            continue
        if not history:
            history.append(_record(best, verdict))
        found = candidate.verdict or data.judge(data.logits(module, candidate.state))
        history.append(_record(candidate, found))
        if found.rank > verdict.rank:
            best, verdict = candidate, found
    if not history:
        history.append(_record(best, verdict))
    return Outcome(best, verdict, history)


def _record(candidate: Candidate, verdict: Verdict) -> dict[str, Any]:
    threshold = 1 / (1 + float(torch.tensor(-verdict.margin, dtype=torch.float64).exp()))
    return {
        **candidate.params,
        "utility": verdict.utility,
        "gap": verdict.gap,
        "threshold": threshold,
        "feasible": verdict.feasible,
        "value": verdict.value,
    }


def edited_copy(module: nn.Module, candidate: Candidate) -> nn.Module:
    """Build the chosen network: a copy with the candidate's state, in evaluation mode."""
    edited = copy.deepcopy(module)
    with torch.no_grad():
        current = edited.state_dict()
        for name, value in candidate.state.items():
            current[name].copy_(value)
    if candidate.finish is not None:
        edited = candidate.finish(edited)
    return edited.eval()
