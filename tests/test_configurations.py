"""Our own estimator checks: every row of a table of configurations keeps the same promises."""

from __future__ import annotations

import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import PredefinedSplit

from configurations import DATA, check_copies, check_transform, network_for, uint8_images
from fairsvd.exceptions import FairsvdWarning, GroupError, MissingSensitiveFeaturesWarning
from helpers import IGNORE_SMALL_DATA, LastWins, fingerprint, quick, table

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]


def mean_recall(y_true, y_pred):
    return float(np.mean([(y_pred[y_true == k] == k).mean() for k in np.unique(y_true)]))


CONFIGURATIONS = {
    "learned": {"max_steps": 30},
    "learned, capped": {"sparsity": 0.05, "max_steps": 30},
    "learned, masks only": {"refine": None, "max_steps": 30},
    "learned, three weights": {"gap_weight": None},
    "spectrum only": {"sparsity": 0},
    "curvature": {"criterion": "curvature"},
    "curvature, the paper's": {"criterion": "curvature", "refine": None, "privileged_weight": None},
    "curvature, ggn": {"criterion": "curvature", "hessian": "ggn", "sparsity": 0.1},
    "curvature, rounds": {"criterion": "curvature", "n_rounds": 3, "sparsity": 0.3},
    "magnitude": {"criterion": "magnitude", "refine": None},
    "random": {"criterion": "random", "sparsity": 0.5},
    "everything removed": {"criterion": "random", "sparsity": 1.0, "refine": None},
    "rank, fraction": {"rank": 0.5},
    "rank, number": {"rank": 3, "criterion": "magnitude"},
    "compressed": {"rank": 2, "compress": True, "criterion": "magnitude", "sparsity": 0.1},
    "all layers": {"layers": "all"},
    "all layers, compressed": {"layers": "all", "rank": 2, "compress": True},
    "layers by name": {"layers": ["0"]},
    "layers by pattern": {"layers": re.compile("^[24]$"), "criterion": "magnitude"},
    "fixed threshold": {"threshold": 0.3},
    "no threshold": {"threshold": 0.5},
    "no balance": {"balance": None},
    "cells": {"balance": "cells"},
    "demographic parity": {"constraint": "demographic_parity", "tolerance": 0.0},
    "equal opportunity": {"constraint": "equal_opportunity", "tolerance_fraction": 1.0},
    "average odds": {"constraint": "average_odds", "utility": "accuracy"},
    "accuracy parity": {"constraint": "accuracy_parity", "utility": "worst_cell_accuracy"},
    "callable utility": {"utility": mean_recall},
    "logits out": {"output": "logits"},
    "probabilities out": {"output": "probabilities"},
    "own validation rows": {"validation": PredefinedSplit(np.arange(120) % 3 // 2 - 1)},
    "small batches": {"batch_size": 7},
    "first class positive": {"pos_label": 0},
}


CRITERIA = ("learned", "curvature", "magnitude", "random")
# The last two look at the weights alone: the rows are the same to them.
KINDS_OF_DATA = [
    *((name, criterion) for name in DATA for criterion in ("learned", "curvature")),
    *(
        (name, criterion)
        for name in ("five classes", "images", "grouped convolution")
        for criterion in ("magnitude", "random")
    ),
]


def fitted(settings, rows, name=""):
    """Fit an editor whose edit is chosen in any case, so that no promise is kept by inaction."""
    editor = quick(network_for(rows, name), kind=LastWins, **settings)
    network = fingerprint(editor.network)
    parameters = {key: id(value) for key, value in editor.get_params(deep=False).items()}
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert {key: id(value) for key, value in editor.get_params(deep=False).items()} == parameters
    assert fingerprint(editor.network) == network
    assert fingerprint(editor.module_) != network
    return editor


def check_outputs_agree(editor, X):
    """Labels, margins, probabilities, the exported module and the skorch net say the same."""
    predicted, shares = editor.predict(X), editor.predict_proba(X)
    margins, classes = editor.decision_function(X), editor.classes_
    assert shares.dtype == margins.dtype == np.float64
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    codes = (margins > 0).astype(int) if len(classes) == 2 else margins.argmax(axis=1)
    plain = torch.tensor(np.asarray(X, dtype=np.float32))
    with torch.no_grad():
        exported = editor.to_module()(plain).argmax(dim=1).numpy()
    net = editor.to_skorch()
    for found in (shares.argmax(axis=1), codes, exported, net.predict(plain)):
        assert np.array_equal(classes[found], predicted)
    np.testing.assert_allclose(net.predict_proba(plain), shares, atol=1e-5)


def check_attributes(editor, rows, network):
    n_rows, n_classes = len(rows.X), len(np.unique(rows.y))
    names = sorted(np.unique(np.asarray(rows.group, dtype=str), axis=0).tolist())
    labels = [list(g) if isinstance(g, tuple) else g for g in editor.groups_]
    assert np.array(labels, dtype=str).tolist() == names
    assert editor.group_counts_.shape == (len(names),)
    assert editor.group_counts_.sum() == n_rows
    assert editor.classes_.shape == (n_classes,)
    assert editor.n_features_in_ == rows.X.shape[1]
    assert editor.privileged_group_ in editor.groups_
    assert editor.balance_ in ("cells", "classes", None)
    assert editor.report_.groups.index.tolist()[:-2] == [str(g) for g in editor.groups_]
    assert editor.report_.gaps.loc[editor.constraint, "after"] >= 0
    assert all(isinstance(note, str) for note in editor.report_.notes)
    assert editor.history_["stage"].iloc[0] == "untouched"
    assert len(editor.history_) > 1
    if n_classes == 2:
        assert 0 < editor.threshold_ < 1
        assert editor.offset_ == pytest.approx(np.log(editor.threshold_ / (1 - editor.threshold_)))
    else:
        assert (editor.threshold_, editor.offset_) == (None, 0.0)
    if not editor.compress:
        assert list(editor.module_.state_dict()) == list(network.state_dict())


def check_masks(editor, network):
    """Shapes of U and V, the share removed, and weights of no more than the rank."""
    assert set(editor.masks_) == set(editor.ranks_)
    removed = total = 0
    for name, sides in editor.masks_.items():
        layer, rank = network.get_submodule(name), editor.ranks_[name]
        groups = getattr(layer, "groups", 1)
        rows = layer.weight.shape[0] // groups
        lead = (groups,) if groups > 1 else ()
        assert sides["U"].shape == (*lead, rows, rank)
        assert sides["V"].shape == (*lead, layer.weight[0].numel(), rank)
        removed += sum((~mask).sum() for mask in sides.values())
        total += sum(mask.size for mask in sides.values())
        weight = editor.module_.get_submodule(name).weight.detach()
        blocks = weight.reshape(groups, rows, -1).double()
        assert (torch.linalg.matrix_rank(blocks, rtol=1e-5) <= rank).all()
    assert editor.removed_fraction_ == pytest.approx(removed / total)
    if editor.sparsity is not None:
        assert editor.removed_fraction_ <= editor.sparsity


def check_all(settings, rows, name=""):
    editor = fitted(settings, rows, name)
    check_outputs_agree(editor, rows.X)
    check_attributes(editor, rows, editor.network)
    check_masks(editor, editor.network)
    check_transform(editor, rows.X)
    check_copies(editor, rows.X)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_keeps_the_promises(name):
    rows = table()._replace(group=pd.Series(table().group, name="sex"))
    for array in rows[:2]:
        array.flags.writeable = False
    before = pickle.dumps(rows)
    check_all(CONFIGURATIONS[name], rows)
    assert pickle.dumps(rows) == before


@pytest.mark.parametrize(("name", "criterion"), KINDS_OF_DATA)
def test_every_kind_of_data_is_taken(name, criterion):
    settings = {"criterion": criterion, "sparsity": None if criterion == "learned" else 0.2}
    check_all(settings, DATA[name](), name)


@pytest.mark.parametrize("settings", [{}, {"compress": True, "layers": "all", "rank": 0.5}])
@pytest.mark.parametrize("data", ["plain", "five classes", "images, five classes"])
def test_the_default_network_with_every_layer_edited(data, settings):
    rows = DATA[data]()
    editor = quick(None, kind=LastWins, **settings)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    compressed = {"LowRankLinear", "LowRankConv2d"} & {
        type(m).__name__ for m in editor.module_.modules()
    }
    assert bool(compressed) == editor.compress
    check_outputs_agree(editor, rows.X)
    assert editor.transform(rows.X).shape == (len(rows.X), 64)
    check_copies(editor, rows.X)


# The other settings are read before the groups, or alike without any.
WITHOUT_GROUPS = ("learned", "spectrum", "curvature", "magnitude", "random", "all", "cells", "no ")


@pytest.mark.parametrize("name", [n for n in CONFIGURATIONS if n.startswith(WITHOUT_GROUPS)])
def test_without_sensitive_features_one_warning_and_utility_alone(name):
    rows = table()
    editor = quick(network_for(rows), kind=LastWins, **CONFIGURATIONS[name])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        editor.fit(rows.X, rows.y)
    ours = [w.category for w in caught if issubclass(w.category, FairsvdWarning)]
    assert ours == [MissingSensitiveFeaturesWarning]
    assert [w.category for w in caught] == ours
    assert editor.groups_ == []
    assert editor.privileged_group_ is None
    assert editor.report_.gaps.empty
    assert editor.report_.groups.index.tolist() == ["overall", "threshold only"]
    check_outputs_agree(editor, rows.X)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_one_group_is_an_error(criterion):
    rows = table()
    editor = quick(network_for(rows), criterion=criterion)
    with pytest.raises(GroupError, match="one group only"):
        editor.fit(rows.X, rows.y, sensitive_features=np.full(len(rows.y), "f"))


def test_bytes_are_passed_on_as_they_are_with_a_note():
    rows = uint8_images()
    plain = fitted({}, rows._replace(X=rows.X.astype(np.float32)))
    editor = fitted({}, rows)
    assert np.array_equal(editor.predict_proba(rows.X), plain.predict_proba(rows.X))
    assert any("without scaling" in note for note in editor.report_.notes)
    assert not any("without scaling" in note for note in plain.report_.notes)
