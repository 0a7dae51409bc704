"""Sex and age groups of patients, as the metadata of skin lesions give them."""

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
    """Read ``sensitive``: for each group column the columns that state it.

    Parameters
    ----------
    sensitive : {"sex", "age"} or iterable of these
    age : str
        The column of the age in years.
    """
    columns = {"sex": ["sex"], "age": ["age_group", age]}
    names = as_names("sensitive", sensitive, list(columns), None)
    return {columns[name][0]: columns[name] for name in names}


def sex_groups(sex: pd.Series) -> pd.Series:
    """Make categories of female and male; "unknown" is missing, anything else an error."""
    import pandas as pd

    said = sex.where(~sex.isin(UNKNOWN))
    odd = said.notna() & ~said.isin(SEXES)
    if odd.any():
        wanted = '"female", "male", "unknown" or missing'
        raise ValueError(f"sex must be {wanted}, got {_first(said, odd)}")
    return said.astype(pd.CategoricalDtype(list(SEXES)))


def age_groups(age: pd.Series, threshold: int) -> pd.Series:
    """Make categories of the ages from ``threshold`` on and below it; unknown ones are missing."""
    import pandas as pd

    said = age.where(~age.isin(UNKNOWN))
    years = pd.to_numeric(said, errors="coerce")
    odd = said.notna() & years.isna()
    if odd.any():
        raise ValueError(f"{age.name} must be a number of years, got {_first(said, odd)}")
    labels = [f"<{threshold}", f">={threshold}"]
    groups = (years >= threshold).map({False: labels[0], True: labels[1]}).where(years.notna())
    return groups.astype(pd.CategoricalDtype(labels))


def _first(values: pd.Series, odd: pd.Series) -> str:
    row = int(odd.to_numpy().argmax())
    return f"{values.tolist()[row]!r} in row {row}, counted from 0"
