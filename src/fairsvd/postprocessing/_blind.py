"""BlindPostProcessor: the fair Bayes rule on predicted cells, without the group at prediction."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ..base import (
    Candidate,
    StrOptions,
    Task,
    parameter,
    positive_int,
    register_editor,
)
from ..networks import first_parameter
from ..objective import ALPHAS, FairRule
from ..phases import (
    JOINTS,
    BudgetedEditor,
    average_cells,
    cell_probabilities,
    count_teachers,
    judge_rules,
    train_cells,
    unknown_probabilities,
)

__all__ = ["BlindPostProcessor", "RuleNetwork"]


@register_editor(n_teachers=1, joint="head")
class BlindPostProcessor(BudgetedEditor):
    """Predict by the fair Bayes rule on the probabilities of the (group, label) cells.

    A network of the cells, which predicts label and group of a row together, is trained and
    stopped early. From its probabilities the decisions of highest expected utility under a gap
    follow row by row: one linear function, which needs no group at prediction. The result is one
    module, and what the user passed in is not changed.

    Parameters
    ----------
    joint : {"finetune", "refit", "head"}, default="finetune"
        Origin of the network of the cells. "finetune": the given network with a new last layer,
        tuned at a small rate. "refit": a new network of the same architecture (of the package's own
        if that cannot be initialised anew) is trained; nothing of the given one is left. "head": a
        new last layer on the given features.
    n_teachers : int or None, default=None
        Networks of the cells whose probabilities are averaged. None: 2, and 1 for tables of at
        least 5,000 editing rows and under a budget (``max_epochs``), as images have one by default.

    Attributes
    ----------
    rule_ : FairRule or None
        The chosen rule; None if the untouched network was chosen.
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`; ``history_`` has one row for each gap that the rule allows
        (``alpha``).

    See Also
    --------
    GapFineTuner : Tunes the given network itself.

    Notes
    -----
    The rule is attribute-blind post-processing after LinearPost (arXiv:2405.04025); the notes of
    :func:`fairsvd.objective.solve_rules` list our deviations. Limits of the gap from .2 to .001 are
    tried; limit and cut are chosen as in every editor, and the untouched network is one of the
    candidates. Cells of few rows are shrunk towards independence of label and group. Under
    demographic parity the rule may level down: read both groups' rates in ``report_``. A utility
    that is a function is optimised as balanced accuracy, and then chosen by the function.

    Examples
    --------
    >>> from fairsvd import BlindPostProcessor
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> editor = BlindPostProcessor(tolerance=0.1, random_state=0)
    >>> editor = editor.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> editor.predict(data.data).shape
    (800,)
    """

    joint: str = parameter(StrOptions(set(JOINTS)), default="finetune")
    n_teachers: int | None = parameter(positive_int(), None, default=None)

    def _count_candidates(self, task: Task) -> int:
        return 1 + (len(ALPHAS) if task.data.has_groups else 1)

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        yield Candidate({}, {"stage": "untouched"}, {"rule_": None})
        seed = np.random.SeedSequence(int(rng.integers(2**63 - 1)))
        budget, n_teachers = self._budget(task), self.n_teachers
        if budget is None:
            n_teachers = count_teachers(n_teachers, task.data)
        networks = train_cells(task, self.joint, seed.spawn(n_teachers or 1), budget)
        reading = {"kind": "logits", "output_layer": "rule", "output_key": None, "net": None}
        judged = cell_probabilities(networks, task.data)
        unknown = unknown_probabilities(networks, task.data)
        for rule, scores, verdict in judge_rules(task, judged, unknown):
            finish = partial(_build, networks=networks, rule=rule)
            params = {"stage": "rule", "alpha": rule.alpha}
            yield Candidate({}, params, {"rule_": rule}, finish, verdict, scores, reading)


class RuleNetwork(nn.Module):
    """Networks of the cells, the mean of their probabilities, and a linear rule on it.

    Parameters
    ----------
    networks : list of nn.Module
        Each maps rows to the logits (n, n_cells).
    rule : FairRule
    """

    def __init__(self, networks: list[nn.Module], rule: FairRule) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        weight = torch.as_tensor(rule.weights.T).to(first_parameter(networks[0]))
        # On "meta" nothing is drawn from the global generator.
        n_cells, n_classes = rule.weights.shape
        self.rule = nn.Linear(n_cells, n_classes, device="meta")
        self.rule.weight = nn.Parameter(weight.contiguous())
        self.rule.bias = nn.Parameter(torch.zeros_like(weight[:, 0]))

    def forward(self, X: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """Map rows to scores (n, n_classes); the largest is the decision."""
        shares = average_cells(self.networks, inputs if X is None else X)
        return self.rule(shares.to(self.rule.weight.dtype))


def _build(module: nn.Module, networks: list[nn.Module], rule: FairRule) -> nn.Module:
    return RuleNetwork(networks, rule)
