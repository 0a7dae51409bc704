"""``fairsvd predict``: predictions of a model for the rows of a file."""

from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING, Any

from .. import persistence
from ..report import format_table
from ._columns import find_columns
from ._features import cast
from ._folder import MODEL, Card
from ._output import as_json, check_ending, say, write_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["features_of", "run_predict"]

SHOWN = 10  # rows that are printed


def run_predict(options: argparse.Namespace, card: Card, frame: pd.DataFrame) -> int:
    """Print the first predictions, or write all of them.

    Parameters
    ----------
    options : argparse.Namespace
        model, file, out, json.
    card : Card
    frame : DataFrame
        The rows; columns that the model does not know are left alone.

    Returns
    -------
    status : int
        0.

    Raises
    ------
    ValueError
        If a column is missing or holds text where numbers are wanted.
    OSError
        If a file cannot be written.
    """
    check_ending(options.out)
    X = features_of(frame, card, options)
    model = persistence.load(options.model / MODEL)
    table = _predictions(model, X)
    if options.out is not None:
        write_table(options.out, table)
    if options.json:
        print(as_json(table.to_dict("records")), end="")
        return 0
    say(f"{options.file}: {len(table):,} rows")
    for line in _describe(table, X, model):
        say(line)
    # A table says yes and no of truth values; here they are labels.
    shown = table.head(SHOWN).astype({"prediction": str}).set_index("row")
    say(f"\n{format_table(shown)}")
    if options.out is not None:
        say(f"\nAll predictions: {options.out}")
    elif len(table) > SHOWN:
        say(f"\nThe first {SHOWN} rows; --out FILE writes all of them")
    return 0


def features_of(frame: pd.DataFrame, card: Card, options: argparse.Namespace) -> pd.DataFrame:
    """Select and cast the features of a model.

    Raises
    ------
    ValueError
        If a column is missing or holds text where numbers are wanted; the message names the file.
    """
    try:
        names = [*card.numbers, *card.categories]
        found = find_columns(names, frame.columns.tolist(), headings=options.header)
        renamed = frame[found].set_axis(names, axis="columns")
        return cast(renamed, card.numbers, card.categories)
    except ValueError as error:
        raise ValueError(f"{options.file}: {error}") from error


def _predictions(model: Any, X: pd.DataFrame) -> pd.DataFrame:
    """Predict every row: its number from 1, the label, and the probability of each class."""
    import pandas as pd

    with warnings.catch_warnings():
        # Of categories that the model does not know, which are counted instead.
        warnings.filterwarnings("ignore", message="Found unknown categories")
        shares = model.predict_proba(X)
    labels = model.classes_[shares.argmax(axis=1)]
    table = pd.DataFrame({"row": range(1, len(X) + 1), "prediction": labels})
    for label, column in zip(model.classes_.tolist(), shares.T, strict=True):
        table[f"probability of {label}"] = column
    return table


def _describe(table: pd.DataFrame, X: pd.DataFrame, model: Any) -> list[str]:
    counts = table["prediction"].value_counts()
    lines = [f"Predicted {label}: {n:,} rows" for label, n in counts.items()]
    unknown = _unknown_categories(X, model[0])
    return lines + [f"Warning: column {name}: {text}" for name, text in unknown.items()]


def _unknown_categories(X: pd.DataFrame, encoder: Any) -> dict[str, str]:
    """Say of each column how many rows hold a category that the model was not fitted with."""
    if "categories" not in encoder.named_transformers_:
        return {}
    encode = encoder.named_transformers_["categories"]
    found = {}
    for name, known in zip(encode.feature_names_in_, encode.categories_, strict=True):
        new = X[name][X[name].notna() & ~X[name].isin(known.tolist())]
        if len(new):
            found[name] = (
                f"{len(new):,} rows hold values that the model does not know: {new.iloc[0]}"
            )
    return found
