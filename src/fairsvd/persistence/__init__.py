"""Keep fitted estimators in files, without pickle."""

from __future__ import annotations

from ._file import load, save
from ._graphs import onnx_graph

__all__ = ["load", "onnx_graph", "save"]
