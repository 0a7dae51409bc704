"""Every editor on networks as users bring them: residual, depthwise, transformers, tied weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from attending import NEED_ATTENTION
from fairsvd import FairLRFTransformer
from fairsvd.layers import LowRankConv2d, LowRankLinear, editable_layers, factorise
from fairsvd.report import plot_mask, removed_frame
from helpers import IGNORE_SMALL_DATA, fingerprint, global_state
from zoo_fits import KINDS, ROWS, X, fit, make, network, probabilities

pytestmark = [
    # Many short fits: together they take long.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]
# Three steps are too few for a mask to reach zero.
IDLE = ("FairPruner",)
MAIN = ("ResNet", "depthwise", "ViT")
# Their module holds the network, behind a trigger.
TRIGGERED = ("FairReprogrammer", "FairReprogrammer, adversary")


@pytest.mark.parametrize("name", MAIN)
def test_a_rule_is_put_behind_a_network_of_the_same_kind(name):
    """Its module is another one: networks of the cells, whose classes are the network's."""
    module = network(name)
    before, process = fingerprint(module), global_state()
    editor = fit(make("BlindPostProcessor", module))
    assert (fingerprint(module), global_state()) == (before, process)
    assert type(editor.module_.networks[0].network) is type(module)
    with torch.no_grad():
        codes = editor.to_module()(X).argmax(1).numpy()
    assert np.array_equal(editor.classes_[codes], editor.predict(ROWS.X))


@pytest.mark.parametrize("kind", TRIGGERED)
@pytest.mark.parametrize("name", MAIN)
def test_a_trigger_is_put_before_the_network_itself(name, kind):
    module = network(name)
    before, process = fingerprint(module), global_state()
    editor = fit(make(kind, module))
    assert (fingerprint(module), global_state()) == (before, process)
    assert fingerprint(editor.module_.network) == before
    with torch.no_grad():
        codes = editor.to_module()(X).argmax(1).numpy()
    assert np.array_equal(editor.classes_[codes], editor.predict(ROWS.X))


# What edits layer by layer meets every kind of layer; the others get all weights as they are.
BY_LAYER = ("BMFT", "BiasMask", "FairLRF", "FairPruner", "Layerwise", "SWiFT")
EDITED = [
    (name, kind)
    for kind in sorted(KINDS.keys() - {"BlindPostProcessor", *TRIGGERED})
    for name in (MAIN if kind.startswith(BY_LAYER) else ("depthwise", "ViT"))
    if name == "ViT" or kind not in NEED_ATTENTION
]


