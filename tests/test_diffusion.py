"""DiffusionGenerator: a small pipeline with random weights, on this machine only."""

from __future__ import annotations

import builtins
import json
import socket
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.base import clone

from fairsvd import CellSampler
from fairsvd.generative import DiffusionGenerator, contextual_prompts
from fairsvd.generative.cells._diffusion import _as_rows, _choose_prompts, _find_range

PROMPTS = contextual_prompts({0: "serious", 1: "smiling"}, {"F": "female", "M": "male"})


@pytest.fixture
def task():
    """40 colour images of 6 x 6 in [0, 1], 5 of them of women a label."""
    X = np.random.default_rng(0).random((40, 3, 6, 6)).astype(np.float32)
    return X, np.arange(40) % 2, np.where(np.arange(40) // 2 % 4, "M", "F")


@pytest.fixture
def folder(tmp_path):
    """A folder that passes for a pipeline until it is loaded."""
    (tmp_path / "model_index.json").write_text("{}")
    return tmp_path


# Without diffusers


def test_images_are_noted_and_prompts_checked(task, folder):
    X, y, sex = task
    generator = DiffusionGenerator(folder, PROMPTS).fit(X, y, sensitive_features=sex)
    assert generator.cells_ == [(0, "F"), (0, "M"), (1, "F"), (1, "M")]
    assert generator.sample(0).shape == (0, 3, 6, 6)
    assert clone(generator).get_params()["prompts"] == PROMPTS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.zeros((40, 5))}, "images"),
        ({"X": np.zeros((40, 2, 6, 6))}, "1 or 3 channels"),
        ({"X": np.full((40, 3, 6, 6), 1000.0)}, "value_range"),
        ({"prompts": {(0, "F"): ["a photo"]}}, r"none for the cells \[\(0, 'M'\)"),
        ({"prompts": {**PROMPTS, (0, "M"): []}}, r"none for the cells \[\(0, 'M'\)\]"),
        ({"checkpoint": "stabilityai/some-model"}, "Nothing is downloaded"),
        ({"value_range": (1, 0)}, "smaller first"),
        ({"n_steps": 0}, "'n_steps' parameter"),
    ],
)
def test_what_is_refused(task, folder, change, message):
    X, y, sex = task
    X = change.pop("X", X)
    params = {"checkpoint": folder, "prompts": PROMPTS, **change}
    with pytest.raises(ValueError, match=message):
        DiffusionGenerator(**params).fit(X, y, sensitive_features=sex)


def test_the_extra_is_named_where_it_is_missing(task, folder, monkeypatch):
    X, y, sex = task
    generator = DiffusionGenerator(folder, PROMPTS).fit(X, y, sensitive_features=sex)
    real = builtins.__import__

    def without_diffusers(name, *args, **kwargs):
        if name == "diffusers":
            raise ImportError("No module named 'diffusers'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_diffusers)
    with pytest.raises(ImportError, match=r"fairsvd\[diffusion\]"):
        generator.sample(1, conditions=[(0, "F")])


def test_conditions_need_prompts(task, folder):
    X, y, sex = task
    generator = DiffusionGenerator(folder, PROMPTS).fit(X, y, sensitive_features=sex)
    with pytest.raises(ValueError, match="no prompts"):
        generator.sample(1, conditions=[(0, "X")])
    with pytest.raises(ValueError, match="conditions has 1 entries"):
        generator.sample(2, conditions=[(0, "F")])


def test_prompts_take_turns():
    texts = _choose_prompts(["a", "b", "a", "a", "b"], {"a": ["one", "two"], "b": ["three"]})
    assert texts == ["one", "three", "two", "one", "three"]


@pytest.mark.parametrize(
    ("values", "dtype", "ends"),
    [
        ([0, 1], np.float32, (0, 1)),
        ([-0.9, 1], np.float64, (-1, 1)),
        ([0, 200], np.float32, (0, 255)),
        ([0, 1], np.uint8, (0, 255)),
    ],
)
def test_ranges(values, dtype, ends):
    assert _find_range(np.array(values, dtype=dtype).reshape(1, 1, 1, 2), None) == ends


def test_images_take_the_form_of_those_of_fit():
    white = torch.ones(2, 3, 12, 12)
    white[1] = 0.5
    rows = _as_rows(white, np.zeros((1, 1, 6, 4), dtype=np.uint8), (0, 255))
    assert (rows.shape, rows.dtype) == ((2, 1, 6, 4), np.uint8)
    assert (rows[0] == 255).all()
    assert (rows[1] == 128).all()
    rows = _as_rows(white, np.zeros((1, 3, 12, 12), dtype=np.float32), (-1, 1))
    assert (rows[0] == 1).all()
    assert rows[1] == pytest.approx(0)


# With diffusers


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Save a pipeline of Stable Diffusion's parts, a few thousand random weights in all."""
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("pipeline")
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *[f"{c}</w>" for c in letters], "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text_encoder = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                num_attention_heads=2, projection_dim=16, bos_token_id=len(words) - 2,
                eos_token_id=len(words) - 1, pad_token_id=len(words) - 1,
            )
        )  # fmt: skip
        unet = diffusers.UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
            cross_attention_dim=16, attention_head_dim=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, sample_size=8)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder / "saved")
    return folder / "saved"


def no_network(*args, **kwargs):
    raise AssertionError("something wanted to reach the network")


@pytest.mark.slow
def test_images_are_drawn_cell_by_cell_from_the_folder_alone(task, checkpoint, monkeypatch):
    X, y, sex = task
    monkeypatch.setattr(socket.socket, "connect", no_network)
    generator = DiffusionGenerator(checkpoint, PROMPTS, n_steps=2, batch_size=3, random_state=0)
    generator.fit(X, y, sensitive_features=sex)
    state = torch.get_rng_state()
    asked = [(0, "F"), (1, "M"), (0, "F"), (1, "F")]
    drawn = generator.sample(4, conditions=asked)
    assert (drawn.shape, drawn.dtype) == ((4, 3, 6, 6), np.float32)
    assert 0 <= drawn.min() < drawn.max() <= 1
    assert len({image.tobytes() for image in drawn}) == 4
    assert (generator.sample(4, conditions=asked) == drawn).all()
    assert torch.equal(torch.get_rng_state(), state)
    # The prompt matters, and so does the seed.
    other = {**PROMPTS, (0, "F"): ["an empty street"]}
    assert (clone(generator).set_params(prompts=other).fit(
        X, y, sensitive_features=sex
    ).sample(4, conditions=asked)[0] != drawn[0]).any()  # fmt: skip
    assert (generator.set_params(random_state=1).sample(4, conditions=asked) != drawn).any()


@pytest.mark.slow
def test_the_sampler_fills_cells_with_images(task, checkpoint):
    X, y, sex = task
    generator = DiffusionGenerator(checkpoint, PROMPTS, n_steps=1, size=8)
    sampler = CellSampler(generator=generator, min_cell_size=5, random_state=0)
    X_res, y_res = sampler.fit_resample(X, y, sensitive_features=sex)
    assert (X_res.shape, X_res.dtype) == ((60, 3, 6, 6), np.float32)
    assert (X_res[:40] == X).all()
    pairs = zip(y_res.tolist(), y_res.index.tolist(), strict=True)
    assert set(Counter(pairs).values()) == {15}
    again, _ = clone(sampler).fit_resample(X, y, sensitive_features=sex)
    assert (again == X_res).all()
