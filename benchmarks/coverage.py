"""How often the bounds of a measured gap hold, where the true gap is known.

    python benchmarks/coverage.py --tables 1000 --jobs 2

Tables are drawn from fixed rates: one group's rate is lower by the true gap ("one"), the rates of
all groups are spread evenly over it ("even"), or, for equalized odds, the true and the false
positive rates are ("both"). The interval should cover the truth in 93 to 97 % of the tables, the
upper bound hold in at least 93 %. The percentile bootstrap stands beside it for comparison.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray

from fairsvd.objective import estimate_gaps, gap, resampled_counts

__all__ = ["Case", "cases", "check", "draw_tables"]

SHARE = 0.4  # of positive labels
TPR, FPR, SELECTION = 0.7, 0.25, 0.4
GROUPS, ROWS, GAPS = (2, 5), (200, 2000), (0.0, 0.05, 0.2)


class Case(NamedTuple):
    """Rates and sizes from which tables are drawn."""

    name: str
    shape: str
    n_groups: int
    n_rows: int
    gap: float

    def rates(self) -> NDArray[np.float64]:
        """Return the selection rates (n_groups, 2) of negative and of positive rows."""
        even = np.linspace(-self.gap / 2, self.gap / 2, self.n_groups)
        one = np.where(np.arange(self.n_groups) == 0, -self.gap, 0.0)
        shift = one if self.shape == "one" else even
        if self.name == "demographic_parity":
            return np.column_stack([SELECTION + shift] * 2)
        fpr = FPR + (shift if self.shape == "both" else 0 * shift)
        return np.column_stack([fpr, TPR + shift])


def cases() -> Iterator[Case]:
    """Yield every case; of two groups "one" and "even" differ by the place of their rates alone."""
    for name, shapes in (
        ("demographic_parity", ("one", "even")),
        ("equalized_odds", ("one", "even", "both")),
    ):
        for shape in shapes:
            for n_groups in GROUPS:
                for n_rows in ROWS:
                    for true in GAPS if shape == "one" else GAPS[1:]:
                        yield Case(name, shape, n_groups, n_rows, true)


def draw_tables(case: Case, n_tables: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw counts (n_tables, n_groups, 2, 2) of rows by group, label and prediction."""
    rates = case.rates()
    labels = np.array([1 - SHARE, SHARE])
    shares = np.stack([labels * (1 - rates), labels * rates], axis=-1) / case.n_groups
    drawn = rng.multinomial(case.n_rows, shares.ravel(), size=n_tables)
    return drawn.reshape(n_tables, *shares.shape)


def check(case: Case, n_tables: int, seed: int = 0, n_draws: int = 1000) -> dict[str, object]:
    """Count how often the bounds of a case hold, and how wide they are."""
    rng = np.random.default_rng([seed, case.n_groups, case.n_rows, round(100 * case.gap)])
    rows = []
    for counts in draw_tables(case, n_tables, rng):
        found = estimate_gaps(counts, [case.name], 1, rng, n_draws=n_draws)[case.name]
        plain = np.nanquantile(gap(resampled_counts(counts, rng), case.name, 1), [0.025, 0.975])
        rows.append((*found, *plain, float(gap(counts, case.name, 1))))
    low, high, upper, floor, plain_low, plain_high, measured = np.array(rows).T
    return {
        **case._asdict(),
        "measured": measured.mean(),
        "floor": floor.mean(),
        "covered": np.mean((low - 1e-9 <= case.gap) & (case.gap <= high + 1e-9)),
        "below": np.mean(high + 1e-9 < case.gap),
        "above": np.mean(low - 1e-9 > case.gap),
        "bound holds": np.mean(case.gap <= upper + 1e-9),
        "width": np.mean(high - low),
        "percentile covered": np.mean((plain_low <= case.gap) & (case.gap <= plain_high)),
    }


def main() -> None:
    """Print one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    calls = (delayed(check)(case, options.tables, options.seed) for case in cases())
    table = pd.DataFrame(Parallel(n_jobs=options.jobs)(calls))
    print(table.to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