@pytest.mark.parametrize(("name", "kind"), EDITED)
def test_every_editor_edits(name, kind):
    module = network(name)
    before, process = fingerprint(module), global_state()
    editor = fit(make(kind, module))
    assert (fingerprint(module), global_state()) == (before, process)
    assert type(editor.module_) is type(module)
    assert fingerprint(editor.module_) != before or kind in IDLE
    # Statistics of normalisations are no part of an edit, unless they are asked to be.
    for key, value in module.named_buffers():
        assert torch.equal(editor.module_.get_buffer(key), value) or kind == "AIM-Fair"
    fresh = zoo.build(name)
    fresh.load_state_dict(editor.module_.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(fresh(X), editor.module_(X))
    shares = editor.predict_proba(ROWS.X)
    np.testing.assert_allclose(shares, probabilities(fresh, editor.offset_), atol=1e-5)
    with torch.no_grad():
        codes = editor.to_module()(X).argmax(1).numpy()
    assert np.array_equal(editor.classes_[codes], editor.predict(ROWS.X))


@pytest.mark.parametrize(
    "kind",
    [
        "FairLRFTransformer",
        "FairLRFTransformer, curvature",
        "FairPruner",
        "BiasMaskFineTuner",
        "GapFineTuner",
    ],
)
@pytest.mark.parametrize("name", [name for name in zoo.NETWORKS if name not in MAIN])
def test_other_networks(name, kind):
    module = network(name)
    before = fingerprint(module)
    editor = fit(make(kind, module))
    assert fingerprint(module) == before
    assert fingerprint(editor.module_) != before or kind in IDLE
    fresh = zoo.build(name)
    fresh.load_state_dict(editor.module_.state_dict(), strict=True)
    shares = editor.predict_proba(ROWS.X)
    np.testing.assert_allclose(shares, probabilities(fresh, editor.offset_), atol=1e-5)


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_the_identity_edit_changes_nothing(name):
    module = network(name)
    settings = {"sparsity": 0, "refine": None, "threshold": 0.5, "layers": "all"}
    editor = fit(FairLRFTransformer(module, random_state=0, **settings))
    found = editor.predict_proba(ROWS.X)
    np.testing.assert_allclose(found, probabilities(module), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_factors_of_full_rank_give_the_network_back(name):
    module = copy.deepcopy(network(name)).double()
    state = {}
    for weight in editable_layers(module).values():
        factors = factorise(weight, min(weight.matrices().shape[1:]))
        state[factors.parameter] = factors.weight()
    again = copy.deepcopy(module)
    assert not again.load_state_dict(state, strict=False).unexpected_keys
    with torch.no_grad():
        torch.testing.assert_close(again(X.double()), module(X.double()), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_layers_and_ranks(name):
    """Every weight with two dimensions is there, once, but for positions and the like."""
    module = network(name)
    weights = editable_layers(module)
    parameters = [weight.parameter for weight in weights.values()]
    assert len(set(parameters)) == len(parameters)
    wanted = {n for n, p in module.named_parameters() if p.dim() > 1 and n.endswith("weight")}
    assert set(parameters) == wanted
    editor = fit(make("FairLRFTransformer, thin", module, rank=0.5))
    for layer, rank in editor.ranks_.items():
        c, m, n = weights[layer].matrices().shape
        assert rank == max(1, round(0.5 * min(m, n)))
        mask = editor.masks_[layer]["U"]
        assert mask.shape == ((m, rank) if c == 1 else (c, m, rank))
    table = removed_frame(editor)
    assert list(table.index) == list(editor.masks_)
    assert len(plot_mask(editor).images) == 2 * len(table)


@pytest.mark.parametrize("name", ["ViT", "ViT of linear layers", "ResNet"])
def test_a_row_does_not_depend_on_the_rows_beside_it(name):
    editor = fit(make("FairLRFTransformer", network(name)))
    whole = editor.predict_proba(ROWS.X)
    for rows in (slice(7, 8), slice(20, 55)):
        assert np.array_equal(editor.predict_proba(ROWS.X[rows]), whole[rows])


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_features_are_what_enters_the_head(name):
    module = network(name)
    editor = fit(make("GapFineTuner, head", module))
    head = module.fc if name == "ResNet" else getattr(module, "classifier", None)
    head = module.head if head is None else head[-1] if isinstance(head, nn.Sequential) else head
    assert editor._adopted.output_layer == {id(m): n for n, m in module.named_modules()}[id(head)]
    head, features = editor.module_.get_submodule(editor._adopted.output_layer), []
    handle = head.register_forward_pre_hook(lambda _layer, inputs: features.append(inputs[0]))
    with torch.no_grad():
        editor.module_(X)
    handle.remove()
    np.testing.assert_allclose(editor.transform(ROWS.X), features[0], atol=1e-5)


def inside(module):
    """The edited network, where the module holds it behind a trigger or below a rule."""
    module = module.networks[0] if hasattr(module, "networks") else module
    return getattr(module, "network", module)


WITHOUT_TIES = ("AIM-Fair", "SWiFT", *NEED_ATTENTION)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WITHOUT_TIES])
def test_tied_weights_stay_tied(kind):
    """They are edited once; both names of a state hold the same numbers."""
    editor = fit(make(kind, network("tied")))
    for module in map(inside, (editor.module_, editor.to_module(), copy.deepcopy(editor.module_))):
        assert module.second.weight is module.first.weight
        state = module.state_dict()
        assert torch.equal(state["second.weight"], state["first.weight"])
    masks = getattr(editor, "masks_", {})
    assert not [name for name in masks if name in ("second", "second.weight")]


def test_a_weight_that_makes_the_logits_is_no_hidden_one():
    module = network("tied head")
    for kind in ("FairLRFTransformer", "FairPruner", "BiasMaskFineTuner", "BMFT", "SWiFT"):
        editor = fit(make(kind, module))
        assert not [name for name in editor.masks_ if name.startswith(("hidden", "head"))]
        assert editor.module_.head.weight is editor.module_.hidden.weight
    whole = fit(make("BiasMaskFineTuner", module, layers="all", store_importance=True))
    assert "hidden.weight" in whole.masks_
    assert whole.module_.head.weight is whole.module_.hidden.weight
    editor = fit(make("FairLRFTransformer", module, layers=["head"]))
    assert list(editor.masks_) == ["hidden"]


@pytest.mark.parametrize("name", ["ViT", "ResNet", "tied", "ViT of linear layers"])
def test_compression_leaves_attention_and_tied_weights_dense(name):
    module = network(name)
    editor = fit(make("FairLRFTransformer, thin", module, rank=0.25, compress=True, layers="all"))
    thin = {
        n
        for n, m in editor.module_.named_modules()
        if isinstance(m, (LowRankLinear, LowRankConv2d))
    }
    weights, expected = editable_layers(module), set()
    for layer, rank in editor.ranks_.items():
        _, m, n = weights[layer].matrices().shape
        inside = "self_attn" in layer or (name == "tied" and layer == "first")
        if rank * (m + n) < m * n and not inside:
            expected.add(layer)
    assert thin == expected
    assert thin
    dense = fit(make("FairLRFTransformer, thin", module, rank=0.25, layers="all"))
    found, wanted = editor.predict_proba(ROWS.X), dense.predict_proba(ROWS.X)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    if name == "ViT":
        attention = editor.module_.encoder.layers[0].self_attn
        assert type(attention.out_proj) is type(module.encoder.layers[0].self_attn.out_proj)
        assert isinstance(attention.in_proj_weight, nn.Parameter)


def test_a_layer_that_does_more_than_its_kind_is_not_compressed():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    module = network("tied")
    module = nn.Sequential(copy.deepcopy(module.pool), Doubled(48, 16), nn.Tanh(), nn.Linear(16, 2))
    hooked = nn.Linear(16, 16)
    hooked.register_forward_hook(lambda layer, inputs, output: 3 * output)
    module.insert(3, hooked)
    editor = fit(make("FairLRFTransformer, thin", module, rank=0.25, compress=True))
    assert type(editor.module_[1]) is Doubled
    assert type(editor.module_[3]) is nn.Linear
    dense = fit(make("FairLRFTransformer, thin", module, rank=0.25))
    found, wanted = editor.predict_proba(ROWS.X), dense.predict_proba(ROWS.X)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
