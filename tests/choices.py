"""Candidates of one number, and data that judge them by it, for tests of the choice."""

from __future__ import annotations

import torch

from fairsvd.base import Candidate
from fairsvd.objective import Verdict

BEFORE = Verdict(0.5, 0.8, 0.3, False, 0.6)


def verdict(value, *, feasible=True, margin=0.0):
    return Verdict(margin, value + 0.1, 0.02, feasible, value)


class Data:
    """Judges a candidate by the one number of its state, and notes what it was asked."""

    def __init__(self, before=None):
        self.before, self.untouched, self.judged = before, torch.tensor([[0.0, 1.0]]), []
        self.certifying = None

    def logits(self, module, state):
        return torch.tensor([[0.0, float(state["w"])]])

    def judge(self, logits):
        self.judged.append(float(logits[0, 1]))
        return BEFORE if logits is self.untouched else verdict(float(logits[0, 1]))


def edit(value, number=0, **fields):
    return Candidate({"w": torch.tensor(float(value))}, {"number": number}, **fields)
