"""Train the base network, or restore its state from a cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from skorch import NeuralNetBinaryClassifier
from skorch.history import History
from torch import Tensor, nn

from .._rng import seeded_globally
from .._warn import warn
from ..arrays import LabelledRows
from ..caching import Cache, Entry, NotStableError
from ..exceptions import CacheWarning, IgnoredWeightsWarning, NetworkError
from ._copy import unwrapped
from ._default import RowDataset, default_net, fit_net, train_default
from ._modules import MLP
from ._plain import first_parameter
from ._usable import check_usable
from ._weighted import drawing_by_weight

__all__ = ["train_own_net", "train_users_net"]


def train_own_net(
    rows: LabelledRows,
    classes: NDArray[Any],
    batch_size: int,
    rng: np.random.Generator,
    device: str,
    cache: Cache,
    of_table: type[nn.Module],
) -> Any:
    """Build the default skorch net and train it, or restore the state of the same training."""
    # Read before the first draw advances the generator.
    parts = {
        "network": None if of_table is MLP else of_table.__name__,
        "n_outputs": len(classes),
        "batch_size": batch_size,
        "random": rng.bit_generator.state,
        "device": device,
    }
    settings: dict[str, Any] = {"batch_size": batch_size, "rng": rng, "device": device}
    net = default_net(rows, classes, of_table=of_table, **settings)
    _train_once(net, lambda: train_default(net, rows, rng), cache, parts, net.initialize)
    return net


def train_users_net(
    network: Any,
    rows: LabelledRows,
    rng: np.random.Generator,
    device: str | None,
    cache: Cache,
) -> Any:
    """Train a clone of the user's skorch net, or restore the state of the same training."""
    if getattr(network, "initialized_", False):
        warn(
            "network is a fitted skorch net: a clone of it is trained anew and its weights are "
            "not used. Wrap it in sklearn.frozen.FrozenEstimator to keep them.",
            IgnoredWeightsWarning,
        )
    if isinstance(network.module, nn.Module):
        check_usable(unwrapped(network.module), trained=False)
    net = _cloned(network)
    if device is not None:
        net.set_params(device=device)
    binary = isinstance(net, NeuralNetBinaryClassifier)
    labels = rows.y.to(torch.float32) if binary else rows.y
    seed = int(rng.integers(2**31))

    def train() -> None:
        # Seeded, since the user's module and callbacks draw from the global generators.
        with seeded_globally(seed, net.device):
            net.initialize()
            given = _in_dtype_of(net.module_, rows)
            # The labels again, since the net's own split may stratify by them.
            X = _array_of(given) if _in_memory(given) else RowDataset(given, labels)
            with drawing_by_weight(net, given):
                fit_net(net, X, labels.numpy())

    def initialize() -> None:
        with seeded_globally(seed, net.device):
            net.initialize()

    _train_once(net, train, cache, {"network": network, "seed": seed, "device": device}, initialize)
    return net


def _cloned(network: Any) -> Any:
    try:
        return clone(network)
    except Exception as error:
        raise NetworkError(
            f"network, a skorch net, cannot be cloned to be trained ({type(error).__name__}: "
            f"{error}). Give it the class of its module and the arguments (module__width=8), not "
            "a module that has run; or train it and pass FrozenEstimator(net)."
        ) from error


def _in_dtype_of(module: nn.Module, rows: LabelledRows) -> LabelledRows:
    """Read rows in double precision if the module has it; skorch does not convert them."""
    double = first_parameter(module).dtype == torch.float64
    return replace(rows, X=rows.X.astype(torch.float64)) if double else rows


def _array_of(rows: LabelledRows) -> Any:
    """Read all rows: an array, or arrays by the names of their inputs."""
    if rows.X.fields is None:
        return rows.X[:].cpu().numpy()
    return {name: part.cpu().numpy() for name, part in rows.X.fields.unpack(rows.X[:]).items()}


def _in_memory(rows: LabelledRows, limit: int = 2**31) -> bool:
    # train_split and most callbacks expect an array; above 2 GiB rows are streamed.
    if rows.X.most is not None:
        return False
    return len(rows) * int(np.prod(rows.X.item_shape)) * 4 <= limit


def _train_once(
    net: Any,
    train: Callable[[], None],
    cache: Cache,
    parts: Mapping[str, Any],
    initialize: Callable[[], None],
) -> None:
    """Train a net, or restore the state that the same training gave before.

    Parameters
    ----------
    net : skorch net
        Not yet initialised; changed in place.
    train : callable
        Trains the net.
    cache : Cache
    parts : mapping
        Everything that the training depends on beside the scope of the cache.
    initialize : callable
        Initialises the net without training, before a state is restored.
    """
    if not cache.keeps:
        train()
        return
    done = False

    def compute() -> Entry:
        nonlocal done
        train()
        done = True
        return _make_entry(net)

    try:
        entry = cache.fetch("base network", parts, compute)
    except NotStableError as error:
        warn(
            f"memory= cannot keep the training of this network: {error}. It is trained in every "
            "fit. Use only numbers, strings, functions of a module and estimators as "
            "settings, or train it first and pass FrozenEstimator(net).",
            CacheWarning,
        )
        if not done:
            train()
        return
    if not done:
        initialize()
        _restore(net, entry)


def _modules(net: Any) -> dict[str, nn.Module]:
    names = [*net._modules, *net._criteria]
    values = {name: getattr(net, f"{name.rstrip('_')}_") for name in names}
    return {name: value for name, value in values.items() if isinstance(value, nn.Module)}


def _make_entry(net: Any) -> Entry:
    tensors = {}
    for name, module in _modules(net).items():
        for key, value in module.state_dict().items():
            if not isinstance(value, Tensor):
                raise NotStableError(f"the state {key!r} of its {name} is not a tensor")
            tensors[f"{name}/{key}"] = value
    try:
        history = json.loads(json.dumps(list(net.history), default=float))
    except (TypeError, ValueError) as error:
        raise NotStableError(f"its history holds more than numbers and text ({error})") from None
    classes = getattr(net, "classes_inferred_", None)
    facts = {"history": history, "classes": None if classes is None else classes.tolist()}
    return Entry(tensors, facts)


def _restore(net: Any, entry: Entry) -> None:
    for name, module in _modules(net).items():
        prefix = f"{name}/"
        state = {
            k.removeprefix(prefix): v for k, v in entry.tensors.items() if k.startswith(prefix)
        }
        module.load_state_dict(state)
    net.history_ = History(entry.facts["history"])
    if entry.facts["classes"] is not None:
        net.classes_inferred_ = np.asarray(entry.facts["classes"])
