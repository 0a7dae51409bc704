"""Numbers out of tables with text: the preprocessing of a comparison, fitted anew in each fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from ..containers import as_numbers

__all__ = ["MOST_CATEGORIES", "encoder_for", "table_encoder"]

# A column of names or numbers of rows would become as many columns as rows.
MOST_CATEGORIES = 100


def table_encoder(numbers: Sequence[Any], categories: Sequence[Any]) -> ColumnTransformer:
    """Make an encoder of tables: numbers are scaled, all else becomes one-hot columns.

    Parameters
    ----------
    numbers, categories : sequence
        Names of the columns. Empty cells of numbers get the median; those of categories are a
        category. Of each column the 100 most frequent categories have columns of their own.

    Returns
    -------
    encoder : ColumnTransformer
        Not fitted; it returns an array.
    """
    encode = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=MOST_CATEGORIES, sparse_output=False
    )
    scale = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    parts = [("numbers", scale, list(numbers)), ("categories", encode, list(categories))]
    return ColumnTransformer([part for part in parts if part[2]], verbose_feature_names_out=False)


def encoder_for(X: Any) -> ColumnTransformer | None:
    """Make the encoder of a DataFrame with text; None for anything else.

    Raises
    ------
    ValueError
        If a column holds dates, which are no categories.
    """
    if not hasattr(X, "select_dtypes"):
        return None
    texts = X.select_dtypes(["object", "category", "string"]).columns
    categories = [name for name in texts if not _holds_numbers(X[[name]])]
    if not categories:
        return None
    others = [name for name in X.columns if name not in categories]
    as_numbers(X[others])  # says what is wrong with a column that is neither
    return table_encoder(others, categories)


def _holds_numbers(column: Any) -> bool:
    try:
        as_numbers(column)
    except ValueError:
        return False
    return True
