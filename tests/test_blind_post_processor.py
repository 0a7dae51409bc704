"""BlindPostProcessor: the rule as one network, without the group at prediction."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import norm

from fairsvd import BlindPostProcessor
from fairsvd.datasets import make_biased_classification
from fairsvd.objective import FairRule
from fairsvd.objective._rule import ALPHAS
from fairsvd.phases import JOINTS
from fairsvd.postprocessing._blind import RuleNetwork
from helpers import (
    IGNORE_SMALL_DATA,
    Rows,
    convolutions,
    fingerprint,
    images,
    mlp,
    table,
    trained,
)

# torch's own tree utilities are used by its exporter in a way that it has deprecated (2.13).
LEAF_SPEC = r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"
pytestmark = [
    # Many short fits: together they take long.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(each) for each in [*IGNORE_SMALL_DATA, LEAF_SPEC]),
]


@cache
def biased():
    """Rows to fit on, fresh rows, and a network for them.

    Favourable labels are 70 % of one group and 30 % of the other. Labels lie 2 standard deviations
    apart along one direction and groups 3 along another, so that X nearly gives the group away.
    """
    drawn = make_biased_classification(
        6000, n_features=6, base_rate_gap=0.4, group_shift=3.0, random_state=0
    )
    rows = Rows(drawn.data.astype(np.float32), drawn.target, drawn.groups)
    some, fresh = (
        Rows(*(part[half] for part in rows)) for half in (slice(2000), slice(2000, None))
    )
    return some, fresh, trained(mlp(width=16), some, 60)


def best_known(gap):
    """Balanced accuracy of the best fair decisions of someone who is told the group.

    Both labels' rates are equal with one cut in the middle. For equal selection rates each group
    has its own cut: the best of all pairs, in steps of a hundredth.
    """
    if gap == "equalized_odds":
        return norm.cdf(1.0)
    cuts = np.linspace(-4, 4, 801)
    tpr, fpr, rate = norm.sf(cuts - 1), norm.sf(cuts + 1), np.array([[0.7], [0.3]])
    selected = rate * tpr + (1 - rate) * fpr
    other = np.abs(selected[0][:, None] - selected[1]).argmin(axis=1)
    right = 0.7 * tpr + 0.3 * tpr[other] + 0.3 * (1 - fpr) + 0.7 * (1 - fpr[other])
    return (right / 2).max()


def balanced_accuracy(rows, predicted):
    return np.mean([(predicted[rows.y == k] == k).mean() for k in np.unique(rows.y)])


def gap_of(rows, predicted, name):
    """Spread of the selection rates, or the larger of the spreads of both labels' rates."""
    counted = [np.ones_like(rows.y, dtype=bool)]
    if name == "equalized_odds":
        counted = [rows.y == k for k in (0, 1)]
    return max(
        np.ptp([predicted[of & (rows.group == g)].mean() for g in np.unique(rows.group)])
        for of in counted
    )


@cache
def fitted(joint="finetune", **settings):
    rows, _, net = biased()
    editor = BlindPostProcessor(net, joint=joint, n_teachers=1, random_state=0, **settings)
    return editor.fit(rows.X, rows.y, sensitive_features=rows.group)


@pytest.mark.parametrize("joint", JOINTS)
@pytest.mark.parametrize("gap", ["demographic_parity", "equalized_odds"])
def test_the_gap_falls_by_more_than_half_at_nearly_the_best_accuracy_on_fresh_rows(gap, joint):
    _, fresh, net = biased()
    with torch.no_grad():
        plain = net(torch.as_tensor(fresh.X)).argmax(dim=1).numpy()
    # The control: the network is good, but unfair.
    assert balanced_accuracy(fresh, plain) > best_known("equalized_odds")
    before = gap_of(fresh, plain, gap)
    assert before > 0.15
    editor = fitted(joint, constraint=gap)
    predicted = editor.predict(fresh.X)
    assert isinstance(editor.rule_, FairRule)
    assert gap_of(fresh, predicted, gap) < before / 2
    assert balanced_accuracy(fresh, predicted) > best_known(gap) - 0.05


SHAPES = {
    "table": lambda: (table(300), mlp()),
    "one logit": lambda: (table(300), mlp(1)),
    "three groups": lambda: (table(450, n_groups=3), mlp()),
    "three classes": lambda: (table(450, n_classes=3), mlp(3)),
    "images": lambda: (images(200), convolutions()),
}


class Ruled(BlindPostProcessor):
    """Chooses its last rule, whatever it does."""

    def _edit(self, task, rng):
        untouched, *_, last = super()._edit(task, rng)
        yield untouched
        verdict = replace(last.verdict, feasible=True, value=1e6)
        yield replace(last, verdict=verdict)


@cache
def ruled(name, **settings):
    rows, net = SHAPES[name]()
    settings = {"random_state": 0, "n_teachers": 2, "joint": "head", **settings}
    editor = Ruled(trained(net, rows), **settings)
    return editor.fit(rows.X, rows.y, sensitive_features=rows.group), rows


