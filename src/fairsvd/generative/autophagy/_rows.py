"""Tables with label and group as columns, for generators that take no conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...containers import is_frame
from ..cells import columns

__all__ = ["JointTable"]


@dataclass(frozen=True)
class JointTable:
    """Appends cells to a table as columns of 0 and 1, and reads them back.

    Attributes
    ----------
    parts : ndarray of shape (n_cells, n_factors), int64
        Positions of each cell's label and group among all of them; factors with one level are
        left out.
    """

    parts: NDArray[np.int64]

    @classmethod
    def of(cls, keys: Sequence[Any], *, pairs: bool) -> JointTable:
        """Make the columns for cells with the names ``keys``.

        Parameters
        ----------
        keys : sequence of (label, group), or of labels
        pairs : bool
            Whether the keys are pairs.
        """
        factors = list(zip(*keys, strict=True)) if pairs else [tuple(keys)]
        codes = [[list(dict.fromkeys(values)).index(v) for v in values] for values in factors]
        varying = [c for c in codes if max(c) > 0]
        return cls(np.array(varying, dtype=np.int64).reshape(len(varying), len(keys)).T)

    def _flags(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Encode cells as flags (n, n_flags): 1 flag for two levels, k flags for k levels."""
        flags = [
            part[cells, None] == np.arange(1 if part.max() == 1 else 0, part.max() + 1)
            for part in self.parts.T
        ]
        return np.concatenate([np.empty((len(cells), 0), bool), *flags], axis=1).astype(np.int64)

    def join(self, X: Any, cells: NDArray[np.int64]) -> Any:
        """Append the cells to the columns of X.

        Raises
        ------
        ValueError
            If X holds images, which have no columns.
        """
        flags = self._flags(cells)
        if not flags.shape[1]:
            return X
        if X.ndim != 2:
            raise ValueError(
                "conditions='joint' appends label and group to the columns of a table, but X holds "
                "images: pass a generator whose sample takes conditions."
            )
        if not is_frame(X):
            return np.concatenate([X, flags.astype(X.dtype)], axis=1)
        return X.reset_index(drop=True).assign(**{f"cell_{k}": c for k, c in enumerate(flags.T)})

    def split(self, joint: Any) -> tuple[Any, NDArray[np.int64]]:
        """Split a joint table into rows and cells.

        Returns
        -------
        X : DataFrame or ndarray
        cells : ndarray of shape (n,), int64
            -1 for combinations of label and group that do not occur among the real rows.
        """
        n_flags = self._flags(np.zeros(1, dtype=np.int64)).shape[1]
        if not n_flags:
            return joint, np.zeros(len(joint), dtype=np.int64)
        width = joint.shape[1] - n_flags
        flags = np.asarray(columns(joint, range(width, width + n_flags)), dtype=np.float64)
        return columns(joint, range(width)), self._read_cells(flags)

    def _read_cells(self, flags: NDArray[np.float64]) -> NDArray[np.int64]:
        start, levels = 0, np.zeros((len(flags), self.parts.shape[1]), dtype=np.int64)
        for k, part in enumerate(self.parts.T):
            n = 1 if part.max() == 1 else part.max() + 1
            of_part = flags[:, start : start + n]
            levels[:, k] = of_part[:, 0] > 0.5 if n == 1 else of_part.argmax(axis=1)
            start += n
        same = (levels[:, None] == self.parts).all(axis=2)
        return np.where(same.any(axis=1), same.argmax(axis=1), -1)
