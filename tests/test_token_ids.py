"""Integers as rows: kept for a network that looks them up in an Embedding."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn
from torch.utils.data import TensorDataset

from attending import NEED_ATTENTION
from fairsvd import FairLRFTransformer, compare
from fairsvd.base import EDITORS, QUICK
from fairsvd.exceptions import FairsvdWarning, NetworkError

pytestmark = pytest.mark.slow

N_WORDS = 20


class Words(nn.Module):
    """Averages the vectors of the words of a row."""

    def __init__(self, attention=False):
        super().__init__()
        self.table = nn.Embedding(N_WORDS, 4)
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True) if attention else None
        self.hidden, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, ids):
        vectors = self.table(ids)
        if self.attention is not None:
            vectors = self.attention(vectors, vectors, vectors)[0]
        return self.out(torch.relu(self.hidden(vectors.mean(dim=1))))


class WordsOfFloats(Words):
    """Converts its input itself, as many networks for tables do."""

    def forward(self, ids):
        assert ids.is_floating_point()
        return super().forward(ids.long())


@pytest.fixture(scope="module")
def task():
    """Rows of five word numbers, of which one tells the label; labels and groups."""
    rng = np.random.default_rng(0)
    y, sex = np.arange(60) % 2, np.array(["f", "m"])[np.arange(60) // 2 % 2]
    ids = rng.integers(0, N_WORDS, size=(60, 5))
    ids[y == 1, 0] = 3
    return ids, y, sex


@pytest.fixture(autouse=True)
def quiet():
    """Small rows lead to warnings that are not the point here."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)
        yield


def quick(editor, **options):
    names = editor().get_params()
    return editor(**options, random_state=0, **({"max_steps": 1} if "max_steps" in names else {}))


def has_note(editor):
    return any("X holds integers" in note for note in editor.report_.notes)


# Soft tokens need a network that takes them.
@pytest.mark.parametrize("name", sorted(EDITORS.keys() - {"FairReprogrammer"}))
def test_every_editor_gives_integers_to_an_embedding(name, task):
    ids, y, sex = task
    network = Words(attention=name in NEED_ATTENTION).eval()
    settings = {**QUICK[name], "network": network, "threshold": 0.5, "random_state": 0}
    fitted = EDITORS[name](**settings).fit(ids, y, sensitive_features=sex)
    assert has_note(fitted)
    frame = pd.DataFrame(ids.astype(float))  # whole numbers may come as floats
    np.testing.assert_array_equal(fitted.predict(frame), fitted.predict(ids))
    with torch.no_grad():
        exported = fitted.to_module()(torch.as_tensor(ids)).argmax(dim=1)
    np.testing.assert_array_equal(fitted.classes_[exported], fitted.predict(ids))


@pytest.mark.parametrize("frozen", [True, False])
def test_nets_of_skorch_get_integers_too(frozen, task):
    ids, y, sex = task
    net = NeuralNetClassifier(Words, criterion=nn.CrossEntropyLoss, max_epochs=1, verbose=0)
    net = FrozenEstimator(net.fit(ids, y)) if frozen else net
    editor = quick(FairLRFTransformer, network=net).fit(ids, y, sensitive_features=sex)
    assert has_note(editor)
    assert editor.transform(ids).shape == (60, 4)


class Keyed(Words):
    """Returns its scores in a dictionary."""

    def forward(self, X):
        return {"scores": super().forward(X)}


def test_a_net_around_scores_in_a_dictionary_gets_integers(task):
    ids, y, sex = task
    settings = {"network": Keyed(), "output_key": "scores"}
    editor = quick(FairLRFTransformer, **settings).fit(ids, y, sensitive_features=sex)
    scores = editor.to_skorch().forward(torch.as_tensor(ids))
    np.testing.assert_array_equal(editor.classes_[scores.argmax(dim=1)], editor.predict(ids))


def test_rows_of_a_dataset_are_kept_as_integers(task):
    ids, y, sex = task
    rows = TensorDataset(torch.as_tensor(ids, dtype=torch.int32))
    editor = quick(FairLRFTransformer, network=Words()).fit(rows, y, sensitive_features=sex)
    assert has_note(editor)
    np.testing.assert_array_equal(editor.predict(rows), editor.predict(ids))


def test_a_teacher_of_another_architecture_takes_integers(task):
    # Attention cannot be initialised anew, so the teacher is a network of the package.
    ids, y, sex = task
    editor = quick(EDITORS["GapFineTuner"], network=Words(attention=True))
    assert editor.fit(ids, y, sensitive_features=sex).score(ids, y) > 0


def test_networks_that_convert_their_rows_get_floats_as_before(task):
    ids, y, sex = task
    editor = quick(FairLRFTransformer, network=WordsOfFloats()).fit(ids, y, sensitive_features=sex)
    assert not has_note(editor)


def test_compare_gives_integers_to_its_base(task):
    ids, y, sex = task
    table = compare("threshold", ids, y, sex, base=Words(), cv=2, random_state=0)
    assert (table["error"] == "").all()


def test_numbers_with_fractions_are_refused_at_prediction(task):
    ids, y, sex = task
    editor = quick(FairLRFTransformer, network=Words()).fit(ids, y, sensitive_features=sex)
    with pytest.raises(ValueError, match=r"X holds numbers with fractions.*Embedding.*integers"):
        editor.predict(ids + 0.5)


def test_a_number_beyond_the_table_is_told_as_such(task):
    ids, y, sex = task
    with pytest.raises(NetworkError, match="out of range"):
        quick(FairLRFTransformer, network=Words()).fit(ids + N_WORDS, y, sensitive_features=sex)


@pytest.mark.parametrize("frozen", [True, False])
def test_regressors_are_refused(frozen, task):
    ids, y, sex = task
    net = NeuralNetRegressor(nn.Linear, module__in_features=5, module__out_features=1)
    net = FrozenEstimator(net.initialize()) if frozen else net
    with pytest.raises(NetworkError, match=r"NeuralNetRegressor.*pass a NeuralNetClassifier"):
        FairLRFTransformer(net).fit(ids, y, sensitive_features=sex)
