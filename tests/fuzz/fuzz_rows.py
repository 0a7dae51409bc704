"""Rows, labels and groups in every form that somebody may pass: plain ones and odd ones, by name.

A builder takes the numbers that it puts into a form, so that a form stays the same whatever else a
call consists of.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

N_ROWS, N_COLUMNS = 48, 5

Builder = Callable[[Any], Any]


def plain_table(n_rows: int = N_ROWS) -> np.ndarray:
    """Draw float32 rows that tell the label and the group."""
    rng = np.random.default_rng(7)
    X = rng.normal(size=(n_rows, N_COLUMNS))
    X[:, 0] += codes(n_rows)
    X[:, 1] += groups(n_rows)
    return X.astype(np.float32)


def codes(n_rows: int = N_ROWS) -> np.ndarray:
    """Give labels 0 and 1 in turns."""
    return np.arange(n_rows) % 2


def groups(n_rows: int = N_ROWS) -> np.ndarray:
    """Give groups 0 and 1, so that every cell has a quarter of the rows."""
    return np.arange(n_rows) // 2 % 2


class Raises:
    """An array-like that cannot be read."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("no array today")


class ArrayLike:
    """Something that numpy can read, and nothing else."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values.astype(dtype or self.values.dtype)


class Items(Dataset[Any]):
    """A dataset of given items."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> Any:
        return self.items[row]


class Broken(Items):
    """A dataset whose last rows cannot be read."""

    def __getitem__(self, row: int) -> Any:
        if row > len(self.items) - 5:
            raise OSError(f"row {row} is damaged")
        return self.items[row]


class Stream(IterableDataset[Any]):
    """Rows one after the other, in no known number."""

    def __iter__(self) -> Any:
        return iter(torch.as_tensor(plain_table()))


def frame(X: np.ndarray, **columns: Any) -> pd.DataFrame:
    """Name the columns, and replace or add some."""
    return pd.DataFrame(X.astype(np.float64), columns=list("abcde")[: X.shape[1]]).assign(**columns)


def with_value(value: Any, dtype: Any = np.float64) -> Builder:
    """Put a value into one entry."""

    def build(X: np.ndarray) -> np.ndarray:
        X = X.astype(dtype)
        X[3, 2] = value
        return X

    return build


def read_only(X: np.ndarray) -> np.ndarray:
    X = X.copy()
    X.setflags(write=False)
    return X


def swapped(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder())


