"""Which rows a fit uses for what: to train on, to edit on, to choose on, and to report on."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import PredefinedSplit, StratifiedShuffleSplit
from torch import nn

from fairsvd import FairLRFTransformer, PhiObjective
from fairsvd._rng import stage_rng
from fairsvd.base import draw_sample, split_rows
from fairsvd.exceptions import NetworkError, SmallCellWarning
from helpers import (
    IGNORE_SMALL_DATA,
    Rows,
    fingerprint,
    mlp,
    quick,
    skorch_net,
    table,
    told,
    trained,
)

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

UNTOUCHED = {"sparsity": 0, "refine": None, "threshold": 0.5}
NUMBER = 5  # the column of X that holds a row's own number


def numbered(n_rows=200, n_groups=2, n_classes=2, seed=0):
    """Rows of uneven cells whose last column is their number."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 6)).astype(np.float32)
    group = (
        (rng.random(n_rows) < 0.35).astype(int) if n_groups == 2 else rng.integers(3, size=n_rows)
    )
    y = (X[:, 0] + group + rng.normal(size=n_rows) > 0.9).astype(int)
    y = y if n_classes == 2 else y + (rng.random(n_rows) < 0.3)
    X[:, NUMBER] = np.arange(n_rows)
    return Rows(X, y, group)


class Looking(FairLRFTransformer):
    """Keeps what its edit was given."""

    def _edit(self, task, rng):
        flags = [parameter.requires_grad for parameter in task.module.parameters()]
        state, mode = rng.bit_generator.state, task.module.training
        self.seen = {"data": task.data, "state": state, "flags": flags, "training": mode}
        return super()._edit(task, rng)


def seen(rows, network=None, groups=None, y=None, **settings):
    """Fit, and return the editor, the numbers of its editing rows and those of its judged rows."""
    network = mlp() if network is None else network
    editor = quick(network, Looking, **{**UNTOUCHED, **settings})
    groups = rows.group if groups is None else groups
    editor.fit(rows.X, rows.y if y is None else y, sensitive_features=groups)
    data = editor.seen["data"]
    numbers = [part[:][:, NUMBER].long().numpy() for part in (data.editing.X, data.judged)]
    assert data.editing.y.tolist() == rows.y[numbers[0]].tolist()
    return editor, *numbers


def validation_of(editor, judged):
    return judged[editor.seen["data"].judge.parts == 0]


def sample_of(editor, judged):
    return judged[editor.seen["data"].judge.parts == 1]


@pytest.mark.parametrize("fraction", [0.25, 0.4])
@pytest.mark.parametrize(("n_groups", "n_classes"), [(2, 2), (3, 3)])
def test_a_share_of_every_label_and_group_is_set_apart_by_the_seed(n_groups, n_classes, fraction):
    rows = numbered(200, n_groups, n_classes)
    network = mlp(n_classes)
    editor, editing, judged = seen(rows, network, validation=fraction, random_state=3)
    held = validation_of(editor, judged)
    assert sorted([*editing, *held]) == list(range(200))
    for label in range(n_classes):
        for group in range(n_groups):
            cell = np.flatnonzero((rows.y == label) & (rows.group == group))
            assert np.isin(cell, held).sum() == round(fraction * len(cell)) > 0
    cells = rows.y * n_groups + rows.group
    wanted = split_rows(fraction, cells, rows.y, stage_rng(3, "split"))
    assert editing.tolist() == wanted[0].tolist()
    assert held.tolist() == wanted[1].tolist()
    other = seen(rows, network, validation=fraction, random_state=4)[1]
    assert other.tolist() != editing.tolist()


