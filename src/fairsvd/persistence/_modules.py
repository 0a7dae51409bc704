"""Networks: their parts by class and settings, built without a call of their constructors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..arrays import Fields
from ..exceptions import DamagedModelError, ModelFileError, UntrustedError
from ..networks import copied, fields_of, take_packed
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
    lasting = {name: name not in value._non_persistent_buffers_set for name in value._buffers}
    return {
        "path": path_of(type(value)),
        "parameters": writer.pairs(value._parameters),
        "buffers": writer.pairs(value._buffers),
        "lasting": [[name, flag] for name, flag in lasting.items()],
        "modules": writer.pairs(value._modules),
        "settings": _write_settings(value, writer),
        "hooks": any(vars(value)[name] for name in HOOKS),
    } | _write_fields(value, writer)


def _write_fields(value: nn.Module, writer: Writer) -> dict[str, Node]:
    """Write the inputs that a network takes packed; the hook that unpacks them is made anew."""
    fields = fields_of(value)
    if fields is None:
        return {}
    others = sum(len(vars(value)[name]) for name in HOOKS) - 1
    return {"hooks": others > 0, "fields": writer.node(fields, ".fields")}


def _write_settings(value: nn.Module, writer: Writer) -> list[Node]:
    """Write the attributes as a copy would get them, and a note in the place of what cannot be."""
    try:
        state = value.__getstate__()
    except Exception as error:
        # A class may refuse, as torch's parametrised layers do, with any error.
        return [["__getstate__", {"kind": LEFT_OUT, "why": str(error).splitlines()[0]}]]
    if not isinstance(state, dict):
        return [["__getstate__", {"kind": LEFT_OUT, "why": "it gives no dict"}]]
    return [
        [name, writer.or_reason(each, f".{name}")]
        for name, each in state.items()
        if name not in FRAMEWORK
    ]


def _read_module(node: dict[str, Node], reader: Reader) -> nn.Module:
    if _can_be_built(node, reader):
        return _taking(node, reader, _build(node, reader))
    given = _find_given(node["path"], reader)
    if given is None:
        raise _missing(node, reader)
    return _taking(node, reader, _graft(node, reader, given))


def _taking(node: dict[str, Node], reader: Reader, module: nn.Module) -> nn.Module:
    """Let a network take packed rows, if it did so when it was saved."""
    fields = reader.value(node.get("fields"), ".fields")
    if fields is not None:
        if not isinstance(fields, Fields):
            raise DamagedModelError("the fields of a network are something else")
        take_packed(module, fields)
    return module


def _can_be_built(node: dict[str, Node], reader: Reader) -> bool:
    """Tell whether the file and the classes that may be looked up are all that a module needs."""
    return reader.names.knows(node["path"]) and not node["hooks"] and not _left_out(node)


def _left_out(node: dict[str, Node]) -> dict[str, str]:
    """Map the attributes that could not be saved to the reasons."""
    settings = [(name, each) for name, each in node["settings"] if isinstance(each, dict)]
    return {name: each["why"] for name, each in settings if each["kind"] == LEFT_OUT}


def _build(node: dict[str, Node], reader: Reader) -> nn.Module:
    """Make a module as a copy is made: from its attributes, without a call of its constructor."""
    kind = reader.names.find(node["path"], nn.Module)
    module: nn.Module = reader.made(node, kind.__new__(kind))
    nn.Module.__init__(module)
    contents = _contents(node, reader)
    # After the tensors, since a setting may list them.
    settings = reader.pairs(node["settings"])
    for name in settings:
        # An attribute in the place of a method would change what the class does.
        if name in FRAMEWORK or name.startswith("__") or callable(getattr(kind, name, None)):
            raise DamagedModelError(f"{name!r} is no attribute of a {kind.__name__}")
    module.__setstate__({**vars(module), **contents, **settings})
    return module


def _find_given(path: str, reader: Reader) -> nn.Module | None:
    """Copy the part of ``network=`` that stands where the reader is.

    One of the same class comes first, also from another place, then the one at this place: its
    class may have been moved.
    """
    if reader.network is None:
        return None
    here = reader.place.split(".")
    parts = dict(reader.network.named_modules())
    places = [".".join(here[k:]) for k in range(len(here) + 1)]
    aligned = [parts[place] for place in places if place in parts]
    of_class = [part for part in (*aligned, *parts.values()) if path_of(type(part)) == path]
    return copied([*of_class, *aligned][0]).cpu()


def _contents(node: dict[str, Node], reader: Reader) -> dict[str, Any]:
    parameters, buffers = reader.pairs(node["parameters"]), reader.pairs(node["buffers"])
    lasting = dict(node["lasting"])
    modules = reader.pairs(node["modules"])
    tensors = [*parameters.values(), *buffers.values()]
    if not _all_are(nn.Module, modules.values()) or not _all_are(Tensor, tensors):
        raise DamagedModelError("a network consists of something else than tensors and networks")
    if lasting.keys() != buffers.keys():
        raise DamagedModelError("a network has other buffers than it names")
    return {
        "_parameters": parameters,
        "_buffers": buffers,
        "_modules": modules,
        "_non_persistent_buffers_set": {name for name, flag in lasting.items() if not flag},
    }


def _all_are(kind: type, values: Iterable[Any]) -> bool:
    return all(value is None or isinstance(value, kind) for value in values)


def _graft(node: dict[str, Node], reader: Reader, given: nn.Module) -> nn.Module:
    """Give a module of the caller the tensors and the known parts of the saved one."""
    reader.made(node, given)
    reader.grafted = True
    for group in ("parameters", "buffers"):
        held = getattr(given, f"_{group}")
        saved = reader.pairs(node[group])
        if group == "buffers":
            # Buffers that a network makes anew are its own affair.
            lasting = dict(node["lasting"])
            saved = {name: each for name, each in saved.items() if lasting[name]}
            held = {k: v for k, v in held.items() if k not in given._non_persistent_buffers_set}
        _check_names(node["path"], group, saved, held)
        _check_shapes(node["path"], saved, held)
        getattr(given, f"_{group}").update(saved)
    children = dict(node["modules"])
    _check_names(node["path"], "modules", children, given._modules)
    for name, each in node["modules"]:
        with reader.at(f".{name}"):
            given._modules[name] = _graft_part(each, reader, given._modules[name])
    given.training = dict(node["settings"]).get("training", False)
    return given


def _graft_part(node: Node, reader: Reader, given: nn.Module | None) -> nn.Module | None:
    if given is None or node is None or node["kind"] == "same":
        part: nn.Module | None = reader.value(node)
        return part
    if not _can_be_built(node, reader):
        return _graft(node, reader, given)
    # An edit may have replaced it by thin factors, which are of another class.
    built: nn.Module = reader.value(node)
    # A rule's networks have a last layer of their own.
    if type(built) is type(given) and ".networks." not in reader.place:
        saved, held = built.state_dict(), given.state_dict()
        shared = saved.keys() & held.keys()
        _check_shapes(node["path"], {k: saved[k] for k in sorted(shared)}, held)
    return built


def _check_names(path: str, group: str, saved: Any, held: Any) -> None:
    differ = sorted(saved.keys() ^ held.keys())
    if differ:
        raise ModelFileError(_other(f"the {group} {differ[:5]} of a {path} are in one only"))


def _check_shapes(path: str, saved: Any, held: Any) -> None:
    for name, tensor in saved.items():
        shapes = [None if t is None else list(t.shape) for t in (tensor, held[name])]
        if shapes[0] != shapes[1]:
            raise ModelFileError(
                _other(f"{name!r} of a {path} has the shapes {shapes[0]} and {shapes[1]}")
            )


def _other(what: str) -> str:
    return (
        f"network= has another architecture than the saved network: {what}. Make it with the same "
        "settings as then"
    )


def _missing(node: dict[str, Node], reader: Reader) -> ModelFileError:
    """Make the error about a module that the file alone does not describe."""
    path, left_out = node["path"], _left_out(node)
    if not reader.names.knows(path):
        return UntrustedError(
            f"the code of {path} is not in the file: pass trusted=({path!r},) if you trust that "
            "code, or network=, a network of the same architecture"
        )
    what = ", ".join(f"{name!r} ({why})" for name, why in left_out.items()) or "its hooks"
    return ModelFileError(
        f"{what} of a {path} could not be saved: pass network=, a network of the same "
        "architecture, which brings it along"
    )


MODULES = (
    Kind("module", lambda v: isinstance(v, nn.Module), _write_module, _read_module, shared=True),
)
