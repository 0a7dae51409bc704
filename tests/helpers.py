"""Small data and small networks that several test files share."""

from __future__ import annotations

import copy
import hashlib
import pickle
import random
import re
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import sklearn
import torch
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import nn

from fairsvd import MLP, FairLRFTransformer, NetworkEditor
from fairsvd.datasets import make_biased_classification
from fairsvd.objective import count_table

# Warnings that few rows and few steps must raise; a test module ignores exactly these.
SMALL_DATA = (
    "ConstantPredictionsWarning",
    "ConstraintNotMetWarning",
    "LevellingDownWarning",
    "OverfittedNetworkWarning",
    "SmallCellWarning",
)
IGNORE_SMALL_DATA = [f"ignore::fairsvd.exceptions.{name}" for name in SMALL_DATA]


def told(caught: list, category: type[Warning]) -> list[str]:
    """Texts of one category among recorded warnings; a fit may merge several into one."""
    texts = [str(w.message) for w in caught if issubclass(w.category, category)]
    parts = [re.findall(rf"^- {category.__name__}: (.*)$", text, re.MULTILINE) for text in texts]
    return [each for text, own in zip(texts, parts, strict=True) for each in own or [text]]


class Rows(NamedTuple):
    """A task: inputs, class codes, group codes."""

    X: np.ndarray
    y: np.ndarray
    group: np.ndarray


def table(n_rows: int = 120, n_classes: int = 2, n_groups: int = 2, seed: int = 0) -> Rows:
    """Draw a table with 6 float32 columns, every (label, group) cell filled."""
    data = make_biased_classification(
        n_rows, n_features=6, n_classes=n_classes, n_groups=n_groups, random_state=seed
    )
    return Rows(data.data.astype(np.float32), data.target, data.groups)


def images(n_rows: int = 64, n_classes: int = 2, seed: int = 0) -> Rows:
    """Draw images (n, 4, 6, 6): the class brightens one channel, the group the last one."""
    rng = np.random.default_rng(seed)
    y, group = np.arange(n_rows) % n_classes, np.arange(n_rows) // n_classes % 2
    X = rng.normal(size=(n_rows, 4, 6, 6))
    X[np.arange(n_rows), y % 3] += 0.7
    X[:, 3] += group[:, None, None]
    return Rows(X.astype(np.float32), y, group)


def mlp(n_outputs: int = 2, *end: nn.Module, width: int = 8) -> nn.Sequential:
    """Build a network for 6 columns; the caller's generator is not touched."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = [nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(width, n_outputs), *end)


def convolutions(n_outputs: int = 2, groups: int = 1) -> nn.Sequential:
    """Build a network for images (4, 6, 6); ``groups`` is that of the second convolution."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(4, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=groups),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, n_outputs),
        )


def trained(module: nn.Module, rows: Rows, n_steps: int = 40) -> nn.Module:
    """Train a copy that returns logits or one logit; deterministic, in evaluation mode.

    The same call again gives another copy of what the first one has trained.
    """
    key = _identity_of(module, rows, n_steps)
    if key is None:
        return _train(module, rows, n_steps)
    if key not in _TRAINED:
        _TRAINED[key] = _train(module, rows, n_steps)
    return copy.deepcopy(_TRAINED[key])


_TRAINED: dict[tuple[object, ...], nn.Module] = {}


def _identity_of(module: nn.Module, rows: Rows, n_steps: int) -> tuple[object, ...] | None:
    """Tell all that a training depends on; None where a part may do what its text does not say."""
    for part in module.modules():
        plain = type(part).__module__.startswith("torch.nn.modules.")
        hooked = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks
        if not plain or hooked or isinstance(part, nn.modules.dropout._DropoutNd):
            return None
    names = tuple(name for name, _ in module.named_parameters())  # tied ones once
    arrays = [(a.dtype.str, a.shape, a.tobytes()) for a in map(np.asarray, (rows.X, rows.y))]
    return repr(module), fingerprint(module), names, *arrays, n_steps


