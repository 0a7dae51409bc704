"""Make the README's picture and table: each group's errors on Adult before and after an edit.

Run with ``python benchmarks/picture.py``; it writes ``docs/_static/errors.png`` and prints the
table. The code is that of the README's first example, on 12,000 rows of Adult to fit and the others
held out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fairsvd import FairLRFTransformer
from fairsvd.datasets import load_adult
from fairsvd.report import FairnessReport

PICTURE = Path(__file__).parents[1] / "docs" / "_static" / "errors.png"


def main() -> None:
    """Fit, report, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--rows", type=int, default=12_000, help="rows to fit on")
    options = parser.parse_args()
    adult = load_adult()
    people = adult.data.drop(columns=adult.group_columns["sex"])
    label, sex = adult.target, adult.sensitive_features["sex"]
    X, X_new, y, y_new, group, group_new = train_test_split(
        people, label, sex, train_size=options.rows, stratify=label, random_state=0
    )
    encode = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False),
         make_column_selector(dtype_exclude="number")),
    )  # fmt: skip
    model = make_pipeline(encode, FairLRFTransformer(random_state=0))
    model.fit(X, y, fairlrftransformer__sensitive_features=group)
    report = FairnessReport(model, X_new, y_new, group_new)
    print(report.to_text())
    ax = report.plot_errors()
    ax.set_title("Income above 50,000 dollars (UCI Adult): errors on new rows", loc="left")
    ax.figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
