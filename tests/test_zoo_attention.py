"""Transformers and heads of other kinds: attention, mixed precision, what follows the head."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from fairsvd import BiasMaskFineTuner
from fairsvd.arrays import as_batches
from fairsvd.exceptions import NetworkError
from fairsvd.layers import chosen_weights, editable_layers
from fairsvd.networks import all_features, layer_weights
from helpers import IGNORE_SMALL_DATA, fingerprint, trained
from zoo_fits import ROWS, X, fit, make, network, probabilities

pytestmark = [
    # Many short fits: together they take long.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]


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
