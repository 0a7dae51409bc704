"""Weights of layers as low-rank products: select, factor, compress."""

from __future__ import annotations

from ._factors import Factors, factorise, full_rank, resolve_solver
from ._low_rank import LowRankConv2d, LowRankLinear, compress_layer
from ._select import (
    chosen_weights,
    editable_layers,
    first_name,
    layer_parameters,
    resolve_ranks,
    select_layers,
)

__all__ = [
    "Factors",
    "LowRankConv2d",
    "LowRankLinear",
    "chosen_weights",
    "compress_layer",
    "editable_layers",
    "factorise",
    "first_name",
    "full_rank",
    "layer_parameters",
    "resolve_ranks",
    "resolve_solver",
    "select_layers",
]
