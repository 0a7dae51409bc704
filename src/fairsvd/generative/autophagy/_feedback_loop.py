"""A feedback loop: fit on labels, label new rows, fit on these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.dummy import DummyClassifier

from ..._signature import takes
from ...base import split_rows
from ...groups import cell_codes
from ...metrics import rates_frame
from ...objective import count_table, gap
from ..cells import take

__all__ = ["FEEDBACK_MEASURES", "FeedbackLoop"]

RATES = ("selection_rate", "tpr", "fpr", "accuracy")
GAPS = ("equalized_odds", "demographic_parity")
FEEDBACK_MEASURES = (*RATES, "share", *GAPS)

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class FeedbackLoop:
    """The settings that the loops of an audit share.

    Attributes
    ----------
    first, later : classifier
        Fitted in generation 1 and in all others.
    repairs : bool
        Whether later generations learn from equally many rows of each cell.
    X : DataFrame or ndarray
    classes : ndarray of shape (n_classes,)
    y, first_y, groups : ndarray of shape (n,), int64
        Codes; ``first_y`` are the labels that generation 1 learns.
    group_labels : list
    pos : int or None
    share_fresh : float
    n_generations : int
    n_samples : int or None
    test_size : float
    """

    first: Any
    later: Any
    repairs: bool
    X: Any
    classes: NDArray[Any]
    y: Codes
    first_y: Codes
    groups: Codes
    group_labels: list[Any]
    pos: int | None
    share_fresh: float
    n_generations: int
    n_samples: int | None
    test_size: float

    def run(self, number: int, seed: np.random.SeedSequence) -> list[dict[str, Any]]:
        """Run one loop.

        Returns
        -------
        records : list of dict
            One for each generation and cell.
        """
        rng = np.random.default_rng(seed)
        cells = cell_codes(self.y, self.groups, len(self.group_labels))
        pool, test = split_rows(self.test_size, cells, self.y, rng, self.classes)
        n_rows = max(1, len(pool) // 2) if self.n_samples is None else self.n_samples
        model, records = None, []
        for generation in range(1, self.n_generations + 1):
            # Every generation has a stream of its own, so that all interventions see the same rows.
            own = np.random.default_rng(rng.integers(2**63 - 1))
            rows = own.choice(pool, size=n_rows, replace=n_rows > len(pool))
            if model is None:
                y = self.first_y[rows]
            else:
                y = np.where(
                    own.random(n_rows) < self.share_fresh, self.y[rows], self._predict(model, rows)
                )
                rows, y = self._repaired(rows, y, own) if self.repairs else (rows, y)
            model = self._fit(self.first if model is None else self.later, rows, y, own)
            base = {"seed": number, "generation": generation}
            records += [base | each for each in self._measure(model, rows, y, test)]
        return records

    def _fit(self, model: Any, rows: Codes, y: Codes, rng: np.random.Generator) -> Any:
        X, labels, seed = take(self.X, rows), self.classes[y], int(rng.integers(2**31 - 1))
        if len(np.unique(y)) < 2:
            return DummyClassifier().fit(X, labels)
        model = clone(model)
        unset = [name for name, value in model.get_params().items() if value is None]
        seeded = [n for n in unset if n == "random_state" or n.endswith("__random_state")]
        model.set_params(**dict.fromkeys(seeded, seed))
        groups = self.groups[rows]
        if takes(model.fit, "sensitive_features") and len(np.unique(groups)) > 1:
            return model.fit(X, labels, sensitive_features=groups)
        return model.fit(X, labels)

    def _predict(self, model: Any, rows: Codes) -> Codes:
        predicted = np.asarray(model.predict(take(self.X, rows)))
        # Labels need no order among them.
        return (predicted.reshape(-1, 1) == self.classes).argmax(axis=1)

    def _repaired(self, rows: Codes, y: Codes, rng: np.random.Generator) -> tuple[Codes, Codes]:
        """Draw as many rows again, by equal quotas of the cells that have rows."""
        cells = cell_codes(y, self.groups[rows], len(self.group_labels))
        present = np.unique(cells)
        quotas = np.full(len(present), len(rows) // len(present))
        quotas[: len(rows) % len(present)] += 1
        parts = [
            rng.choice(np.flatnonzero(cells == cell), size=quota)
            for cell, quota in zip(present, quotas, strict=True)
        ]
        drawn = np.concatenate(parts)
        return rows[drawn], y[drawn]

    def _measure(self, model: Any, rows: Codes, y: Codes, test: Codes) -> Iterator[dict[str, Any]]:
        """Yield a record for all rows, for every group, and for every (label, group) cell."""
        sizes = len(self.classes), len(self.group_labels)
        counts = count_table(self.y[test], self._predict(model, test), self.groups[test], *sizes)
        whole = rates_frame(counts.sum(axis=0, keepdims=True), self.pos, ["all"]).iloc[0]
        gaps = {name: float(gap(counts, name, self.pos)) for name in GAPS}
        yield _record("all", None, None, **{name: whole[name] for name in RATES}, **gaps)
        frame = rates_frame(counts, self.pos, range(sizes[1]))
        table = np.zeros(sizes)
        np.add.at(table, (y, self.groups[rows]), 1 / len(rows))
        for k, group in enumerate(self.group_labels):
            values = {name: frame.iloc[k][name] for name in RATES}
            yield _record(str(group), None, group, share=table[:, k].sum(), **values)
        for label, shares in zip(self.classes.tolist(), table, strict=True):
            for group, share in zip(self.group_labels, shares, strict=True):
                yield _record(f"{label}, {group}", label, group, share=share)


def _record(cell: str, label: Any, group: Any, **values: float) -> dict[str, Any]:
    record = {"cell": cell, "label": label, "group": group}
    return record | {name: float(values.get(name, np.nan)) for name in FEEDBACK_MEASURES}
