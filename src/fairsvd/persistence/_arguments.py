"""The arguments of save and load, checked."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet
from torch import nn

from ..exceptions import ModelFileError
from ._names import is_own

__all__ = [
    "as_key",
    "as_list",
    "as_module",
    "as_path",
    "bytes_of",
    "check_estimator",
    "check_place",
    "holds_own",
    "lent_classes",
]


def check_estimator(estimator: Any) -> None:
    """Refuse what is no fitted estimator of this package, nor a Pipeline with one."""
    if not holds_own(estimator):
        search = hasattr(estimator, "best_estimator_")
        advice = " Save its best_estimator_." if search else ""
        raise ModelFileError(
            "estimator has to be one of this package, or a Pipeline with one; got "
            f"{type(estimator).__name__}.{advice}"
        )
    check_is_fitted(estimator)


def holds_own(estimator: Any) -> bool:
    """Tell whether this is an estimator of this package, or a Pipeline with one."""
    if isinstance(estimator, Pipeline):
        return any(holds_own(step) for _, step in estimator.steps)
    inner = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    return is_own(inner)


def as_path(path: Any) -> Path:
    """Return the path of a file; "~" is the home folder."""
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"path has to be the name of a file; got {path!r}.")
    return Path(path).expanduser()


def check_place(path: Path, overwrite: bool) -> None:
    """Refuse a place where no file can be written, or where one stands already."""
    if path.is_dir():
        raise IsADirectoryError(f"path={str(path)!r} is a folder: pass the name of a file in it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: there is no such folder; make it first.")
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"path={str(path)!r} exists already: pass another one, or overwrite=True."
        )


def bytes_of(path: Path) -> bytes:
    """Read a regular file."""
    if not path.exists():
        raise FileNotFoundError(f"path={str(path)!r}: there is no such file.")
    if not path.is_file():
        raise IsADirectoryError(f"path={str(path)!r} is no file: pass what save was given.")
    return path.read_bytes()


def as_key(key: Any) -> bytes | None:
    """Return the key as bytes."""
    if key is None:
        return None
    if not isinstance(key, (str, bytes)) or not key:
        raise ValueError("key has to be a text or bytes, and not empty; None for no key.")
    return key.encode() if isinstance(key, str) else key


def as_list(trusted: Any) -> list[Any]:
    """Return what is trusted as a list of import paths, classes and functions."""
    single = isinstance(trusted, str) or not isinstance(trusted, Iterable)
    items = [trusted] if single else list(trusted)
    for each in items:
        if not isinstance(each, str) and not hasattr(each, "__qualname__"):
            raise ValueError(
                f"trusted holds {each!r}: pass import paths like 'package.module.Name', classes or "
                "functions."
            )
    return items


def lent_classes(network: Any) -> list[type]:
    """List the class of a skorch net that was passed as ``network=``, which may be the user's."""
    inner = getattr(network, "estimator", network)
    return [type(inner)] if isinstance(inner, NeuralNet) else []


def as_module(network: Any) -> nn.Module | None:
    """Return the module in what was passed as ``network=``; None for "onnx" and None."""
    if network is None or (isinstance(network, str) and network == "onnx"):
        return None
    inner = getattr(network, "estimator", network)
    for module in (inner, getattr(inner, "module_", None), getattr(inner, "module", None)):
        if isinstance(module, nn.Module):
            return module
    raise ValueError(
        "network has to be a torch.nn.Module, a skorch net that is initialised, or 'onnx'; got "
        f"{network!r}."
    )
