"""How often the bounds of a measured gap hold, where the true gap is known.

    python benchmarks/coverage.py --tables 1000 --jobs 2
    python benchmarks/coverage.py --measures --tables 400

Tables are drawn from fixed rates: one group's rate is lower by the true gap ("one"), the rates of
all groups are spread evenly over it ("even"), or, for equalized odds, the true and the false
positive rates are ("both"). The interval should cover the truth in 93 to 97 % of the tables, the
upper bound hold in at least 93 %. The percentile bootstrap stands beside it for comparison.

With --measures rows are drawn from two groups with normal scores of other means and spreads, and
the intervals of measures of predictions and of probabilities are checked: of the first group's
value, of the difference and of the ratio.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.special import expit

from fairsvd import group_table
from fairsvd.metrics import disparity_table
from fairsvd.objective import estimate_gaps, gap, resampled_counts

__all__ = ["Case", "cases", "check", "check_measures", "draw_rows", "draw_tables"]

SHARE = 0.4  # of positive labels
TPR, FPR, SELECTION = 0.7, 0.25, 0.4
GROUPS, ROWS, GAPS = (2, 5), (200, 2000), (0.0, 0.05, 0.2)

# The measures whose intervals are checked, the sizes, and rows that give the true values.
MEASURED = ("tpr", "ppv", "f1", "auc", "average_precision", "brier", "log_loss")
MEASURED_ROWS, TRUE_ROWS = (200, 2000), 4_000_000


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


def draw_rows(n_rows: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], ...]:
    """Draw labels, predictions, probabilities and groups; those of the second are miscalibrated."""
    group = rng.integers(2, size=n_rows)
    margin = rng.normal(0.3 * group - 0.2, 1.5)
    y = rng.random(n_rows) < expit(np.where(group == 1, 0.7 * margin - 0.3, margin))
    score = expit(margin)
    return y.astype(np.int64), (score > 0.5).astype(np.int64), score, group


def check_measures(n_rows: int, n_tables: int, seed: int = 0) -> list[dict[str, object]]:
    """Count how often the intervals of every measure hold, on rows of two groups."""
    options: dict[str, Any] = {"measures": list(MEASURED)}
    y, predicted, score, group = draw_rows(TRUE_ROWS, np.random.default_rng([seed, 1]))
    true = group_table(y, predicted, group, y_score=score, **options)[list(MEASURED)]
    rng = np.random.default_rng([seed, n_rows])
    hits: dict[str, list[tuple[bool, ...]]] = {name: [] for name in MEASURED}
    for k in range(n_tables):
        y, predicted, score, group = draw_rows(n_rows, rng)
        own = group_table(y, predicted, group, y_score=score, level=0.95, **options).iloc[0]
        both = disparity_table(y, predicted, group, y_score=score, random_state=k, **options)
        for name in MEASURED:
            row, values = both.loc[name], true[name]
            hits[name].append(
                (
                    own[f"{name}_low"] <= values.iloc[0] <= own[f"{name}_high"],
                    row["difference_low"] <= np.ptp(values) <= row["difference_high"],
                    np.ptp(values) <= row["difference_upper"],
                    row["ratio_low"] <= values.min() / values.max() <= row["ratio_high"],
                )
            )
    columns = ("group covered", "difference covered", "bound holds", "ratio covered")
    return [
        {
            "measure": name,
            "rows": n_rows,
            "true difference": float(np.ptp(true[name])),
            **dict(zip(columns, np.mean(hits[name], axis=0).tolist(), strict=True)),
        }
        for name in MEASURED
    ]


def main() -> None:
    """Print one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measures", action="store_true")
    options = parser.parse_args()
    if options.measures:
        sizes = [check_measures(n, options.tables, options.seed) for n in MEASURED_ROWS]
        table = pd.DataFrame([row for rows in sizes for row in rows])
        print(table.to_string(index=False, float_format="{:.3f}".format))
        return
    calls = (delayed(check)(case, options.tables, options.seed) for case in cases())
    table = pd.DataFrame(Parallel(n_jobs=options.jobs)(calls))
    print(table.to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
