"""The mask plot shows the share that a mask covers, unit by unit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from fairsvd import BiasMaskFineTuner, FairLRFTransformer, FairPruner
from fairsvd.report import plot_mask
from helpers import IGNORE_SMALL_DATA, images, mlp, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]


class Fitted(BaseEstimator):
    """A fitted estimator with the given attributes."""

    def __init__(self, **attributes):
        self.module_ = None
        vars(self).update(attributes)

    def fit(self):
        return self


def values(ax):
    return [np.asarray(image.get_array())[0] for image in ax.images]


def labels(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_units_of_a_tuned_mask():
    rows = table()
    tuner = BiasMaskFineTuner(
        trained(mlp(), rows), tuned_fraction=0.3, impair_epochs=0, repair_epochs=0, random_state=0
    ).fit(rows.X, rows.y, sensitive_features=rows.group)
    ax = plot_mask(tuner)
    assert labels(ax) == ["0.weight", "2.weight"]
    for shown, mask in zip(values(ax), tuner.masks_.values(), strict=True):
        np.testing.assert_allclose(shown, mask.double().mean(dim=1))
    shares = [text.get_text() for text in ax.texts]
    assert shares == [f"{share:.0%}" for share in tuner.masked_fraction_.values()]
    assert "may move" in ax.get_title(loc="left")


def test_removed_entries_of_weights_and_of_factors():
    rows = table()
    network = trained(mlp(), rows)
    settings = {"criterion": "random", "sparsity": 0.4, "refine": None, "random_state": 0}
    pruner = FairPruner(network, **settings).fit(rows.X, rows.y, sensitive_features=rows.group)
    for shown, mask in zip(values(plot_mask(pruner)), pruner.masks_.values(), strict=True):
        np.testing.assert_allclose(shown, 1 - mask.mean(axis=1))
    editor = FairLRFTransformer(network, **settings)
    ax = plot_mask(editor.fit(rows.X, rows.y, sensitive_features=rows.group))
    assert labels(ax) == ["0 U", "0 V", "2 U", "2 V"]
    assert "removed" in ax.get_title(loc="left")


def test_convolutions_wide_layers_and_the_users_axes():
    rows = images()
    editor = BiasMaskFineTuner(impair_epochs=0, repair_epochs=0, random_state=0)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    own = Figure().add_subplot()
    assert plot_mask(editor, ax=own) is own
    assert [len(shown) for shown in values(own)] == [len(mask) for mask in editor.masks_.values()]
    mask = torch.arange(300) < 150
    wide = Fitted(masks_={"w": mask[:, None].expand(300, 4)})
    (shown,) = values(plot_mask(wide))
    assert len(shown) == 128
    assert set(shown) == {0.0, 1.0} and (np.diff(shown) <= 0).all()


def test_the_png_is_a_picture(tmp_path):
    rows = table()
    pruner = FairPruner(trained(mlp(), rows), criterion="magnitude", sparsity=0.2, refine=None)
    plot = plot_mask(pruner.fit(rows.X, rows.y, sensitive_features=rows.group))
    plot.figure.savefig(tmp_path / "mask.png")
    assert (tmp_path / "mask.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_errors():
    with pytest.raises(NotFittedError):
        plot_mask(BiasMaskFineTuner())
    with pytest.raises(ValueError, match="no masks_ to plot"):
        plot_mask(Fitted())


def test_the_scale_fits_and_nothing_is_said_to_be_nothing():
    kept = np.ones((8, 4))
    few = Fitted(masks_={"w": np.vstack([kept[:7], np.zeros((1, 4))]), "v": kept})
    few.removed_fraction_ = 0.03
    ax = plot_mask(few)
    assert {image.get_clim() for image in ax.images} == {(0, 1.0)}
    few.masks_["w"][7, :3] = 1
    assert {image.get_clim() for image in plot_mask(few).images} == {(0, 0.25)}
    few.masks_["w"][:] = 1
    ax = plot_mask(few)
    assert ax.get_title(loc="left") == "Fitted: nothing is removed"
    assert {image.get_clim() for image in ax.images} == {(0, 1.0)}
