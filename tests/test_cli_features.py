"""Which columns of a file may be features: identifiers, leaks, dates, texts and numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fairsvd.cli._columns import Rows
from fairsvd.cli._features import cast, pick_features

N = 200
LETTERS = np.array(list("abcdefghij"))


def rows_with(**columns) -> Rows:
    """Rows of a fair target, two groups and one harmless feature, and the columns to judge."""
    rng = np.random.default_rng(4)
    frame = pd.DataFrame(
        {
            "y": np.arange(N) % 2,
            "sex": np.array(["f", "m"], dtype=object)[np.arange(N) // 2 % 2],
            "hours": rng.normal(size=N),
            **columns,
        }
    )
    return Rows(frame, "y", ["sex"], "", {})


NAMES = [f"person {k}" for k in range(N)]
LEFT_OUT = {
    "row numbers": (np.arange(5, N + 5), "an identifier: every row has its own"),
    "names": (np.array(NAMES, dtype=object), "an identifier: 200 different texts in 200 rows"),
    "texts": (
        np.array([f"{name} lives in the house {name}" for name in NAMES], dtype=object),
        "free text",
    ),
    "dates as text": (
        pd.date_range("2020-01-01", periods=N).strftime("%Y-%m-%d").astype(object),
        "a date",
    ),
    "dates": (pd.date_range("2020-01-01", periods=N), "a date"),
    "amounts": (
        np.array([f"${1000 + 37 * k:,}.50" for k in range(N)], dtype=object),
        "numbers with signs, such as $1,000.50",
    ),
    "percents": (np.array([f"{k % 40}%" for k in range(N)], dtype=object), "numbers with signs"),
    "nothing": (np.full(N, np.nan), "it is empty"),
    "one value": (np.full(N, "x", dtype=object), "it has one value only"),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_can_be_no_feature_is_left_out_and_named(kind):
    values, reason = LEFT_OUT[kind]
    features = pick_features(rows_with(column=values))
    assert features.left_out["column"].startswith(reason)
    assert (features.numbers, features.categories) == (["hours"], [])
    assert f"Left out: column ({features.left_out['column']})" in features.describe()


def test_an_identifier_is_kept_when_told():
    features = pick_features(rows_with(column=np.arange(N)), keep="column")
    assert features.numbers == ["hours", "column"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("weight", np.random.default_rng(0).permutation(N) * 7),
        ("grade", LETTERS[np.arange(N) // 3 % 10].astype(object)),
        ("old", (np.arange(N) % 3 == 0)),
    ],
)
def test_ordinary_columns_are_features(name, values):
    features = pick_features(rows_with(**{name: values}))
    assert name in [*features.numbers, *features.categories]


def flipped(share: float) -> np.ndarray:
    """The target with a share of its rows flipped."""
    y = np.arange(N) % 2
    y[: round(share * N)] ^= 1
    return y


@pytest.mark.parametrize(
    "values",
    [
        flipped(0.03),
        np.array(["no", "yes"], dtype=object)[flipped(0.03)],
        flipped(0.0) * 1000.0 + np.random.default_rng(1).normal(size=N),
    ],
    ids=["codes", "words", "a quantity"],
)
def test_a_column_that_gives_the_label_away_is_refused(values):
    with pytest.raises(ValueError, match=r'gives the label away.*--drop "outcome".*--keep'):
        pick_features(rows_with(outcome=values))
    assert "outcome" in pick_features(rows_with(outcome=values), drop="outcome").left_out
    kept = pick_features(rows_with(outcome=values), keep="outcome")
    assert "outcome" in [*kept.numbers, *kept.categories]


def test_a_column_that_agrees_a_little_less_is_a_feature():
    assert "outcome" in pick_features(rows_with(outcome=flipped(0.04))).numbers


def test_a_rare_label_is_not_given_away_by_a_constant_guess():
    rows = rows_with(flag=np.arange(N) % 7 == 0)
    rare = rows.frame.assign(y=(np.arange(N) % 50 == 0).astype(int))
    assert "flag" in pick_features(Rows(rare, "y", ["sex"], "", {})).categories


def test_words_among_numbers_are_refused():
    values = np.array([f"{k}.5" for k in range(N)], dtype=object)
    values[3] = "unknown"
    with pytest.raises(ValueError, match="column c holds numbers, and 'unknown' among them"):
        pick_features(rows_with(c=values), keep=None)


def test_infinite_numbers_are_refused():
    with pytest.raises(ValueError, match="column c holds infinite numbers"):
        pick_features(rows_with(c=np.where(np.arange(N) == 3, np.inf, np.arange(N) * 1.5)))


def test_the_groups_are_features_only_when_told():
    assert pick_features(rows_with()).left_out["sex"].startswith("sensitive")
    assert pick_features(rows_with(), keep_sensitive=True).categories == ["sex"]


def test_no_feature_at_all_is_said():
    with pytest.raises(ValueError, match=r"no column is left for features.*hours: --drop"):
        pick_features(rows_with(), drop="hours")


def test_cast_reads_numbers_as_text_and_keeps_what_is_missing():
    frame = pd.DataFrame({"n": ["1", None, "3"], "c": [1, None, "b"], "d": [True, False, None]})
    made = cast(frame, ["n"], ["c", "d"])
    assert made["n"].tolist()[::2] == [1.0, 3.0] and np.isnan(made["n"][1])
    assert made["c"].tolist()[::2] == ["1", "b"] and made["d"].tolist()[:2] == ["True", "False"]
    assert made.isna().sum().tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="column n holds 'x', where a number is wanted"):
        cast(frame.replace({"3": "x"}), ["n"], [])
