"""Networks of torchvision as they come. `make test-torchvision` runs this beside torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairsvd import FairLRFTransformer, GapFineTuner
from helpers import IGNORE_SMALL_DATA, LastWins, fingerprint

models = pytest.importorskip("torchvision.models")

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

N = 48
Y, GROUP = np.arange(N) % 2, np.arange(N) // 2 % 2


@pytest.fixture(scope="module")
def images():
    X = np.random.default_rng(0).normal(size=(N, 3, 64, 64)).astype(np.float32)
    X[Y == 1, 0] += 1
    return X


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.resnet18(weights=None, num_classes=2).eval()


@pytest.mark.parametrize("kind", [LastWins, GapFineTuner])
def test_resnet18_is_edited(kind, images, network, tmp_path):
    before = fingerprint(network)
    editor = kind(network, max_steps=2, gap_weight=1.0, threshold=0.4, random_state=0)
    editor.fit(images, Y, sensitive_features=GROUP)
    assert fingerprint(network) == before
    assert type(editor.module_) is type(network)
    exported = editor.to_module()
    torch.save(exported.state_dict(), tmp_path / "weights.pt")
    again = models.resnet18(weights=None, num_classes=2).eval()
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    with torch.no_grad():
        codes = again(torch.tensor(images)).argmax(1).numpy()
    np.testing.assert_array_equal(editor.classes_[codes], editor.predict(images))
    assert editor.transform(images).shape == (N, 512)


def test_the_identity_edit_of_resnet18(images, network):
    settings = {"sparsity": 0, "refine": None, "threshold": 0.5, "random_state": 0}
    editor = FairLRFTransformer(network, **settings)
    editor.fit(images, Y, sensitive_features=GROUP)
    with torch.no_grad():
        wanted = network(torch.tensor(images)).softmax(1).double().numpy()
    np.testing.assert_allclose(editor.predict_proba(images), wanted, atol=1e-5, rtol=0)
    assert {"conv1", "layer4.1.conv2"} <= set(editor.masks_)