def test_few_editing_rows_are_all_judged_on_after_those_of_validation():
    editor, editing, judged = seen(numbered())
    data = editor.seen["data"]
    n_held = 200 - len(editing)
    assert data.judge.parts.tolist() == [0] * n_held + [1] * len(editing)
    assert sample_of(editor, judged).tolist() == editing.tolist()
    rows = numbered()
    assert data.judge.y.tolist() == rows.y[judged].tolist()
    assert data.judge.groups.tolist() == rows.group[judged].tolist()
    with torch.no_grad():
        logits = mlp()(torch.tensor(rows.X[judged]))
    torch.testing.assert_close(data.untouched, logits, rtol=1e-4, atol=1e-3)


def test_of_many_editing_rows_four_thousand_are_drawn_by_a_stream_of_their_own():
    rows = numbered(6000)
    editor, editing, judged = seen(rows, random_state=2)
    sample = sample_of(editor, judged)
    assert len(editing) > 4400
    assert len(sample) == len(set(sample.tolist())) == 4000
    assert set(sample.tolist()) < set(editing.tolist())
    assert sample.tolist() == draw_sample(editing, 4000, stage_rng(2, "sample")).tolist()
    assert sample.tolist() == sorted(sample.tolist())
    # Not the first of them: the last ones are as likely.
    share = np.isin(editing[-1000:], sample).mean()
    assert share == pytest.approx(4000 / len(editing), abs=0.05)


def test_phi_looks_at_validation_rows_only():
    objective = PhiObjective("demographic_parity", n_bootstrap=5)
    editor, editing, judged = seen(numbered(), constraint=objective)
    assert editor.seen["data"].judge.parts.tolist() == [0] * (200 - len(editing))
    assert not set(judged.tolist()) & set(editing.tolist())


def test_a_splitter_of_the_users_gets_the_labels_and_its_test_side_is_validation():
    rows = numbered()
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=0.3, random_state=1)
    editor, editing, judged = seen(rows, validation=splitter)
    train, test = next(splitter.split(rows.X, rows.y))
    assert train.tolist() != sorted(train.tolist())
    assert editing.tolist() == sorted(train.tolist())
    assert validation_of(editor, judged).tolist() == sorted(test.tolist())


NONE = np.array(["f", "m"], dtype=object)


@pytest.mark.parametrize("validation", [0.25, PredefinedSplit(np.where(np.arange(200) % 3, -1, 0))])
def test_rows_without_a_group_are_in_no_part(validation):
    rows = numbered()
    groups = NONE[rows.group]
    lost = np.arange(200) % 7 == 0
    groups[lost] = None
    editor, editing, judged = seen(
        rows, groups=groups, missing_group="ignore", validation=validation
    )
    assert sorted({*editing.tolist(), *judged.tolist()}) == np.flatnonzero(~lost).tolist()
    held = validation_of(editor, judged)
    assert sorted([*editing, *held]) == np.flatnonzero(~lost).tolist()
    assert editor.group_counts_.tolist() == [
        int((groups == "f").sum()), int((groups == "m").sum()),
    ]  # fmt: skip
    assert editor.report_.groups.loc["overall"]["", "n"] == len(held)


class Noting(nn.Module):
    """Notes the numbers of the rows that it is trained on, in a list that clones share."""

    trained_on: list[int] = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, X):
        if self.training:
            type(self).trained_on.extend(X[:, NUMBER].long().tolist())
        return self.inner(X * torch.tensor([1, 1, 1, 1, 1, 0.0]))


def test_the_network_is_trained_on_the_editing_rows_alone():
    rows = numbered()
    groups = NONE[rows.group]
    groups[:9] = None
    kind = type("Mine", (Noting,), {"trained_on": []})
    net = skorch_net(kind, max_epochs=3)
    _, editing, _ = seen(rows, net, groups=groups, missing_group="ignore")
    assert sorted(kind.trained_on) == sorted(3 * editing.tolist())
    assert 8 not in editing


