"""Generators of the rows of a (label, group) cell, and the encoding of rows for them."""

from __future__ import annotations

from ._base import CellGenerator, Cells, cell_of_rows
from ._codec import Codec, Column, Encoded, ImageCodec, cast_numbers, make_codec
from ._copula import CopulaGenerator
from ._diffusion import DiffusionGenerator
from ._prompts import FACE_CONTEXT, contextual_prompts
from ._rows import as_array, columns, read_rows, stack, take
from ._smoothed import SmoothedGenerator
from ._smote import SmoteGenerator

__all__ = [
    "FACE_CONTEXT",
    "CellGenerator",
    "Cells",
    "Codec",
    "Column",
    "CopulaGenerator",
    "DiffusionGenerator",
    "Encoded",
    "ImageCodec",
    "SmoothedGenerator",
    "SmoteGenerator",
    "as_array",
    "cast_numbers",
    "cell_of_rows",
    "columns",
    "contextual_prompts",
    "make_codec",
    "read_rows",
    "stack",
    "take",
]
