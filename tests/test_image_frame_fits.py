"""Editors on an ImageFrame: equal results, each file once a pass, few rows at a time."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from skorch.dataset import ValidSplit
from torch import nn

from benchmark_files import load
from fairsvd import (
    FairLRFTransformerCV,
    GapFineTuner,
    JointStratifiedKFold,
    RandomPerturbation,
    fairness_scorer,
)
from fairsvd.arrays import as_batches
from fairsvd.exceptions import CacheWarning, ImageFileError
from helpers import IGNORE_SMALL_DATA, fingerprint, global_state, quick, skorch_net
from pictures import Folder, Noting
from work import count_work

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(each) for each in IGNORE_SMALL_DATA),
]

N_ROWS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Folder(tmp_path_factory.mktemp("images"), N_ROWS)


def small(n_outputs=2):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, n_outputs),
        )


def gap(network=None, **settings):
    defaults = {"max_steps": 4, "gap_weight": 1.0, "random_state": 0}
    return GapFineTuner(network, **{**defaults, **settings})


def stratified_net(**settings):
    """A net whose own split of the rows needs their labels."""
    return skorch_net(small(), train_split=ValidSplit(3, stratified=True), **settings)


EDITS = {
    "masks, default network": lambda: quick(max_steps=3),
    "curvature, given module": lambda: quick(
        small(), criterion="curvature", sparsity=0.1, refine=None
    ),
    "gap, trained skorch net": lambda: gap(stratified_net()),
    "perturbation": lambda: RandomPerturbation(small(), n_trials=3, random_state=0),
}


def results(fitted, X):
    return {
        "module": fingerprint(fitted.module_),
        "probabilities": fitted.predict_proba(X).tobytes(),
        "features": fitted.transform(X).tobytes(),
        "history": fitted.history_.to_csv(),
        "notes": fitted.report_.notes,
        "n_features": fitted.n_features_in_,
    }


@pytest.mark.parametrize("name", EDITS)
def test_results_are_those_of_the_images_in_memory(folder, name):
    frame = folder.frame()
    wanted = EDITS[name]().fit(frame.read(), folder.y, sensitive_features=folder.group)
    found = EDITS[name]().set_params(sensitive_columns="sex").fit(frame, folder.y)
    assert found.sensitive_source_ == "columns of X"
    assert found.groups_ == wanted.groups_ == ["f", "m"]
    assert results(found, frame) == results(wanted, frame.read())


def test_bytes_are_noted_as_with_arrays(folder):
    def as_bytes(image):
        return np.asarray(image).transpose(2, 0, 1)

    frame = folder.frame(transform=as_bytes)
    fitted = gap(small()).fit(frame, folder.y, sensitive_features=folder.group)
    assert any("X is uint8" in note for note in fitted.report_.notes)


def test_lengths_and_an_empty_frame_are_refused(folder):
    frame = folder.frame()
    with pytest.raises(ValueError, match="X has 60 rows but y has 59"):
        gap(small()).fit(frame, folder.y[:-1])
    fitted = gap(small(), sensitive_columns="sex").fit(frame, folder.y)
    with pytest.raises(ValueError, match="X has 0 rows"):
        fitted.predict(frame[[]])
    grey = folder.frame(mode="L")
    with pytest.raises(ValueError, match="X has 1 features, but GapFineTuner is expecting 3"):
        fitted.predict(grey)


def test_a_file_that_goes_missing_is_named_and_leaves_the_editor_as_it_was(folder, tmp_path):
    own = Folder(tmp_path, 40)
    frame = own.frame()
    editor = gap(small(), sensitive_columns="sex").fit(frame, own.y)
    before = fingerprint(editor.module_)
    os.remove(tmp_path / "7.png")
    with pytest.raises(ImageFileError, match=r"7\.png cannot be read: there is no such file"):
        editor.fit(frame, own.y)
    assert fingerprint(editor.module_) == before
    mask = frame.readable()
    assert len(editor.fit(frame[mask], own.y[mask]).predict(frame[mask])) == 39


SCORING = {
    "utility": "balanced_accuracy",
    "gap": fairness_scorer("equalized_odds_difference", sensitive_columns="sex"),
}


def search(editor, n_jobs=None, **settings):
    return GridSearchCV(
        Pipeline([("edit", editor)]),
        {"edit__scope": ["all", "head"]},
        scoring=SCORING,
        refit="utility",
        cv=JointStratifiedKFold(2, sensitive_columns="sex"),
        n_jobs=n_jobs,
        error_score="raise",
        **settings,
    )


@pytest.mark.slow
def test_a_search_in_two_workers_gives_what_one_gives(folder):
    editor = gap(skorch_net(small()), sensitive_columns="sex")
    one = search(editor).fit(folder.frame(), folder.y)
    two = search(editor, n_jobs=2).fit(folder.frame(), folder.y)
    for key in ("mean_test_utility", "mean_test_gap"):
        assert one.cv_results_[key].tolist() == two.cv_results_[key].tolist()
    assert np.array_equal(one.predict_proba(folder.frame()), two.predict_proba(folder.frame()))


@pytest.fixture
def reads(monkeypatch, tmp_path):
    """Record every read for one test; gives the recorder's module and a transform."""
    module = load("speed.reads")
    monkeypatch.setattr(module, "HERE", module.Process())
    module.install(monkeypatch.setattr)
    return module, module.Counted(str(tmp_path / "log"))


