"""The fair teacher: the fair Bayes rule on predicted cells, as a target for every row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._rng import torch_generator
from ..arrays import Batches, draw_order, read_ahead, send_together, to_device
from ..base import EditData, Task
from ..networks import fast_logits
from ..objective import FairRule, Verdict, margin_of_threshold, shift_logits, solve_rules
from ..training import AHEAD as SENT_AHEAD
from ..training import Batch
from ._batches import is_table
from ._budget import Budget
from ._cell_network import average_cells
from ._cells import train_cells
from ._unknown import can_guess, with_unknown

__all__ = [
    "Lessons",
    "Teacher",
    "cell_probabilities",
    "find_teacher",
    "judge_rules",
    "unknown_probabilities",
]

# Factor of the teacher's scores, which have a standard deviation of about 1, in its probabilities:
# steep enough to place the boundary, flat enough for gradients beside it.
STEEPNESS = 8.0

# A row is mixed with another one's share of at most so much, drawn anew each time.
MOST_OF_ANOTHER = 0.5

# The teacher answers for this many batches of a table at once: fewer and larger passes.
AHEAD = 32


@dataclass(frozen=True)
class Teacher:
    """Networks of the cells and the rule on the mean of their probabilities.

    Attributes
    ----------
    networks : sequence of nn.Module
        Each maps rows to the logits (n, n_cells) of the (label, group) cells.
    rule : FairRule
        Its scores have a standard deviation of about 1; the largest is the decision.
    sharpness : float, default=1.0
        Factor of a network's logits before they are compared with the teacher's answers, so that
        an imitation keeps the scale of the network's own.
    """

    networks: Sequence[nn.Module]
    rule: FairRule
    sharpness: float = 1.0

    def probabilities(self, X: Tensor) -> Tensor:
        """Answer for rows: probabilities (n, n_classes) whose largest is the rule's decision."""
        with torch.no_grad():
            cells = average_cells(self.networks, X)
            like = cells.device, cells.dtype
            if like not in self.weights:
                self.weights[like] = to_device(torch.as_tensor(self.rule.weights), *like)
            return torch.softmax(STEEPNESS * (cells @ self.weights[like]), dim=1)

    @cached_property
    def weights(self) -> dict[tuple[torch.device, torch.dtype], Tensor]:
        """The rule's weights, sent once to each device that they were needed on."""
        return {}


def judge_rules(
    task: Task, cells: NDArray[np.float64], unknown: NDArray[np.float64] | None = None
) -> Iterator[tuple[FairRule, Tensor, Verdict]]:
    """Solve the rule under several limits and judge each, the strictest last.

    Parameters
    ----------
    task : Task
    cells : ndarray of shape (n_judged, n_cells)
        Probabilities of the cells of the judged rows.
    unknown : ndarray of shape (n_unknown, n_cells), optional
        The same of the validation rows of unknown group, which then count in the choice of the cut
        and in the verdicts as :func:`with_unknown` says.

    Yields
    ------
    rule : FairRule
        Scaled, so that its scores on the judged rows have a standard deviation of 1. If the user
        has fixed the threshold, the rule decides there as it would at its own best cut.
    scores : Tensor of shape (n_judged, n_classes)
    verdict : Verdict
        With the rule's best cut.
    """
    data, constraint = task.data, task.constraint
    # The networks were stopped early, so that they have memorised no rows.
    judge = data.judge.together()
    more = 0
    if unknown is not None and data.unknown is not None and can_guess(judge):
        judge, more = with_unknown(judge, data.unknown, unknown), data.n_groups
    free = replace(judge, constraint=replace(constraint, threshold=None))
    counts = data.count_cells()
    utility = constraint.utility if isinstance(constraint.utility, str) else "balanced_accuracy"
    pos = constraint.pos if data.n_classes == 2 else None
    rules = solve_rules(
        cells,
        counts,
        constraint.gap,
        pos,
        utility,
        weights=data.judge.weights,
        divisions=constraint.divisions,
    )
    # Without groups nothing is compared, so that every limit has the same rule.
    for rule in rules if data.has_groups else rules[:1]:
        parts = [cells] if unknown is None else [cells, *[unknown] * more]
        scores = torch.as_tensor(rule.scores(np.concatenate(parts)))
        scale = spread(scores[: len(cells)])
        rule, scores = replace(rule, weights=rule.weights / scale), scores / scale
        if constraint.threshold is not None and data.n_classes == 2:
            cut = free(scores).margin - margin_of_threshold(constraint.threshold)
            rule, scores = rule.shifted(cut), shift_logits(scores, cut)
        yield rule, scores[: len(cells)].float(), judge(scores.float())


def find_teacher(
    task: Task,
    joint: str,
    n_teachers: int,
    seed: np.random.SeedSequence,
    budget: Budget | None = None,
) -> Teacher:
    """Train the networks of the cells and take the rule that the judge likes best."""
    networks = train_cells(task, joint, seed.spawn(n_teachers), budget)
    cells = cell_probabilities(networks, task.data)
    judged = judge_rules(task, cells, unknown_probabilities(networks, task.data))
    rule, _, verdict = max(judged, key=lambda each: each[2].rank)
    return Teacher(networks, rule.shifted(verdict.margin), STEEPNESS / spread(task.data.untouched))


