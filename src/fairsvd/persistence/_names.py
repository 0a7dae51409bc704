"""Classes and functions by name: which ones a file may ask for."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from sklearn.base import BaseEstimator
from skorch import NeuralNet
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

from ..exceptions import DamagedModelError, ModelFileError, UntrustedError

__all__ = ["Names", "is_own", "path_of"]

OWN = re.compile(r"fairsvd(\.[a-z_0-9]+)*\.[A-Za-z_]\w*")
# Parts of the package that no model consists of.
NO_MODEL = ("fairsvd.cli", "fairsvd.datasets", "fairsvd.exceptions", "fairsvd.persistence")

# Module -> classes of which it may name subclasses. None of them does more than compute.
BASES: dict[str, tuple[type, ...]] = {
    "torch.nn": (nn.Module,),
    "torch.optim": (Optimizer,),
    "torch.optim.lr_scheduler": (LRScheduler,),
    "torch.utils.data": (DataLoader, Dataset, Sampler),
    "skorch": (NeuralNet,),
}
# Those skorch callbacks that write no files and read none.
CALLBACKS = (
    "BatchScoring EarlyStopping EpochScoring EpochTimer Freezer GradientNormClipping Initializer "
    "LRScheduler ParamMapper PassthroughScoring PrintLog Unfreezer WarmRestartLR"
).split()
SPLITTERS = (
    "GroupKFold GroupShuffleSplit KFold LeaveOneGroupOut LeaveOneOut LeavePGroupsOut LeavePOut "
    "PredefinedSplit RepeatedKFold RepeatedStratifiedKFold ShuffleSplit StratifiedGroupKFold "
    "StratifiedKFold StratifiedShuffleSplit TimeSeriesSplit"
).split()
FUNCTIONS = (
    "celu elu gelu hardtanh hardswish leaky_relu log_softmax logsigmoid mish relu relu6 selu "
    "sigmoid silu softmax softplus tanh"
).split()
SINGLE = {
    *(f"skorch.callbacks.{name}" for name in CALLBACKS),
    *(f"sklearn.model_selection.{name}" for name in SPLITTERS),
    *(f"torch.nn.functional.{name}" for name in FUNCTIONS),
    *(f"torch.{name}" for name in ("relu", "sigmoid", "softmax", "tanh")),
    *("skorch.dataset.Dataset", "skorch.dataset.ValidSplit", "builtins.print"),
    *("skorch.utils.noop", "skorch.utils.to_numpy"),
    *("sklearn.frozen.FrozenEstimator", "sklearn.pipeline.Pipeline", "imblearn.pipeline.Pipeline"),
    "torch.nn.modules.linear.NonDynamicallyQuantizableLinear",
    "sklearn.utils._metadata_requests.MetadataRequest",
    "sklearn.utils._metadata_requests.MethodMetadataRequest",
    "fairsvd.networks._default.collate",
}


def path_of(value: Any) -> str:
    """Return the shortest import path of a class or function, or where it was defined."""
    return _path_of(value)


@lru_cache(maxsize=4096)
def _path_of(value: Any) -> str:
    name = value.__qualname__
    parts = (getattr(value, "__module__", None) or "builtins").split(".")
    prefixes = [".".join(parts[:k]) for k in range(1, len(parts) + 1)]
    # Torch's functions in C say that they are from elsewhere.
    for module in ("torch.nn.functional", *prefixes):
        if _look_up(module, name) is value:
            return f"{module}.{name}"
    return f"{'.'.join(parts)}.{name}"


def _look_up(module: str, name: str) -> Any:
    try:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError):
        return None
    return value


class Names:
    """The classes and functions that may be looked up.

    Parameters
    ----------
    trusted : iterable of str, class or function
        What the caller allows beside the package's own classes and those of torch, skorch and
        scikit-learn that only compute.
    """

    def __init__(self, trusted: Iterable[Any] = ()) -> None:
        self.trusted = {each if isinstance(each, str) else path_of(each): each for each in trusted}

    def knows(self, path: Any) -> bool:
        """Tell whether a path may be looked up."""
        return isinstance(path, str) and (path in self.trusted or _is_known(path))

    def find(self, path: str, *bases: type) -> Any:
        """Look a class or function up.

        Parameters
        ----------
        path : str
        *bases : types
            The class has to be a subclass of one of these, if any are given.

        Raises
        ------
        UntrustedError
            If nobody allowed it.
        ModelFileError
            If there is no such thing, or another one than was asked for.
        """
        if not self.knows(path):
            raise UntrustedError(f"{path} is not among what a file may use by itself")
        value = self._value(path)
        if value is None:
            raise ModelFileError(f"{path} is needed, and this installation does not have it")
        if bases and not (isinstance(value, type) and issubclass(value, bases)):
            raise DamagedModelError(f"{path} is not what this place takes")
        return value

    def _value(self, path: str) -> Any:
        given = self.trusted.get(path)
        if given is not None and not isinstance(given, str):
            return given
        parts = path.split(".")
        for k in range(len(parts) - 1, 0, -1):
            value = _look_up(".".join(parts[:k]), ".".join(parts[k:]))
            if value is not None:
                return value
        return None


def _is_known(path: str) -> bool:
    if path in SINGLE:
        return True
    module, _, name = path.rpartition(".")
    if module == "sklearn.metrics" and name.endswith("_score"):
        return True
    if OWN.fullmatch(path) and not path.startswith(NO_MODEL):
        value = _look_up(module, name)
        return isinstance(value, type) and value.__module__.startswith("fairsvd.")
    value = _look_up(module, name) if module in BASES else None
    return isinstance(value, type) and issubclass(value, BASES[module])


def is_own(value: Any) -> bool:
    """Tell whether an object's class is, or derives from, an estimator of this package."""
    return isinstance(value, BaseEstimator) and any(
        kind.__module__.startswith("fairsvd.") for kind in type(value).__mro__
    )