def counted(reads, call):
    """Run a call and sum up what it read: the rows of the table by call and kind."""
    module, transform = reads
    Path(transform.log).write_text("")
    call()
    rows = module.summary(module.read_log(transform.log))
    assert [row for row in rows if row.most_reads > 1] == []
    return {(row.call, row.kind): row for row in rows}


EPOCHS, BATCH = 3, 16
PREDICTED = 64  # rows of a block of predictions, whatever the batch size
EDITING = N_ROWS - 4 * 4  # each of the four cells gives four of its fifteen rows to validation


def most_held(module, kind):
    return PREDICTED if kind == module.PREDICTION else BATCH


def test_a_search_reads_no_file_twice_in_a_pass(folder, reads):
    module, transform = reads
    frame = folder.frame(transform=transform)
    editor = gap(
        stratified_net(max_epochs=EPOCHS, batch_size=BATCH),
        batch_size=BATCH,
        sensitive_columns="sex",
    )
    found = counted(reads, lambda: search(editor).fit(frame, folder.y))
    fits, folds = 2 * 2 + 1, 2 * 2
    trained = found["fit", module.EPOCH]
    assert (trained.calls, trained.passes) == (fits, fits * EPOCHS)
    assert found["fit", module.HELD_OUT].passes == fits * EPOCHS
    # The untouched network; a margin and a candidate for both rates that are tried; two margins,
    # and four candidates in each of the two phases.
    assert found["fit", module.JUDGING].most_passes == 1 + 2 * 2 + 2 + 2 * 4
    assert found["fit", module.STEP].passes == fits * (2 * 2 + 2 * 4)
    # Every fold is predicted once, for both scorers.
    predicted = found["predict", module.PREDICTION]
    assert (predicted.calls, predicted.passes, predicted.reads) == (folds, folds, 2 * N_ROWS)
    # The first rows, 32 of them at most: before training and judging, and for the fitted editor.
    first = found["fit", module.PROBE]
    assert first.most_passes <= 6
    assert first.reads <= fits * 4 * 32
    # The shape, once for the whole search.
    assert found["outside", module.PROBE].reads == 1
    # No more than a batch is held; skorch keeps the last one while it gets the next.
    for (_, kind), row in found.items():
        assert row.held <= most_held(module, kind), kind


def test_the_default_network_reads_each_file_once_an_epoch(folder, reads):
    module, transform = reads
    frame = folder.frame(transform=transform)
    editor = quick(batch_size=BATCH, max_steps=2, sensitive_columns="sex")
    found = counted(reads, lambda: editor.fit(frame, folder.y))
    # At least 20 epochs of the editing rows; their mean and scale in one pass before.
    trained, statistics = found["fit", module.EPOCH], found["fit", module.BLOCKS]
    assert (trained.passes, trained.reads) == (20, 20 * EDITING)
    assert (statistics.passes, statistics.reads) == (1, EDITING)
    assert found["fit", module.EPOCH].held <= 2 * BATCH


def test_curvature_reads_each_file_once(folder, reads):
    module, transform = reads
    frame = folder.frame(transform=transform)
    editor = quick(
        small(),
        criterion="curvature",
        sparsity=0.1,
        refine=None,
        batch_size=BATCH,
        sensitive_columns="sex",
    )
    found = counted(reads, lambda: editor.fit(frame, folder.y))
    curvature = found["fit", module.BLOCKS]
    assert (curvature.passes, curvature.reads) == (1, EDITING)
    assert curvature.held <= BATCH