def test_the_report_is_about_validation_rows():
    rows = numbered()
    module = trained(mlp(), Rows(rows.X / np.float32(10), rows.y, rows.group))
    editor, _, judged = seen(rows, module)
    held = validation_of(editor, judged)
    with torch.no_grad():
        predicted = module(torch.tensor(rows.X)).argmax(1).numpy()
    for name in (0, 1):
        own = held[rows.group[held] == name]
        row = editor.report_.groups.loc[str(name)]
        assert row["", "n"] == len(own)
        right = (predicted[own] == rows.y[own]).mean()
        assert row["accuracy", "before"] == pytest.approx(right, abs=1e-12)
        assert row["accuracy", "after"] == pytest.approx(right, abs=1e-12)


def test_what_is_chosen_on_rows_that_are_edited_on_is_said_and_why():
    def notes(editor):
        return [note for note in editor.report_.notes if "edited on, too" in note]

    rows = numbered()
    assert notes(seen(rows)[0]) == []

    class Overlapping:
        def split(self, X, y, groups=None):
            yield np.arange(150), np.arange(149, 200)

    (note,) = notes(seen(rows, validation=Overlapping())[0])
    assert "as validation= says" in note
    few = Rows(rows.X[:4], np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    editor, editing, judged = seen(few)
    assert editing.tolist() == validation_of(editor, judged).tolist() == [0, 1, 2, 3]
    (note,) = notes(editor)
    assert "too few rows to set any apart" in note


def test_cells_without_rows_are_warned_of_by_label_and_group():
    rows = numbered(200, n_groups=3)
    groups = np.array(["a", "b", "c"])[rows.group]
    keep = ~((rows.y == 1) & (groups == "c"))
    some = Rows(rows.X[keep], rows.y[keep], pd.DataFrame({"kind": groups[keep]}))
    editor = quick(mlp(), **UNTOUCHED)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        editor.fit(some.X, some.y, sensitive_features=some.group)
        every = quick(mlp(), **UNTOUCHED).fit(rows.X, rows.y, sensitive_features=groups)
    texts = [text for text in told(caught, SmallCellWarning) if "No rows in" in text]
    assert texts == ["No rows in (label 1, group 'c'): their rates are left out of the gap."]
    assert (editor.sensitive_source_, every.sensitive_source_) == ("sensitive_features",) * 2
    assert editor.groups_ == every.groups_ == ["a", "b", "c"]


@pytest.mark.parametrize(("n_wrong", "separate"), [(2, False), (3, True)])
def test_a_lead_of_more_than_a_tenth_on_editing_rows_counts_as_over_fitted(n_wrong, separate):
    """The first column tells every label on editing rows, and all but 2 or 3 of 25 on others."""
    cells = np.repeat(np.arange(4), 50)
    y, group = np.divmod(cells, 2)
    held = np.arange(200) % 50 < 25
    X = np.zeros((200, 6), np.float32)
    X[:, 0] = 2 * y - 1
    X[np.arange(200) % 50 < n_wrong, 0] *= -1
    X[:, NUMBER] = np.arange(200)
    module = nn.Sequential(nn.Linear(6, 2))
    with torch.no_grad():
        module[0].weight.zero_()[1, 0] = 1.0
        module[0].bias.zero_()
    split = PredefinedSplit(np.where(held, 0, -1))
    editor, *_ = seen(Rows(X, y, group), module, validation=split, layers="all")
    assert editor.seen["data"].judge.separate == separate


def test_an_edit_has_a_stream_of_its_own():
    editor, *_ = seen(numbered(), random_state=6)
    assert editor.seen["state"] == stage_rng(6, "edit").bit_generator.state


# The network that an edit is given and that comes out


def half_frozen():
    module = trained(mlp(), table())
    module[0].requires_grad_(False)
    module[2].bias.requires_grad_(False)
    return module


def flags(module):
    return [parameter.requires_grad for parameter in module.parameters()]


@pytest.mark.parametrize("settings", [UNTOUCHED, {"threshold": 0.5, "gap_weight": 1.0}])
def test_what_asks_for_gradients_asks_for_them_again_after_the_fit_and_nothing_else(settings):
    rows, module = table(), half_frozen()
    editor = quick(module, Looking, **settings)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert flags(module) == [False, False, True, False, True, True]
    assert editor.seen["flags"] == [False] * 6
    for out in (editor.module_, editor.to_module(), editor.to_skorch().module_):
        assert flags(out) == flags(module)


def test_no_gradient_of_its_training_stays_on_the_network():
    rows = table()
    nets = skorch_net(mlp()), FrozenEstimator(skorch_net(mlp()).fit(rows.X, rows.y)), None
    for network in nets:
        editor = quick(network, **UNTOUCHED).fit(rows.X, rows.y, sensitive_features=rows.group)
        assert all(parameter.grad is None for parameter in editor.module_.parameters())
    frozen = nets[1].estimator.module_
    assert all(parameter.grad is not None for parameter in frozen.parameters())


def normalised():
    """A network of which a pass in training mode is at random and moves its statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)]
        module = nn.Sequential(*layers)
        module(torch.randn(64, 6))
    return module


@pytest.mark.parametrize("form", ["module", "frozen module", "frozen net"])
@pytest.mark.parametrize("settings", [UNTOUCHED, {"gap_weight": 1.0}])
def test_a_network_in_training_mode_is_edited_as_in_evaluation_mode(form, settings):
    rows, found = table(), []
    for training in (True, False):
        module = normalised().train(training)
        network = module
        if form == "frozen module":
            network = FrozenEstimator(module)
        elif form == "frozen net":
            net = skorch_net(module).initialize()
            net.module_.train(training)
            network = FrozenEstimator(net)
        editor = quick(network, Looking, **settings)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        assert not editor.seen["training"]
        assert not any(part.training for part in editor.module_.modules())
        for name, buffer in module.named_buffers():
            assert torch.equal(editor.module_.get_buffer(name), buffer)
        history = editor.history_.to_json()
        found.append((fingerprint(editor.module_), editor.offset_, history))
    assert found[0] == found[1]


@pytest.mark.parametrize("form", ["none", "net", "frozen net", "module", "frozen module"])
def test_a_network_that_came_trained_is_said_to_have(form):
    rows = table()
    network = {
        "none": lambda: None,
        "net": lambda: skorch_net(mlp()),
        "frozen net": lambda: FrozenEstimator(skorch_net(mlp()).initialize()),
        "module": mlp,
        "frozen module": lambda: FrozenEstimator(mlp()),
    }[form]()
    editor = quick(network, **UNTOUCHED).fit(rows.X, rows.y, sensitive_features=rows.group)
    told = [note for note in editor.report_.notes if note.startswith("The network came trained")]
    assert len(told) == (form in ("frozen net", "module", "frozen module"))


@pytest.mark.parametrize("names", [["a", "b", "c"], [0, 1, 2]], ids=["names", "codes"])
def test_a_frozen_net_keeps_its_classes_where_y_lacks_one(names):
    """By the names that it was told, or by the codes that skorch trains it on all the same."""
    rows = table(n_classes=3)
    net = skorch_net(trained(mlp(3), rows), classes=["a", "b", "c"]).initialize()
    some = rows.y != 1
    y = np.array(names)[rows.y[some]]
    editor = quick(FrozenEstimator(net), **UNTOUCHED)
    editor.fit(rows.X[some], y, sensitive_features=rows.group[some])
    assert editor.classes_.tolist() == names
    assert (editor.predict(rows.X[some]) == y).mean() > 0.7


def test_fewer_other_labels_than_codes_are_refused_by_the_names_of_both():
    """Labels stand for codes 0, 1, 2 only where there are three."""
    rows = table()
    net = skorch_net(mlp(3), classes=[0, 1, 2]).initialize()
    words = np.array(["no", "yes"])[rows.y]
    with pytest.raises(NetworkError, match=r"\['no', 'yes'\].*trained for \[0, 1, 2\]"):
        quick(FrozenEstimator(net)).fit(rows.X, words, sensitive_features=rows.group)
