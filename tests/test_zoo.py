"""Every editor on networks as users bring them: residual, depthwise, transformers, tied weights."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from editors import CONFIGURATIONS
from fairsvd import BiasMaskFineTuner, FairLRFTransformer, FairPruner, GapFineTuner
from fairsvd.arrays import as_batches
from fairsvd.exceptions import NetworkError
from fairsvd.layers import LowRankConv2d, LowRankLinear, chosen_weights, editable_layers, factorise
from fairsvd.networks import all_features, layer_weights, raw_output
from fairsvd.report import plot_mask, removed_frame
from helpers import IGNORE_SMALL_DATA, fingerprint, global_state, last_wins, trained

pytestmark = [
    # Many short fits: together they take long.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

ROWS = zoo.small_images()
X = torch.tensor(ROWS.X)

REMOVAL = {"sparsity": 0.1, "gap_weight": 1.0, "refine": None}
# Class and parameters of a quick fit: every editor, and what else it can do.
KINDS = {
    **{name: (row.kind, row.quick) for name, row in CONFIGURATIONS.items()},
    **{
        f"FairLRFTransformer, {criterion}": (
            FairLRFTransformer,
            {"criterion": criterion, **REMOVAL},
        )
        for criterion in ("curvature", "magnitude", "random")
    },
    "FairLRFTransformer, ggn in rounds, all": (
        FairLRFTransformer,
        {"criterion": "curvature", "hessian": "ggn", "n_rounds": 2, "layers": "all", **REMOVAL},
    ),
    "FairLRFTransformer, thin": (
        FairLRFTransformer,
        {"rank": 0.5, "max_steps": 3, "gap_weight": 1.0},
    ),
    **{
        f"FairPruner, {criterion}": (FairPruner, {"criterion": criterion, **REMOVAL})
        for criterion in ("curvature", "magnitude", "random")
    },
    "FairPruner, units": (FairPruner, {"criterion": "unit", "sparsity": 0.3, "refine": None}),
    **{
        f"GapFineTuner, {scope}": (
            GapFineTuner,
            {"max_steps": 3, "scope": scope, "gap_weight": 1.0},
        )
        for scope in ("head", "bias")
    },
}
# Three steps are too few for a mask to reach zero.
IDLE = ("FairPruner",)
MAIN = ("ResNet", "depthwise", "ViT")
# Their module holds the network, behind a trigger.
TRIGGERED = ("FairReprogrammer", "FairReprogrammer, adversary")


@cache
def network(name: str) -> nn.Module:
    """A network that was trained for a few steps; nobody may change it."""
    return trained(zoo.build(name), ROWS, 4)


def make(kind, module, **parameters):
    """Make an editor of which the last edit is chosen."""
    cls, quick = KINDS[kind]
    owner = getattr(cls, "__self__", cls)
    last = last_wins(owner)
    last = last if owner is cls else getattr(last, cls.__name__)
    return last(module, **{**quick, "random_state": 0, "threshold": 0.4, **parameters})


def fit(editor):
    return editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


def probabilities(module, offset=0.0):
    with torch.no_grad():
        logits = raw_output(module, X).double()
    return (logits - torch.tensor([0.0, offset])).softmax(1).numpy()


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


@pytest.mark.parametrize("name", ["ViT", "ViT, norm last"])
def test_the_fast_path_of_transformers_makes_no_difference(name, monkeypatch):
    """It reads weights without running layers: of an edited network, those of the edit."""
    module, calls = network(name), []
    fast = torch._transformer_encoder_layer_fwd

    def counted(*args):
        calls.append(len(args))
        return fast(*args)

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", counted)
    kinds = "FairLRFTransformer", "FairLRFTransformer, curvature", "RandomPerturbation"
    with_it = [fit(make(kind, module)) for kind in kinds]
    assert torch.backends.mha.get_fastpath_enabled()
    shares = [editor.predict_proba(ROWS.X) for editor in with_it]
    features = with_it[0].transform(ROWS.X)
    assert calls
    calls.clear()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        without = [fit(make(kind, module)) for kind in kinds]
        assert not torch.backends.mha.get_fastpath_enabled()
        for mine, other, probability in zip(with_it, without, shares, strict=True):
            np.testing.assert_allclose(other.predict_proba(ROWS.X), probability, atol=1e-4)
            # What judged a candidate is what predicts.
            for column in ("utility", "gap"):
                values = mine.history_[column], other.history_[column]
                np.testing.assert_allclose(*values, atol=0.1)
        np.testing.assert_allclose(without[0].transform(ROWS.X), features, atol=1e-3)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert not calls
    assert not np.allclose(shares[1], probabilities(module, with_it[1].offset_), atol=1e-4)


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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("AIM-Fair", "SWiFT")])
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


# Whichever is better, the last edit is compared with the last.
@pytest.mark.usefixtures("no_edit_left_out")
@pytest.mark.parametrize(
    "kind",
    ["FairLRFTransformer", "FairLRFTransformer, curvature", "GapFineTuner", "BiasMaskFineTuner"],
)
@pytest.mark.parametrize("name", ["ViT", "ViT of linear layers"])
def test_mixed_precision(name, kind):
    editor = fit(make(kind, network(name), precision="mixed"))
    assert {p.dtype for p in editor.module_.parameters()} == {torch.float32}
    shares = editor.predict_proba(ROWS.X)
    wanted = probabilities(editor.module_, editor.offset_)
    np.testing.assert_allclose(shares, wanted, atol=1e-5)
    full = fit(make(kind, network(name)))
    np.testing.assert_allclose(shares, full.predict_proba(ROWS.X), atol=0.1)


def test_an_edited_transformer_survives_torch_export():
    editor = fit(make("FairLRFTransformer, curvature", network("ViT")))
    exported = torch.export.export(editor.to_module(), (X,)).module()
    with torch.no_grad():
        codes = exported(X).argmax(1).numpy()
    assert np.array_equal(editor.classes_[codes], editor.predict(ROWS.X))


class Crossing(nn.Module):
    """A class token that attends to patches of another width: three weights, one bias."""

    def __init__(self):
        super().__init__()
        self.pool, self.query = nn.AdaptiveAvgPool2d(4), nn.Parameter(torch.randn(1, 1, 8))
        self.attn = nn.MultiheadAttention(8, 2, kdim=3, vdim=3, batch_first=True)
        nn.init.normal_(self.attn.in_proj_bias, std=0.3)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.pool(x).flatten(2).transpose(1, 2)
        return self.head(self.attn(self.query.expand(len(x), -1, -1), x, x)[0][:, 0])


def crossing():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trained(Crossing(), ROWS, 10)


@pytest.mark.parametrize(
    "kind",
    [
        "FairLRFTransformer",
        "FairLRFTransformer, curvature",
        "FairPruner, units",
        "BMFT",
        "GapFineTuner",
    ],
)
def test_attention_to_others(kind):
    module = crossing()
    editor = fit(make(kind, module))
    assert fingerprint(editor.module_) != fingerprint(module)
    fresh = Crossing().eval()
    fresh.load_state_dict(editor.module_.state_dict(), strict=True)
    shares = editor.predict_proba(ROWS.X)
    np.testing.assert_allclose(shares, probabilities(fresh, editor.offset_), atol=1e-5)


@pytest.mark.parametrize("make_network", [crossing, lambda: network("ViT")])
def test_removed_units_of_attention_are_gone_with_their_biases(make_network):
    module = make_network()
    names = [n for n in editable_layers(module) if "attn" in n]
    settings = {"layers": names, "sparsity": 0.3}
    editor = fit(make("FairPruner, units", module, **settings))
    weights = chosen_weights(editor.module_, names)
    state, removed = editor.module_.state_dict(), 0
    for weight in weights.values():
        gone = torch.tensor(~editor.masks_[weight.parameter]).flatten(1).all(1)
        removed += int(gone.sum())
        assert not weight.value[gone].any()
        bias, rows = weight.bias
        assert not state[bias][rows][gone].any()
        kept = module.state_dict()[bias][rows][~gone]
        assert torch.equal(state[bias][rows][~gone], kept)
    assert removed


def test_named_projections():
    module = network("ViT")
    name = "encoder.layers.1.self_attn.in_proj"
    editor = fit(make("FairLRFTransformer, curvature", module, layers=[name]))
    before, after = module.state_dict(), editor.module_.state_dict()
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert changed == [f"{name}_weight"]
    # Each projection is factored on its own, and loses entries of its own singular vectors.
    masks, blocks = editor.masks_[name], before[changed[0]].double().chunk(3)
    for k, (old, new) in enumerate(zip(blocks, after[changed[0]].chunk(3), strict=True)):
        U, S, Vh = np.linalg.svd(old.numpy())
        wanted = (U * masks["U"][k] * S) @ (Vh.T * masks["V"][k]).T
        np.testing.assert_allclose(new, wanted, atol=1e-5)
    gone = sum(int((~mask).sum()) for mask in masks.values())
    assert gone == int(0.1 * sum(mask.size for mask in masks.values()))
    with pytest.raises(NetworkError, match=r"no projection of an attention layer.*in_proj"):
        fit(
            make(
                "FairLRFTransformer, curvature",
                module,
                layers=["encoder.layers.1.self_attn.in_pro"],
            )
        )


ENDINGS = {
    "softmax": (nn.Softmax(dim=1),),
    "softmax and identity": (nn.Softmax(dim=1), nn.Identity()),
    "identity": (nn.Identity(),),
    "sigmoid and identity": (nn.Sigmoid(), nn.Identity()),
    "sigmoid and a vector": (nn.Sigmoid(), nn.Flatten(0)),
}


@pytest.mark.parametrize("end", ENDINGS)
def test_what_follows_the_head(end):
    n_outputs = 1 if end.startswith("sigmoid") else 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        logits = zoo.MobileNet(n_outputs, width=4).eval()
    editor = fit(make("FairLRFTransformer", nn.Sequential(logits, *ENDINGS[end])))
    assert editor._adopted.output_layer == "0.classifier.1"
    with torch.no_grad():
        scores = editor.module_[0](X).double()
    scores = scores if n_outputs == 2 else torch.cat([0 * scores, scores], 1)
    wanted = (scores - torch.tensor([0.0, editor.offset_])).softmax(1)
    np.testing.assert_allclose(editor.predict_proba(ROWS.X), wanted, atol=1e-5)
    assert editor.transform(ROWS.X).shape == (len(ROWS.y), 16)


def test_a_weight_normalised_head_is_edited_where_that_can_be():
    module = copy.deepcopy(network("ViT of linear layers"))
    nn.utils.parametrizations.weight_norm(module.head)
    editor = fit(make("FairLRFTransformer, curvature", module))
    assert editor._adopted.output_layer == "head"
    assert "head" not in layer_weights(module)
    fit(make("GapFineTuner, head", module))
    # The copy has a plain weight instead.
    assert "head.weight" in fit(make("BiasMaskFineTuner", module)).module_.state_dict()


def test_masks_of_bias_mask_fine_tuning_cover_attention():
    module = network("ViT")
    editor = fit(make("BiasMaskFineTuner", module, tuned_fraction=0.3, granularity="unit"))
    assert isinstance(editor, BiasMaskFineTuner)
    mask = editor.masks_["encoder.layers.0.self_attn.in_proj_weight"]
    assert mask.shape == (48, 16)
    before, after = module.state_dict(), editor.module_.state_dict()
    for name, each in editor.masks_.items():
        assert torch.equal(before[name][~each], after[name][~each])


def test_features_inside_a_transformer_are_found():
    """A hook keeps torch from the fast path, which would run past it."""
    found = all_features(network("ViT"), as_batches(ROWS.X[:20]), "encoder.layers.1.linear2")
    assert found.shape == (20, 5 * 32)
