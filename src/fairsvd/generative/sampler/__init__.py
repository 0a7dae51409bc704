"""CellSampler, which adds synthetic rows to the cells of a table or of images."""

from __future__ import annotations

from ._draw import NAMED_GENERATORS, CellRequest, draw_cells, fresh_generator, takes_conditions
from ._sampler import CellSampler

__all__ = [
    "NAMED_GENERATORS",
    "CellRequest",
    "CellSampler",
    "draw_cells",
    "fresh_generator",
    "takes_conditions",
]
