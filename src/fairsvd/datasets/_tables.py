"""Loaders of four tables that are often used to compare fairness methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sklearn.utils import Bunch

from . import _descriptions
from ._files import RemoteFile, find_file
from ._sources import ADULT_FILES, BANK_FILE, COMPAS_FILE, GERMAN_FILE

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_adult", "load_bank", "load_compas", "load_german"]

# Column names as in AIF360.
ADULT_COLUMNS = (
    "age workclass fnlwgt education education-num marital-status occupation relationship race sex "
    "capital-gain capital-loss hours-per-week native-country income"
).split()
COMPAS_COLUMNS = (
    "sex age age_cat race juv_fel_count juv_misd_count juv_other_count priors_count "
    "c_charge_degree c_charge_desc two_year_recid"
).split()
COMPAS_FILTER_COLUMNS = ["days_b_screening_arrest", "is_recid", "score_text"]
GERMAN_COLUMNS = (
    "status month credit_history purpose credit_amount savings employment "
    "investment_as_income_percentage personal_status other_debtors residence_since property age "
    "installment_plans housing number_of_credits skill_level people_liable_for telephone "
    "foreign_worker credit"
).split()
GERMAN_SEX = {"A91": "male", "A92": "female", "A93": "male", "A94": "male", "A95": "female"}


def load_adult(*, subset: str = "all") -> Bunch:
    """Load the Adult census income table.

    Parameters
    ----------
    subset : {"all", "train", "test"}, default="all"
        Both published files one after the other, the training file, or the test file. A column
        always has the categories of both files, so that encodings agree.

    Returns
    -------
    bunch : Bunch
        ``data`` (DataFrame, 13 columns), ``target`` (Series of int64, 1 = income above 50,000
        dollars), ``sensitive_features`` (DataFrame: sex, race), ``frame`` (data and target),
        ``feature_names``, ``target_names``, ``favourable_label`` (1), ``group_columns`` (for each
        sensitive feature the columns of ``data`` that reveal it: drop those for a blind task) and
        ``DESCR``.

    Raises
    ------
    ValueError
        If ``subset`` is not one of the three, or a file is not in the expected form.
    DatasetNotFoundError
        If the files are not found and cannot be downloaded.

    Notes
    -----
    The files come from the folder that the environment variable ``FAIRSVD_DATA`` names (as
    ``adult/adult.data``), else from the cache, else from UCI. All loaders of tables keep rows with
    missing values, as NaN.

    Examples
    --------
    >>> from fairsvd.datasets import load_adult
    >>> adult = load_adult(subset="train")  # doctest: +SKIP
    >>> adult.target.groupby(adult.sensitive_features["sex"]).mean().round(3)  # doctest: +SKIP
    """
    import pandas as pd

    if subset not in ("all", "train", "test"):
        raise ValueError(f'subset must be "all", "train" or "test", got {subset!r}')
    options = {"names": ADULT_COLUMNS, "skipinitialspace": True, "na_values": "?"}
    train = _read(ADULT_FILES[0], header=None, **options)
    test = _read(ADULT_FILES[1], header=0, **options)  # its first line is a remark
    frame = _with_categories(pd.concat([train, test], ignore_index=True))
    rows = {"all": slice(None), "train": slice(len(train)), "test": slice(len(train), None)}
    frame = frame.iloc[rows[subset]].reset_index(drop=True)
    codes = {"<=50K": 0, "<=50K.": 0, ">50K": 1, ">50K.": 1}  # the full stops are in the test file
    return _bunch(
        frame.drop(columns=["fnlwgt", "income"]),
        _encode(frame["income"], codes, ADULT_FILES[0]),
        groups={"sex": ["sex"], "race": ["race"]},
        target_names=["<=50K", ">50K"],
        favourable_label=1,
        description=_descriptions.ADULT,
    )


def load_compas(*, races: Iterable[str] | None = None) -> Bunch:
    """Load ProPublica's COMPAS table of recidivism within two years, after the usual filter.

    Parameters
    ----------
    races : iterable of str, default=None
        Keep only the rows of these races, for example ``("African-American", "Caucasian")``, the
        usual task with two groups. None keeps all six.

    Returns
    -------
    bunch : Bunch
        As in :func:`load_adult`: ``data`` has 10 columns, ``target`` is 1 for a new charge within
        two years (so ``favourable_label`` is 0), ``sensitive_features`` are race, sex and age_cat.

    Raises
    ------
    ValueError
        If a race does not occur, or the file is not in the expected form.
    DatasetNotFoundError
        If the file is not found and cannot be downloaded.

    Notes
    -----
    Columns are read by name, so a copy of the file without names, dates and case numbers works too
    if it is in ``FAIRSVD_DATA``. Only downloads and the cache must have the checksum of
    ProPublica's full file.

    Examples
    --------
    >>> from fairsvd.datasets import load_compas
    >>> compas = load_compas(races=("African-American", "Caucasian"))  # doctest: +SKIP
    """
    frame = _read(COMPAS_FILE, usecols=COMPAS_COLUMNS + COMPAS_FILTER_COLUMNS)
    frame = frame[
        frame["days_b_screening_arrest"].between(-30, 30)
        & (frame["is_recid"] != -1)
        & (frame["c_charge_degree"] != "O")
        & frame["score_text"].notna()  # "N/A" in the file, which is read as missing
    ]
    if races is not None:
        frame = frame[_rows_of_races(frame["race"], races)]
    frame = _with_categories(frame[COMPAS_COLUMNS].reset_index(drop=True))
    return _bunch(
        frame.drop(columns="two_year_recid"),
        _encode(frame["two_year_recid"], {0: 0, 1: 1}, COMPAS_FILE),
        groups={"race": ["race"], "sex": ["sex"], "age_cat": ["age_cat", "age"]},
        target_names=["no recidivism", "recidivism"],
        favourable_label=0,
        description=_descriptions.COMPAS,
    )


def load_german() -> Bunch:
    """Load the German credit table.

    Returns
    -------
    bunch : Bunch
        As in :func:`load_adult`: ``data`` has 21 columns, ``target`` is 1 for a good credit,
        ``sensitive_features`` are age_group (">25", "<=25") and sex ("female", "male").

    Raises
    ------
    ValueError
        If the file is not in the expected form.
    DatasetNotFoundError
        If the file is not found and cannot be downloaded.

    Examples
    --------
    >>> from fairsvd.datasets import load_german
    >>> german = load_german()  # doctest: +SKIP
    """
    frame = _read(GERMAN_FILE, sep=" ", header=None, names=GERMAN_COLUMNS)
    target = _encode(frame.pop("credit"), {1: 1, 2: 0}, GERMAN_FILE)
    frame["age_group"] = (frame["age"] > 25).map({True: ">25", False: "<=25"})
    frame["sex"] = frame.pop("personal_status").map(GERMAN_SEX)
    return _bunch(
        _with_categories(frame),
        target,
        groups={"age_group": ["age_group", "age"], "sex": ["sex"]},
        target_names=["bad", "good"],
        favourable_label=1,
        description=_descriptions.GERMAN,
    )


def load_bank() -> Bunch:
    """Load the bank marketing table (``bank-additional-full.csv``).

    Returns
    -------
    bunch : Bunch
        As in :func:`load_adult`: ``data`` has 21 columns, ``target`` is 1 for a subscription,
        ``sensitive_features`` is age_group (">=25", "<25").

    Raises
    ------
    ValueError
        If the file is not in the expected form.
    DatasetNotFoundError
        If the file is not found and cannot be downloaded.

    Examples
    --------
    >>> from fairsvd.datasets import load_bank
    >>> bank = load_bank()  # doctest: +SKIP
    """
    frame = _read(BANK_FILE, sep=";", na_values="unknown")
    _require(frame, ["age", "y"], BANK_FILE)
    target = _encode(frame.pop("y"), {"no": 0, "yes": 1}, BANK_FILE).rename("subscribed")
    frame["age_group"] = (frame["age"] >= 25).map({True: ">=25", False: "<25"})
    return _bunch(
        _with_categories(frame),
        target,
        groups={"age_group": ["age_group", "age"]},
        target_names=["no", "yes"],
        favourable_label=1,
        description=_descriptions.BANK,
    )


def _read(remote: RemoteFile, **options: Any) -> pd.DataFrame:
    import pandas as pd

    path = find_file(remote)
    try:
        frame: pd.DataFrame = pd.read_csv(path, **options)
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise ValueError(_not_expected(remote, f"it cannot be read: {error}")) from error
    return frame


def _not_expected(remote: RemoteFile, problem: str) -> str:
    return (
        f"{remote.folder}/{remote.name} is not the expected file ({problem}). "
        f"Take the unchanged file from {remote.url}"
    )


def _require(frame: pd.DataFrame, names: list[str], remote: RemoteFile) -> None:
    missing = [name for name in names if name not in frame]
    if missing:
        raise ValueError(_not_expected(remote, f"it has no column {missing}"))


def _encode(labels: pd.Series, codes: Mapping[Any, int], remote: RemoteFile) -> pd.Series:
    """Turn the labels of a file into int64 codes; an unknown label is an error."""
    unknown = labels[~labels.isin(list(codes))]
    if len(unknown):
        problem = f"the label {unknown.iloc[0]!r} is none of {list(codes)}"
        raise ValueError(_not_expected(remote, problem))
    return labels.astype(object).map(codes).astype("int64")


def _with_categories(frame: pd.DataFrame) -> pd.DataFrame:
    """Make every non-numeric column categorical."""
    texts = frame.select_dtypes(exclude="number").columns
    return frame.astype(dict.fromkeys(texts, "category"))


def _rows_of_races(column: pd.Series, races: Iterable[str]) -> pd.Series:
    chosen = [races] if isinstance(races, str) else list(races)
    present = sorted(column.unique())
    if not chosen or not set(chosen) <= set(present):
        raise ValueError(f"races must name some of {present}, got {chosen!r}")
    return column.isin(chosen)


def _bunch(
    data: pd.DataFrame,
    target: pd.Series,
    *,
    groups: dict[str, list[str]],
    target_names: list[str],
    favourable_label: int,
    description: str,
) -> Bunch:
    return Bunch(
        data=data,
        target=target,
        sensitive_features=data[list(groups)].copy(),
        frame=data.assign(**{str(target.name): target}),
        feature_names=list(data.columns),
        target_names=target_names,
        favourable_label=favourable_label,
        group_columns=groups,
        DESCR=description,
    )
