"""Estimators and other objects of this package, splitters, callbacks: by their attributes."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch
from sklearn.pipeline import Pipeline
from skorch.callbacks import Callback
from torch import Tensor, nn

from ..base import NetworkEditor
from ..exceptions import DamagedModelError, ModelFileError
from ..networks import copied, raw_output
from ..objective import Constraint
from ._graphs import graph_of
from ._kind import Kind, Node, Reader, Writer, bytes_as_tensor
from ._names import Names, path_of

__all__ = ["OBJECTS"]

# Names that a file may use without being allowed to.
KNOWN = Names()
# Libraries whose objects are more than their attributes, or belong to another kind.
FOREIGN = {*sys.stdlib_module_names, "numpy", "pandas", "polars", "scipy", "sklearn", "skorch"}
FOREIGN |= {"joblib", "pyarrow", "torch"}


def _takes_object(value: Any) -> bool:
    """Tell whether a value is an object that its class and its attributes describe."""
    kind = type(value)
    if not hasattr(value, "__dict__") or isinstance(value, type):
        return False
    foreign = kind.__module__.split(".")[0] in FOREIGN and not isinstance(value, Callback)
    return not foreign or KNOWN.knows(path_of(kind))


def _write_object(value: Any, writer: Writer) -> dict[str, Node]:
    if isinstance(value, Constraint) and callable(value.utility):
        # By it the choice was made; nothing calls it any more.
        value = replace(value, utility=getattr(value.utility, "__qualname__", "function"))
    attributes = vars(value)
    if isinstance(value, Callback):
        # The rest is of one training, and made anew before the next.
        attributes = {name: each for name, each in attributes.items() if not name.endswith("_")}
    node = {"path": path_of(type(value)), "attributes": writer.pairs(attributes)}
    if isinstance(value, NetworkEditor) and hasattr(value, "module_"):
        node["outputs"] = writer.node(_outputs(value))
        if writer.graphs:
            node["onnx"] = writer.part(bytes_as_tensor(graph_of(value)))
    return node


def _read_object(node: dict[str, Node], reader: Reader) -> Any:
    kind = reader.names.find(node["path"], object)
    if issubclass(kind, (nn.Module, type, BaseException)):
        raise DamagedModelError(f"a {kind.__name__} is no such object")
    value = reader.made(node, object.__new__(kind))
    attributes = reader.pairs(node["attributes"])
    for name in attributes:
        # An attribute in the place of a method would change what the class does.
        if name.startswith("__") or _is_code(getattr(kind, name, None)):
            raise DamagedModelError(f"{name!r} is no attribute of a {kind.__name__}")
    vars(value).update(attributes)
    if isinstance(value, NetworkEditor) and "module_" in attributes:
        _check_outputs(value, reader.value(node.get("outputs")))
    return value


def _is_code(value: Any) -> bool:
    return callable(value) or isinstance(value, property)


def _outputs(editor: Any) -> Tensor | None:
    """Run the network on the rows that the editor keeps; None if it gives each time another."""
    # On the CPU, where the file will be read, and without what a forward may change.
    module, probe = copied(editor.module_).cpu(), editor._probe.cpu()
    with torch.no_grad():
        first, second = (raw_output(module, probe, editor._adopted.output_key) for _ in range(2))
    return first if torch.equal(first, second) else None


def _check_outputs(editor: Any, saved: Tensor | None) -> None:
    """Compare what the network gives now: one of the same weights may still compute otherwise."""
    outputs = _outputs(editor)
    if outputs is None or saved is None:
        return
    finite = saved[saved.isfinite()]
    scale = max(1.0, float(finite.abs().max())) if len(finite) else 1.0
    tolerance = scale * max(1e-4, 8 * torch.finfo(saved.dtype).eps)
    alike = outputs.shape == saved.shape and outputs.dtype == saved.dtype
    if not alike or not torch.allclose(outputs, saved, 0.0, tolerance, equal_nan=True):
        raise ModelFileError(
            "the loaded network gives other outputs than the saved one on the rows that the file "
            "holds: it has the same weights and another architecture. Pass as network= one that "
            "was made with the same settings"
        )


def _write_pipeline(value: Pipeline, writer: Writer) -> dict[str, Node]:
    rest = {name: each for name, each in vars(value).items() if name != "steps"}
    return {
        "path": path_of(type(value)),
        "steps": [[name, writer.node(step, f" step {name!r}")] for name, step in value.steps],
        "attributes": writer.pairs(rest),
    }


def _read_pipeline(node: dict[str, Node], reader: Reader) -> Pipeline:
    kind = reader.names.find(node["path"], Pipeline)
    pipeline: Pipeline = reader.made(node, object.__new__(kind))
    steps = [(name, reader.value(step, f" step {name!r}")) for name, step in node["steps"]]
    vars(pipeline).update(steps=steps, **reader.pairs(node["attributes"]))
    return pipeline


OBJECTS = (
    Kind(
        "pipeline",
        lambda v: isinstance(v, Pipeline),
        _write_pipeline,
        _read_pipeline,
        shared=True,
    ),
    Kind("object", _takes_object, _write_object, _read_object, shared=True),
)
