"""The context and the controls of tasks of more than two classes, which have no threshold.

The predicted class is the one with the largest logit. Gaps are those of every class against the
rest, averaged over the classes. As in ``protocol.py``, everything is plain numpy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.fairness.context import Context, Method, Outcome
from benchmarks.fairness.protocol import (
    CONSTRAINTS,
    FRACTION,
    MIN_CELL,
    OVERFIT,
    OVERFIT_CANDIDATE,
    TOLERANCE,
    chance_of,
    mean_behind,
    pool,
    smallest_cell,
)
from benchmarks.nets import PER_BATCH, STEEPNESS, in_blocks
from benchmarks.tasks import Rows

__all__ = ["CONTROLS", "ManyContext", "evaluate", "gap", "recalls"]

PENALTIES = (0.3, 1.0, 3.0)

# Groups, classes, classes.
Shape = tuple[int, int, int]


def shape_of(rows: Rows) -> Shape:
    """Give the shape of the table of counts of some rows."""
    n_groups, n_classes = 1 + int(rows.g.max()), 1 + int(rows.y.max())
    return n_groups, n_classes, n_classes


def counted(predictions: np.ndarray, rows: Rows, shape: Shape | None = None) -> np.ndarray:
    """Count rows by (group, true class, predicted class)."""
    shape = shape_of(rows) if shape is None else shape
    cells = np.ravel_multi_index((rows.g, rows.y, predictions), shape)
    return np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape).astype(float)


def share(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Divide; a division by 0 gives NaN."""
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def recalls(counts: np.ndarray) -> np.ndarray:
    """Compute the accuracy of every (group, class) cell; NaN where it is empty."""
    return share(np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2))


def gap(counts: np.ndarray, constraint: str) -> float:
    """Average, over the classes, the gap between groups of one class against the rest."""
    selected, rows = counts.sum(axis=1), counts.sum(axis=(1, 2))[:, None]
    if constraint == "demographic_parity":
        spreads = [np.ptp(share(selected, np.broadcast_to(rows, selected.shape)), axis=0)]
    else:
        hits, own = np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2)
        rates = recalls(counts), share(selected - hits, rows - own)
        spreads = [np.nanmax(rate, axis=0) - np.nanmin(rate, axis=0) for rate in rates]
    return float(np.nanmean(np.max(spreads, axis=0)))


def utility_of(counts: np.ndarray, utility: str) -> float:
    """Compute balanced accuracy, the average (label, group) cell, or its mean with the worst."""
    if utility == "balanced_accuracy":
        return float(np.nanmean(recalls(counts.sum(axis=0, keepdims=True))))
    right = recalls(counts)
    if utility == "cell_balanced_accuracy":
        return float(np.nanmean(right))
    return float((np.nanmean(right) + np.nanmin(right)) / 2)


def evaluate(
    predictions: np.ndarray, rows: Rows, constraint: str, before: np.ndarray | None = None
) -> dict[str, object]:
    """Measure predicted classes on the test rows; see :func:`protocol.evaluate`."""
    counts = counted(np.asarray(predictions, dtype=np.int64), rows)
    gaps = {name: gap(counts, name) for name in CONSTRAINTS}
    return {
        "accuracy": float(np.mean(predictions == rows.y)),
        "balanced_accuracy": utility_of(counts, "balanced_accuracy"),
        "equalized_odds_difference": gaps["equalized_odds"],
        "demographic_parity_difference": gaps["demographic_parity"],
        "worst_cell": float(np.nanmin(recalls(counts))),
    }


def logits(module: nn.Module, X: np.ndarray) -> np.ndarray:
    """Compute the logits of every row; float64 ndarray of shape (n, n_classes)."""
    return in_blocks(module, X).double().numpy()


