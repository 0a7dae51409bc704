"""Networks in every form that somebody may pass, by name: each for rows of a shape."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

Builder = Callable[[tuple[int, ...], int], Any]


def body(shape: tuple[int, ...], width: int = 6) -> list[nn.Module]:
    """Layers from rows of a shape to hidden units."""
    if len(shape) == 1:
        return [nn.Linear(shape[0], width), nn.ReLU()]
    channels = shape[0] if shape else 1
    pooled = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, width), nn.ReLU()]
    return [nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), *pooled]


def plain(shape: tuple[int, ...], n_outputs: int, *end: nn.Module, width: int = 6) -> nn.Sequential:
    """Build a network that returns a score for each class."""
    return nn.Sequential(*body(shape, width), nn.Linear(width, n_outputs), *end)


class Unwell(Exception):
    """A class of errors that nobody else knows."""


def raising(error: Exception) -> Callable[[Tensor], Tensor]:
    def change(output: Tensor) -> Tensor:
        raise error

    return change


def refuse_gradients(output: Tensor) -> Tensor:
    if output.requires_grad:
        raise RuntimeError("no gradients, please")
    return output


# What a network may do with its scores, by name.
CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "one logit, no dimension": lambda output: output[:, 0],
    "squeezed": lambda output: output.squeeze(),
    "sigmoid by function": lambda output: torch.sigmoid(output[:, :1]),
    "sigmoids": torch.sigmoid,
    "scores of infinity": lambda output: output / 0,
    "complex scores": lambda output: output + 1j,
    "integer scores": lambda output: (100 * output).long(),
    "true or false": lambda output: output > 0,
    "detached": lambda output: output.detach(),
    "an array": lambda output: output.detach().numpy(),
    "a tuple": lambda output: (output, output.sum()),
    "a dict": lambda output: {"logits": output},
    "an empty tuple": lambda output: (),
    "none for output": lambda output: None,
    "a word": lambda output: "scores",
    "the sum": lambda output: output.sum(),
    "three dimensions": lambda output: output[:, None],
    "turned": lambda output: output.T,
    "half of the rows": lambda output: output[::2],
    "less the mean of the batch": lambda output: output - output.mean(0),
    "raises under gradients": refuse_gradients,
}


class Around(nn.Module):
    """A network whose output is changed by a function of :data:`CHANGES`."""

    def __init__(self, network: nn.Module, change: str) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, X: Tensor) -> Any:
        return CHANGES[self.change](self.network(X))


def around(change: str) -> Builder:
    return lambda shape, n: Around(plain(shape, n), change)


class Counting(nn.Sequential):
    """Counts its passes in a buffer."""

    def forward(self, X: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(X)


class InPlace(nn.Sequential):
    """Changes its input."""

    def forward(self, X: Tensor) -> Tensor:
        return super().forward(X.mul_(2))


class TwoInputs(nn.Sequential):
    """Wants a second argument."""

    def forward(self, X: Tensor, more: Tensor) -> Tensor:
        return super().forward(X + more)


class NoLayers(nn.Module):
    """Has nothing to edit."""

    def forward(self, X: Tensor) -> Tensor:
        X = X.flatten(1)
        return torch.stack([-X.sum(1), X.sum(1)], dim=1)


class Keeping(nn.Sequential):
    """Keeps its last output, which is no leaf."""

    def forward(self, X: Tensor) -> Tensor:
        self.last = super().forward(X)
        return self.last


def counting(shape: tuple[int, ...], n: int) -> nn.Module:
    network = Counting(*plain(shape, n))
    network.register_buffer("passes", torch.zeros((), dtype=torch.int64))
    return network


def with_lock(shape: tuple[int, ...], n: int) -> nn.Module:
    network = plain(shape, n)
    network.lock = threading.Lock()
    return network


def with_weights(change: Callable[[nn.Linear], Any]) -> Builder:
    """Change the last layer of a plain network."""

    def build(shape: tuple[int, ...], n: int) -> nn.Module:
        network = plain(shape, n)
        change(network[-1])
        return network

    return build


def tied(shape: tuple[int, ...], n: int) -> nn.Module:
    hidden = nn.Linear(6, 6)
    return nn.Sequential(*body(shape), hidden, nn.ReLU(), hidden, nn.Linear(6, n))


def frozen_parts(shape: tuple[int, ...], n: int) -> nn.Module:
    network = plain(shape, n)
    network[0].requires_grad_(False)
    return network


def fill(value: float) -> Builder:
    def build(shape: tuple[int, ...], n: int) -> nn.Module:
        network = plain(shape, n)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(value)
        return network

    return build


def net(kind: type, criterion: Any = nn.CrossEntropyLoss, n_outputs: int | None = None) -> Builder:
    def build(shape: tuple[int, ...], n: int) -> Any:
        settings = {"criterion": criterion, "max_epochs": 1, "train_split": None, "verbose": 0}
        return kind(plain(shape, n_outputs or n), **settings)

    return build


def initialised(shape: tuple[int, ...], n: int) -> Any:
    return net(NeuralNetClassifier)(shape, n).initialize()


PLAIN_NETWORKS: dict[str, Builder] = {
    "plain": plain,
    "none": lambda shape, n: None,
    "frozen": lambda shape, n: FrozenEstimator(plain(shape, n)),
}

ODD_NETWORKS: dict[str, Builder] = {
    **{change: around(change) for change in CHANGES},
    "one logit": lambda shape, n: plain(shape, 1),
    "sigmoid": lambda shape, n: plain(shape, 1, nn.Sigmoid()),
    "softmax": lambda shape, n: plain(shape, n, nn.Softmax(dim=1)),
    "log-softmax": lambda shape, n: plain(shape, n, nn.LogSoftmax(dim=1)),
    "an output too many": lambda shape, n: plain(shape, n + 1),
    "an output too few": lambda shape, n: plain(shape, max(1, n - 1)),
    "no output": lambda shape, n: plain(shape, 0),
    "one unit": lambda shape, n: plain(shape, n, width=1),
    "wide": lambda shape, n: plain(shape, n, width=70),
    "linear alone": lambda shape, n: nn.Sequential(nn.Flatten(), nn.LazyLinear(n)),
    "no bias": lambda shape, n: nn.Sequential(*body(shape), nn.Linear(6, n, bias=False)),
    "batch norm": lambda shape, n: nn.Sequential(*body(shape), nn.BatchNorm1d(6), nn.Linear(6, n)),
    "layer norm": lambda shape, n: nn.Sequential(*body(shape), nn.LayerNorm(6), nn.Linear(6, n)),
    "dropout": lambda shape, n: nn.Sequential(*body(shape), nn.Dropout(0.5), nn.Linear(6, n)),
    "in training": lambda shape, n: plain(shape, n).train(),
    "for other rows": lambda shape, n: plain((9,), n),
    "for images of one channel": lambda shape, n: plain((1, 6, 6), n),
    "tied": tied,
    "frozen parts": frozen_parts,
    "weight norm": with_weights(parametrizations.weight_norm),
    "spectral norm": with_weights(parametrizations.spectral_norm),
    "orthogonal": with_weights(parametrizations.orthogonal),
    "pruned": with_weights(lambda layer: prune.random_unstructured(layer, "weight", 0.5)),
    "old weight norm": with_weights(torch.nn.utils.weight_norm),
    "lazy": lambda shape, n: nn.Sequential(
        nn.Flatten(), nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, n)
    ),
    "half": lambda shape, n: plain(shape, n).half(),
    "bfloat16": lambda shape, n: plain(shape, n).bfloat16(),
    "double": lambda shape, n: plain(shape, n).double(),
    "complex": lambda shape, n: plain(shape, n).to(torch.complex64),
    "two precisions": with_weights(lambda layer: layer.double()),
    "on meta": lambda shape, n: plain(shape, n).to("meta"),
    "zeros": fill(0.0),
    "NaN": fill(float("nan")),
    "1e20": fill(1e20),
    "1e30": fill(1e30),
    "counting": counting,
    "changes its input": lambda shape, n: InPlace(*plain(shape, n)),
    "two inputs": lambda shape, n: TwoInputs(*plain(shape, n)),
    "keeps its output": lambda shape, n: Keeping(*plain(shape, n)),
    "no layers": lambda shape, n: NoLayers(),
    "with a lock": with_lock,
    "compiled": lambda shape, n: torch.compile(plain(shape, n), backend="eager"),
    "data parallel": lambda shape, n: nn.DataParallel(plain(shape, n)),
    "scripted": lambda shape, n: torch.jit.script(plain(shape, n)),
    "traced": lambda shape, n: torch.jit.trace(plain(shape, n), torch.zeros(2, *shape)),
    "embedding": lambda shape, n: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.LazyLinear(n)),
    "skorch": net(NeuralNetClassifier),
    "skorch, initialised": initialised,
    "skorch, fitted and frozen": lambda shape, n: FrozenEstimator(initialised(shape, n)),
    "skorch, not fitted and frozen": lambda shape, n: FrozenEstimator(
        net(NeuralNetClassifier)(shape, n)
    ),
    "skorch, binary": net(NeuralNetBinaryClassifier, nn.BCEWithLogitsLoss, 1),
    "skorch, regressor": net(NeuralNetRegressor, nn.MSELoss, 1),
    "skorch, wrong loss": net(NeuralNetClassifier, nn.BCELoss),
    "a class": lambda shape, n: nn.Linear,
    "a word itself": lambda shape, n: "resnet18",
    "a number": lambda shape, n: 3,
    "a function": lambda shape, n: torch.relu,
    "a state dict": lambda shape, n: plain(shape, n).state_dict(),
    "a pipeline": lambda shape, n: make_pipeline(StandardScaler(), plain(shape, n)),
    "frozen pipeline": lambda shape, n: FrozenEstimator(make_pipeline(StandardScaler())),
    "a classifier": lambda shape, n: LogisticRegression(),
    "a list": lambda shape, n: [plain(shape, n)],
}

NETWORK_FORMS = PLAIN_NETWORKS | ODD_NETWORKS