@pytest.mark.parametrize("threshold", ["tune", 0.7])
@pytest.mark.parametrize("name", SHAPES)
def test_predictions_are_those_of_the_rule_by_hand(name, threshold):
    editor, rows = ruled(name, threshold="tune" if name == "three classes" else threshold)
    X, network = torch.as_tensor(rows.X), editor.module_
    assert isinstance(network, RuleNetwork)
    with torch.no_grad():
        cells = np.mean(
            [softmax(each(X).double().numpy(), axis=1) for each in network.networks], axis=0
        )
    assert len(network.networks) == 2
    scores = cells @ editor.rule_.weights
    n_classes = len(editor.classes_)
    assert editor.rule_.weights.shape == (n_classes * len(editor.groups_), n_classes)
    np.testing.assert_allclose(
        editor.predict_proba(rows.X),
        softmax(scores - editor.offset_ * (np.arange(n_classes) == 1) * (n_classes == 2), axis=1),
        atol=1e-4,
    )
    if n_classes == 2:
        lead = scores[:, 1] - scores[:, 0] - editor.offset_
        clear = np.abs(lead) > 1e-4
        assert np.array_equal(editor.predict(rows.X)[clear], (lead > 0)[clear])
        if threshold != "tune":
            assert editor.threshold_ == pytest.approx(threshold)
    else:
        assert np.array_equal(editor.predict(rows.X), scores.argmax(axis=1))


@pytest.mark.parametrize("name", SHAPES)
def test_one_module_leaves_and_its_largest_score_is_the_prediction(name):
    editor, rows = ruled(name)
    module, X = editor.to_module(), torch.as_tensor(rows.X)
    assert len(editor.classes_) > 2 or editor.offset_ != 0
    with torch.no_grad():
        assert np.array_equal(module(X).argmax(dim=1), editor.predict(rows.X))
    exported = torch.export.export(
        module, (X[:7],), dynamic_shapes=({0: torch.export.Dim("rows")},)
    )
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for n_rows in (1, 2, 50):
        with torch.no_grad():
            torch.testing.assert_close(loaded(X[:n_rows]), module(X[:n_rows]))


@pytest.mark.slow
def test_one_onnx_file_computes_the_same(tmp_path):
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    import onnxruntime

    editor, rows = ruled("table")
    path = tmp_path / "rule.onnx"
    torch.onnx.export(
        editor.to_module(),
        (torch.as_tensor(rows.X[:7]),),
        path,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("rows")},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: rows.X})
    assert np.array_equal(scores.argmax(axis=1), editor.predict(rows.X))


def test_the_history_has_a_row_for_each_limit_after_the_untouched_network():
    editor = fitted(constraint="demographic_parity")
    history = editor.history_
    assert history.stage.tolist() == ["untouched"] + ["rule"] * len(ALPHAS)
    assert history.alpha.tolist()[1:] == list(ALPHAS)
    assert np.isnan(history.alpha[0])
    best = history[history.feasible].value.idxmax()
    assert editor.rule_.alpha == history.alpha[best]
    assert history.threshold[best] == pytest.approx(editor.threshold_)


class Unlucky(BlindPostProcessor):
    """Judges each of its rules to be a bad one."""

    def _edit(self, task, rng):
        untouched, *others = super()._edit(task, rng)
        bad = replace(others[0].verdict, feasible=False, value=-1.0)
        yield untouched
        yield from (replace(each, verdict=bad) for each in others)


def test_the_untouched_network_is_kept_where_no_rule_is_better():
    rows, _, net = biased()
    editor = Unlucky(net, joint="head", n_teachers=1, tolerance=0.9, random_state=0)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert editor.rule_ is None
    with torch.no_grad():
        logits = net(torch.as_tensor(rows.X))
    lead = (logits[:, 1] - logits[:, 0]).numpy()
    clear = abs(lead - editor.offset_) > 1e-5
    assert np.array_equal(editor.predict(rows.X)[clear], (lead > editor.offset_)[clear])
    assert any("untouched network was chosen" in note for note in editor.report_.notes)


def test_equal_seeds_give_equal_bits_and_the_users_network_stays():
    rows, net = SHAPES["table"]()
    net = trained(net, rows)
    before = fingerprint(net)
    fits = [
        Ruled(net, joint="finetune", random_state=seed).fit(
            rows.X, rows.y, sensitive_features=rows.group
        )
        for seed in (0, 0, 1)
    ]
    one, same, other = (fit.predict_proba(rows.X) for fit in fits)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert np.array_equal(fits[0].rule_.weights, fits[1].rule_.weights)
    assert fingerprint(net) == before


@pytest.mark.filterwarnings("ignore::fairsvd.exceptions.MissingSensitiveFeaturesWarning")
def test_without_sensitive_features_one_rule_is_tried():
    rows, _, net = biased()
    editor = BlindPostProcessor(net, n_teachers=1, random_state=0).fit(rows.X, rows.y)
    assert editor.groups_ == []
    assert editor.history_.stage.tolist() == ["untouched", "rule"]
    assert balanced_accuracy(rows, editor.predict(rows.X)) > best_known("equalized_odds") - 0.01


def test_the_group_counts_only_in_fit():
    """Groups are named in fit; a row's prediction is the same in any company and any order."""
    _, fresh, _ = biased()
    editor = fitted(constraint="demographic_parity")
    order = np.random.default_rng(0).permutation(500)
    one = editor.predict_proba(fresh.X[:500])
    np.testing.assert_allclose(editor.predict_proba(fresh.X[order]), one[order], atol=1e-5)
    with pytest.raises(TypeError, match="sensitive_features"):
        editor.predict(fresh.X, sensitive_features=fresh.group)


def test_the_global_generator_stays_where_it_was_and_no_gradients_are_left():
    rows = table(300)
    network, before = trained(mlp(), rows), torch.get_rng_state()
    for joint in ("head", "finetune", "refit"):
        editor = BlindPostProcessor(network, joint=joint, n_teachers=1, random_state=0)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
        assert torch.equal(torch.get_rng_state(), before)
        assert all(parameter.grad is None for parameter in editor.module_.parameters())