class ManyContext(Context):
    """A context whose candidates are functions from features to logits."""

    @cached_property
    def untouched(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits of the base network on the rows that choose."""
        return self.scores(partial(logits, self.network))

    @cached_property
    def before(self) -> np.ndarray:
        """Predictions of the base network for the test rows."""
        return logits(self.network, self.test_X).argmax(axis=1)

    def measured(
        self, both: Sequence[np.ndarray], constraint: str, bar: float
    ) -> tuple[float, float]:
        """Compute utility and gap, on each part separately if it is over-fitted beyond a bar."""
        if excess(both, mean_behind(self.utility)) > bar:
            return utility_of(both[0], self.utility), max(gap(c, constraint) for c in both)
        return utility_of(sum(both), self.utility), gap(sum(both), constraint)

    def select(
        self, scorers: Sequence[Callable[[np.ndarray], np.ndarray]], constraint: str, first: int = 0
    ) -> tuple[Outcome, int]:
        """Apply the selection rule of :func:`protocol.choose`, without a threshold."""
        candidates = [self.untouched, *map(self.scores, scorers)]
        shape = shape_of(pool(self.parts))
        counts = [
            [counted(s.argmax(axis=1), rows, shape) for s, rows in zip(c, self.parts, strict=True)]
            for c in candidates
        ]
        always = excess(counts[0], "balanced_accuracy") > OVERFIT
        able = smallest_cell(self.validation) >= MIN_CELL
        bar = -np.inf if always else OVERFIT_CANDIDATE if able else np.inf
        values, gaps = np.array([self.measured(both, constraint, bar) for both in counts]).T
        chance = chance_of(self.utility, shape[1])
        floor = chance + max(0.0, values[0] - chance) / 2
        met = (gaps <= TOLERANCE) & (values >= floor)
        worth = values - np.maximum(0, gaps - FRACTION * TOLERANCE)
        worth[~met if met[first:].any() else values < floor] = -np.inf
        best = first + int(worth[first:].argmax())
        winner = [partial(logits, self.network), *scorers][best]
        notes = {"met": bool(met[best]), "chosen_gap": gaps[best], "chosen_utility": values[best]}
        return Outcome(winner(self.test_X).argmax(axis=1), notes), best


def excess(both: Sequence[np.ndarray], mean: str) -> float:
    """Compute by how much training rows are fitted better; validation counts come first."""
    return utility_of(both[1], mean) - utility_of(both[0], mean)


def soft_gap(probabilities: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Average the spreads of soft TPR and of soft FPR over the classes, and add the two.

    Every (label, group) cell of the batch holds equally many rows.
    """
    own = nn.functional.one_hot(y, probabilities.shape[1]).to(probabilities)
    rates = []
    for group in range(1 + int(g.max())):
        p, true = probabilities[g == group], own[g == group]
        rates.append(
            torch.stack(
                [(p * mask).sum(dim=0) / mask.sum(dim=0).clamp_min(1) for mask in (true, 1 - true)]
            )
        )
    table = torch.stack(rates)
    return (table.amax(dim=0) - table.amin(dim=0)).mean(dim=1).sum()


def fine_tune(
    context: Context,
    penalty: float,
    *,
    balance: str = "classes",
    names: Sequence[str] | None = None,
    rate: float = 1e-3,
    steps: int = 300,
    every: int = 30,
) -> Iterator[nn.Module]:
    """Fine-tune a copy under a soft gap, as :func:`nets.fine_tune` does for two classes."""
    rows, tuned = context.train, copy.deepcopy(context.network).eval()
    free = [p for name, p in tuned.named_parameters() if names is None or name in names]
    optimizer = torch.optim.Adam(free, lr=rate)
    generator = torch.Generator().manual_seed(context.seed)
    inputs, labels, groups = map(torch.from_numpy, rows)
    code = rows.y * len(context.groups) + rows.g
    cells = [torch.from_numpy(np.flatnonzero(code == c)) for c in np.unique(code)]
    per_cell = max(1, PER_BATCH // len(cells))
    size = torch.bincount(torch.from_numpy(code)).float()
    in_class = torch.bincount(labels).float()
    for step in range(1, steps + 1):
        draws = [c[torch.randint(len(c), (per_cell,), generator=generator)] for c in cells]
        batch = torch.cat(draws)
        y, g = labels[batch], groups[batch]
        weights = torch.ones(len(batch))
        if balance == "classes":
            weights = size[y * len(context.groups) + g] / in_class[y]
        out = tuned(inputs[batch])
        losses = nn.functional.cross_entropy(out, y, reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        if penalty:
            loss = loss + penalty * soft_gap(torch.softmax(STEEPNESS * out, dim=1), y, g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % every == 0:
            yield copy.deepcopy(tuned)


def choose_tuned(
    context: Context, constraint: str, penalties: Iterable[float], **how: Any
) -> Outcome:
    """Fine-tune once for every penalty and choose among all candidates."""
    made = [module for penalty in penalties for module in fine_tune(context, penalty, **how)]
    outcome, winner = context.select([partial(logits, module) for module in made], constraint)
    return Outcome(outcome.predictions, {**outcome.notes, "winner": winner})


def untouched(context: Context, constraint: str) -> Outcome:
    """Leave the network alone."""
    return Outcome(context.before, {})


def plain_fine_tuning(context: Context, constraint: str) -> Outcome:
    """Fine-tune every weight on class-balanced cross-entropy, without a gap in the loss."""
    return choose_tuned(context, constraint, [0.0])


def soft_gap_fine_tuning(context: Context, constraint: str) -> Outcome:
    """Fine-tune every weight with the soft gap in the loss."""
    return choose_tuned(context, constraint, PENALTIES, balance=context.balance)


def last_layer(context: Context, constraint: str) -> Outcome:
    """Retrain the last layer on rows that hold every (label, group) cell alike."""
    names = [name for name, _ in context.network.named_parameters()][-2:]
    return choose_tuned(context, constraint, [0.0], balance="cells", names=names, rate=1e-2)


CONTROLS = {
    "untouched": Method(untouched, False, "untouched"),
    "plain-fine-tuning": Method(plain_fine_tuning, False, "plain fine-tuning"),
    "soft-gap-fine-tuning": Method(soft_gap_fine_tuning, False, "full fine-tuning, soft gap"),
    "last-layer": Method(last_layer, False, "last layer on balanced cells"),
}