def test_a_search_of_its_own_streams_too(folder, reads):
    module, transform = reads
    frame = folder.frame(transform=transform)
    editor = FairLRFTransformerCV(
        small(),
        ranks=[0.5, 1.0],
        sparsities=[0.0],
        cv=2,
        max_steps=2,
        batch_size=BATCH,
        sensitive_columns="sex",
        random_state=0,
    )
    found = counted(reads, lambda: editor.fit(frame, folder.y))
    for (_, kind), row in found.items():
        assert row.held <= most_held(module, kind), kind
    assert editor.predict(frame[:5]).shape == (5,)


def flipped(image):
    """Mirror an image or not, drawn from torch's global generator."""
    return image.transpose(0) if torch.rand(()) < 0.5 else image


@pytest.mark.parametrize(
    "network",
    [pytest.param(None, marks=pytest.mark.slow), small()],
    ids=["default", "given"],
)
def test_augmentation_is_seeded_and_leaves_the_global_state(folder, network):
    def fitted(augment, seed=0):
        frame = folder.frame(augment=augment)
        editor = gap(network, sensitive_columns="sex", random_state=seed, max_steps=6)
        return editor.fit(frame, folder.y)

    before = global_state()
    first = fitted(flipped)
    assert global_state() == before
    torch.rand(7)
    again = fitted(flipped)
    assert fingerprint(again.module_) == fingerprint(first.module_)
    assert again.history_.equals(first.history_)
    plain = fitted(None)
    assert not first.history_.equals(plain.history_)
    # Judging sees the images as they are: the untouched network's row is the same.
    if network is not None:
        assert first.history_.iloc[0].equals(plain.history_.iloc[0])


def test_an_augmentation_that_changes_nothing_changes_no_bit_of_training(folder):
    frame = folder.frame(augment=lambda image: image)
    rows = np.arange(10)
    generator = torch.Generator().manual_seed(3)
    plain = as_batches(folder.frame())
    assert torch.equal(as_batches(frame).for_training(rows, generator), plain[rows])
    moved = generator.get_state()
    plain.for_training(rows, generator)
    assert torch.equal(generator.get_state(), moved)


def test_only_steps_of_training_are_augmented(folder):
    def black(image):
        return image.point(lambda value: 0)

    frame = folder.frame(augment=black)
    batches = as_batches(frame)
    rows = np.arange(5)
    assert batches.for_training(rows, torch.Generator()).abs().sum() == 0
    assert batches[rows].sum() > 0
    assert next(batches.blocks(3)).sum() > 0
    fitted = gap(small(), sensitive_columns="sex").fit(frame, folder.y)
    assert np.array_equal(fitted.predict(frame), fitted.predict(folder.frame()))


def kept_fit(folder, cache, **settings):
    noting = Noting() if "transform" not in settings else None
    frame = folder.frame(**{"transform": noting, **settings})
    editor = gap(skorch_net(small()), memory=str(cache), sensitive_columns="sex")
    return editor.fit(frame, folder.y), noting


def as_floats(image):
    return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)


def test_memory_tells_rows_apart_without_reading_them(tmp_path, monkeypatch):
    own = Folder(tmp_path, 40)
    work = count_work(monkeypatch)
    cache = tmp_path / "cache"
    first, _ = kept_fit(own, cache, transform=as_floats)
    again, _ = kept_fit(own, cache, transform=as_floats)
    assert work["training"] == 1
    assert again.history_.equals(first.history_)
    kept_fit(own, cache, transform=None)  # another transform
    kept_fit(own, cache, transform=as_floats, augment=flipped)
    assert work["training"] == 3
    os.utime(tmp_path / "3.png", ns=(1, 1))  # a file that was written again
    kept_fit(own, cache, transform=as_floats)
    assert work["training"] == 4


def test_a_stamp_reads_no_file(folder):
    noting = Noting()
    frame = folder.frame(transform=noting)
    paths, files, *settings = frame.stamp([2, 0])
    assert [Path(path).name for path in paths] == ["2.png", "0.png"]
    assert files[0, 0] == os.path.getsize(paths[0])
    assert settings == [noting, None, None, "RGB"]
    assert noting.seen == []


def test_a_transform_without_a_fingerprint_switches_the_cache_off(folder, tmp_path):
    class Compiled:
        def __init__(self):
            self.lock = __import__("threading").Lock()

        def __call__(self, image):
            return as_floats(image)

    with pytest.warns(CacheWarning, match="memory= has no effect, since X cannot be told"):
        kept_fit(folder, tmp_path / "cache", transform=Compiled())
