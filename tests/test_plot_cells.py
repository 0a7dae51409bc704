"""The contact sheet shows images of every cell and how often the cell goes wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from fairsvd import FairLRFTransformer, ImageFrame
from fairsvd.report import _plot_cells as module
from fairsvd.report import plot_cells
from helpers import IGNORE_SMALL_DATA, convolutions, images, mlp, quick, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

NAMES = np.array(["north", "south"])


@pytest.fixture(scope="module")
def rows():
    return images(96)


@pytest.fixture(scope="module")
def network(rows):
    return trained(convolutions(), rows, n_steps=3)


@pytest.fixture(scope="module")
def editor(rows, network):
    made = quick(network, criterion="random", sparsity=0.4, refine=None)
    return made.fit(rows.X, rows.y, sensitive_features=NAMES[rows.group])


def labels(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def rates(rows, predicted):
    wrong = predicted != rows.y
    return [wrong[(rows.y == y) & (rows.group == g)].mean() for y in (0, 1) for g in (0, 1)]


def test_a_line_a_cell_with_its_error_rates(rows, network, editor):
    ax = plot_cells(editor, rows.X, rows.y, NAMES[rows.group], n_images=5)
    cells = [f"{y}, {name}\n24 rows" for y in (0, 1) for name in NAMES]
    assert labels(ax) == cells
    assert len(ax.images) == 20
    with torch.no_grad():
        before = network(torch.tensor(rows.X)).argmax(dim=1).numpy()
    pairs = zip(rates(rows, before), rates(rows, editor.predict(rows.X)), strict=True)
    assert texts(ax) == [f"{one:.0%} wrong before\n{two:.0%} after" for one, two in pairs]
    for again in (network, FrozenEstimator(network), before):
        other = plot_cells(editor, rows.X, rows.y, NAMES[rows.group], before=again)
        assert texts(other) == texts(ax)
    assert not network.training


def test_pictures_are_drawn_from_their_cell_and_by_the_seed(rows, editor):
    def drawn(seed):
        ax = plot_cells(editor, rows.X, rows.y, rows.group, n_images=3, random_state=seed)
        return [np.asarray(image.get_array()) for image in ax.images]

    found = drawn(1)
    places = rows_of(rows, found)
    assert len(set(places)) == 12
    for one, two in zip(found, drawn(1), strict=True):
        np.testing.assert_array_equal(one, two)
    assert any(not np.array_equal(one, two) for one, two in zip(found, drawn(2), strict=True))


def rows_of(rows, pictures):
    """Find the row of every shown picture, which belongs to the cell of its line."""
    grey = rows.X.mean(axis=1)
    flat = np.stack([picture[..., 0] for picture in pictures])
    places = []
    for number, picture in enumerate(flat):
        like = [np.corrcoef(picture.ravel(), each.ravel())[0, 1] for each in grey]
        places.append(int(np.argmax(like)))
        assert max(like) > 1 - 1e-9
        assert 2 * rows.y[places[-1]] + rows.group[places[-1]] == number // 3
    return places


def test_frames_tell_what_changed(rows, editor):
    after = editor.predict(rows.X)
    before = np.where(np.arange(len(after)) % 2 == 0, rows.y, 1 - rows.y)
    ax = plot_cells(editor, rows.X, rows.y, rows.group, before=before, n_images=24)
    was, now = before != rows.y, after != rows.y
    counts = {
        module.NEWLY_WRONG: (~was & now).sum(),
        module.STILL_WRONG: (was & now).sum(),
        module.PUT_RIGHT: (was & ~now).sum(),
    }
    colors = [to_hex(patch.get_edgecolor()).upper() for patch in ax.patches]
    assert {color: colors.count(color) for color in counts} == counts


def test_without_a_network_to_compare_with(rows, tmp_path):
    own = FairLRFTransformer(max_steps=30, random_state=0)
    own.fit(rows.X[:, :1], rows.y, sensitive_features=rows.group)
    place = Figure().add_subplot()
    ax = plot_cells(own, rows.X[:, :1], rows.y, rows.group, n_images=2, ax=place)
    assert ax is place
    expected = [f"{rate:.0%} wrong" for rate in rates(rows, own.predict(rows.X[:, :1]))]
    assert texts(ax) == expected
    assert ax.images[0].get_array().shape == (6, 6, 3)
    ax.figure.savefig(tmp_path / "cells.png")
    assert (tmp_path / "cells.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_files_are_read_to_be_predicted_and_only_the_drawn_ones_again(
    rows, network, editor, tmp_path, monkeypatch
):
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(255, size=(6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    data = pd.DataFrame({"path": [f"{k}.png" for k in range(12)], "side": NAMES[rows.group[:12]]})
    frame = ImageFrame(data, root=tmp_path, transform=_four_channels)
    read: list[list[int]] = []
    original = ImageFrame.read

    def noted(self, wanted=None, **how):
        read.append(np.asarray(wanted).tolist())
        return original(self, wanted, **how)

    monkeypatch.setattr(ImageFrame, "read", noted)
    ax = plot_cells(editor, frame, rows.y[:12], data["side"], n_images=2)
    assert len(ax.images) == 8
    assert len(read[-1]) == 8
    assert sum(len(set(each)) > 8 for each in read) <= 2


def _four_channels(image):
    pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255
    return np.concatenate([pixels, pixels[:1]])


def test_errors(rows, editor):
    with pytest.raises(NotFittedError):
        plot_cells(FairLRFTransformer(), rows.X, rows.y, rows.group)
    with pytest.raises(ValueError, match="n_images must be an integer"):
        plot_cells(editor, rows.X, rows.y, rows.group, n_images=0)
    with pytest.raises(ValueError, match=r"one label per row of X, \(96,\), got \(95,\)"):
        plot_cells(editor, rows.X, rows.y[1:], rows.group)
    with pytest.raises(ValueError, match=r"y holds \[7\], which the estimator does not know"):
        plot_cells(editor, rows.X, np.where(rows.y == 0, 7, 1), rows.group)
    with pytest.raises(ValueError, match="pass the groups of the rows"):
        plot_cells(editor, rows.X, rows.y)
    with pytest.raises(ValueError, match="missing in all 96 rows"):
        plot_cells(editor, rows.X, rows.y, np.full(96, np.nan))
    with pytest.raises(ValueError, match="before must be a network or one predicted label"):
        plot_cells(editor, rows.X, rows.y, rows.group, before=rows.y[:5])


def test_tables_have_no_pictures():
    flat = table()
    fitted = quick(trained(mlp(), flat), criterion="random", sparsity=0.1, refine=None)
    fitted.fit(flat.X, flat.y, sensitive_features=flat.group)
    with pytest.raises(ValueError, match=r"shows images.*shape \(6,\)"):
        plot_cells(fitted, flat.X, flat.y, flat.group)
