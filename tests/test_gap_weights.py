"""Which weights of the soft gap are tried: smaller ones on images."""

from __future__ import annotations

import pytest

from fairsvd import FairLRFTransformer
from helpers import IGNORE_SMALL_DATA, convolutions, images, mlp, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]


@pytest.mark.parametrize(
    ("rows", "network", "weights"),
    [(table(), mlp(), {0.3, 1.0, 3.0}), (images(), convolutions(), {0.1, 0.3, 1.0})],
    ids=["table", "images"],
)
@pytest.mark.parametrize("given", [None, 0.7])
def test_weights_that_are_tried(rows, network, weights, given):
    module = trained(network, rows, n_steps=5)
    editor = FairLRFTransformer(module, tradeoff=given, max_steps=10, random_state=0)
    editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    tried = set(editor.history_["tradeoff"].dropna())
    assert tried == (weights if given is None else {0.7})
