"""One self-consuming loop: fit on rows, draw rows, fit on those."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from ..cells import as_array, stacked, take
from ..sampler import CellRequest, conditional, draw_cells
from ._measures import compare, measure, share_ratio
from ._rows import JointTable

__all__ = ["Loop", "Rows", "resolved_conditions"]


@dataclass(frozen=True)
class Rows:
    """Rows with the cell of each.

    Attributes
    ----------
    X : DataFrame or ndarray
        With label and group among its columns where these are drawn along with the rest.
    cells : ndarray of shape (n,), int64
        Positions among the loop's keys; -1: none of them.
    """

    X: Any
    cells: NDArray[np.int64]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.cells)

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """Return rows by position."""
        return Rows(take(self.X, rows), self.cells[rows])


def resolved_conditions(generator: Any, conditions: str) -> str:
    """Say how cells are kept in a loop: "joint", "drawn", "fixed" or "sampler".

    Raises
    ------
    ValueError
        The object is no generator, or has no use for what is asked.
    """
    if hasattr(generator, "fit_resample"):
        if conditions != "auto":
            raise ValueError(
                f"conditions={conditions!r} does not go with {type(generator).__name__}, whose "
                "sampling_strategy says which cells it draws: leave it at 'auto'."
            )
        return "sampler"
    if not (hasattr(generator, "fit") and hasattr(generator, "sample")):
        raise ValueError(
            f"generator is a {type(generator).__name__} without fit and sample, and without "
            "fit_resample: pass an object that learns rows and draws new ones."
        )
    if conditions == "auto":
        return "fixed" if conditional(generator) else "joint"
    return conditions


@dataclass(frozen=True)
class Loop:
    """What the loops of an audit have in common.

    Attributes
    ----------
    generator : object
    real : Rows
        All real rows, what synthetic ones are compared with.
    keys : list
        (label, group) of every cell, or labels where ``pairs`` is False.
    pairs : bool
    conditions : {"joint", "drawn", "fixed", "sampler"}
    mode : {"synthetic", "mixed", "fresh"}
    real_share : float
    n_samples : int
    n_generations : int
    detector : object
    """

    generator: Any
    real: Rows
    keys: list[Any]
    pairs: bool
    conditions: str
    mode: str
    real_share: float
    n_samples: int
    n_generations: int
    detector: Any
    joint: JointTable = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "joint", JointTable.of(self.keys, pairs=self.pairs))

    def run(self, number: int, seed: np.random.SeedSequence) -> list[dict[str, Any]]:
        """Run one loop.

        Returns
        -------
        records : list of dict
            One for each generation and cell; the cell -1 is all rows.
        """
        rng = np.random.default_rng(seed)
        generator = clone(self.generator, safe=False)
        start = self._real_rows(self.n_samples, rng)
        training, records = start, []
        kept = start.take(rng.permutation(len(start))[: self._n_real()])
        for generation in range(1, self.n_generations + 1):
            drawn = self._drawn(generator, training, rng)
            where = {"seed": number, "generation": generation}
            records += [where | record for record in self._measured(drawn, rng)]
            training = self._next(drawn, kept, rng)
        return records

    def _n_real(self) -> int:
        return 0 if self.mode == "synthetic" else round(self.real_share * self.n_samples)

    def _real_rows(self, n: int, rng: np.random.Generator) -> Rows:
        """Draw real rows: all of them in order, some, or more with repeats."""
        total = len(self.real)
        rows = np.arange(total) if n == total else rng.choice(total, size=n, replace=n > total)
        real = self.real.take(rows)
        if self.conditions != "joint":
            return real
        return Rows(self.joint.joined(real.X, real.cells), real.cells)

    def _next(self, drawn: Rows, kept: Rows, rng: np.random.Generator) -> Rows:
        """Make the next generation's training rows, as many as ever."""
        n_real = self._n_real()
        if n_real == 0:
            return drawn
        real = kept
        if self.mode == "fresh":
            real = self._real_rows(self.n_samples, rng)
            real = real.take(rng.permutation(len(real))[:n_real])
        rest = min(len(drawn), self.n_samples - n_real)
        some = drawn.take(rng.permutation(len(drawn))[:rest])
        return Rows(stacked([real.X, some.X]), np.concatenate([real.cells, some.cells]))

    def _drawn(self, generator: Any, training: Rows, rng: np.random.Generator) -> Rows:
        seed = int(rng.integers(2**31 - 1))
        _reseed(generator, rng)
        if self.conditions == "joint":
            one, wanted = np.zeros(len(training), dtype=np.int64), np.array([self.n_samples])
            request = CellRequest(training.X, one, None, one, wanted, [0])
            _, X = draw_cells(generator, request, seed)
            return Rows(X, self.joint.split(X)[1])
        if self.conditions == "sampler":
            return self._resampled(generator, training)
        wanted = self._wanted(training, rng)
        y, groups = self._labels(training.cells)
        request = CellRequest(training.X, y, groups, training.cells, wanted, self.keys)
        _, X = draw_cells(generator, request, seed)
        return Rows(X, np.repeat(np.arange(len(self.keys)), wanted))

    def _wanted(self, training: Rows, rng: np.random.Generator) -> NDArray[np.int64]:
        """Say how many rows of each cell are drawn: as many as real ones, or by their share."""
        n_cells = len(self.keys)
        counts = np.bincount(training.cells, minlength=n_cells)
        if self.conditions == "drawn":
            return rng.multinomial(self.n_samples, counts / counts.sum())
        shares = np.bincount(self.real.cells, minlength=n_cells) / len(self.real)
        exact = shares * self.n_samples
        whole = np.floor(exact).astype(np.int64)
        # What is left goes to the largest remainders.
        rest = self.n_samples - whole.sum()
        whole[np.argsort(whole - exact, kind="stable")[:rest]] += 1
        return np.where(counts > 0, whole, 0)

    def _labels(self, cells: NDArray[np.int64]) -> tuple[Any, Any]:
        if not self.pairs:
            return as_array(self.keys)[cells], None
        labels, groups = zip(*self.keys, strict=True)
        return as_array(labels)[cells], as_array(groups)[cells]

    def _resampled(self, sampler: Any, training: Rows) -> Rows:
        y, groups = self._labels(training.cells)
        X, labels = sampler.fit_resample(training.X, y, sensitive_features=groups)
        names = np.asarray(labels).tolist()
        if self.pairs:
            names = list(zip(names, _values(sampler.sensitive_features_), strict=True))
        place = {key: k for k, key in enumerate(self.keys)}
        cells = np.array([place[name] for name in names], dtype=np.int64)
        made = getattr(sampler, "is_synthetic_", np.ones(len(cells), dtype=bool))
        if not made.any():
            raise ValueError(
                f"{type(sampler).__name__} gave no synthetic rows: an audit needs a sampler that "
                "draws every cell, such as mode='replace' does."
            )
        return Rows(X, cells).take(np.flatnonzero(made))

    def _measured(self, drawn: Rows, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
        X = self.joint.split(drawn.X)[0] if self.conditions == "joint" else drawn.X
        compared = compare(self.real.X, X)
        n_cells = len(self.keys)
        counts = np.bincount(drawn.cells[drawn.cells >= 0], minlength=n_cells)
        real = np.bincount(self.real.cells, minlength=n_cells)
        ratios = np.append(share_ratio(counts, real), 1.0)
        for cell in range(-1, n_cells):
            own = drawn.cells == cell if cell >= 0 else np.ones(len(drawn), dtype=bool)
            theirs = self.real.cells == cell if cell >= 0 else np.ones(len(self.real), dtype=bool)
            yield {
                "cell": cell,
                "n_rows": int(own.sum()),
                "share": float(own.mean()),
                "share_ratio": float(ratios[cell]),
                **measure(compared, theirs, own, self.detector, int(rng.integers(2**31 - 1))),
                "extinct": not own.any(),
            }


def _values(groups: Any) -> list[Any]:
    """List the groups of rows; of several attributes, as tuples."""
    if getattr(groups, "ndim", 1) == 1:
        return np.asarray(groups).tolist()
    return list(map(tuple, np.asarray(groups, dtype=object)))


def _reseed(generator: Any, rng: np.random.Generator) -> None:
    """Give every ``random_state`` of an object a new value: else each generation draws alike."""
    if not hasattr(generator, "get_params"):
        return
    names = [k for k in sorted(generator.get_params()) if k.split("__")[-1] == "random_state"]
    generator.set_params(**{name: int(rng.integers(2**31 - 1)) for name in names})