def spread(scores: Tensor) -> float:
    """Measure the standard deviation of the lead of the last class over the first one."""
    return max(float((scores[:, -1] - scores[:, 0]).double().std()), 1e-12)


def cell_probabilities(networks: Sequence[nn.Module], data: EditData) -> NDArray[np.float64]:
    """Average the networks' probabilities (n_judged, n_cells) of the judged rows."""

    def run(X: Tensor) -> Tensor:
        return average_cells(networks, to_device(X, data.device, data.dtype))

    return fast_logits(run, data.judged).double().numpy()


def unknown_probabilities(
    networks: Sequence[nn.Module], data: EditData
) -> NDArray[np.float64] | None:
    """Average the networks' probabilities of the validation rows of unknown group, if any."""
    if data.unknown is None:
        return None
    return cell_probabilities(networks, replace(data, judged=data.unknown.X))


class Lessons:
    """Endless batches of rows, mixed with one another, and the teacher's answers for them.

    Parameters
    ----------
    rows : Batches
    teacher : Teacher
    batch_size : int
    ahead : int
        Batches that the teacher answers for at once.
    generator : torch.Generator
    device : torch.device
    dtype : torch.dtype
    weights : Tensor of shape (n_rows,), optional
        How often each row comes; None: all come once in a pass.
    """

    def __init__(
        self,
        rows: Batches,
        teacher: Teacher,
        *,
        batch_size: int,
        ahead: int,
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype,
        weights: Tensor | None = None,
    ) -> None:
        self.rows, self.teacher, self.weights = rows, teacher, weights
        self.batch_size, self.ahead = min(batch_size, len(rows)), ahead
        self.generator, self.device, self.dtype = generator, device, dtype

    def __iter__(self) -> Iterator[Batch]:
        """Draw batches for ever, with the teacher's decisions as ``y`` and no groups (-1)."""
        draws = self._draw()
        while True:
            yield from self._answer(list(islice(draws, SENT_AHEAD)))

    def _answer(self, draws: Sequence[Draw]) -> Iterator[Batch]:
        positions, seeds, mixtures = zip(*draws, strict=True)
        rows = read_ahead(self.rows, positions, seeds, self.device, self.dtype)
        for mixture in send_together(mixtures, self.device):
            X = mix(next(rows), mixture)
            targets = self.teacher.probabilities(X)
            decisions, ones = targets.argmax(dim=1), torch.ones_like(targets[:, 0])
            columns = X, decisions, torch.full_like(decisions, -1), ones, ones, targets
            parts = (column.split(self.batch_size) for column in columns)
            yield from map(Batch, *parts)

    def _draw(self) -> Iterator[Draw]:
        """Draw, for the rows of each answer, their positions and how they are mixed."""
        while True:
            order = draw_order(len(self.rows), self.weights, self.generator)
            for positions in order.split(self.batch_size * self.ahead):
                seed = self.rows.draw_seed(self.generator)
                yield positions, seed, self._draw_mixture(len(positions))

    def _draw_mixture(self, n: int) -> Tensor:
        """Draw the other row of each row and the bits of its share, (2, n) int64."""
        if not self.rows.is_continuous:
            return torch.empty(2, 0, dtype=torch.int64)
        share = MOST_OF_ANOTHER * torch.rand(n, generator=self.generator, dtype=torch.float64)
        other = torch.randperm(n, generator=self.generator)
        # In one tensor, so that both travel in one copy.
        return torch.stack([other, share.view(torch.int64)])


# Positions of rows, the seed of their augmentation, and their mixture.
Draw = tuple[Tensor, int | None, Tensor]


def mix(X: Tensor, mixture: Tensor) -> Tensor:
    """Draw rows towards others of them; without a mixture nothing lies between two rows."""
    if not mixture.numel():
        return X
    other, bits = mixture
    share = bits.view(torch.float64).to(X).reshape(-1, *[1] * (X.ndim - 1))
    return torch.lerp(X, X[other], share)


def make_lessons(
    data: EditData, teacher: Teacher, rng: np.random.Generator, *, size: int | None = None
) -> Lessons:
    """Make endless batches of the editing and validation rows with the teacher's answers.

    Parameters
    ----------
    data : EditData
    teacher : Teacher
    rng : numpy.random.Generator
    size : int, optional
        Rows per batch; None: ``data.batch_size``.
    """
    return Lessons(
        data.lesson_rows,
        teacher,
        batch_size=data.batch_size if size is None else size,
        # Images are large: one batch at a time.
        ahead=AHEAD if is_table(data) else 1,
        generator=torch_generator(rng),
        device=data.device,
        dtype=data.dtype,
        weights=data.lesson_weights,
    )
