"""Shifts of the output layer along what tells the groups apart."""

from __future__ import annotations

from itertools import takewhile

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from fairsvd import GapFineTuner, PhiObjective
from fairsvd.intraprocessing import _group_shift
from fairsvd.intraprocessing._group_shift import group_directions
from helpers import (
    IGNORE_SMALL_DATA,
    images,
    last_wins,
    mlp,
    table,
    trained,
)

pytestmark = [
    # Many short fits: together they take long.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]


def fit(kind, network, rows, **parameters):
    settings = {"max_steps": 3, "group_shift": "always", "random_state": 0, **parameters}
    return kind(network, **settings).fit(rows.X, rows.y, sensitive_features=rows.group)


def shifts(editor):
    return editor.history_[editor.history_["stage"] == "shift"]


class ShiftsAlone(GapFineTuner):
    """Leaves out what comes after the shifts."""

    def _edit(self, task, rng):
        stages = ("untouched", "shift")
        return takewhile(lambda edit: edit.params["stage"] in stages, super()._edit(task, rng))


class LastShiftWins(last_wins(ShiftsAlone)):
    """Chooses the last shift."""


@pytest.mark.parametrize("n_groups", [2, 3])
def test_a_direction_is_the_balanced_ridge_regression_of_its_group(n_groups):
    rng = np.random.default_rng(0)
    groups = rng.choice(n_groups, size=400, p=[0.7, 0.3] if n_groups == 2 else [0.6, 0.3, 0.1])
    features = rng.normal(size=(400, 5)) + groups[:, None] * np.array([1.0, -0.5, 0, 0, 0.2])
    directions, centres = group_directions(features, groups, n_groups)
    coded = range(1, 2) if n_groups == 2 else range(3)
    assert len(directions) == len(coded)
    for direction, centre, group in zip(directions, centres, coded, strict=True):
        inside = groups == group
        weights = np.where(inside, 0.5 / inside.mean(), 0.5 / (~inside).mean()) / len(groups)
        covariance = np.cov(features.T, aweights=weights, ddof=0)
        alpha = _group_shift.RIDGE * np.trace(covariance) / 5
        ridge = Ridge(alpha=alpha).fit(features, np.where(inside, 1.0, -1.0), sample_weight=weights)
        values = features @ ridge.coef_
        assert np.allclose(direction, ridge.coef_ / values.std(), atol=1e-8)
        assert np.isclose(centre, values.mean() / values.std())
        assert np.isclose((features @ direction).std(), 1.0)


def test_what_nothing_tells_apart_has_no_direction():
    groups = np.repeat([0, 1], 10)
    directions, centres = group_directions(np.ones((20, 3)), groups, 2)
    assert not directions.any()
    assert not centres.any()


@pytest.mark.parametrize("n_classes", [1, 2, 3])
def test_only_the_output_layer_moves_and_in_one_direction_a_line(n_classes):
    rows = table(n_classes=max(2, n_classes))
    network = trained(mlp(n_classes), rows)
    editor = fit(LastShiftWins, network, rows)
    before, after = network.state_dict(), editor.module_.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"4.weight", "4.bias"}
    if n_classes < 3:
        rest = after["4.weight"][:-1] - before["4.weight"][:-1]
        assert not rest.any()


def test_the_record_names_group_and_class_and_the_logits_are_those_of_the_state():
    rows = table(150, n_classes=3, n_groups=3)
    editor = fit(GapFineTuner, trained(mlp(3), rows), rows)
    found = shifts(editor)
    assert len(found) == 9 * len(_group_shift.SIZES)
    assert set(found["group"]) == set(np.unique(rows.group))
    assert set(found["class"]) == {0, 1, 2}


@pytest.mark.parametrize("make", ["no linear head", "no groups", "many lines"])
def test_where_there_is_no_line_there_are_no_shifts(make, monkeypatch):
    rows, network = table(), trained(mlp(), table())
    if make == "many lines":
        monkeypatch.setattr(_group_shift, "MOST_LINES", 0)
    if make == "no linear head":
        rows = images()
        network = torch.nn.Sequential(
            torch.nn.Conv2d(4, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        )
        network = trained(network, rows)
    if make == "no groups":
        with pytest.warns(UserWarning, match="sensitive"):
            editor = GapFineTuner(network, max_steps=3, group_shift="always", random_state=0).fit(
                rows.X, rows.y
            )
    else:
        editor = fit(GapFineTuner, network, rows)
    assert shifts(editor).empty


def test_auto_shifts_where_rows_are_memorised():
    """A network that knows its own rows by heart, on labels that are half noise."""
    rows = table(400)
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(len(rows.y)) < 0.3, 1 - rows.y, rows.y)
    rows = rows._replace(y=noisy)
    settings = {"group_shift": "auto", "validation": 0.5, "objective": "soft_gap"}
    memorised = fit(GapFineTuner, None, rows, **settings)
    assert not shifts(memorised).empty
    assert shifts(fit(GapFineTuner, None, rows, **{**settings, "scope": "bias"})).empty
    assert shifts(fit(GapFineTuner, None, rows, **{**settings, "mode": "descent"})).empty
    assert shifts(fit(GapFineTuner, None, rows, **{**settings, "group_shift": "never"})).empty
    assert shifts(fit(GapFineTuner, trained(mlp(), table()), table(), group_shift="auto")).empty


def test_a_gap_that_the_group_makes_alone_is_closed():
    """Logits that a group's own feature shifts: the right shift is on the line."""
    rng = np.random.default_rng(0)
    group = rng.integers(2, size=2000)
    merit = rng.normal(size=2000)
    X = np.column_stack([merit, group]).astype(np.float32)
    y = (merit + rng.normal(size=2000) > 0).astype(int)
    network = torch.nn.Linear(2, 2)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[0.0, 0.0], [2.0, 2.0]]))
        network.bias.zero_()
    editor = GapFineTuner(network, max_steps=1, group_shift="always", random_state=0)
    editor.fit(X, y, sensitive_features=group)
    gaps = editor.report_.gaps.loc["equalized_odds"]
    assert gaps["before"] > 0.3
    assert gaps["after"] < 0.1
    stages = editor.history_.loc[editor.history_["feasible"], "stage"]
    assert "shift" in set(stages)


def test_a_line_on_which_nothing_is_better_is_left_where_it_begins(monkeypatch):
    """The second line starts from the untouched weights where the first one only does harm."""
    bases, shift = [], _group_shift._shift
    rows = table(150, n_classes=2, n_groups=3)
    network = trained(mlp(), rows)

    def noting(base, prefix, line, size):
        bases.append((line.params["group"], base["4.weight"].clone()))
        return shift(base, prefix, line, size)

    monkeypatch.setattr(_group_shift, "_shift", noting)
    # Nothing is feasible and every shift collapses the network: all rank below the untouched one.
    monkeypatch.setattr(_group_shift, "SIZES", (1e4, -1e4))
    fit(GapFineTuner, network, rows, threshold=0.5, tolerance=0.0)
    assert len({group for group, _ in bases}) == 3
    for _, base in bases:
        assert torch.equal(base, network[4].weight)


def test_under_phi_the_directions_are_those_of_the_validation_rows():
    rows = table(200)
    editor = fit(GapFineTuner, trained(mlp(), rows), rows, constraint=PhiObjective())
    assert len(shifts(editor)) == len(_group_shift.SIZES)
