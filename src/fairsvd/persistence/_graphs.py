"""Networks as ONNX graphs: to predict with a network whose code is not at hand."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..base import Scores
from ..exceptions import ModelFileError, NetworkError
from ..networks import copied
from ._kind import Kind, Node, Reader, Writer, bytes_as_tensor

__all__ = ["GRAPHS", "OnnxNetwork", "graph_of", "onnx_graph", "with_graphs"]


class OnnxNetwork(nn.Module):
    """A network that onnxruntime computes: it predicts, and cannot be edited or trained.

    Parameters
    ----------
    graph : bytes
        An ONNX model.
    """

    def __init__(self, graph: bytes) -> None:
        super().__init__()
        self.graph = graph
        # Without numbers; it says in which type and where rows are wanted.
        self.anchor = nn.Parameter(torch.zeros(0), requires_grad=False)
        self._session: Any = None
        self.eval()

    def forward(self, X: Tensor) -> Tensor:
        """Map rows to the scores of the saved network."""
        if self._session is None:
            self._session = _open(self.graph)
        entry = self._session.get_inputs()[0].name
        (output,) = self._session.run(None, {entry: X.detach().cpu().numpy()})
        return torch.from_numpy(output)

    def get_submodule(self, target: str) -> nn.Module:
        """Return the network itself; a graph has no parts.

        Raises
        ------
        NetworkError
            A part was asked for, as ``transform`` does for the features.
        """
        if target == "":
            return self
        raise NetworkError(
            f"the network was loaded as an ONNX graph, which has no layer {target!r} to read: it "
            "predicts only. Load the file with trusted= or network= for anything else."
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the session out of copies, which open their own."""
        return {**self.__dict__, "_session": None}


def _open(graph: bytes) -> Any:
    with _needed("onnxruntime"):
        import onnxruntime

        return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


@contextmanager
def _needed(*names: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"ONNX graphs need {' and '.join(names)}: pip install fairsvd[onnx]"
        ) from error


def graph_of(editor: Any) -> bytes:
    """Export the network of a fitted editor for any number of rows.

    Raises
    ------
    ModelFileError
        The network computes something that the exporter does not know.
    """
    network = Scores(copied(editor.module_).cpu(), editor._adopted.output_key)
    return _graph(network, editor._probe.cpu())


def onnx_graph(editor: Any) -> bytes:
    """Export what ``to_module`` returns as an ONNX graph, the threshold included.

    Parameters
    ----------
    editor : NetworkEditor
        Fitted.

    Returns
    -------
    graph : bytes
        Takes any number of rows.

    Raises
    ------
    ImportError
        A package of the extra ``onnx`` is missing.
    ModelFileError
        The network computes something that the exporter does not know.
    """
    return _graph(editor.to_module().cpu(), editor._probe.cpu())


def _graph(network: nn.Module, rows: Tensor) -> bytes:
    shapes = ({0: torch.export.Dim("rows")},)
    with _needed("onnx", "onnxscript"), warnings.catch_warnings():
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401

        # Of torch's own use of what it has deprecated, and of packages that it does without.
        warnings.simplefilter("ignore")
        exporter = logging.getLogger("torch.onnx")
        level = exporter.level
        exporter.setLevel(logging.ERROR)
        try:
            program: Any = torch.onnx.export(
                network, (rows,), dynamo=True, dynamic_shapes=shapes, verbose=False
            )
        except torch.onnx.OnnxExporterError as error:
            raise ModelFileError(
                f"the network cannot be written as an ONNX graph ({error}): save without onnx=True."
            ) from error
        finally:
            exporter.setLevel(level)
    graph: bytes = program.model_proto.SerializeToString()
    return graph


def with_graphs(node: Node) -> tuple[Node, int]:
    """Put the stored graphs into the places of networks, and count the editors that had one."""
    if isinstance(node, list):
        parts = [with_graphs(each) for each in node]
        return [part for part, _ in parts], sum(count for _, count in parts)
    if not isinstance(node, dict):
        return node, 0
    if "onnx" in node:
        attributes = [
            [name, _replaced(name, each, node["onnx"])] for name, each in node["attributes"]
        ]
        return {**node, "attributes": attributes}, 1
    replaced = {name: with_graphs(each) for name, each in node.items()}
    count = sum(count for _, count in replaced.values())
    return {name: part for name, (part, _) in replaced.items()}, count


def _replaced(name: str, node: Node, part: str) -> Node:
    if name in ("network", "module_"):
        return {"kind": "graph", "part": part}
    if name == "_adopted":
        # The net that it came from would bring the network along.
        kept = [[key, None if key == "net" else each] for key, each in node["attributes"]]
        return {**node, "attributes": kept}
    return node


def _write_graph(value: OnnxNetwork, writer: Writer) -> dict[str, Node]:
    return {"part": writer.part(bytes_as_tensor(value.graph))}


def _read_graph(node: dict[str, Node], reader: Reader) -> OnnxNetwork:
    network = OnnxNetwork(reader.part(node["part"]).numpy().tobytes())
    try:
        network._session = _open(network.graph)
    except ImportError:
        raise
    except Exception as error:
        # onnxruntime has errors of many classes for a graph that it cannot run.
        raise ModelFileError(f"onnxruntime cannot run the graph ({error})") from error
    return network


GRAPHS = (Kind("graph", lambda v: isinstance(v, OnnxNetwork), _write_graph, _read_graph),)
