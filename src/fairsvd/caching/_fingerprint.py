"""Fingerprints of tensors, networks, rows and settings that are equal in every process."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..arrays import Batches, read_array_rows

__all__ = ["NotStableError", "fingerprint"]

# Number of rows of X read at a time.
BLOCK = 8192

PLAIN = (type(None), type(...), bool, int, float, complex, str, bytes, np.generic)

# Attributes that every module has; submodules and tensors are read by name instead.
MODULE_FIELDS = frozenset(vars(nn.Module()))

# Libraries whose code is not hashed. torch's version is part of every key.
LIBRARIES = frozenset(("torch", "skorch", "sklearn", "numpy", "builtins", "fairsvd"))

# Attributes that every class has and that do not affect what it computes.
CLASS_FIELDS = frozenset(
    ("__doc__", "__module__", "__dict__", "__weakref__", "__annotations__", "_abc_impl")
)
DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType)

# Flag of classes defined in Python code.
HEAP_TYPE = 1 << 9


class NotStableError(TypeError):
    """An object cannot be part of a key, because its attributes do not tell what it is."""


def fingerprint(*parts: Any) -> str:
    """Hash tensors by their bytes, networks by class, code, structure and state, and so on.

    Parameters
    ----------
    *parts : numbers, strings, arrays, tensors, modules, Batches, estimators, functions, classes
        and containers of these.

    Returns
    -------
    key : str
        64 hexadecimal digits of SHA-256; the same in every process of one Python version.

    Raises
    ------
    NotStableError
        If they hold anything else.
    """
    digest = hashlib.sha256()
    try:
        for part in parts:
            _add(digest.update, part)
    except RecursionError:
        raise NotStableError("an object that contains itself has no fingerprint") from None
    return digest.hexdigest()


Update = Callable[[Any], None]


def _add(update: Update, value: Any) -> None:
    for kinds, add in READERS:
        if isinstance(value, kinds):
            # The reader's name tells apart values of the same bytes: [1] and (1,), "a" and b"a".
            update(f"<{add.__name__}>".encode())
            add(update, value)
            return
    _object(update, value)


def _object(update: Update, value: Any) -> None:
    """Add an estimator by its parameters and any other object by its class and attributes."""
    kind = type(value)
    _code(update, kind)
    if hasattr(value, "get_params"):
        _mapping(update, value.get_params(deep=False))
    elif _of_python(kind) and hasattr(value, "__dict__"):
        _mapping(update, vars(value))
    else:
        # The content of an object of a compiled class cannot be read.
        raise NotStableError(f"{kind.__module__}.{kind.__qualname__} objects have no fingerprint")


def _of_python(kind: type) -> bool:
    return all(base is object or base.__flags__ & HEAP_TYPE for base in kind.__mro__)


def _plain(update: Update, value: Any) -> None:
    update(f"{type(value).__name__}:{value!r};".encode())


def _sequence(update: Update, value: Any) -> None:
    update(f"{type(value).__name__}:{len(value)};".encode())
    for item in value:
        _add(update, item)


def _mapping(update: Update, value: Mapping[Any, Any]) -> None:
    update(f"{len(value)};".encode())
    # In order of insertion, since the order of parameters and layers matters.
    for key, item in value.items():
        _add(update, key)
        _add(update, item)


def _set(update: Update, value: Any) -> None:
    _sequence(update, sorted(fingerprint(item) for item in value))


def _array(update: Update, value: np.ndarray[Any, Any]) -> None:
    update(f"{value.dtype.str}{value.shape};".encode())
    if value.dtype.hasobject:
        _sequence(update, value.ravel().tolist())
    else:
        update(np.ascontiguousarray(value).data)


def _tensor(update: Update, value: Tensor) -> None:
    update(f"{value.dtype}{tuple(value.shape)};".encode())
    if value.layout != torch.strided:
        raise NotStableError("sparse tensors have no fingerprint")
    flat = value.detach().cpu().contiguous().reshape(-1)
    update(flat.view(torch.uint8).numpy().data)


def _rows(update: Update, value: Batches) -> None:
    """Read the rows once, block by block, in their own dtype; images by their stamp."""
    update(f"{len(value)};".encode())
    if value.fields is not None:
        _add(update, vars(value.fields))
    if value.stamp is not None:
        _add(update, value.stamp(value.index))
        return
    whole = _array_of(value)
    for start in range(0, len(value), BLOCK):
        block = slice(start, start + BLOCK)
        _tensor(update, value.fetch(value.index[block]) if whole is None else whole[block])


def _array_of(value: Batches) -> Tensor | None:
    """Return the array whose rows these are, uncopied; None unless it is all rows in order."""
    if not (isinstance(value.fetch, functools.partial) and value.fetch.func is read_array_rows):
        return None
    X = value.fetch.args[0]
    # Only such arrays become tensors without a copy.
    if not (isinstance(X, np.ndarray) and X.flags.carray):
        return None
    return torch.from_numpy(X) if np.array_equal(value.index, np.arange(len(X))) else None


def _module(update: Update, value: nn.Module) -> None:
    # Networks with equal states may compute different things: ReLU or Tanh between the layers.
    for name, part in value.named_modules(remove_duplicate=False):
        _plain(update, name)
        _code(update, type(part))
        _plain(update, part.extra_repr())
        _mapping(update, _attributes_of(part))
        for kind in ("_forward_hooks", "_forward_pre_hooks"):
            _sequence(update, list(getattr(part, kind).values()))
    _mapping(update, value.state_dict())
    # Layers that share a weight change together; layers with equal weights do not.
    first: dict[int, str] = {}
    for name, parameter in value.named_parameters(remove_duplicate=False):
        owner = first.setdefault(id(parameter), name)
        if owner != name:
            _plain(update, f"{name} is {owner}")


def _attributes_of(part: nn.Module) -> dict[str, Any]:
    attributes = {k: v for k, v in vars(part).items() if k not in MODULE_FIELDS}
    if _of_library(type(part)):
        # torch's private attributes follow from the others; some refer to its tensors.
        attributes = {k: v for k, v in attributes.items() if not k.startswith("_")}
    return attributes


def _function(update: Update, value: Any) -> None:
    _code(update, value)
    _sequence(update, list(value.__defaults__ or ()))
    _mapping(update, value.__kwdefaults__ or {})
    inner = [cell.cell_contents for cell in value.__closure__ or ()]
    # A class by its name, since the cell that `super()` reads leads back to the class.
    _sequence(update, [str(each) if isinstance(each, type) else each for each in inner])


def _partial(update: Update, value: functools.partial[Any]) -> None:
    _sequence(update, [value.func, value.args, value.keywords])


def _method(update: Update, value: types.MethodType) -> None:
    _add(update, value.__self__)
    _plain(update, value.__func__.__qualname__)


def _generator(update: Update, value: np.random.Generator) -> None:
    _mapping(update, value.bit_generator.state)


def _random_state(update: Update, value: np.random.RandomState) -> None:
    _mapping(update, value.get_state(legacy=False))


def _torch_generator(update: Update, value: torch.Generator) -> None:
    _tensor(update, value.get_state())


def _named(update: Update, value: Any) -> None:
    # By name, since the text of a builtin may hold an address.
    name = getattr(value, "__qualname__", None)
    _plain(update, f"{getattr(value, '__module__', '')}.{name}" if name else str(value))


def _code(update: Update, value: Any) -> None:
    """Add the name of a class or function and, outside the libraries, its code."""
    _plain(update, f"{value.__module__}.{value.__qualname__}")
    if not _of_library(value):
        _plain(update, _hash_code(value))


def _of_library(value: Any) -> bool:
    return (value.__module__ or "").split(".")[0] in LIBRARIES


@functools.lru_cache(maxsize=256)
def _hash_code(value: Any) -> str:
    """Hash a function's code or a class's methods, since notebooks redefine names."""
    if isinstance(value, type):
        foreign = [cls for cls in value.__mro__ if not _of_library(cls)]
        return fingerprint([_methods(cls) for cls in foreign], [str(cls) for cls in value.__mro__])
    return fingerprint(value.__code__)


def _methods(cls: type) -> dict[str, Any]:
    methods = {}
    for name, attribute in sorted(vars(cls).items()):
        if isinstance(attribute, (staticmethod, classmethod)):
            attribute = attribute.__func__
        if isinstance(attribute, property):
            attribute = [attribute.fget, attribute.fset]
        if name not in CLASS_FIELDS and not isinstance(attribute, DESCRIPTORS):
            methods[name] = attribute
    return methods


def _code_object(update: Update, value: types.CodeType) -> None:
    update(value.co_code)
    _sequence(update, [value.co_consts, value.co_names, value.co_varnames, value.co_freevars])


READERS: tuple[tuple[Any, Callable[[Update, Any], None]], ...] = (
    (Enum, _named),
    (PLAIN, _plain),
    (Tensor, _tensor),
    (nn.Module, _module),
    (Batches, _rows),
    (np.ndarray, _array),
    (Mapping, _mapping),
    ((list, tuple), _sequence),
    ((set, frozenset), _set),
    (type, _code),
    (types.CodeType, _code_object),
    (types.FunctionType, _function),
    (types.MethodType, _method),
    ((types.BuiltinFunctionType, types.WrapperDescriptorType, types.MethodDescriptorType), _named),
    ((torch.dtype, torch.device, np.dtype, PurePath), _named),
    (functools.partial, _partial),
    (np.random.Generator, _generator),
    (np.random.RandomState, _random_state),
    (torch.Generator, _torch_generator),
)
