"""One fold: which rows a method may see for what, and the base network that all methods share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import PredefinedSplit
from torch import Tensor

from .._rng import stage_rng
from ..arrays import LabelledRows, as_batches
from ..base import draw_sample, split_rows
from ..groups import cell_codes
from ..networks import AdoptedNetwork, adopt, all_logits
from ..objective import Constraint, make_judge
from ._problem import Problem, take

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Fold", "Parts", "as_network", "base_of", "divide", "fold_seed", "train"]

# Of the rows that a fold does not test on; the rest trains the base network.
VALIDATION = 0.3
# Training rows that post-processors are fitted on beside the validation rows, as editors judge
# candidates on: a sample of that size was better than validation rows alone.
SAMPLE = 4000
BATCH = 256  # the editors' own


@dataclass(frozen=True)
class Parts:
    """Which rows a fold uses for what.

    Attributes
    ----------
    number : int
    training, validation, test : ndarray of int64
        Rows, ascending. The base network is trained on ``training`` (unless it came trained);
        ``validation`` is what methods choose on; ``test`` is touched once.
    seed : int
        Of all that is drawn in the fold.
    """

    number: int
    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    seed: int


@dataclass(frozen=True)
class Fold(Parts):
    """What the methods of one fold get.

    Attributes
    ----------
    number, training, validation, test, seed
        As of :class:`Parts`.
    problem : Problem
    adopted : AdoptedNetwork
        The base network; methods work on copies.
    before : ndarray of shape (n_test,), int64
        Classes that it predicts for the test rows.
    """

    problem: Problem
    adopted: AdoptedNetwork
    before: NDArray[np.int64]

    @property
    def network(self) -> Any:
        """The base network as an editor's ``network``: as it is, not to be trained."""
        return as_network(self.adopted)

    @cached_property
    def fitting(self) -> NDArray[np.int64]:
        """All rows that a method may look at."""
        return np.sort(np.concatenate([self.training, self.validation]))

    @property
    def split(self) -> PredefinedSplit:
        """The fitting rows' split into training and validation, as a splitter."""
        return PredefinedSplit(np.where(np.isin(self.fitting, self.validation), 0, -1))

    @cached_property
    def choosing(self) -> NDArray[np.int64]:
        """Rows that post-processors are fitted on: validation and a sample of training."""
        sample = draw_sample(self.training, SAMPLE, stage_rng(self.seed, "sample"))
        return np.sort(np.concatenate([self.validation, sample]))

    def X(self, rows: NDArray[np.int64]) -> Any:
        """Select features."""
        return take(self.problem.X, rows)

    def y(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Select labels, as the user wrote them."""
        return self.problem.classes[self.problem.codes[rows]]

    def sensitive(self, rows: NDArray[np.int64]) -> Any:
        """Select sensitive features: a Series, or a DataFrame where there are several."""
        table: pd.DataFrame = self.problem.sensitive.iloc[rows]
        return table.iloc[:, 0] if table.shape[1] == 1 else table

    def groups(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Select group codes."""
        return self.problem.groups.codes[rows]

    def positive(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Select labels as 1 for the positive class and 0.

        Raises
        ------
        ValueError
            There are more than two classes.
        """
        return (self.problem.codes[rows] == self._positive_code).astype(np.int64)

    def codes_of_positive(self, predicted: Any) -> NDArray[np.int64]:
        """Turn predictions of 1 for the positive class and 0 back into codes."""
        chosen = np.asarray(predicted).reshape(-1).astype(np.int64)
        return np.where(chosen == 1, self._positive_code, 1 - self._positive_code)

    def codes_of_labels(self, predicted: Any) -> NDArray[np.int64]:
        """Turn predicted labels into codes.

        Raises
        ------
        ValueError
            A label is none of the classes.
        """
        labels = np.asarray(predicted).reshape(-1)
        hits = labels[:, None] == self.problem.classes
        known = hits.any(axis=1)
        if not known.all():
            raise ValueError(
                f"predicted the label {labels[~known][0]!r}, which is none of the classes "
                f"{self.problem.classes.tolist()}."
            )
        return hits.argmax(axis=1)

    def logits(self, rows: NDArray[np.int64]) -> Tensor:
        """Ask the base network; (n_rows, n_classes)."""
        return logits_of(self.adopted, self.X(rows))

    def scores(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Ask the base network for the probability of the positive class; (n_rows,)."""
        shares = self.logits(rows).double().softmax(dim=1).numpy()
        return shares[:, self._positive_code]

    @cached_property
    def margin(self) -> float:
        """The base network's margin of best balanced accuracy; 0 for more than two classes."""
        rows, problem = self.choosing, self.problem
        request = Constraint(
            gap="equalized_odds",  # plays no part in the threshold for utility
            tolerance=problem.tolerance,
            fraction=1.0,
            utility="balanced_accuracy",
            threshold=None,
            pos=problem.pos or 0,
            balance=None,
        )
        sizes = len(problem.classes), problem.groups.n_groups
        one_part = np.zeros_like(rows)
        judge = make_judge(problem.codes[rows], self.groups(rows), one_part, *sizes, request)
        return judge.for_utility(self.logits(rows)).margin

    def at_threshold(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Predict with the base network at the threshold of best balanced accuracy."""
        logits = self.logits(rows).double().numpy()
        logits[:, 1] -= self.margin
        return logits.argmax(axis=1)

    @property
    def _positive_code(self) -> int:
        if self.problem.pos is None:
            raise ValueError(
                f"it takes two classes; y holds {len(self.problem.classes)} "
                f"({self.problem.classes.tolist()})."
            )
        return self.problem.pos


def as_network(adopted: AdoptedNetwork) -> Any:
    """Give a trained network in the form that editors take as it is."""
    return adopted.module if adopted.net is None else FrozenEstimator(adopted.net)


def logits_of(adopted: AdoptedNetwork, X: Any) -> Tensor:
    """Run a network over rows; Tensor (n_rows, n_classes)."""
    return all_logits(adopted.module, as_batches(X), **adopted.reading)


def fold_seed(seed: int, number: int) -> int:
    """Give every fold its own seed, in [0, 2**31)."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) % 2**31


def train(problem: Problem, rows: NDArray[np.int64], seed: int) -> AdoptedNetwork:
    """Train the base network on rows, which may repeat, or take one as it is that came trained."""
    codes = torch.as_tensor(problem.codes[rows]), torch.as_tensor(problem.groups.codes[rows])
    labelled = LabelledRows(as_batches(take(problem.X, rows)), *codes)
    rng = stage_rng(seed, "base")
    return adopt(problem.base, labelled, problem.classes, batch_size=BATCH, rng=rng)


def divide(
    number: int, problem: Problem, fitting: NDArray[np.int64], test: NDArray[np.int64]
) -> Parts:
    """Split the rows that a fold does not test on, within every (label, group) cell."""
    seed = fold_seed(problem.seed, number)
    y, groups = problem.codes[fitting], problem.groups.codes[fitting]
    cells = cell_codes(y, groups, problem.groups.n_groups)
    editing, held = split_rows(VALIDATION, cells, y, stage_rng(seed, "split"))
    return Parts(number, np.sort(fitting[editing]), np.sort(fitting[held]), test, seed)


def base_of(problem: Problem, parts: Parts) -> tuple[AdoptedNetwork, NDArray[np.int64]]:
    """Train the base network of a fold; also the classes that it predicts for the test rows."""
    adopted = train(problem, parts.training, parts.seed)
    logits = logits_of(adopted, take(problem.X, parts.test))
    return adopted, logits.argmax(dim=1).numpy()
