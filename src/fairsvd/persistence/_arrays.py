"""numpy's arrays, scalars, types and sources of random numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..exceptions import DamagedModelError
from ._kind import Kind, Node, Reader, Writer, unsavable

__all__ = ["ARRAYS"]

# Kinds of numpy types without fields.
SIMPLE = "biufcmMOSU"
BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


def _write_dtype(dtype: np.dtype[Any], writer: Writer) -> dict[str, Node]:
    if dtype.kind not in SIMPLE:
        raise unsavable(writer, dtype, f"the numpy type {dtype} is none that a file can hold")
    return {"text": dtype.str}


def _read_dtype(node: dict[str, Node], reader: Reader) -> np.dtype[Any]:
    dtype = np.dtype(str(node["text"]))
    if dtype.kind not in SIMPLE:
        raise DamagedModelError(f"{dtype} is no simple type")
    return dtype


def _as_tensor(values: NDArray[Any]) -> Tensor:
    """Return the bytes of an array, in its own numbers where torch has the type."""
    flat = np.ascontiguousarray(values).reshape(-1)
    native = flat.dtype.newbyteorder("=")
    if flat.dtype.kind in "biuf" and flat.dtype == native and flat.dtype.itemsize <= 8:
        return torch.from_numpy(flat.copy())
    return torch.from_numpy(flat.view(np.uint8).copy())


def _write_array(value: NDArray[Any], writer: Writer) -> dict[str, Node]:
    dtype = writer.node(value.dtype)
    # A matrix that is stored column by column may multiply with other last bits.
    by_column = value.flags.f_contiguous and not value.flags.c_contiguous
    node = {"dtype": dtype, "shape": list(value.shape), "by_column": by_column}
    if value.dtype.kind in "OSU":
        return {**node, "items": writer.node(value.ravel().tolist())}
    if value.dtype.str[1:] in ("f16", "c32"):
        raise unsavable(writer, value, "numbers of extended precision differ between machines")
    return {**node, "part": writer.part(_as_tensor(value))}


def _read_array(node: dict[str, Node], reader: Reader) -> NDArray[Any]:
    dtype, shape = reader.value(node["dtype"]), tuple(node["shape"])
    if "items" in node:
        items = reader.value(node["items"])
        if len(items) != math.prod(shape):
            raise DamagedModelError("an array has another number of values than its shape")
        flat: NDArray[Any] = np.empty(len(items), dtype=dtype)
        for k, item in enumerate(items):
            flat[k] = item
    else:
        flat = reader.part(node["part"]).numpy().copy()
        if dtype.kind == "O":
            raise DamagedModelError("an array of objects has no numbers")
        flat = flat if flat.dtype == dtype else flat.view(dtype)
    values = flat.reshape(shape)
    return np.asfortranarray(values) if node["by_column"] else values


def _write_masked(value: Any, writer: Writer) -> dict[str, Node]:
    return {
        "data": writer.node(np.asarray(value.data)),
        "mask": writer.node(np.ma.getmaskarray(value)),
        "fill": writer.node(np.asarray(value.fill_value)),
        "plain": value.mask is np.ma.nomask,
    }


def _read_masked(node: dict[str, Node], reader: Reader) -> Any:
    data, mask = reader.value(node["data"]), reader.value(node["mask"])
    fill = reader.value(node["fill"])[()]
    return np.ma.MaskedArray(data, np.ma.nomask if node["plain"] else mask, fill_value=fill)


def _write_scalar(value: Any, writer: Writer) -> dict[str, Node]:
    return {"array": writer.node(np.asarray(value))}


def _read_scalar(node: dict[str, Node], reader: Reader) -> Any:
    return reader.value(node["array"])[()]


def _write_random_state(value: np.random.RandomState, writer: Writer) -> dict[str, Node]:
    return {"state": writer.node(value.get_state(legacy=False))}


def _read_random_state(node: dict[str, Node], reader: Reader) -> np.random.RandomState:
    state = reader.value(node["state"])
    random_state = np.random.RandomState(_bit_generator(state["bit_generator"]))
    random_state.set_state(state)
    return random_state


def _write_generator(value: np.random.Generator, writer: Writer) -> dict[str, Node]:
    return {"state": writer.node(dict(value.bit_generator.state))}


def _read_generator(node: dict[str, Node], reader: Reader) -> np.random.Generator:
    state = reader.value(node["state"])
    bits = _bit_generator(state["bit_generator"])
    bits.state = state
    return np.random.Generator(bits)


def _bit_generator(name: str) -> Any:
    if name not in BIT_GENERATORS:
        raise DamagedModelError(f"{name!r} is no source of random numbers")
    return getattr(np.random, name)(0)


def _is_plain_array(value: Any) -> bool:
    return type(value) in (np.ndarray, np.memmap)


ARRAYS = (
    Kind("dtype", lambda v: isinstance(v, np.dtype), _write_dtype, _read_dtype),
    Kind("masked array", lambda v: type(v) is np.ma.MaskedArray, _write_masked, _read_masked),
    Kind("array", _is_plain_array, _write_array, _read_array),
    Kind("scalar", lambda v: isinstance(v, np.generic), _write_scalar, _read_scalar),
    Kind(
        "random state",
        lambda v: isinstance(v, np.random.RandomState),
        _write_random_state,
        _read_random_state,
    ),
    Kind(
        "random generator",
        lambda v: isinstance(v, np.random.Generator),
        _write_generator,
        _read_generator,
    ),
)
