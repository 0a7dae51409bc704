"""CSV files as people have them: separators, spaces, encodings, labels and names."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cli_output import run
from fairsvd.cli._compare import _encode_features
from helpers import IGNORE_SMALL_DATA

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

N = 40
PEOPLE = pd.DataFrame(
    {
        "age": np.arange(N) + 18.0,
        "sex": np.array(["f", "m"])[np.arange(N) // 2 % 2],
        "y": np.array(["bad", "good"])[np.arange(N) % 2],
        "pred": np.array(["bad", "good"])[np.arange(N) % 2],
    }
)


@pytest.fixture
def audited(capsys, tmp_path):
    """Audit a frame written with the options of ``to_csv``: status, stdout and stderr."""

    def audit(frame, *more, target="y", sensitive="sex", name="people.csv", **options):
        path = tmp_path / name
        frame.to_csv(path, index=False, **options)
        columns = ["--target", target, "--pred", "pred", "--sensitive", sensitive]
        return run(capsys, "audit", path, *columns, *more)

    return audit


WRITTEN = {
    "semicolons": {"sep": ";"},
    "tabs": {"sep": "\t"},
    "byte order mark": {"encoding": "utf-8-sig"},
    "compressed": {"name": "people.csv.gz"},
}


@pytest.mark.parametrize("options", WRITTEN.values(), ids=WRITTEN)
def test_files_of_every_form_are_read(audited, options):
    status, expected, _ = audited(PEOPLE)
    assert status == 0
    status, text, _ = audited(PEOPLE, **options)
    assert status == 0
    assert text.splitlines()[1:] == expected.splitlines()[1:]


@pytest.mark.parametrize("column", ["sex ", " sex", "sex, as stated", "sex (f/m)"])
def test_names_of_columns_may_have_spaces_and_commas(audited, column):
    status, text, _ = audited(PEOPLE.rename(columns={"sex": column}), sensitive=column)
    assert status == 0
    assert "40 rows" in text


def test_spaces_after_commas_belong_to_no_name(capsys, tmp_path):
    path = tmp_path / "people.csv"
    lines = [", ".join(PEOPLE.columns)]
    lines += [", ".join(map(str, row)) for row in PEOPLE.itertuples(index=False)]
    path.write_text("\n".join(lines))
    columns = ["--target", "y", "--pred", "pred", "--sensitive", "sex"]
    status, text, _ = run(capsys, "audit", path, *columns, "--pos-label", "good")
    assert status == 0
    assert "positive label good" in text


def test_a_boolean_label_is_found_in_any_case(audited):
    frame = PEOPLE.assign(y=PEOPLE["y"] == "good", pred=PEOPLE["pred"] == "good")
    for text in ("True", "true", "TRUE"):
        status, out, _ = audited(frame, "--pos-label", text)
        assert status == 0
        assert "positive label True" in out


REFUSED = {
    "scores": ({"pred": np.linspace(0.1, 0.9, N)}, {}, r"column pred holds 0.1.*threshold"),
    "continuous": ({"y": np.linspace(0.1, 0.9, N)}, {}, "column y holds 0.1"),
    "another type": ({"pred": np.arange(N) % 2}, {}, "labels of different types"),
    "target as group": ({}, {"sensitive": "y"}, "column y is both the target and sensitive"),
    "misspelt": ({}, {"sensitive": "sexe"}, r"no column sexe; .*Did you mean 'sex'"),
    "a quantity": (
        {"sex": np.random.default_rng(0).normal(size=N)},
        {},
        "40 distinct numbers with fractions.*qcut",
    ),
}


@pytest.mark.parametrize(("columns", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_audited_is_told(audited, columns, options, message):
    status, out, err = audited(PEOPLE.assign(**columns), **options)
    assert (status, out) == (2, "")
    assert pd.Series([err]).str.contains(message).all(), err
    assert len(err) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no table with headings"),
        (b"age,sex,y,pred\n1,caf\xe9,a,a\n", "not in UTF-8"),
        (b'age,sex,y,pred\n"1,f,a,a\n', "no table with headings"),
    ],
    ids=["empty", "latin-1", "open quote"],
)
def test_what_is_no_table_is_told(capsys, tmp_path, content, message):
    path = tmp_path / "people.csv"
    path.write_bytes(content)
    columns = ["--target", "y", "--pred", "pred", "--sensitive", "sex"]
    status, out, err = run(capsys, "audit", path, *columns)
    assert (status, out) == (2, "")
    assert message in err


def test_a_column_of_names_takes_no_more_columns_than_categories_are_kept():
    frame = pd.DataFrame({"name": [f"person {k}" for k in range(500)], "age": 0.0, "y": 0})
    X, about = _encode_features(frame, ["y"])
    assert X.shape == (500, 101)
    assert "of each the 100 most frequent" in about
    with pytest.raises(ValueError, match="column age holds infinite numbers"):
        _encode_features(frame.assign(age=np.inf), ["y"])
