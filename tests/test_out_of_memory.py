"""Where a device's memory does not hold a batch, smaller ones are taken, and it is said once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fairsvd.arrays import as_batches
from fairsvd.exceptions import OutOfMemoryWarning
from fairsvd.networks import all_features, all_logits, fast_logits
from helpers import IGNORE_SMALL_DATA, mlp, quick, skorch_net, table, told, trained

pytestmark = [pytest.mark.filterwarnings(each) for each in IGNORE_SMALL_DATA]


class Limited(nn.Module):
    """A network on a device that holds some rows in training and some otherwise."""

    def __init__(self, network, training=10**9, otherwise=10**9):
        super().__init__()
        self.network, self.limits = network, {True: training, False: otherwise}
        self.sizes = []

    def forward(self, X):
        self.sizes.append(len(X))
        # Where it is tuned its parameters are functions of others, in evaluation mode.
        if len(X) > self.limits[torch.is_grad_enabled()]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.network(X)


def test_predictions_in_smaller_blocks():
    rows = table(200)
    network = trained(mlp(), rows)
    limited, X = Limited(network, otherwise=150), as_batches(rows.X)
    with pytest.warns(OutOfMemoryWarning) as caught:
        found = all_logits(limited, X, "logits")
    assert [str(w.message).partition(",")[0] for w in caught] == [
        f"{n} rows did not fit into the device's memory. Predictions run in blocks of {n // 2} rows"
        for n in (512, 256)
    ]
    torch.testing.assert_close(found, all_logits(network, X, "logits"))
    limited.sizes.clear()
    # What fits is remembered, so that rows get the same result later, and beside fewer others.
    assert torch.equal(all_logits(limited, X.subset(slice(3)), "logits"), found[:3])
    assert torch.equal(all_features(limited, X, "network.4"), all_features(network, X, "4"))
    assert limited.sizes == [128, 128, 128]


def test_judging_in_smaller_blocks():
    rows = table(300)
    network, X = trained(mlp(), rows), as_batches(rows.X)
    limited = Limited(network, otherwise=100)
    with pytest.warns(OutOfMemoryWarning, match="Candidates are judged in blocks of 75 rows"):
        found = fast_logits(limited, X, 150)
    torch.testing.assert_close(found, fast_logits(network, X))
    assert limited.sizes == [150, 75, 75, 75, 75]


def test_what_does_not_fit_row_by_row_is_an_error():
    limited, X = Limited(mlp(), otherwise=0), as_batches(table(40).X)
    for call in (
        lambda: all_logits(limited, X, "logits"),
        lambda: fast_logits(limited, X),
    ):
        with (
            pytest.warns(OutOfMemoryWarning),
            pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"),
        ):
            call()


def test_a_fit_starts_again_in_smaller_batches():
    rows = table(200)
    network = trained(mlp(), rows)
    editor = quick(Limited(network, training=40), batch_size=128)
    with pytest.warns(OutOfMemoryWarning) as caught:
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    texts = told(list(caught), OutOfMemoryWarning)
    assert [text.partition(",")[0] for text in texts] == [
        f"{n} rows did not fit into the device's memory. The fit starts again in batches of "
        f"{n // 2} rows"
        for n in (128, 64, 32, 16)
    ]
    assert editor.batch_size == 128
    small = quick(Limited(network), batch_size=8).fit(rows.X, rows.y, sensitive_features=rows.group)
    assert np.array_equal(editor.predict_proba(rows.X), small.predict_proba(rows.X))
    assert editor.history_.equals(small.history_)


def test_a_fit_that_fits_in_no_batch_is_an_error_and_leaves_the_editor_as_it_was():
    rows = table()
    editor = quick(Limited(mlp(), training=0), batch_size=2)
    with pytest.warns(OutOfMemoryWarning), pytest.raises(torch.OutOfMemoryError):
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert editor.batch_size == 2
    assert not hasattr(editor, "module_")


def test_another_error_of_a_network_starts_nothing_again():
    rows = table()

    class Broken(Limited):
        def forward(self, X):
            self.sizes.append(len(X))
            raise RuntimeError("no kernel")

    broken = Broken(mlp())
    with pytest.raises(ValueError, match="no kernel"):
        quick(skorch_net(broken)).fit(rows.X, rows.y, sensitive_features=rows.group)
