"""Objects as trees of JSON values, with tensors beside them: one kind of value at a time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..exceptions import DamagedModelError, ModelFileError
from ._names import Names

__all__ = ["LEFT_OUT", "Kind", "Node", "Reader", "Writer", "bytes_as_tensor", "unsavable"]

Node: TypeAlias = Any

# The kind of a node that stands for what could not be saved.
LEFT_OUT = "left out"


@dataclass(frozen=True)
class Kind:
    """How values of one kind are written and read.

    Attributes
    ----------
    name : str
        The node's "kind".
    takes : callable
        Tells whether a value is of this kind.
    write : callable
        Maps the value and the writer to the fields of a node.
    read : callable
        Maps the node and the reader to the value.
    shared : bool, default=False
        Whether two places that hold the same object hold the same one after reading, too.
    """

    name: str
    takes: Callable[[Any], bool]
    write: Callable[[Any, Writer], dict[str, Node]]
    read: Callable[[dict[str, Node], Reader], Any]
    shared: bool = False


class _Places:
    """Remembers where in an object the work is, for messages."""

    def __init__(self) -> None:
        self._places: list[str] = []

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Name the place for the length of a block."""
        self._places.append(place)
        yield
        # Not after an error, whose message names the place.
        self._places.pop()

    @property
    def place(self) -> str:
        """The place, as a reader of the message would write it."""
        return "".join(self._places).lstrip(". ")


class Writer(_Places):
    """Turns an object into a node and tensors.

    Parameters
    ----------
    kinds : sequence of Kind
    graphs : bool, default=False
        Whether networks of editors are written as ONNX graphs, too.

    Attributes
    ----------
    parts : dict of str to Tensor
        By the SHA-256 of their content, so that equal ones are kept once.
    """

    def __init__(self, kinds: Sequence[Kind], *, graphs: bool = False) -> None:
        super().__init__()
        self.graphs = graphs
        self.parts: dict[str, Tensor] = {}
        self._kinds = kinds
        # The objects stay alive as long as their identities are compared.
        self._seen: dict[int, tuple[int, Any]] = {}

    def node(self, value: Any, place: str = "") -> Node:
        """Write a value.

        Raises
        ------
        ModelFileError
            If it, or something in it, is of no kind that can be saved.
        """
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float and math.isfinite(value):
            return value
        with self.at(place):
            if type(value) is list:
                return [self.node(each, f"[{k}]") for k, each in enumerate(value)]
            kind = next((kind for kind in self._kinds if kind.takes(value)), None)
            if kind is None:
                raise unsavable(self, value)
            return self._of_kind(kind, value)

    def _of_kind(self, kind: Kind, value: Any) -> Node:
        if not kind.shared:
            return {"kind": kind.name, **kind.write(value, self)}
        if id(value) in self._seen:
            return {"kind": "same", "id": self._seen[id(value)][0]}
        number = len(self._seen)
        self._seen[id(value)] = number, value
        return {"kind": kind.name, "id": number, **kind.write(value, self)}

    def or_reason(self, value: Any, place: str) -> Node:
        """Write a value, or a note why it cannot be saved."""
        n_seen, places, parts = len(self._seen), list(self._places), set(self.parts)
        try:
            return self.node(value, place)
        except Unsavable as error:
            # Later places must not refer to what was written on the way.
            self._seen = dict(list(self._seen.items())[:n_seen])
            self._places = places
            self.parts = {name: part for name, part in self.parts.items() if name in parts}
            return {"kind": LEFT_OUT, "why": error.why}

    def pairs(self, named: Any) -> list[Node]:
        """Write the items of a mapping with names as keys."""
        return [[name, self.node(value, f".{name}")] for name, value in named.items()]

    def part(self, tensor: Tensor) -> str:
        """Keep a tensor's numbers and return the name of the part."""
        # Cloned, since the format refuses tensors that share memory.
        tensor = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        name = name_of(tensor)
        self.parts.setdefault(name, tensor)
        return name


def bytes_as_tensor(data: bytes) -> Tensor:
    """Make a tensor of bytes, the form in which a file keeps them."""
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())


def name_of(tensor: Tensor) -> str:
    """Name a tensor by the SHA-256 of its type, its shape and its numbers."""
    state = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    if tensor.numel():
        # A single number may have any stride, which the view below would refuse.
        flat = tensor.reshape(-1).as_strided((tensor.numel(),), (1,))
        state.update(flat.view(torch.uint8).numpy().data)
    return state.hexdigest()


class Unsavable(ModelFileError):
    """A value that cannot be saved.

    Parameters
    ----------
    place : str
        Where it is.
    why : str
    """

    def __init__(self, place: str, why: str) -> None:
        self.why = why
        super().__init__(
            f"{place} cannot be saved: {why}. A parameter that only fit needs can be set to "
            "another value before saving (set_params)."
        )


def unsavable(writer: Writer, value: Any, why: str = "") -> ModelFileError:
    """Make the error about a value that cannot be saved."""
    named = getattr(value, "__qualname__", None) or type(value).__qualname__
    return Unsavable(writer.place, why or f"{named!r} is no value that a file can hold")


class Reader(_Places):
    """Turns a node and tensors back into the object.

    Parameters
    ----------
    kinds : sequence of Kind
    parts : dict of str to Tensor
    names : Names
        What may be imported.
    network : nn.Module or None
        Brings the code of networks whose class may not be imported.

    Attributes
    ----------
    grafted : bool
        Whether ``network`` was needed.
    """

    def __init__(
        self, kinds: Sequence[Kind], parts: dict[str, Tensor], names: Names, network: Any
    ) -> None:
        super().__init__()
        self.names, self.network = names, network
        self.grafted = False
        self._kinds = {kind.name: kind for kind in kinds}
        self._parts = parts
        self._made: dict[int, Any] = {}

    def value(self, node: Node, place: str = "") -> Any:
        """Read a value."""
        if not isinstance(node, (list, dict)):
            return node
        with self.at(place):
            if isinstance(node, list):
                return [self.value(each, f"[{k}]") for k, each in enumerate(node)]
            if node["kind"] == "same":
                return self._made[node["id"]]
            if node["kind"] not in self._kinds:
                raise DamagedModelError(f"{node['kind']!r} is no kind of value")
            value = self._kinds[node["kind"]].read(node, self)
            return self.made(node, value)

    def made(self, node: dict[str, Node], value: Any) -> Any:
        """Remember an object, also before all of it has been read, and return it."""
        if "id" in node:
            self._made[node["id"]] = value
        return value

    def pairs(self, items: list[Node]) -> dict[str, Any]:
        """Read what :meth:`Writer.pairs` wrote."""
        named = {}
        for name, node in items:
            if not isinstance(name, str) or name in named:
                raise DamagedModelError(f"{name!r} is named twice, or is no name")
            named[name] = self.value(node, f".{name}")
        return named

    def part(self, name: str) -> Tensor:
        """Return the numbers of a part.

        Raises
        ------
        DamagedModelError
            There is no such part, or its content is not that of its name.
        """
        if name not in self._parts:
            raise DamagedModelError(f"the part {name[:12]!r} is missing")
        if name_of(self._parts[name]) != name:
            raise DamagedModelError(
                f"the part {name[:12]!r} has another content than its name says"
            )
        return self._parts[name]
