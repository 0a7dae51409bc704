"""CellSampler, which adds synthetic rows to the cells of a table or of images."""

from __future__ import annotations

from ._draw import NAMED, Request, draw_cells, fresh_generator, takes_conditions
from ._sampler import CellSampler

__all__ = [
    "NAMED",
    "CellSampler",
    "Request",
    "draw_cells",
    "fresh_generator",
    "takes_conditions",
]
