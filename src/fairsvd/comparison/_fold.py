"""A fold: the rows for each purpose, and the base network that all methods share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import PredefinedSplit
from torch import Tensor

from .._messages import listed
from .._rng import stage_rng
from ..arrays import LabelledRows, as_batches
from ..base import draw_sample, read_fit_weights, split_rows
from ..groups import cell_codes
from ..interop import resample_by_weight
from ..networks import AdoptedNetwork, adopt, all_logits
from ..objective import Constraint, make_judge
from ._problem import Problem, as_array, take

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Fold", "Parts", "as_network", "base_of", "divide", "fold_seed", "train"]

# Share of the rows outside the test rows; the rest trains the base network.
VALIDATION = 0.3
# Training rows that post-processors are fitted on beside the validation rows. Editors judge
# candidates on a sample of that size too, which was better than validation rows alone.
SAMPLE = 4000
BATCH = 256  # as in the editors


@dataclass(frozen=True)
class Parts:
    """The rows of a fold for each purpose.

    Attributes
    ----------
    number : int
    training, validation, test : ndarray of int64
        Positions of rows, ascending. The base network is trained on ``training`` (unless it came
        trained), methods choose on ``validation``, and ``test`` is used once.
    seed : int
        Seed of all draws in the fold.
    encoder : transformer or None
        The preprocessing, fitted on the training rows.
    """

    number: int
    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    seed: int
    encoder: Any

    def encoded(self, problem: Problem, rows: NDArray[np.int64]) -> Any:
        """Select features, as networks get them."""
        X = take(problem.X, rows)
        return X if self.encoder is None else as_array(self.encoder.transform(X))


@dataclass(frozen=True)
class Fold(Parts):
    """The input of the methods in one fold.

    Attributes
    ----------
    number, training, validation, test, seed, encoder
        As in :class:`Parts`.
    problem : Problem
    adopted : AdoptedNetwork
        The base network; methods work on copies.
    before : ndarray of shape (n_test,), int64
        Classes that the base network predicts for the test rows.
    asked : str, Requirement, list of these or None
        The ``constraint`` of an editor; None: the gap that the method gets the name of.
    """

    problem: Problem
    adopted: AdoptedNetwork
    before: NDArray[np.int64]
    asked: Any = None

    @property
    def network(self) -> Any:
        """The base network as an editor's ``network``, frozen."""
        return as_network(self.adopted)

    @cached_property
    def fitting(self) -> NDArray[np.int64]:
        """All rows that a method may use."""
        return np.sort(np.concatenate([self.training, self.validation]))

    @property
    def split(self) -> PredefinedSplit:
        """The fitting rows' split into training and validation, as a splitter."""
        return PredefinedSplit(np.where(np.isin(self.fitting, self.validation), 0, -1))

    @cached_property
    def choosing(self) -> NDArray[np.int64]:
        """Rows that post-processors are fitted on: the validation rows and a training sample."""
        sample = draw_sample(self.training, SAMPLE, stage_rng(self.seed, "sample"))
        return np.sort(np.concatenate([self.validation, sample]))

    def X(self, rows: NDArray[np.int64]) -> Any:
        """Select features, after the preprocessing."""
        return self.encoded(self.problem, rows)

    def raw_X(self, rows: NDArray[np.int64]) -> Any:
        """Select features as they came, for a Pipeline with its own preprocessing."""
        return take(self.problem.X, rows)

    def y(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Select labels in the user's form."""
        return self.problem.classes[self.problem.codes[rows]]

    def sensitive(self, rows: NDArray[np.int64]) -> Any:
        """Select sensitive features: a Series, or a DataFrame if there are several."""
        table: pd.DataFrame = self.problem.sensitive.iloc[rows]
        return table.iloc[:, 0] if table.shape[1] == 1 else table

    def groups(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Select group codes."""
        return self.problem.groups.codes[rows]

    def weights(self, rows: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Select weights; None: all rows count once."""
        return None if self.problem.weights is None else self.problem.weights[rows]

    def drawn(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw as many rows in proportion to their weights, for methods that take none."""
        weights = self.weights(rows)
        if weights is None:
            return rows
        codes = self.problem.codes[rows], self.groups(rows)
        return np.sort(resample_by_weight(rows, *codes, weights, random_state=self.seed)[0])

    def positive(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Select labels as 1 for the positive class and 0 for the other.

        Raises
        ------
        ValueError
            If there are more than two classes.
        """
        return (self.problem.codes[rows] == self._positive_code).astype(np.int64)

    def codes_of_positive(self, predicted: Any) -> NDArray[np.int64]:
        """Turn predictions of 1 for the positive class and 0 for the other into codes."""
        positive = np.asarray(predicted).reshape(-1).astype(np.int64)
        return np.where(positive == 1, self._positive_code, 1 - self._positive_code)

    def codes_of_labels(self, predicted: Any) -> NDArray[np.int64]:
        """Turn predicted labels into codes.

        Raises
        ------
        ValueError
            If a label is none of the classes.
        """
        labels = np.asarray(predicted).reshape(-1)
        hits = labels[:, None] == self.problem.classes
        known = hits.any(axis=1)
        if not known.all():
            raise ValueError(
                f"predicted the label {labels[~known][0]!r}, which is none of the classes "
                f"[{listed(self.problem.classes.tolist(), show=repr)}]."
            )
        return hits.argmax(axis=1)

    def logits(self, rows: NDArray[np.int64]) -> Tensor:
        """Compute the base network's logits, (n_rows, n_classes)."""
        return logits_of(self.adopted, self.X(rows), self.problem.dtype)

    def scores(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Compute the base network's probability of the positive class, (n_rows,)."""
        shares = self.logits(rows).double().softmax(dim=1).numpy()
        return shares[:, self._positive_code]

    @cached_property
    def margin(self) -> float:
        """The base network's margin of best balanced accuracy; 0 for more than two classes."""
        rows, problem, weights = self.choosing, self.problem, self.weights(self.choosing)
        if weights is not None:
            rows, weights = rows[weights > 0], weights[weights > 0]
        request = Constraint(
            gap="equalized_odds",  # does not affect the threshold for utility
            tolerance=problem.tolerance,
            fraction=1.0,
            utility="balanced_accuracy",
            threshold=None,
            pos=problem.pos or 0,
            balance=None,
        )
        sizes = len(problem.classes), problem.groups.n_groups
        one_part = np.zeros_like(rows)
        columns = problem.codes[rows], self.groups(rows), one_part
        judge = make_judge(*columns, *sizes, request, weights)
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
                f"the method takes two classes, but y has {len(self.problem.classes)} "
                f"([{listed(self.problem.classes.tolist(), show=repr)}])."
            )
        return self.problem.pos


def as_network(adopted: AdoptedNetwork) -> Any:
    """Return a trained network in a form that editors do not train."""
    return adopted.module if adopted.net is None else FrozenEstimator(adopted.net)


def logits_of(adopted: AdoptedNetwork, X: Any, dtype: torch.dtype) -> Tensor:
    """Compute a network's logits for rows of a type, Tensor (n_rows, n_classes)."""
    return all_logits(adopted.module, as_batches(X, dtype), **adopted.reading)


def fold_seed(seed: int, number: int) -> int:
    """Derive the seed of a fold, in [0, 2**31)."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) % 2**31


def train(
    problem: Problem, parts: Parts, rows: NDArray[np.int64], *, weighted: bool = True
) -> AdoptedNetwork:
    """Train the base network on rows, which may repeat, unless it came trained.

    Without ``weighted`` the rows were drawn by their weights already.
    """
    weights = None
    if weighted and problem.weights is not None:
        weights, passed = read_fit_weights(problem.weights[rows], problem.codes[rows])
        rows = rows if passed is None else rows[passed.kept]
    codes = torch.as_tensor(problem.codes[rows]), torch.as_tensor(problem.groups.codes[rows])
    X = as_batches(parts.encoded(problem, rows), problem.dtype)
    labelled = LabelledRows(X, *codes, weights)
    rng = stage_rng(parts.seed, "base")
    return adopt(problem.base, labelled, problem.classes, batch_size=BATCH, rng=rng)


def divide(
    number: int, problem: Problem, fitting: NDArray[np.int64], test: NDArray[np.int64]
) -> Parts:
    """Split the rows outside the test rows, within every (label, group) cell."""
    seed = fold_seed(problem.seed, number)
    y, groups = problem.codes[fitting], problem.groups.codes[fitting]
    cells = cell_codes(y, groups, problem.groups.n_groups)
    editing, held = split_rows(VALIDATION, cells, y, stage_rng(seed, "split"), problem.classes)
    training, validation = np.sort(fitting[editing]), np.sort(fitting[held])
    encoder = None
    if problem.preprocessing is not None:
        # On the training rows alone, as the base network: so methods are chosen on new rows.
        encoder = clone(problem.preprocessing)
        encoder.fit(take(problem.X, training), problem.classes[problem.codes[training]])
    return Parts(number, training, validation, test, seed, encoder)


def base_of(problem: Problem, parts: Parts) -> tuple[AdoptedNetwork, NDArray[np.int64]]:
    """Train the base network of a fold; return it and its classes for the test rows."""
    adopted = train(problem, parts, parts.training)
    logits = logits_of(adopted, parts.encoded(problem, parts.test), problem.dtype)
    return adopted, logits.argmax(dim=1).numpy()
