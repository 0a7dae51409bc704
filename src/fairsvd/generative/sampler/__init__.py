"""CellSampler: synthetic rows for the cells of a table or of images."""

from __future__ import annotations

from ._draw import NAMED, Request, conditional, draw_cells, fresh_generator
from ._sampler import CellSampler

__all__ = [
    "NAMED",
    "CellSampler",
    "Request",
    "conditional",
    "draw_cells",
    "fresh_generator",
]
