"""No editor of images exceeds its budget, and what a budget changes in a fit."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmark_files import load
from fairsvd import (
    AdapterFineTuner,
    AdversarialDebiasing,
    AdversarialFineTuner,
    BiasMaskFineTuner,
    BlindPostProcessor,
    FairLRFTransformer,
    FairPruner,
    FairReprogrammer,
    GapFineTuner,
    InfluenceTuner,
    LayerwiseOptimizer,
    RandomPerturbation,
)

pytestmark = pytest.mark.slow


def images(n: int = 160) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y, g = rng.integers(2, size=n), rng.integers(2, size=n)
    X = rng.normal(size=(n, 1, 6, 6)) + 0.4 * y[:, None, None, None]
    X[:, :, :3] += 0.3 * g[:, None, None, None]
    return X.astype(np.float32), y, g


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 8),
            nn.ReLU(),
            nn.Linear(8, 2),
        )


def epochs_of(kind: Any, **parameters: Any) -> tuple[Any, float]:
    """Fit on images and count the passes over the editing rows."""
    X, y, g = images()
    module = network()
    editor = kind(module, tolerance=0.1, random_state=0, **parameters)
    with warnings.catch_warnings(), load("visits").counted(module) as visits:
        warnings.simplefilter("ignore")
        editor.fit(X, y, sensitive_features=g)
    return editor, visits.epochs(120)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (FairLRFTransformer, {}),
        (FairLRFTransformer, {"sparsity": 0.1}),
        (FairLRFTransformer, {"objective": "teacher"}),
        (FairLRFTransformer, {"criterion": "magnitude"}),
        (FairPruner, {}),
        (GapFineTuner, {}),
        (BiasMaskFineTuner, {}),
        (AdversarialDebiasing, {}),
        (AdversarialFineTuner, {}),
        (AdapterFineTuner, {}),
        (FairReprogrammer, {}),
        (FairReprogrammer, {"objective": "adversary"}),
        (InfluenceTuner, {}),
        (InfluenceTuner, {"layers": "all"}),
        (LayerwiseOptimizer, {}),
        (RandomPerturbation, {}),
        (BlindPostProcessor, {"n_teachers": 2}),
        (BlindPostProcessor, {"joint": "refit"}),
    ],
)
def test_no_edit_of_images_costs_more_than_fifteen_epochs(kind: Any, parameters: Any) -> None:
    editor, epochs = epochs_of(kind, **parameters)
    assert 4 < epochs <= 15
    assert len(editor.history_) > 1


@pytest.mark.parametrize(
    ("kind", "name", "n", "bought"),
    # 5 x 120 visits less 64 and a look at the untouched network: 9 looks at 160 rows of 53 visits,
    # among which the tensors are shared out.
    [(RandomPerturbation, "n_trials", 31, 9), (LayerwiseOptimizer, "n_calls", 9, 2 * 4)],
)
def test_trials_are_bought_and_those_asked_for_are_all_made(
    kind: Any, name: str, n: int, bought: int
) -> None:
    tensors: dict[str, Any] = {"parameters": 2} if kind is LayerwiseOptimizer else {}
    asked = n * tensors.get("parameters", 1)
    assert len(epochs_of(kind, **tensors, **{name: n})[0].history_) == 1 + asked
    for given in ({}, {name: n}):
        editor, epochs = epochs_of(kind, max_epochs=5, **tensors, **given)
        assert len(editor.history_) == 1 + bought
        assert epochs <= 5
        if kind is LayerwiseOptimizer:
            assert (
                list(editor.history_["stage"][1:]) == ["random", "random", "guided", "guided"] * 2
            )


@pytest.mark.parametrize("kind", [FairLRFTransformer, GapFineTuner, AdversarialDebiasing])
def test_a_smaller_budget_is_kept_and_no_budget_costs_more(kind: Any) -> None:
    assert epochs_of(kind, max_epochs=5)[1] <= 5
    without = {"max_epochs": np.inf, "max_steps": 60}
    assert epochs_of(kind, **without)[1] > 15


@pytest.mark.parametrize(
    ("kind", "parameters", "n_steps"),
    [
        (GapFineTuner, {"scope": "bias"}, 2),
        (GapFineTuner, {"mode": "descent"}, 4),
        (FairReprogrammer, {}, 4),
    ],
)
def test_who_does_not_ask_the_untouched_network_does_not_pay_for_it(
    kind: Any, parameters: Any, n_steps: int
) -> None:
    # 4 x 120 visits less 64 and three looks at 160 rows are 256: 3 steps of 64 rows that ask, of
    # which 2 go before two looks, and 4 that do not.
    editor, epochs = epochs_of(kind, max_epochs=4, **parameters)
    assert editor.history_["step"].max() == n_steps
    assert epochs <= 4


def test_a_budget_below_the_cost_of_the_importance_is_refused_with_what_suffices() -> None:
    with pytest.raises(ValueError, match=r"max_epochs=4 does not suffice.*Use at least 8\."):
        epochs_of(BiasMaskFineTuner, max_epochs=4)
    assert 7 < epochs_of(BiasMaskFineTuner, max_epochs=8)[1] <= 8


@pytest.mark.parametrize("max_epochs", [12, 15, 20])
def test_lessons_of_a_teacher_are_paid_for_with_their_answers(max_epochs: int) -> None:
    # An update has 64 rows, plain ones or lessons, which the teacher answers for.
    settings = {"objective": "teacher", "max_epochs": max_epochs, "min_steps": 60}
    assert 0.7 * max_epochs < epochs_of(BiasMaskFineTuner, **settings)[1] <= max_epochs


def test_a_number_of_steps_leaves_images_without_a_budget() -> None:
    # Without a budget several weights of the soft gap are tried, with one a single weight is.
    editor, _ = epochs_of(GapFineTuner, max_steps=2)
    assert set(editor.history_["gap_weight"].dropna()) == {0.3, 1.0, 3.0}
    assert set(epochs_of(GapFineTuner)[0].history_["gap_weight"].dropna()) == {1.0}


def test_a_cap_on_removal_is_kept_within_the_budget() -> None:
    editor, _ = epochs_of(FairLRFTransformer, sparsity=0.1)
    removed = editor.history_["removed_fraction"]
    assert (removed <= 0.1).all()
    assert list(editor.history_["stage"]) == ["untouched", "nothing removed", "masks"]


def test_factors_stay_low_rank_where_every_number_moves() -> None:
    editor, _ = epochs_of(FairLRFTransformer, rank=3, layers=["3"])
    before = network()[3].weight
    after = editor.module_[3].weight.detach()
    chosen = editor.history_.loc[editor.history_["chosen"], "stage"].item()
    if chosen != "untouched":
        assert torch.linalg.matrix_rank(after, tol=1e-5) == 3
    assert torch.linalg.matrix_rank(before.detach()) == 8
