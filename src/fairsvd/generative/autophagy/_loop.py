"""A self-consuming loop: fit on rows, draw rows, fit on the drawn rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from ..cells import as_array, stack, take
from ..sampler import CellRequest, draw_cells, takes_conditions
from ._measures import compare, measure, share_ratio
from ._rows import JointTable

__all__ = ["Loop", "Rows", "resolve_conditions"]


@dataclass(frozen=True)
class Rows:
    """Rows with the cell of each.

    Attributes
    ----------
    X : DataFrame or ndarray
        Includes label and group as columns if these are drawn like the others.
    cells : ndarray of shape (n,), int64
        Positions among the loop's keys; -1 for no cell.
    """

    X: Any
    cells: NDArray[np.int64]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.cells)

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """Return rows by position."""
        return Rows(take(self.X, rows), self.cells[rows])


def resolve_conditions(generator: Any, conditions: str) -> str:
    """Resolve how a loop draws cells: "joint", "drawn", "fixed" or "sampler".

    Raises
    ------
    ValueError
        If the object is not a generator, or a sampler gets conditions.
    """
    if hasattr(generator, "fit_resample"):
        if conditions != "auto":
            raise ValueError(
                f"conditions={conditions!r} does not go with {type(generator).__name__}, whose "
                "sampling_strategy decides which cells it draws: leave it at 'auto'."
            )
        return "sampler"
    if not (hasattr(generator, "fit") and hasattr(generator, "sample")):
        raise ValueError(
            f"generator is a {type(generator).__name__} without fit and sample, and without "
            "fit_resample: pass an object that learns rows and draws new ones."
        )
    if conditions == "auto":
        return "fixed" if takes_conditions(generator) else "joint"
    return conditions


@dataclass(frozen=True)
class Loop:
    """The settings that the loops of an audit share.

    Attributes
    ----------
    generator : object
    real : Rows
        All real rows, with which synthetic ones are compared.
    keys : list
        (label, group) of every cell, or labels if ``pairs`` is False.
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
            One for each generation and cell; cell -1 means all rows.
        """
        rng = np.random.default_rng(seed)
        generator = clone(self.generator, safe=False)
        start = self._draw_real(self.n_samples, rng)
        training, records = start, []
        kept = start.take(rng.permutation(len(start))[: self._n_real()])
        for generation in range(1, self.n_generations + 1):
            drawn = self._draw(generator, training, rng)
            place = {"seed": number, "generation": generation}
            records += [place | record for record in self._measure(drawn, rng)]
            training = self._mix(drawn, kept, rng)
        return records

    def _n_real(self) -> int:
        return 0 if self.mode == "synthetic" else round(self.real_share * self.n_samples)

    def _draw_real(self, n: int, rng: np.random.Generator) -> Rows:
        """Draw real rows: all in order, some of them, or more with repeats."""
        total = len(self.real)
        rows = np.arange(total) if n == total else rng.choice(total, size=n, replace=n > total)
        real = self.real.take(rows)
        if self.conditions != "joint":
            return real
        return Rows(self.joint.join(real.X, real.cells), real.cells)

    def _mix(self, drawn: Rows, kept: Rows, rng: np.random.Generator) -> Rows:
        """Make the training rows of the next generation."""
        n_real = self._n_real()
        if n_real == 0:
            return drawn
        real = kept
        if self.mode == "fresh":
            real = self._draw_real(self.n_samples, rng)
            real = real.take(rng.permutation(len(real))[:n_real])
        rest = min(len(drawn), self.n_samples - n_real)
        part = drawn.take(rng.permutation(len(drawn))[:rest])
        return Rows(stack([real.X, part.X]), np.concatenate([real.cells, part.cells]))

    def _draw(self, generator: Any, training: Rows, rng: np.random.Generator) -> Rows:
        seed = int(rng.integers(2**31 - 1))
        _reseed(generator, rng)
        if self.conditions == "joint":
            zeros = np.zeros(len(training), dtype=np.int64)
            request = CellRequest(training.X, zeros, None, zeros, np.array([self.n_samples]), [0])
            _, X = draw_cells(generator, request, seed)
            return Rows(X, self.joint.split(X)[1])
        if self.conditions == "sampler":
            return self._resample(generator, training)
        n_drawn = self._count_rows(training, rng)
        y, groups = self._labels(training.cells)
        request = CellRequest(training.X, y, groups, training.cells, n_drawn, self.keys)
        _, X = draw_cells(generator, request, seed)
        return Rows(X, np.repeat(np.arange(len(self.keys)), n_drawn))

    def _count_rows(self, training: Rows, rng: np.random.Generator) -> NDArray[np.int64]:
        """Compute how many rows each cell draws: by real shares, or drawn by training shares."""
        n_cells = len(self.keys)
        counts = np.bincount(training.cells, minlength=n_cells)
        if self.conditions == "drawn":
            return rng.multinomial(self.n_samples, counts / counts.sum())
        shares = np.bincount(self.real.cells, minlength=n_cells) / len(self.real)
        exact = shares * self.n_samples
        whole = np.floor(exact).astype(np.int64)
        # The remaining rows go to the largest remainders.
        rest = self.n_samples - whole.sum()
        whole[np.argsort(whole - exact, kind="stable")[:rest]] += 1
        return np.where(counts > 0, whole, 0)

    def _labels(self, cells: NDArray[np.int64]) -> tuple[Any, Any]:
        if not self.pairs:
            return as_array(self.keys)[cells], None
        labels, groups = zip(*self.keys, strict=True)
        return as_array(labels)[cells], as_array(groups)[cells]

    def _resample(self, sampler: Any, training: Rows) -> Rows:
        y, groups = self._labels(training.cells)
        X, labels = sampler.fit_resample(training.X, y, sensitive_features=groups)
        names = np.asarray(labels).tolist()
        if self.pairs:
            names = list(zip(names, _values(sampler.sensitive_features_), strict=True))
        place = {key: k for k, key in enumerate(self.keys)}
        cells = np.array([place[name] for name in names], dtype=np.int64)
        synthetic = getattr(sampler, "is_synthetic_", np.ones(len(cells), dtype=bool))
        if not synthetic.any():
            raise ValueError(
                f"{type(sampler).__name__} gave no synthetic rows: an audit needs a sampler that "
                "draws every cell, for example with mode='replace'."
            )
        return Rows(X, cells).take(np.flatnonzero(synthetic))

    def _measure(self, drawn: Rows, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
        X = self.joint.split(drawn.X)[0] if self.conditions == "joint" else drawn.X
        compared = compare(self.real.X, X)
        n_cells = len(self.keys)
        counts = np.bincount(drawn.cells[drawn.cells >= 0], minlength=n_cells)
        real = np.bincount(self.real.cells, minlength=n_cells)
        ratios = np.append(share_ratio(counts, real), 1.0)
        for cell in range(-1, n_cells):
            in_cell = drawn.cells == cell if cell >= 0 else np.ones(len(drawn), dtype=bool)
            of_real = self.real.cells == cell if cell >= 0 else np.ones(len(self.real), dtype=bool)
            yield {
                "cell": cell,
                "n_rows": int(in_cell.sum()),
                "share": float(in_cell.mean()),
                "share_ratio": float(ratios[cell]),
                **measure(compared, of_real, in_cell, self.detector, int(rng.integers(2**31 - 1))),
                "extinct": not in_cell.any(),
            }


def _values(groups: Any) -> list[Any]:
    """List the groups of rows, as tuples if there are several attributes."""
    if getattr(groups, "ndim", 1) == 1:
        return np.asarray(groups).tolist()
    return list(map(tuple, np.asarray(groups, dtype=object)))


def _reseed(generator: Any, rng: np.random.Generator) -> None:
    """Renew every ``random_state`` of an object, so that generations draw differently."""
    if not hasattr(generator, "get_params"):
        return
    names = [k for k in sorted(generator.get_params()) if k.split("__")[-1] == "random_state"]
    generator.set_params(**{name: int(rng.integers(2**31 - 1)) for name in names})
