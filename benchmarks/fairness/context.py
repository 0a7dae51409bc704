"""What a method of the benchmark receives, and what it has to return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from torch import nn

from benchmarks.fairness.protocol import best_threshold, choose, pool
from benchmarks.nets import margins
from benchmarks.tasks import Rows

__all__ = ["Context", "Method", "Outcome"]

SAMPLE = 4000


class Outcome(NamedTuple):
    """Predictions for the test rows, and notes about them.

    Attributes
    ----------
    predictions : int ndarray of shape (n_test,)
    notes : dict
        They are copied into the row.
    """

    predictions: np.ndarray
    notes: dict[str, Any]


@dataclass
class Context:
    """One task, form and seed, without the labels of the test rows.

    Attributes
    ----------
    network : nn.Module
        The base network, trained; methods work on copies.
    train, validation : Rows
        What may be used to fit and to choose.
    test_X : float32 ndarray
    test_g : int64 ndarray
        Only for methods that say they need the group at prediction time.
    groups : tuple of str
    seed : int
    utility : {"balanced_accuracy", "mean_and_worst_cell_accuracy"}
        What the selection rule maximises.
    balance : {"classes", "cells"}
        How the controls' cross-entropy weighs rows.
    shares : dict
        The share of entries that the default edit's best removal took, by constraint.
    unbiased : Rows or None
        The base network's training rows without their planted bias, for the oracle only.
    """

    network: nn.Module
    train: Rows
    validation: Rows
    test_X: np.ndarray
    test_g: np.ndarray
    groups: tuple[str, ...]
    seed: int
    utility: str = "balanced_accuracy"
    balance: str = "classes"
    shares: dict[str, float] = field(default_factory=dict)
    unbiased: Rows | None = None

    @classmethod
    def of(cls, problem: Any, network: nn.Module, **settings: Any) -> Self:
        """Make the context of a problem and its base network, without labels of test rows."""
        return cls(
            network=network,
            train=problem.train,
            validation=problem.validation,
            test_X=problem.test.X,
            test_g=problem.test.g,
            groups=problem.groups,
            seed=problem.seed,
            **settings,
        )

    @cached_property
    def sample(self) -> Rows:
        """Up to 4,000 training rows, drawn once."""
        n = len(self.train.y)
        drawn = np.random.default_rng(self.seed).permutation(n)[:SAMPLE]
        return Rows(*(column[np.sort(drawn)] for column in self.train))

    @property
    def parts(self) -> tuple[Rows, Rows]:
        """The rows that choose: validation and the sample of training rows."""
        return self.validation, self.sample

    def scores(self, score: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Score the rows that choose; two ndarrays."""
        return score(self.validation.X), score(self.sample.X)

    @cached_property
    def untouched(self) -> tuple[np.ndarray, np.ndarray]:
        """Margins of the base network on the rows that choose."""
        return self.scores(lambda X: margins(self.network, X))

    @cached_property
    def offset(self) -> float:
        """The margin at which the base network is best on its training rows."""
        scores = margins(self.network, self.train.X)
        return best_threshold(scores, self.train, len(self.groups), self.utility)

    @cached_property
    def operating_threshold(self) -> float:
        """The margin at which the base network is best on the validation and sampled rows."""
        pooled = np.concatenate(self.untouched)
        return best_threshold(pooled, pool(self.parts), len(self.groups), self.utility)

    @cached_property
    def before(self) -> np.ndarray:
        """Predictions of the base network for the test rows at its best threshold."""
        return (margins(self.network, self.test_X) > self.operating_threshold).astype(int)

    def select(
        self, scorers: Sequence[Callable[[np.ndarray], np.ndarray]], constraint: str, first: int = 0
    ) -> tuple[Outcome, int]:
        """Apply the selection rule to candidates and predict the test rows with the winner.

        Parameters
        ----------
        scorers : sequence of callable
            Each maps features to scores; the base network is added as candidate 0.
        constraint : str
        first : {0, 1}, default=0
            1 if the base network may not be chosen, because another method is being judged.

        Returns
        -------
        outcome : Outcome
        winner : int
            0 for the base network, i for scorer i - 1.
        """
        candidates = [self.untouched] + [self.scores(score) for score in scorers]
        choice = choose(candidates, self.parts, constraint, utility=self.utility, first=first)
        winner = [lambda X: margins(self.network, X), *scorers][choice.candidate]
        predictions = (winner(self.test_X) > choice.threshold).astype(int)
        notes = {"met": choice.met, "chosen_gap": choice.gap, "chosen_utility": choice.utility}
        return Outcome(predictions, notes), choice.candidate


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes
    ----------
    run : callable
        (context, constraint) -> Outcome.
    needs_group : bool
        Whether prediction needs the group.
    label : str
        Its name in the table.
    """

    run: Callable[[Context, str], Outcome]
    needs_group: bool
    label: str
