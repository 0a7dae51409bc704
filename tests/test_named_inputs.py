"""Networks that are called by the names of their inputs: every way in and out of an editor."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.utils.data import Dataset

import fairsvd
from fairsvd import (
    BlindPostProcessor,
    FairLRFTransformer,
    GapFineTuner,
    JointStratifiedKFold,
    SelectiveFineTuner,
    TextFrame,
    compare,
    fairness_scorer,
)
from fairsvd.exceptions import NetworkError
from fairsvd.networks import ShiftedNetwork
from helpers import IGNORE_SMALL_DATA, LastWins, fingerprint, mlp, quick, skorch_net
from sentences import Reader, frame, reader, sentences, tokenise

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

TEXTS, Y, GROUP = sentences()
WORDS = {name: torch.tensor(ids) for name, ids in tokenise(TEXTS).items()}
NETWORK = reader()


class Items(Dataset):
    """A dictionary for each row, or a tuple of it and the label."""

    def __init__(self, rows, labelled=False):
        self.rows, self.labelled = rows, labelled

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        item = {name: torch.as_tensor(value) for name, value in self.rows[row].items()}
        # In another order, which means nothing.
        item = dict(reversed(item.items()))
        return (item, int(Y[row])) if self.labelled else item


def fit(editor, X=None):
    return editor.fit(frame() if X is None else X, Y, sensitive_features=GROUP)


def codes_of(module):
    with torch.no_grad():
        return module(**WORDS).argmax(1).numpy()


@pytest.fixture(scope="module")
def edited():
    return fit(quick(NETWORK, LastWins, threshold=0.4))


def test_the_identity_edit_predicts_as_the_network():
    settings = {"sparsity": 0, "refine": None, "threshold": 0.5, "random_state": 0}
    editor = fit(FairLRFTransformer(NETWORK, **settings))
    with torch.no_grad():
        wanted = NETWORK(**WORDS).softmax(1).double().numpy()
    np.testing.assert_allclose(editor.predict_proba(frame()), wanted, atol=1e-6, rtol=0)


def test_an_edit_leaves_the_users_network_alone(edited):
    before = fingerprint(NETWORK)
    fit(quick(NETWORK, LastWins))
    assert fingerprint(NETWORK) == before
    assert not NETWORK._forward_pre_hooks
    assert fingerprint(edited.module_) != before
    assert edited.module_.state_dict().keys() == NETWORK.state_dict().keys()


@pytest.mark.parametrize("labelled", [False, True])
def test_a_dataset_of_dictionaries_gives_the_same(edited, labelled):
    rows = Items(frame(), labelled)
    editor = fit(quick(NETWORK, LastWins, threshold=0.4), rows)
    wanted = edited.predict_proba(frame())
    np.testing.assert_array_equal(editor.predict_proba(rows), wanted)
    np.testing.assert_array_equal(editor.predict_proba(frame()), wanted)


def test_rows_may_be_padded_further_and_come_alone(edited):
    longer = TextFrame(tokenise(TEXTS, 20))
    wanted = edited.predict_proba(frame())
    np.testing.assert_allclose(edited.predict_proba(longer), wanted, atol=1e-6)
    np.testing.assert_array_equal(edited.predict_proba(frame()[[5]]), wanted[[5]])
    assert edited.transform(longer).shape == (len(Y), 8)


def test_what_is_exported_is_called_by_names(edited):
    exported = edited.to_module()
    assert type(exported) is Reader
    assert not exported._forward_pre_hooks
    np.testing.assert_array_equal(edited.classes_[codes_of(exported)], edited.predict(frame()))
    program = torch.export.export(exported, (), WORDS).module()
    np.testing.assert_array_equal(codes_of(program), codes_of(exported))
    # The editor's own network can be called as before, too.
    with torch.no_grad():
        assert edited.module_(**WORDS).shape == (len(Y), 2)


def test_wrappers_are_called_by_names_too():
    class Tripled(Reader):
        def forward(self, input_ids, attention_mask):
            return 3 * super().forward(input_ids, attention_mask)

    module = Tripled()
    module.load_state_dict(NETWORK.state_dict())
    editor = fit(quick(module.eval(), threshold=0.3))
    exported = editor.to_module()
    assert type(exported) is ShiftedNetwork
    np.testing.assert_array_equal(codes_of(exported), editor.predict(frame()))
    rule = fit(BlindPostProcessor(NETWORK, joint="head", n_teachers=1, random_state=0))
    np.testing.assert_array_equal(codes_of(rule.to_module()), rule.predict(frame()))


def test_a_fitted_editor_travels(edited, tmp_path):
    wanted = edited.predict_proba(frame())
    path = tmp_path / "editor.fairsvd"
    fairsvd.save(edited, path)
    loaded = fairsvd.load(path, trusted=("sentences.Reader", "helpers.LastWins"))
    for other in (copy.deepcopy(edited), pickle.loads(pickle.dumps(edited)), loaded):
        np.testing.assert_array_equal(other.predict_proba(frame()), wanted)
        np.testing.assert_array_equal(codes_of(other.to_module()), codes_of(edited.to_module()))
    grafted = fairsvd.load(path, network=NETWORK, trusted=("helpers.LastWins",))
    np.testing.assert_array_equal(grafted.predict_proba(frame()), wanted)
    assert not NETWORK._forward_pre_hooks


def test_a_search_slices_a_frame():
    own = frame(pd.DataFrame({"who": GROUP}))
    search = GridSearchCV(
        quick(NETWORK, sensitive_columns="who", max_steps=1),
        {"rank": [0.5, 1.0]},
        scoring=fairness_scorer("equalized_odds_difference", sensitive_columns="who"),
        cv=JointStratifiedKFold(2, sensitive_columns="who"),
        error_score="raise",
    ).fit(own, Y)
    assert search.predict(own).shape == Y.shape
    assert search.best_estimator_.sensitive_source_ == "columns of X"
    indexed = pd.Series(Y, index=pd.Index(GROUP, name="who"))
    editor = quick(NETWORK, sensitive_columns="who", max_steps=1).fit(frame(), indexed)
    assert editor.sensitive_source_ == "index of y"
    assert editor.predict(frame()).shape == Y.shape


def test_a_frame_is_compared_on():
    table = compare("threshold", frame(), Y, GROUP, base=NETWORK, cv=2, random_state=0)
    assert table["error"].tolist() == [""] * 4


@pytest.mark.parametrize("frozen", [True, False])
def test_nets_of_skorch_are_trained_and_edited(frozen):
    net = skorch_net(Reader, lr=0.1)
    network = FrozenEstimator(net.fit(WORDS, Y)) if frozen else net
    editor = fit(quick(network, threshold=0.4))
    again = editor.to_skorch()
    assert type(again.module_) is Reader
    np.testing.assert_array_equal(again.predict(WORDS), editor.predict(frame()))
    again.partial_fit(WORDS, Y)


def test_a_net_is_trained_on_dictionaries(monkeypatch):
    """Its training sees what it would see if its owner passed the words."""
    own = skorch_net(Reader, lr=0.1, max_epochs=1)
    editor = fit(quick(own, sparsity=0, refine=None, threshold=0.5))
    monkeypatch.setattr("fairsvd.networks._trained._in_memory", lambda rows: False)
    streamed = fit(quick(own, sparsity=0, refine=None, threshold=0.5))
    np.testing.assert_array_equal(editor.predict_proba(frame()), streamed.predict_proba(frame()))


def test_a_module_around_scores_takes_names():
    class Keyed(Reader):
        def forward(self, input_ids, attention_mask):
            return {"logits": super().forward(input_ids, attention_mask)}

    module = Keyed()
    module.load_state_dict(NETWORK.state_dict())
    editor = fit(quick(module.eval(), output_key="logits"))
    np.testing.assert_array_equal(editor.to_skorch().predict(WORDS), editor.predict(frame()))


def test_a_cache_keeps_what_is_computed(tmp_path):
    settings = {"memory": tmp_path, "threshold": 0.4}
    first = fit(quick(NETWORK, LastWins, **settings)).predict_proba(frame())
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    again = fit(quick(NETWORK, LastWins, **settings)).predict_proba(frame())
    np.testing.assert_array_equal(first, again)
    assert files == {path.name for path in tmp_path.rglob("*") if path.is_file()}


class Both(nn.Module):
    """A table beside words."""

    def __init__(self):
        super().__init__()
        self.reader, self.head = Reader(n_outputs=4), nn.Linear(7, 2)

    def forward(self, input_ids, attention_mask, numbers):
        return self.head(torch.cat([self.reader(input_ids, attention_mask), numbers], 1).relu())


def test_floats_beside_integers():
    numbers = np.random.default_rng(0).normal(size=(len(Y), 3))
    rows = TextFrame({**tokenise(TEXTS), "numbers": numbers})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Both().eval()
    editor = fit(quick(module, LastWins, threshold=0.4), rows)
    with torch.no_grad():
        inputs = {**WORDS, "numbers": torch.tensor(numbers, dtype=torch.float32)}
        codes = editor.to_module()(**inputs).argmax(1).numpy()
    np.testing.assert_array_equal(editor.classes_[codes], editor.predict(rows))
    whole = TextFrame({**tokenise(TEXTS), "numbers": numbers.round().astype(int)})
    same = TextFrame({**tokenise(TEXTS), "numbers": numbers.round()})
    np.testing.assert_array_equal(editor.predict_proba(whole), editor.predict_proba(same))
    mixed = fit(quick(module, precision="mixed"), rows)
    assert mixed.predict(rows).shape == Y.shape


def test_a_teacher_keeps_a_network_that_cannot_be_made_anew():
    class Own(Reader):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, input_ids, attention_mask):
            return self.scale * super().forward(input_ids, attention_mask)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Own().eval()
    editor = fit(GapFineTuner(module, max_steps=1, random_state=0))
    assert editor.predict(frame()).shape == Y.shape


def test_synthetic_rows_are_copies_or_the_users():
    settings = {"epochs": 1, "min_steps": 2, "random_state": 0}
    editor = fit(SelectiveFineTuner(NETWORK, **settings))
    assert editor.predict(frame()).shape == Y.shape
    given = (TextFrame(tokenise(TEXTS)), Y, GROUP)
    assert fit(SelectiveFineTuner(NETWORK, synthetic=given, **settings)).predict(frame()).shape
    with pytest.raises(ValueError, match=r"generator='copula' makes new numbers.*copies"):
        fit(SelectiveFineTuner(NETWORK, generator="copula", **settings))


def without_mask():
    return TextFrame({"input_ids": tokenise(TEXTS)["input_ids"]})


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        (
            lambda: TextFrame({**tokenise(TEXTS), "labels": Y}),
            NetworkError,
            r"forward of Reader does not take \['labels'\]: it takes \[input_ids, attention_mask\]",
        ),
        (without_mask, NetworkError, r"forward of Reader needs \['attention_mask'\], too"),
        (lambda: tokenise(TEXTS), ValueError, r"X is a dict of names: .*fairsvd\.TextFrame\(X\)"),
        (lambda: frame()[:5], ValueError, "X has 5 rows but y has 144"),
    ],
    ids=["too many", "too few", "a dict", "too short"],
)
def test_what_does_not_fit_the_network_is_named(rows, kind, message):
    with pytest.raises(kind, match=message):
        fit(quick(NETWORK), rows())


def test_no_default_network_reads_names():
    with pytest.raises(
        NetworkError, match=r"network=None makes a network for tables or images.*in"
    ):
        fit(FairLRFTransformer(random_state=0))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            without_mask,
            r"inputs \[input_ids\], but those of fit were \[attention_mask, input_ids\]",
        ),
        (
            lambda: tokenise(TEXTS)["input_ids"],
            r"X is a ndarray, but the rows of fit had the inputs",
        ),
        (lambda: Items([np.ones(3)] * 3), r"rows of the kind of those of fit"),
        (lambda: frame()[:0], "X has 0 rows"),
    ],
    ids=["other names", "an array", "a dataset of arrays", "no rows"],
)
def test_what_does_not_fit_the_fit_is_named(edited, rows, message):
    if isinstance(found := rows(), Items):
        found.__class__ = type("Plain", (Items,), {"__getitem__": lambda self, k: self.rows[k]})
    with pytest.raises(ValueError, match=message):
        edited.predict(found)


def test_items_must_name_the_same_inputs(edited):
    class Uneven(Items):
        def __getitem__(self, row):
            item = super().__getitem__(row)
            if self.rows_differ == "names" and row == 3:
                del item["attention_mask"]
            if self.rows_differ == "lengths" and row == 3:
                item["input_ids"] = item["input_ids"][:4]
            return item

    rows = Uneven(frame())
    rows.rows_differ = "names"
    with pytest.raises(ValueError, match=r"whose item 3 holds \['input_ids'\]"):
        edited.predict(rows)
    rows.rows_differ = "lengths"
    with pytest.raises(
        ValueError, match=r"input 'input_ids' has rows of the shapes \(4,\), \(1.,\)"
    ):
        edited.predict(rows)


def test_names_after_a_fit_on_arrays_are_refused():
    rows = np.random.default_rng(0).normal(size=(len(Y), 6)).astype(np.float32)
    editor = fit(quick(mlp(), max_steps=1), rows)
    with pytest.raises(ValueError, match="X must have rows of the kind of those of fit"):
        editor.predict(frame())
    with pytest.raises(ValueError, match=r"items name their inputs .*were single arrays"):
        editor.predict(Items(frame()))
