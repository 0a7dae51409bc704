"""Networks: their parts by class and settings, built without a call of their constructors."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ..exceptions import DamagedModelError, ModelFileError, UntrustedError
from ._kind import LEFT_OUT, Kind, Node, Reader, Writer, unsavable
from ._names import path_of

__all__ = ["MODULES"]

# What torch itself keeps in every module, among which are its tensors, its parts and its hooks.
FRAMEWORK = frozenset(vars(nn.Module())) - {"training"}
HOOKS = tuple(name for name in FRAMEWORK if name.endswith("_hooks"))


def _write_module(value: nn.Module, writer: Writer) -> dict[str, Node]:
    if type(value).__name__ == "OptimizedModule":  # what torch.compile returns
        return _write_module(value.get_submodule("_orig_mod"), writer)
    if isinstance(value, torch.jit.ScriptModule):
        raise unsavable(writer, value, "it is compiled code; pass the network it was made from")
    state = value.__getstate__()
    if not isinstance(state, dict):
        raise unsavable(writer, value, "its class has a __getstate__ that gives no dict")
    lasting = {name: name not in value._non_persistent_buffers_set for name in value._buffers}
    return {
        "path": path_of(type(value)),
        "parameters": writer.pairs(value._parameters),
        "buffers": writer.pairs(value._buffers),
        "lasting": [[name, flag] for name, flag in lasting.items()],
        "modules": writer.pairs(value._modules),
        "settings": [
            [name, writer.or_reason(each, f".{name}")]
            for name, each in state.items()
            if name not in FRAMEWORK
        ],
        "hooks": any(vars(value)[name] for name in HOOKS),
    }


def _read_module(node: dict[str, Node], reader: Reader) -> nn.Module:
    known = reader.names.knows(node["path"])
    given = _find_given(node["path"], reader, known)
    if given is not None:
        reader.grafted = True
        return _graft(node, reader, given)
    if not known:
        raise UntrustedError(_no_class(node["path"]))
    kind = reader.names.find(node["path"], nn.Module)
    module: nn.Module = reader.made(node, kind.__new__(kind))
    nn.Module.__init__(module)
    # As a copy is made: from the attributes, without a call of the constructor.
    module.__setstate__(
        {**vars(module), **_contents(node, reader), **_settings(node, reader, kind)}
    )
    return module


def _find_given(path: str, reader: Reader, known: bool) -> nn.Module | None:
    """Copy the part of ``network=`` that stands where the reader is.

    Of a class that may be built it has to be of the same class. Of any other, one of the same class
    that stands elsewhere is the next choice, then the one at this place, whatever its class: it may
    have been moved.
    """
    if reader.network is None:
        return None
    here = reader.place.split(".")
    parts = dict(reader.network.named_modules())
    places = [".".join(here[k:]) for k in range(len(here) + 1)]
    aligned = [parts[place] for place in places if place in parts]
    choices = aligned if known else [*aligned, *parts.values()]
    of_class = [part for part in choices if path_of(type(part)) == path]
    found = next(iter(of_class if known else [*of_class, *aligned]), None)
    return None if found is None else copy.deepcopy(found).cpu()


def _contents(node: dict[str, Node], reader: Reader) -> dict[str, Any]:
    parameters, buffers = reader.pairs(node["parameters"]), reader.pairs(node["buffers"])
    lasting = dict(node["lasting"])
    modules = reader.pairs(node["modules"])
    wrong = [
        name for name, part in modules.items() if not isinstance(part, (nn.Module, type(None)))
    ]
    if wrong or lasting.keys() != buffers.keys():
        raise DamagedModelError(f"the parts {wrong} of a network are no networks")
    return {
        "_parameters": parameters,
        "_buffers": buffers,
        "_modules": modules,
        "_non_persistent_buffers_set": {name for name, flag in lasting.items() if not flag},
    }


def _settings(node: dict[str, Node], reader: Reader, kind: type) -> dict[str, Any]:
    if node["hooks"]:
        raise ModelFileError(
            f"the saved {node['path']} had hooks, which are code and are not in the file: pass "
            "network=, a network of the same architecture with its hooks"
        )
    settings = {}
    for name, each in node["settings"]:
        if isinstance(each, dict) and each["kind"] == LEFT_OUT:
            raise ModelFileError(
                f"{name!r} of a {node['path']} could not be saved ({each['why']}): pass network=, "
                "a network of the same architecture, which brings it along"
            )
        _check_name(name, kind)
        settings[name] = reader.value(each, f".{name}")
    return settings


def _check_name(name: Any, kind: type) -> None:
    """Refuse names that would take the place of a method, or of what torch keeps."""
    taken = not isinstance(name, str) or name in FRAMEWORK or name.startswith("__")
    if taken or callable(getattr(kind, name, None)):
        raise DamagedModelError(f"{name!r} is no name for an attribute of a {kind.__name__}")


def _graft(node: dict[str, Node], reader: Reader, given: nn.Module) -> nn.Module:
    """Give a module of the caller the tensors and the known parts of the saved one."""
    reader.made(node, given)
    for group in ("parameters", "buffers"):
        held = getattr(given, f"_{group}")
        saved = reader.pairs(node[group])
        if group == "buffers":
            # Buffers that a network makes anew are its own affair.
            lasting = dict(node["lasting"])
            saved = {name: each for name, each in saved.items() if lasting[name]}
            held = {k: v for k, v in held.items() if k not in given._non_persistent_buffers_set}
        _check_alike(node["path"], group, saved, held)
        getattr(given, f"_{group}").update(saved)
    children = dict(node["modules"])
    _check_names(node["path"], "modules", children, given._modules)
    for name, each in node["modules"]:
        with reader.at(f".{name}"):
            given._modules[name] = _graft_part(each, reader, given._modules[name])
    given.training = dict(node["settings"]).get("training", False)
    return given


def _graft_part(node: Node, reader: Reader, given: nn.Module | None) -> nn.Module | None:
    if node is None or given is None or node["kind"] == "same":
        part: nn.Module | None = reader.value(node)
        return part
    if path_of(type(given)) == node["path"] or not reader.names.knows(node["path"]):
        return _graft(node, reader, given)
    # An edit replaced it, by thin factors for instance.
    return reader.made(node, _read_module(node, reader))


def _check_names(path: str, group: str, saved: Any, held: Any) -> None:
    differ = sorted(saved.keys() ^ held.keys())
    if differ:
        raise ModelFileError(_other(f"the {group} {differ[:5]} of a {path} are in one only"))


def _check_alike(path: str, group: str, saved: Any, held: Any) -> None:
    _check_names(path, group, saved, held)
    for name, tensor in saved.items():
        shapes = [None if t is None else list(t.shape) for t in (tensor, held[name])]
        if shapes[0] != shapes[1]:
            raise ModelFileError(
                _other(f"{name} of a {path} has the shapes {shapes[0]} and {shapes[1]}")
            )


def _other(what: str) -> str:
    return (
        f"network= has another architecture than the saved network: {what}. Make it with the same "
        "settings as then"
    )


def _no_class(path: str) -> str:
    return (
        f"the network is of the class {path}, whose code is not in the file: pass trusted="
        f"({path!r},) if you trust that code, or network=, a network of the same architecture"
    )


MODULES = (
    Kind("module", lambda v: isinstance(v, nn.Module), _write_module, _read_module, shared=True),
)
