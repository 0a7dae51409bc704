"""Networks of a user, and a check of a saved editor."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import fairsvd
from fairsvd import GapFineTuner
from fairsvd.comparison import compare  # noqa: F401 (registers every editor)
from saved_files import toy_rows


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, X):
        return X + F.relu(self.linear(X))


class Net(nn.Module):
    """A user's network: parts of its own class, a function, a parameter, a buffer, a list."""

    def __init__(self, width=6, slope=0.1):
        super().__init__()
        self.first = nn.Linear(2, width)
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.last = nn.Linear(width, 2)
        self.scale = nn.Parameter(torch.ones(width))
        self.register_buffer("shift", torch.full((width,), 0.5))
        self.register_buffer("temporary", torch.zeros(3), persistent=False)
        self.slope, self.settings = slope, {"names": ("a", "b"), 3: None}

    def forward(self, X):
        X = F.leaky_relu(self.first(X) * self.scale + self.shift, self.slope)
        for block in self.blocks:
            X = block(X)
        return self.last(X)


class WithLambda(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.before = lambda X: X * 2

    def forward(self, X):
        return self.linear(self.before(X))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.b.weight = self.a.weight

    def forward(self, X):
        return self.c(F.relu(self.b(F.relu(self.a(X)))))


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([torch.eye(2)])
        self.scales = nn.ParameterDict({"scale": torch.ones(2)})
        self.layers = nn.ModuleDict({"last": nn.Linear(2, 2)})

    def forward(self, X):
        return self.layers["last"](X @ self.weights[0] * self.scales["scale"])


class Sequence(nn.Module):
    """Reads the columns as a sequence of numbers."""

    def __init__(self, reader, width):
        super().__init__()
        self.reader, self.out = reader, nn.Linear(width, 2)

    def forward(self, X):
        Z = self.reader(X[:, :, None].expand(-1, -1, 4).contiguous())
        return self.out((Z[0] if isinstance(Z, tuple) else Z).mean(dim=1))


def fitted(network, kind=GapFineTuner, **params):
    X, y, groups = toy_rows()
    if kind is GapFineTuner:
        params = {"max_steps": 1, **params}
    return kind(network, random_state=0, **params).fit(X, y, sensitive_features=groups)


def check(editor, folder, X=None, **how):
    """Save, load, and compare everything that a fitted editor can say."""
    X = toy_rows()[0] if X is None else X
    fairsvd.save(editor, folder / "model", overwrite=True)
    again = fairsvd.load(folder / "model", **how)
    assert vars(again).keys() == vars(editor).keys()
    for method in ("predict", "predict_proba", "decision_function", "transform"):
        assert np.array_equal(getattr(again, method)(X), getattr(editor, method)(X)), method
    rows = torch.as_tensor(X)
    with torch.no_grad():
        assert torch.equal(again.to_module()(rows), editor.to_module()(rows))
    assert again.history_.equals(editor.history_)
    assert again.report_.gaps.equals(editor.report_.gaps)
    assert list(again.get_feature_names_out()) == list(editor.get_feature_names_out())
    return again
