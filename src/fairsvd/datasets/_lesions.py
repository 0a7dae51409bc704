"""Sex and age groups of patients, from the metadata of skin lesions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ._folders import as_names

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["age_groups", "patient_groups", "sex_groups"]

SEXES = ("female", "male")
UNKNOWN = ("unknown", "")


def patient_groups(sensitive: str | Iterable[str], age: str) -> dict[str, list[str]]:
    """Map each group column of ``sensitive`` to the columns that reveal it.

    Parameters
    ----------
    sensitive : {"sex", "age"} or iterable of these
    age : str
        Name of the column of ages in years.
    """
    columns = {"sex": ["sex"], "age": ["age_group", age]}
    names = as_names("sensitive", sensitive, list(columns), None)
    return {columns[name][0]: columns[name] for name in names}


def sex_groups(sex: pd.Series) -> pd.Series:
    """Make categories of female and male; "unknown" is missing, other values are an error."""
    import pandas as pd

    known = sex.where(~sex.isin(UNKNOWN))
    odd = known.notna() & ~known.isin(SEXES)
    if odd.any():
        raise ValueError(
            f'sex must be "female", "male", "unknown" or missing, got {_first(known, odd)}'
        )
    return known.astype(pd.CategoricalDtype(list(SEXES)))


def age_groups(age: pd.Series, threshold: int) -> pd.Series:
    """Make categories of ages below ``threshold`` and from it on; unknown ages are missing."""
    import pandas as pd

    known = age.where(~age.isin(UNKNOWN))
    years = pd.to_numeric(known, errors="coerce")
    odd = known.notna() & years.isna()
    if odd.any():
        raise ValueError(f"{age.name} must be a number of years, got {_first(known, odd)}")
    labels = [f"<{threshold}", f">={threshold}"]
    groups = (years >= threshold).map({False: labels[0], True: labels[1]}).where(years.notna())
    return groups.astype(pd.CategoricalDtype(labels))


def _first(values: pd.Series, odd: pd.Series) -> str:
    row = int(odd.to_numpy().argmax())
    return f"{values.tolist()[row]!r} in row {row}, counted from 0"
