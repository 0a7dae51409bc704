"""Linear and convolution layers as low-rank products: find, factor, write back, compress."""

from __future__ import annotations

from ._factors import Factors, factorise, full_rank, resolve_solver
from ._low_rank import LowRankConv2d, LowRankLinear, compress_layer
from ._select import editable_layers, resolve_ranks, select_layers, weight_name

__all__ = [
    "Factors",
    "LowRankConv2d",
    "LowRankLinear",
    "compress_layer",
    "editable_layers",
    "factorise",
    "full_rank",
    "resolve_ranks",
    "resolve_solver",
    "select_layers",
    "weight_name",
]