def images(n_rows: int = N_ROWS, side: int = 6, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(8)
    X = rng.normal(size=(n_rows, channels, side, side)).astype(np.float32)
    X[:, 0] += codes(n_rows)[:, None, None]
    return X


PLAIN_X: dict[str, Builder] = {
    "float32": lambda X: X,
    "float64": lambda X: X.astype(np.float64),
    "frame": frame,
    "list": lambda X: X.tolist(),
    "tensor": torch.as_tensor,
    "images": lambda X: images(len(X)),
}

ODD_X: dict[str, Builder] = {
    "float16": lambda X: X.astype(np.float16),
    "longdouble": lambda X: X.astype(np.longdouble),
    "big-endian": swapped,
    "big-endian integers": lambda X: swapped((10 * X).astype(np.int32)),
    "int8": lambda X: (10 * X).astype(np.int8),
    "uint8": lambda X: (10 * np.abs(X)).astype(np.uint8),
    "uint64": lambda X: (10 * np.abs(X)).astype(np.uint64),
    "bool": lambda X: X > 0,
    "complex": lambda X: X.astype(np.complex64),
    "dates": lambda X: (1000 * X).astype(np.int64).astype("datetime64[s]"),
    "durations": lambda X: (1000 * X).astype(np.int64).astype("timedelta64[s]"),
    "numbers as objects": lambda X: X.astype(object),
    "objects with None": lambda X: with_value(None, object)(X),
    "objects with text": lambda X: with_value("x", object)(X),
    "objects of lists": lambda X: with_value([1, 2], object)(X),
    "numbers as text": lambda X: X.astype(str),
    "text": lambda X: np.full(X.shape, "word"),
    "bytes": lambda X: X.astype("S"),
    "records": lambda X: np.rec.fromarrays(X.T),
    "void": lambda X: X.view("V4"),
    "Fortran order": np.asfortranarray,
    "read-only": read_only,
    "backwards": lambda X: X[::-1, ::-1],
    "every second": lambda X: np.repeat(X, 2, axis=0)[::2],
    "broadcast": lambda X: np.broadcast_to(X[:1], X.shape),
    "masked, nothing hidden": np.ma.masked_array,
    "masked": lambda X: np.ma.masked_array(X, mask=X > 2),
    "masked, all hidden": lambda X: np.ma.masked_array(X, mask=True),
    "matrix": lambda X: X.astype(np.float64).view(np.matrix),
    "one row": lambda X: X[:1],
    "two rows": lambda X: X[:2],
    "five rows": lambda X: X[:5],
    "no row": lambda X: X[:0],
    "one column": lambda X: X[:, :1],
    "no column": lambda X: X[:, :0],
    "a row too many": lambda X: np.concatenate([X, X[:1]]),
    "a vector": lambda X: X[:, 0],
    "three dimensions": lambda X: X[:, None],
    "five dimensions": lambda X: X[:, None, None, None],
    "a number": lambda X: 3.0,
    "nothing": lambda X: None,
    "a word": lambda X: "rows.csv",
    "a dict": lambda X: {"a": X[:, 0], "b": X[:, 1]},
    "a set": lambda X: {1, 2, 3},
    "a generator": lambda X: (row for row in X),
    "a type": lambda X: np.ndarray,
    "NaN": with_value(np.nan),
    "infinity": with_value(np.inf),
    "1e300": with_value(1e300),
    "1e38": with_value(1e38, np.float32),
    "-3e38 all over": lambda X: np.full_like(X, -3e38),
    "tiny": lambda X: X * np.float32(1e-44),
    "constant": lambda X: np.ones_like(X),
    "a constant column of 1e30": lambda X: np.c_[X[:, :4], np.full(len(X), 1e30)],
    "10**400": with_value(10**400, object),
    "lists of unequal length": lambda X: [*X[:-1].tolist(), [1.0]],
    "tuples": lambda X: tuple(map(tuple, X.tolist())),
    "list of arrays": list,
    "list of tensors": lambda X: list(torch.as_tensor(X)),
    "list of frames": lambda X: [frame(X), frame(X)],
    "list of words": lambda X: ["word"] * len(X),
    "empty list": lambda X: [],
    "half tensor": lambda X: torch.as_tensor(X).half(),
    "bfloat16 tensor": lambda X: torch.as_tensor(X).bfloat16(),
    "integer tensor": lambda X: torch.as_tensor(X).int(),
    "boolean tensor": lambda X: torch.as_tensor(X) > 0,
    "complex tensor": lambda X: torch.as_tensor(X).to(torch.complex64),
    "tensor with gradients": lambda X: torch.as_tensor(X).requires_grad_(),
    "result with gradients": lambda X: torch.as_tensor(X).requires_grad_() * 2,
    "conjugate": lambda X: torch.as_tensor(X).to(torch.complex64).conj(),
    "turned tensor": lambda X: torch.as_tensor(np.ascontiguousarray(X.T)).T,
    "inference tensor": lambda X: inferred(X),
    "sparse tensor": lambda X: torch.as_tensor(X).to_sparse(),
    "tensor on meta": lambda X: torch.as_tensor(X).to("meta"),
    "tensor of no dimension": lambda X: torch.tensor(3.0),
    "quantised tensor": lambda X: torch.quantize_per_tensor(
        torch.as_tensor(X), 0.1, 0, torch.qint8
    ),
    "parameter": lambda X: torch.nn.Parameter(torch.as_tensor(X)),
    "csr": scipy.sparse.csr_matrix,
    "coo array": scipy.sparse.coo_array,
    "array-like": ArrayLike,
    "array-like that raises": lambda X: Raises(),
    "series": lambda X: pd.Series(X[:, 0]),
    "series of lists": lambda X: pd.Series(X.tolist()),
    "frame, a category": lambda X: frame(X, c=pd.Categorical(np.arange(len(X)) % 3)),
    "frame, words": lambda X: frame(X, c="word"),
    "frame, a category of words": lambda X: frame(X, c=pd.Categorical(["u", "v"] * (len(X) // 2))),
    "frame of objects": lambda X: frame(X).astype(object),
    "frame, nullable": lambda X: frame(X).convert_dtypes(),
    "frame, nullable with NA": lambda X: frame(X, c=pd.array([None, *X[1:, 2]], dtype="Float64")),
    "frame, nullable integers": lambda X: frame(X, c=pd.array(np.arange(len(X)), dtype="Int8")),
    "frame, nullable truths": lambda X: frame(X, c=pd.array(X[:, 2] > 0, dtype="boolean")),
    "frame, truths and NA": lambda X: frame(
        X, c=pd.array([None, *(X[1:, 2] > 0)], dtype="boolean")
    ),
    "frame, strings": lambda X: frame(X, c=pd.array(["s"] * len(X), dtype="string")),
    "frame, dates": lambda X: frame(X, c=pd.date_range("2020", periods=len(X))),
    "frame, dates with a zone": lambda X: frame(
        X, c=pd.date_range("2020", periods=len(X), tz="UTC")
    ),
    "frame, durations": lambda X: frame(X, c=pd.to_timedelta(np.arange(len(X)), unit="D")),
    "frame, periods": lambda X: frame(X, c=pd.period_range("2020", periods=len(X))),
    "frame, intervals": lambda X: frame(X, c=pd.interval_range(0, len(X))),
    "frame, sparse": lambda X: frame(X, c=pd.arrays.SparseArray(X[:, 2].astype(float))),
    "frame, complex": lambda X: frame(X, c=1j),
    "frame, NaN": lambda X: frame(X, c=np.nan),
    "frame, a list in a cell": lambda X: frame(X, c=pd.Series([[1]] * len(X))),
    "frame, one name twice": lambda X: pd.DataFrame(X, columns=list("aabcd")),
    "frame, numbers as names": lambda X: pd.DataFrame(X),
    "frame, mixed names": lambda X: pd.DataFrame(X, columns=["a", 1, None, 2.5, ("t", 1)]),
    "frame, names of two levels": lambda X: pd.DataFrame(
        X, columns=pd.MultiIndex.from_product([["u"], list("abcde")])
    ),
    "frame, index of two levels": lambda X: frame(X).set_index(["a", "b"]),
    "frame, index not unique": lambda X: frame(X).set_index(np.zeros(len(X))),
    "frame without rows": lambda X: frame(X).iloc[:0],
    "frame without columns": lambda X: frame(X)[[]],
    "frame with one row": lambda X: frame(X).iloc[:1],
    "images of bytes": lambda X: (50 * images(len(X)) + 100).clip(0, 255).astype(np.uint8),
    "images of float64": lambda X: images(len(X)).astype(np.float64),
    "images, channels last": lambda X: images(len(X)).transpose(0, 2, 3, 1),
    "images without pixels": lambda X: images(len(X))[..., :0],
    "images of one pixel": lambda X: images(len(X), side=1),
    "images with NaN": lambda X: images(len(X)) * np.nan,
    "list of images": lambda X: list(images(len(X))),
    "dataset": lambda X: TensorDataset(torch.as_tensor(X)),
    "dataset of pairs": lambda X: TensorDataset(torch.as_tensor(X), torch.as_tensor(codes(len(X)))),
    "dataset of arrays": Items,
    "dataset of lists": lambda X: Items(X.tolist()),
    "dataset of words": lambda X: Items(["word"] * len(X)),
    "dataset of None": lambda X: Items([None] * len(X)),
    "dataset of dicts": lambda X: Items([{"x": row} for row in X]),
    "dataset of unequal rows": lambda X: Items([*X[:-1], X[0, :2]]),
    "dataset of NaN": lambda X: Items(X * np.nan),
    "dataset that breaks": Broken,
    "dataset of no row": lambda X: Items(X[:0]),
    "stream": lambda X: Stream(),
    "loader": lambda X: torch.utils.data.DataLoader(TensorDataset(torch.as_tensor(X))),
    "something else": lambda X: SimpleNamespace(shape=(3, 4)),
}


def inferred(X: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return torch.as_tensor(X) * 1


PLAIN_Y: dict[str, Builder] = {
    "integers": lambda y: y,
    "words": lambda y: np.array(["no", "yes"])[y],
    "series": lambda y: pd.Series(y, name="y"),
}

ODD_Y: dict[str, Builder] = {
    "truths": lambda y: y > 0,
    "bytes": lambda y: np.array([b"no", b"yes"])[y],
    "floats": lambda y: y.astype(np.float64),
    "float16": lambda y: y.astype(np.float16),
    "longdouble": lambda y: y.astype(np.longdouble),
    "halves": lambda y: y / 2 + 0.25,
    "continuous": lambda y: np.random.default_rng(0).normal(size=len(y)),
    "complex": lambda y: y * 1j,
    "big-endian": lambda y: swapped(y.astype(np.int32)),
    "huge": lambda y: y.astype(np.uint64) + np.uint64(2**63),
    "negative": lambda y: -5 - y,
    "numbers as objects": lambda y: y.astype(object),
    "words as objects": lambda y: np.array(["no", "yes"], dtype=object)[y],
    "mixed": lambda y: np.array([0, "yes"], dtype=object)[y],
    "truths and None": lambda y: np.array([None, True], dtype=object)[y],
    "tuples": lambda y: pd.Series([(k, "x") for k in y]),
    "dates": lambda y: np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[D]")[y],
    "dates of Python": lambda y: [dt.date(2020 + k, 1, 1) for k in y],
    "periods": lambda y: pd.Series(pd.PeriodIndex(np.array(["2020", "2021"])[y], freq="Y")),
    "a NaN": lambda y: np.where(np.arange(len(y)) == 3, np.nan, y),
    "a missing word": lambda y: pd.Series(np.array(["no", "yes"], dtype=object)[y]).mask(
        np.arange(len(y)) == 3
    ),
    "a None": lambda y: [None, *np.array(["no", "yes"])[y][1:].tolist()],
    "an infinity": lambda y: np.where(np.arange(len(y)) == 3, np.inf, y),
    "nullable": lambda y: pd.Series(y).astype("Int64"),
    "nullable with NA": lambda y: pd.Series([pd.NA, *y[1:]], dtype="Int64"),
    "nullable truths": lambda y: pd.Series(y > 0).astype("boolean"),
    "strings": lambda y: pd.Series(np.array(["no", "yes"])[y]).astype("string"),
    "strings with NA": lambda y: pd.Series(
        [pd.NA, *np.array(["no", "yes"])[y][1:]], dtype="string"
    ),
    "category": lambda y: pd.Series(pd.Categorical.from_codes(y, ["no", "yes"])),
    "category with one unused": lambda y: pd.Categorical.from_codes(y, ["no", "yes", "maybe"]),
    "category with missing": lambda y: pd.Series(
        pd.Categorical.from_codes(np.where(np.arange(len(y)) == 3, -1, y), ["no", "yes"])
    ),
    "series in another order": lambda y: pd.Series(y, index=np.arange(len(y))[::-1]),
    "an index": lambda y: pd.Index(y),
    "frame": lambda y: pd.DataFrame({"y": y}),
    "frame of two": lambda y: pd.DataFrame({"y": y, "z": y}),
    "list": lambda y: y.tolist(),
    "tuple": lambda y: tuple(y.tolist()),
    "tensor": torch.as_tensor,
    "bfloat16 tensor": lambda y: torch.as_tensor(y).bfloat16(),
    "tensor with gradients": lambda y: torch.as_tensor(y).float().requires_grad_(),
    "one column": lambda y: y[:, None],
    "two columns": lambda y: np.c_[y, 1 - y],
    "one row": lambda y: y[None],
    "three dimensions": lambda y: y[:, None, None],
    "masked": lambda y: np.ma.masked_array(y, mask=np.arange(len(y)) == 3),
    "sparse": lambda y: scipy.sparse.csr_matrix(y[:, None]),
    "read-only": read_only,
    "one class": np.zeros_like,
    "three classes": lambda y: np.arange(len(y)) % 3,
    "eleven classes": lambda y: np.arange(len(y)) % 11,
    "every row its own": lambda y: np.arange(len(y)),
    "one row of a class": lambda y: (np.arange(len(y)) == 3).astype(int),
    "the group": lambda y: groups(len(y)),
    "a row too few": lambda y: y[:-1],
    "a row too many": lambda y: np.r_[y, 0],
    "none": lambda y: None,
    "empty": lambda y: y[:0],
    "a number": lambda y: 1,
    "a word": lambda y: "label",
    "a dict": lambda y: dict(enumerate(y.tolist())),
    "a set": lambda y: set(y.tolist()),
    "a generator": lambda y: (k for k in y),
    "unequal lists": lambda y: [[0], *y[1:].tolist()],
    "array-like that raises": lambda y: Raises(),
}

PLAIN_GROUPS: dict[str, Builder] = {
    "integers": lambda g: g,
    "words": lambda g: np.array(["f", "m"])[g],
    "series": lambda g: pd.Series(np.array(["f", "m"])[g], name="sex"),
}

ODD_GROUPS: dict[str, Builder] = {
    "none": lambda g: None,
    "truths": lambda g: g > 0,
    "bytes": lambda g: np.array([b"f", b"m"])[g],
    "floats": lambda g: g / 2,
    "float16": lambda g: g.astype(np.float16),
    "longdouble": lambda g: g.astype(np.longdouble),
    "complex": lambda g: g * 1j,
    "big-endian": lambda g: swapped(g.astype(np.int16)),
    "huge": lambda g: g.astype(np.uint64) + np.uint64(2**63),
    "numbers as objects": lambda g: g.astype(object),
    "mixed": lambda g: np.array([0, "m"], dtype=object)[g],
    "sets": lambda g: pd.Series([frozenset([k]) for k in g]),
    "lists": lambda g: pd.Series([[k] for k in g]),
    "tuples": lambda g: [(k, "x") for k in g.tolist()],
    "dates": lambda g: np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[D]")[g],
    "category": lambda g: pd.Categorical.from_codes(g, ["f", "m"]),
    "category with one unused": lambda g: pd.Series(pd.Categorical.from_codes(g, ["f", "m", "x"])),
    "nullable": lambda g: pd.Series(g).astype("Int64"),
    "nullable with NA": lambda g: pd.Series([pd.NA, *g[1:]], dtype="Int64"),
    "strings": lambda g: pd.Series(np.array(["f", "m"])[g]).astype("string"),
    "a NaN": lambda g: np.where(np.arange(len(g)) == 3, np.nan, g),
    "all NaN": lambda g: np.full(len(g), np.nan),
    "a None": lambda g: [None, *np.array(["f", "m"])[g][1:].tolist()],
    "an empty word": lambda g: ["", *np.array(["f", "m"])[g][1:].tolist()],
    "an infinity": lambda g: np.where(np.arange(len(g)) == 3, np.inf, g),
    "masked": lambda g: np.ma.masked_array(g, mask=np.arange(len(g)) == 3),
    "list": lambda g: g.tolist(),
    "tensor": torch.as_tensor,
    "tensor with gradients": lambda g: torch.as_tensor(g).float().requires_grad_(),
    "one column": lambda g: g[:, None],
    "two columns": lambda g: np.c_[g, np.arange(len(g)) % 3],
    "frame": lambda g: pd.DataFrame({"sex": np.array(["f", "m"])[g], "old": np.arange(len(g)) % 3}),
    "frame, one name twice": lambda g: pd.DataFrame(np.c_[g, g], columns=["s", "s"]),
    "no column": lambda g: np.empty((len(g), 0)),
    "three dimensions": lambda g: g[:, None, None],
    "sparse": lambda g: scipy.sparse.csr_matrix(g[:, None]),
    "one group": np.zeros_like,
    "five groups": lambda g: np.arange(len(g)) // 2 % 5,
    "every row its own": lambda g: np.arange(len(g)),
    "continuous": lambda g: np.random.default_rng(1).normal(size=len(g)),
    "one row of a group": lambda g: (np.arange(len(g)) == 3).astype(int),
    "the label": lambda g: codes(len(g)),
    "a row too few": lambda g: g[:-1],
    "a row too many": lambda g: np.r_[g, 0],
    "empty": lambda g: g[:0],
    "a number": lambda g: 1,
    "a word": lambda g: "sex",
    "a dict": lambda g: {"sex": g.tolist()},
    "a set": lambda g: set(g.tolist()),
    "a generator": lambda g: (k for k in g),
    "unequal lists": lambda g: [[0], *g[1:].tolist()],
    "array-like that raises": lambda g: Raises(),
}

X_FORMS, Y_FORMS, GROUP_FORMS = PLAIN_X | ODD_X, PLAIN_Y | ODD_Y, PLAIN_GROUPS | ODD_GROUPS
