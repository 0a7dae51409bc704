"""The encoding of a table and the generators that a hypernetwork emits for its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..._messages import listed
from ..._rng import torch_generator
from ..._warn import warn
from ...exceptions import SmallCellWarning
from ..cells import Cells, Codec, Encoded, ImageCodec
from ._emittable import Generator, draw_rows, natural_form, row_nll
from ._network import Emission, HyperNetwork, normalise
from ._rows import ImageRows, TableScores

__all__ = [
    "Emitted",
    "Scores",
    "as_sequence",
    "encode_rows",
    "natural_parameters",
    "take_rows",
    "unclip",
    "warn_of_single_rows",
]

Scores = TableScores | ImageRows

# Number of rows whose density is computed at a time.
BLOCK = 4096


@dataclass(frozen=True)
class Emitted:
    """Generators of the cells of a table.

    Attributes
    ----------
    generator : Generator
    cells : list of Emission
    scores : TableScores or ImageRows
        Encoding of the table.
    """

    generator: Generator
    cells: list[Emission]
    scores: Scores

    def draw(self, cell: int, n: int, rng: np.random.Generator) -> Encoded:
        """Draw ``n`` encoded rows of a cell."""
        emission = self.cells[cell]
        noise = torch.randn(1, n, self.generator.noise_size, generator=torch_generator(rng))
        rows = emission.restore(draw_rows(self.generator, emission.weights, noise))
        return self.scores.decode(rows[0])

    def log_densities(self, rows: Tensor) -> NDArray[np.float64]:
        """Compute log p of encoded rows (n, d) under every cell's generator, (n, n_cells)."""
        blocks = [
            np.stack([self._log_density(e, block) for e in self.cells], axis=1)
            for block in rows.split(BLOCK)
        ]
        return np.concatenate(blocks)

    def _log_density(self, emission: Emission, rows: Tensor) -> NDArray[np.float64]:
        # In double, since in single the density of a row depends visibly on the rows beside it.
        weights = {name: tensor.double() for name, tensor in emission.weights.items()}
        z, noise = (
            rows.double()[None],
            torch.zeros(1, len(rows), self.generator.noise_size).double(),
        )
        log_det = torch.zeros((), dtype=torch.float64)
        if emission.location is not None and emission.factor is not None:
            location, factor = emission.location.double(), emission.factor.double()
            z, log_det = normalise(z, location, factor), factor[0].diagonal().log().sum()
        return (-row_nll(self.generator, weights, z, noise)[0] - log_det).numpy()


def encode_rows(
    codec: Codec, rows: Encoded, like: Any, rng: np.random.Generator
) -> tuple[Scores, Any]:
    """Turn encoded rows into the input of a hypernetwork.

    Parameters
    ----------
    codec : TableCodec or ImageCodec
        The codec of the rows.
    rows : Encoded
    like : TableScores, ImageRows or None
        Encoding whose units are used; None: those of the rows.
    rng : numpy.random.Generator

    Returns
    -------
    scores : TableScores or ImageRows
    tensors : Tensor (n, d), or images to be read by position

    Raises
    ------
    ValueError
        If the columns are of other kinds than those of ``like``.
    """
    if isinstance(codec, ImageCodec):
        images = ImageRows(rows.numbers, codec.shape, like)
        return images, images
    if like is not None:
        _check_kinds(rows, like)
    scores = TableScores(rows, like)
    return scores, scores.encode(rows, rng)


def _check_kinds(rows: Encoded, like: TableScores) -> None:
    n_numbers, n_codes = rows.numbers.shape[1], rows.codes.shape[1]
    expected = len(like.mean), like.n_columns - len(like.mean) - len(like.lacking)
    lacking = np.flatnonzero(np.isnan(rows.numbers).any(axis=0))
    if (n_numbers, n_codes) != expected or not np.isin(lacking, like.lacking).all():
        raise ValueError(
            "X has columns of other kinds than in fit (a number that is now a flag, or that now "
            "has missing values): fit again, without warm_start."
        )


def take_rows(rows: Any, members: NDArray[np.int64]) -> Any:
    """Restrict tensors or images to some rows."""
    return rows[torch.from_numpy(members)] if isinstance(rows, Tensor) else rows.subset(members)


def unclip(codec: Codec) -> Codec:
    """Let float columns of a table take values beyond the range of the table."""
    if isinstance(codec, ImageCodec):
        return codec
    columns = [
        replace(column, low=-np.inf, high=np.inf) if column.kind == "number" else column
        for column in codec.columns
    ]
    return replace(codec, columns=tuple(columns))


def natural_parameters(
    network: HyperNetwork, generator: Generator, rows: Any, scores: Scores
) -> dict[str, NDArray[Any]]:
    """Emit a generator for rows and return its natural form, numbers in the units of X."""
    emission = network.of_rows(rows)
    if isinstance(scores, TableScores):
        emission = _in_units(emission, scores)
    named = natural_form(generator, *emission)
    return {name: tensor[0].numpy() for name, tensor in named.items()}


def _in_units(emission: Emission, scores: TableScores) -> Emission:
    """Rescale an emission so that its rows are in the units of X; categories stay scores."""
    location, factor = emission.location, emission.factor
    if location is None or factor is None:
        return emission
    rest = scores.n_columns - len(scores.mean)
    scale = torch.from_numpy(np.concatenate([scores.scale, np.ones(rest)])).to(factor)
    mean = torch.from_numpy(np.concatenate([scores.mean, np.zeros(rest)])).to(factor)
    return Emission(emission.weights, mean + scale * location, scale[:, None] * factor)


def warn_of_single_rows(cells: Cells) -> None:
    """Say which cells have one row, which tells no spread."""
    single = [key for key, count in zip(cells.keys, cells.counts(), strict=True) if count < 2]
    if single:
        warn(
            f"The cells [{listed(single, show=repr)}] have one row: they get the spread of the "
            "whole table around it.",
            SmallCellWarning,
        )


def as_sequence(conditions: Any) -> Sequence[Any] | None:
    """List the conditions as one cell per row; rows of an array become tuples, as cells are."""
    if conditions is None:
        return None
    if isinstance(conditions, Mapping):
        return [cell for cell, count in conditions.items() for _ in range(int(count))]
    values = conditions.tolist() if hasattr(conditions, "tolist") else list(conditions)
    return [tuple(cell) if isinstance(cell, list) else cell for cell in values]
