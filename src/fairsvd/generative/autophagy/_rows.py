"""Tables whose label and group are columns too, for generators that know of no conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...groups import is_frame
from ..cells import columns

__all__ = ["JointTable"]


@dataclass(frozen=True)
class JointTable:
    """How cells become columns of 0 and 1 behind those of a table, and back.

    Attributes
    ----------
    parts : ndarray of shape (n_cells, n_factors), int64
        Position of each cell's label and of its group among all; factors of one level are left
        out.
    """

    parts: NDArray[np.int64]

    @classmethod
    def of(cls, keys: Sequence[Any], *, pairs: bool) -> JointTable:
        """Make the table's columns for cells named by ``keys``.

        Parameters
        ----------
        keys : sequence of (label, group), or of labels
        pairs : bool
            Which of the two.
        """
        factors = list(zip(*keys, strict=True)) if pairs else [tuple(keys)]
        codes = [[list(dict.fromkeys(values)).index(v) for v in values] for values in factors]
        kept = [c for c in codes if max(c) > 0]
        return cls(np.array(kept, dtype=np.int64).reshape(len(kept), len(keys)).T)

    def _flags(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Write the cells of rows as flags (n, n_flags): one of two levels, k of k."""
        flags = [
            part[cells, None] == np.arange(1 if part.max() == 1 else 0, part.max() + 1)
            for part in self.parts.T
        ]
        return np.concatenate([np.empty((len(cells), 0), bool), *flags], axis=1).astype(np.int64)

    def joined(self, X: Any, cells: NDArray[np.int64]) -> Any:
        """Put the cells behind the columns of X.

        Raises
        ------
        ValueError
            X holds images, which have no columns to add to.
        """
        flags = self._flags(cells)
        if not flags.shape[1]:
            return X
        if X.ndim != 2:
            raise ValueError(
                "conditions='joint' makes label and group columns of a table, and X holds images: "
                "pass a generator whose sample takes conditions."
            )
        if not is_frame(X):
            return np.concatenate([X, flags.astype(X.dtype)], axis=1)
        named = {f"cell_{k}": column for k, column in enumerate(flags.T)}
        return X.reset_index(drop=True).assign(**named)

    def split(self, joint: Any) -> tuple[Any, NDArray[np.int64]]:
        """Take a joint table apart.

        Returns
        -------
        X : DataFrame or ndarray
        cells : ndarray of shape (n,), int64
            -1 where label and group come together that never did among the real rows.
        """
        n_flags = self._flags(np.zeros(1, dtype=np.int64)).shape[1]
        if not n_flags:
            return joint, np.zeros(len(joint), dtype=np.int64)
        width = joint.shape[1] - n_flags
        last = columns(joint, range(width, width + n_flags))
        drawn = np.asarray(last, dtype=np.float64)
        return columns(joint, range(width)), self._cells(drawn)

    def _cells(self, drawn: NDArray[np.float64]) -> NDArray[np.int64]:
        start, found = 0, np.zeros((len(drawn), self.parts.shape[1]), dtype=np.int64)
        for k, part in enumerate(self.parts.T):
            n = 1 if part.max() == 1 else part.max() + 1
            own = drawn[:, start : start + n]
            found[:, k] = own[:, 0] > 0.5 if n == 1 else own.argmax(axis=1)
            start += n
        same = (found[:, None] == self.parts).all(axis=2)
        return np.where(same.any(axis=1), same.argmax(axis=1), -1)
