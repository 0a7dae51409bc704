"""Python's own values: numbers, containers, dates, paths, patterns, classes and functions."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import functools
import inspect
import pathlib
import re
import uuid
from collections import OrderedDict
from typing import Any

import joblib
from sklearn.utils import Bunch

from ._kind import Kind, Node, Reader, Writer, unsavable
from ._names import path_of

__all__ = ["PLAIN"]

CONTAINERS: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}
MAPPINGS: dict[str, Any] = {"dict": dict, "OrderedDict": OrderedDict, "Bunch": Bunch}
# A type of these is written as text, and read by the function beside it.
TEXTS: dict[type, tuple[Any, Any]] = {
    dt.datetime: (dt.datetime.isoformat, dt.datetime.fromisoformat),
    dt.date: (dt.date.isoformat, dt.date.fromisoformat),
    dt.time: (dt.time.isoformat, dt.time.fromisoformat),
    decimal.Decimal: (str, decimal.Decimal),
    uuid.UUID: (str, uuid.UUID),
    complex: (repr, complex),
    float: (repr, float),
}
TEXT_TYPES = {kind.__name__: kind for kind in TEXTS}


def _is_one_of(types: Any) -> Any:
    return lambda value: type(value) in types


def _write_container(value: Any, writer: Writer) -> dict[str, Node]:
    items = [writer.node(each, f"[{k}]") for k, each in enumerate(value)]
    return {"type": type(value).__name__, "items": items}


def _read_container(node: dict[str, Node], reader: Reader) -> Any:
    return CONTAINERS[node["type"]](reader.value(node["items"]))


def _write_mapping(value: Any, writer: Writer) -> dict[str, Node]:
    items = [[writer.node(k), writer.node(v, f"[{k!r}]")] for k, v in value.items()]
    return {"type": type(value).__name__, "items": items}


def _read_mapping(node: dict[str, Node], reader: Reader) -> Any:
    items = [(reader.value(k), reader.value(v)) for k, v in node["items"]]
    kind = MAPPINGS[node["type"]]
    return Bunch(**dict(items)) if kind is Bunch else kind(items)


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _write_named_tuple(value: Any, writer: Writer) -> dict[str, Node]:
    return {"path": path_of(type(value)), "items": writer.node(list(value))}


def _read_named_tuple(node: dict[str, Node], reader: Reader) -> Any:
    return reader.names.find(node["path"], tuple)._make(reader.value(node["items"]))


def _read_text(node: dict[str, Node], reader: Reader) -> Any:
    return TEXTS[TEXT_TYPES[node["type"]]][1](node["text"])


def _read_delta(node: dict[str, Node], reader: Reader) -> dt.timedelta:
    days, seconds, microseconds = node["parts"]
    return dt.timedelta(days, seconds, microseconds)


def _write_pattern(value: re.Pattern[Any], writer: Writer) -> dict[str, Node]:
    return {"pattern": writer.node(value.pattern), "flags": value.flags}


def _read_pattern(node: dict[str, Node], reader: Reader) -> re.Pattern[Any]:
    return re.compile(reader.value(node["pattern"]), node["flags"])


def _write_partial(value: Any, writer: Writer) -> dict[str, Node]:
    keywords = {str(key): each for key, each in value.keywords.items()}
    return {
        "function": writer.node(value.func, ".func"),
        "args": writer.node(list(value.args), ".args"),
        "keywords": writer.node(keywords, ".keywords"),
    }


def _read_partial(node: dict[str, Node], reader: Reader) -> Any:
    args, keywords = reader.value(node["args"]), reader.value(node["keywords"])
    return functools.partial(reader.value(node["function"]), *args, **keywords)


def _is_code(value: Any) -> bool:
    return isinstance(value, type) or inspect.isfunction(value) or inspect.isbuiltin(value)


def _write_code(value: Any, writer: Writer) -> dict[str, Node]:
    path = path_of(value)
    if "<" in path or getattr(value, "__self__", None) not in (None, inspect.getmodule(value)):
        raise unsavable(
            writer, value, f"{path} cannot be found by an import, since it is local or a lambda"
        )
    return {"path": path}


def _read_code(node: dict[str, Node], reader: Reader) -> Any:
    return reader.names.find(node["path"])


PLAIN = (
    Kind("text", _is_one_of(TEXTS), lambda v, w: _text_of(v), _read_text),
    Kind("container", _is_one_of(CONTAINERS.values()), _write_container, _read_container),
    Kind("mapping", _is_one_of(MAPPINGS.values()), _write_mapping, _read_mapping),
    Kind("named tuple", _is_named_tuple, _write_named_tuple, _read_named_tuple),
    Kind(
        "bytes",
        _is_one_of([bytes]),
        lambda v, w: {"base64": base64.b64encode(v).decode()},
        lambda n, r: base64.b64decode(n["base64"], validate=True),
    ),
    Kind(
        "range",
        _is_one_of([range]),
        lambda v, w: {"parts": [v.start, v.stop, v.step]},
        lambda n, r: range(*n["parts"]),
    ),
    Kind(
        "duration",
        _is_one_of([dt.timedelta]),
        lambda v, w: {"parts": [v.days, v.seconds, v.microseconds]},
        _read_delta,
    ),
    Kind(
        "path",
        lambda v: isinstance(v, pathlib.PurePath),
        lambda v, w: {"text": str(v)},
        lambda n, r: pathlib.Path(n["text"]),
    ),
    # Made anew, a Memory would write a folder; editors take the path as well.
    Kind(
        "memory",
        lambda v: isinstance(v, joblib.Memory),
        lambda v, w: {"folder": None if v.location is None else str(v.location)},
        lambda n, r: n["folder"],
    ),
    Kind("pattern", lambda v: isinstance(v, re.Pattern), _write_pattern, _read_pattern),
    Kind("partial", _is_one_of([functools.partial]), _write_partial, _read_partial),
    Kind("code", _is_code, _write_code, _read_code),
)


def _text_of(value: Any) -> dict[str, Node]:
    return {"type": type(value).__name__, "text": TEXTS[type(value)][0](value)}
