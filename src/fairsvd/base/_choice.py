"""The choice among candidates, which an interrupt may end early."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..objective import Verdict
from ._candidate import Candidate
from ._certificate import Certificate, Ladder, Rung
from ._task import EditData

__all__ = ["Outcome", "choose"]


@dataclass(frozen=True)
class Outcome:
    """The chosen candidate and the record of all candidates.

    Attributes
    ----------
    candidate : Candidate
    verdict : Verdict
    history : list of dict
        One row for each candidate.
    logits : Tensor, optional
        Logits of the judged rows under the chosen candidate, if they are known.
    interrupted : bool, default=False
        Whether an interrupt ended the search before the last candidate.
    place : int, default=0
        Position of the chosen candidate in the history.
    certificate : Certificate, optional
        What is promised of the chosen candidate.
    """

    candidate: Candidate
    verdict: Verdict
    history: list[dict[str, Any]]
    logits: Tensor | None = None
    interrupted: bool = False
    place: int = 0
    certificate: Certificate | None = None

    @property
    def table(self) -> list[dict[str, Any]]:
        """Return the history with a column that says which row was chosen."""
        return [{**row, "chosen": k == self.place} for k, row in enumerate(self.history)]

    @property
    def record(self) -> dict[str, Any]:
        """Return the history row of the chosen candidate."""
        return _record(self.candidate, self.verdict)


@dataclass(frozen=True)
class _Standing:
    """The leader and the number judged so far, in one object that no interrupt can split."""

    best: Candidate
    verdict: Verdict
    logits: Tensor | None
    n_judged: int = 0
    place: int = 0


class _Search:
    """Judges candidates one by one and remembers the best."""

    def __init__(self, module: nn.Module, data: EditData, keep: bool) -> None:
        self.module = module
        self.data = data
        self.keep = keep
        verdict = data.before or data.judge(data.untouched)
        self.standing = _Standing(Candidate({}), verdict, data.untouched)
        self.history: list[dict[str, Any]] = []
        self.ladder = None if data.certifying is None else Ladder(data)

    def take(self, candidate: Candidate) -> None:
        """Judge a candidate; the standing is replaced last, by one assignment."""
        if self.ladder is not None:
            candidate = candidate.owned()  # which keeps those that are not the best, too
        best, verdict, logits = self.standing.best, self.standing.verdict, self.standing.logits
        place = self.standing.place
        if not candidate.state and not self.history:
            best, verdict = candidate, candidate.verdict or verdict
            new_logits: Tensor | None = logits
            self.history.append(_record(candidate, verdict))
        else:
            if not self.history:
                self.history.append(_record(best, verdict))
                if self.ladder is not None:
                    self.ladder.offer(best, logits, 0)
            new_logits, new_verdict = self._judged(candidate)
            self.history.append(_record(candidate, new_verdict))
            if new_verdict.rank > verdict.rank and _is_finite(new_logits):
                del best
                if not self.keep:
                    # Freed before the new one is copied; an interrupt keeps nothing.
                    self.standing = replace(self.standing, best=Candidate({}))
                best, verdict, logits = candidate.owned(), new_verdict, new_logits
                place = len(self.history) - 1
        if self.ladder is not None:
            self.ladder.offer(candidate, new_logits, len(self.history) - 1)
        self.standing = _Standing(best, verdict, logits, len(self.history), place)

    def _judged(self, candidate: Candidate) -> tuple[Tensor | None, Verdict]:
        if candidate.verdict is not None:
            return candidate.logits, candidate.verdict
        logits = candidate.logits
        logits = self.data.logits(self.module, candidate.state) if logits is None else logits
        return logits, self.data.judge(logits)

    def outcome(self, interrupted: bool) -> Outcome:
        """Return the best candidate and the record of all that were fully judged."""
        end = self.standing
        history = self.history[: end.n_judged] or [_record(end.best, end.verdict)]
        found = Outcome(end.best, end.verdict, history, end.logits, interrupted, end.place)
        if self.ladder is None:
            return found
        # After an interrupt the module may hold a half-undone edit.
        rung = Rung(end.best, end.verdict, end.logits, end.place)
        rung, certificate = (rung, None) if interrupted else self.ladder.certify(self.module, rung)
        given = certificate is not None and certificate.given
        return replace(
            found,
            candidate=rung.candidate,
            verdict=replace(rung.verdict, feasible=given),
            logits=rung.logits,
            place=rung.place,
            certificate=certificate,
        )


def _is_finite(logits: Tensor | None) -> bool:
    """Tell whether an edit can be used; one that diverged on some rows could not predict them."""
    return logits is None or bool(logits.isfinite().all())


def choose(
    module: nn.Module,
    candidates: Iterable[Candidate],
    data: EditData,
    *,
    keep: bool = False,
    progress: Callable[[Mapping[str, Any], Verdict], object] | None = None,
) -> Outcome:
    """Judge the untouched network and every candidate; keep the best and the record.

    Ties go to the earlier candidate; the untouched network is the first. An editor that sets
    attributes even if nothing was edited yields a candidate with an empty state first. If the
    editor judges on other rows than the judge, it puts its own verdict into that candidate.

    Parameters
    ----------
    module : nn.Module
    candidates : iterable of Candidate
        A state may hold tensors that go on to change when the next one is requested: the best is
        copied.
    data : EditData
    keep : bool, default=False
        If True, a KeyboardInterrupt after the first candidate ends the search and is not raised.
        The module may then hold a half-undone edit: do not use it again.
    progress : callable, optional
        Called once for each candidate with its history row and the verdict on the best so far.
    """
    search = _Search(module, data, keep)
    interrupted = False
    try:
        for candidate in candidates:
            search.take(candidate)
            if progress is not None:
                progress(search.history[-1], search.standing.verdict)
            # A beaten state is freed before the next one is made.
            del candidate
    except KeyboardInterrupt:
        # The first candidate carries the fitted attributes of an unedited network; without it
        # nothing valid can be kept.
        if not keep or not search.standing.n_judged:
            raise
        interrupted = True
        _stop(candidates)
    return search.outcome(interrupted)


def _stop(candidates: Iterable[Candidate]) -> None:
    """Stop the generator of the candidates as an interrupt inside it would have done."""
    throw = getattr(candidates, "throw", None)
    if throw is not None:
        # A generator that the interrupt has already ended raises it again.
        with suppress(KeyboardInterrupt, StopIteration):
            throw(KeyboardInterrupt)


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
