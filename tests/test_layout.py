"""Images are laid out as a network likes them best, and nothing but rounding depends on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairsvd import FairLRFTransformer
from fairsvd.arrays import as_batches
from fairsvd.networks import _inference, fast_logits, laid_out
from helpers import IGNORE_SMALL_DATA, convolutions, images, mlp, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]


class Views(nn.Module):
    """A network that takes its images' order in memory for granted."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 5, 3)
        self.second = nn.Linear(80, 2)

    def forward(self, X: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(X)).view(len(X), -1))


class Strides(nn.Module):
    """A network that gives wrong results, instead of an error, for another order."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 2, 3)

    def forward(self, X: Tensor) -> Tensor:
        maps = self.first(X)
        return maps.as_strided((len(X), 2), (maps.stride(0), 1))


def is_turned(X: Tensor) -> bool:
    return X.is_contiguous(memory_format=torch.channels_last) and not X.is_contiguous()


def test_rows_keep_their_values_shape_and_type():
    rows = images()
    plain = as_batches(rows.X)
    turned = plain.with_channels_last()
    for positions in (slice(3, 9), np.array([5, 1, 1])):
        assert torch.equal(turned[positions], plain[positions])
        assert is_turned(turned[positions]) and turned[positions].shape[1:] == (4, 6, 6)
    assert turned.astype(torch.float64)[:2].dtype == torch.float64
    assert is_turned(turned.subset(np.array([4, 2])).held()[:2])
    grey = as_batches(rows.X[:, :1]).with_channels_last()
    assert grey[:2].stride() == (36, 1, 6, 1)


def test_only_convolutions_ask_for_it():
    rows = images()
    X = as_batches(rows.X)
    assert laid_out(convolutions(), X).channels_last
    assert not laid_out(nn.Sequential(nn.Flatten(), nn.Linear(144, 2)), X).channels_last
    assert not laid_out(mlp(), as_batches(table().X)).channels_last
    assert not laid_out(nn.Conv2d(4, 2, 6).to("meta"), X).channels_last


@pytest.mark.parametrize("kind", [Views, Strides])
def test_a_network_that_does_not_take_it_gets_its_rows_as_before(kind):
    X = as_batches(images().X)
    module = kind().eval()
    assert laid_out(module, X) is X


def test_a_network_with_views_is_edited():
    rows = images()
    module = trained(Views(), rows)
    editor = FairLRFTransformer(module, max_steps=30, random_state=0)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    # Three weights are tried, and three phases of three candidates follow for one of them.
    assert len(editor.history_) == 1 + 3 + 3 * 3


def test_judging_in_small_blocks_changes_nothing_but_rounding(monkeypatch):
    rows = images(200)
    module, X = trained(convolutions(), rows), as_batches(rows.X)
    whole = fast_logits(module, X)
    seen: list[int] = []

    def run(block: Tensor) -> Tensor:
        seen.append(len(block))
        return module(block)

    monkeypatch.setattr(_inference, "IMAGE_BLOCK_BYTES", 16 * 4 * 36 * 4)
    torch.testing.assert_close(fast_logits(run, X), whole)
    assert seen == [16] * 12 + [8]
