"""CellSampler: synthetic rows for the cells of a table or of images."""

from __future__ import annotations

from ._draw import NAMED_GENERATORS, CellRequest, conditional, draw_cells, fresh_generator
from ._sampler import CellSampler

__all__ = [
    "NAMED_GENERATORS",
    "CellRequest",
    "CellSampler",
    "conditional",
    "draw_cells",
    "fresh_generator",
]