def _train(module: nn.Module, rows: Rows, n_steps: int) -> nn.Module:
    module, X, y = copy.deepcopy(module).train(), torch.tensor(rows.X), torch.tensor(rows.y)
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-2)
    for _ in range(n_steps):
        optimizer.zero_grad()
        logits = module(X)
        if logits.ndim == 1 or logits.shape[1] == 1:
            logits = torch.stack([torch.zeros(len(X)), logits.reshape(-1)], dim=1)
        nn.functional.cross_entropy(logits, y).backward()
        optimizer.step()
    module.zero_grad()
    return module.eval()


def skorch_net(module: nn.Module, **settings: object) -> NeuralNetClassifier:
    """Wrap a module that returns logits."""
    defaults = {"criterion": nn.CrossEntropyLoss, "max_epochs": 2, "train_split": None}
    return NeuralNetClassifier(module, **{**defaults, "verbose": 0, **settings})


def binary_net(module: nn.Module, **settings: object) -> NeuralNetBinaryClassifier:
    """Wrap a module that returns one logit."""
    defaults = {"max_epochs": 2, "train_split": None, "verbose": 0}
    return NeuralNetBinaryClassifier(module, **{**defaults, **settings})


def fast_net() -> NeuralNetClassifier:
    """Make an untrained net for three features and two classes that trains fast."""
    return NeuralNetClassifier(
        MLP,
        module__n_features=3,
        module__n_outputs=2,
        module__hidden=(8,),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.02,
        max_epochs=20,
        train_split=None,
        verbose=0,
    )


def quick(
    network: object = None, kind: type[FairLRFTransformer] = FairLRFTransformer, **settings: object
) -> FairLRFTransformer:
    """Make an editor of a few steps, one weight of the gap and one of the privileged group."""
    defaults = {"max_steps": 4, "gap_weight": 1.0, "privileged_weight": 1.0, "random_state": 0}
    return kind(network, **{**defaults, **settings})


def last_wins(kind: type[NetworkEditor]) -> type[NetworkEditor]:
    """Derive an editor of which the last edit is chosen whatever it does.

    On few rows and steps the untouched network often is the best; this shows the others.
    """

    class Last(kind):  # type: ignore[misc, valid-type]
        def _edit(self, task, rng):
            for number, candidate in enumerate(super()._edit(task, rng)):
                if candidate.state or candidate.finish is not None:
                    # What changes the structure alone brings its logits.
                    logits = candidate.logits
                    if candidate.state:
                        logits = task.data.logits(task.module, candidate.state)
                    verdict = task.data.judge(logits)
                    won = replace(verdict, feasible=True, value=1e6 + number)
                    candidate = replace(candidate, verdict=won)
                yield candidate

    return Last


class LastWins(last_wins(FairLRFTransformer)):
    """FairLRF-style editing that chooses its last edit."""


def fingerprint(module: nn.Module) -> str:
    """Hash every parameter and buffer, their flags and the mode of every part."""
    digest = hashlib.sha256(repr([(n, m.training) for n, m in module.named_modules()]).encode())
    for name, value in module.state_dict(keep_vars=True).items():
        digest.update(f"{name} {value.dtype} {value.requires_grad} {value.grad}".encode())
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def global_state() -> dict[str, object]:
    """Everything process-wide that a fit could move."""
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": pickle.dumps(np.random.get_state()),
        "python": random.getstate(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "fast attention": torch.backends.mha.get_fastpath_enabled(),
        "errors": repr(np.geterr()),
        "sklearn": sklearn.get_config(),
    }


EXACT = {"rtol": 0, "atol": 1e-12}


def draw(seed, *, n=400, n_groups=2, n_classes=2):
    """Biased rows in which every (group, true, predicted) cell holds some."""
    rng = np.random.default_rng(seed)
    group = rng.integers(n_groups, size=n)
    y = rng.integers(n_classes, size=n)
    stay = rng.random(n) < 0.5 + 0.4 * group / n_groups
    predictions = np.where(stay, y, rng.integers(n_classes, size=n))
    assert count_table(y, predictions, group, n_classes, n_groups).min() > 0
    return y, predictions, group
