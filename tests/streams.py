"""Data that is not in memory, for tests: it counts the rows that were read and are still held."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from torch.utils.data import Dataset

LIMIT = 64  # rows of a block


class Alive:
    """Count the rows that were handed out and are still held by somebody."""

    def __init__(self):
        self.rows, self.most = 0, 0

    def note(self, array, n_rows):
        self.rows += n_rows
        self.most = max(self.most, self.rows)
        weakref.finalize(array, self._forget, n_rows)
        return array

    def _forget(self, n_rows):
        self.rows -= n_rows


class FileArray:
    """What an array in a file offers, and no more: rows for slices or for increasing numbers."""

    def __init__(self, X, kinds=("slices", "lists"), limit=LIMIT):
        self.shape, self.dtype = X.shape, X.dtype
        self._X, self._kinds, self._limit, self.alive = X, kinds, limit, Alive()

    def __len__(self):
        return len(self._X)

    def __array__(self, *_, **__):
        raise AssertionError("the whole array was asked for")

    def __reduce__(self):
        raise TypeError("an open file cannot be pickled")

    def __getitem__(self, key):
        if ("slices" if isinstance(key, slice) else "lists") not in self._kinds:
            raise TypeError(f"no {type(key).__name__} can be an index")
        rows = np.arange(len(self))[key]
        assert rows.ndim == 1
        assert (np.diff(rows) > 0).all()
        assert len(rows) <= self._limit
        return self.alive.note(self._X[rows], len(rows))


class Items(Dataset):
    """A map-style dataset of tensors or arrays."""

    def __init__(self, X, kind=torch.tensor):
        self.X, self.kind, self.alive = X, kind, Alive()
        self.shape = X.shape[1:]  # of an item: a name that users choose

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        return self.alive.note(self.kind(self.X[i]), 1), "a label that nobody reads"


def memory_map(X, tmp_path, mode="r"):
    np.save(tmp_path / "X.npy", X)
    return np.load(tmp_path / "X.npy", mmap_mode=mode)
