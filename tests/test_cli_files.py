"""CSV files as people have them: separators, spaces, encodings, labels and names."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import polars
import pytest

from cli_output import run, tables
from fairsvd.cli import main, make_parser
from fairsvd.cli._reading import read_file
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


def test_blanks_at_the_ends_of_texts_make_no_label_and_no_group(capsys, tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("y|sex|p\n" + "yes |f|yes\nno|f |no\nyes|m|no\nno|m| yes\n" * 5)
    options = ["audit", str(path), "--target", "y", "--sensitive", "sex", "--pred", "p", "--json"]
    assert main(options) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert {row["sex"] for row in groups} == {"f", "m"}


@pytest.mark.parametrize("column", ["y", "sex"])
def test_labels_and_groups_that_differ_in_capital_letters_are_refused(capsys, tmp_path, column):
    frame = pd.DataFrame({"y": ["yes", "no"] * 4, "sex": list("ffmm") * 2, "p": ["yes", "no"] * 4})
    frame.loc[0, column] = frame.loc[0, column].upper()
    frame.to_csv(tmp_path / "a.csv", index=False)
    options = ["--target", "y", "--sensitive", "sex", "--pred", "p"]
    assert main(["audit", str(tmp_path / "a.csv"), *options]) == 2
    assert f"column {column} holds" in (said := capsys.readouterr().err)
    assert "differ in capital letters only" in said


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
        r"column sex holds 40 different numbers, which are no groups: pass --bins \"sex:",
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
        (b"", "no table with one separator"),
        (b"age,sex,y,pred\n1,caf\xe9,a,a\n", "not in UTF-8.*--encoding latin-1"),
        (b'age,sex,y,pred\n"1,f,a,a\n', "no table with one separator"),
    ],
    ids=["empty", "latin-1", "open quote"],
)
def test_what_is_no_table_is_told(capsys, tmp_path, content, message):
    path = tmp_path / "people.csv"
    path.write_bytes(content)
    columns = ["--target", "y", "--pred", "pred", "--sensitive", "sex"]
    status, out, err = run(capsys, "audit", path, *columns)
    assert (status, out) == (2, "")
    assert re.search(message, err) and err.count("\n") == 1


# What people call a table


def write_excel(frame, path):
    pytest.importorskip("openpyxl", reason="the extra tables is not installed")
    frame.to_excel(path, index=False)


def write_parquet(frame, path):
    polars.DataFrame({name: frame[name].tolist() for name in frame}).write_parquet(path)


FORMS = {
    "semicolons": ("x.csv", lambda f, p: f.to_csv(p, sep=";", index=False), []),
    "tabs": ("x.tsv", lambda f, p: f.to_csv(p, sep="\t", index=False), []),
    "pipes": ("x.txt", lambda f, p: f.to_csv(p, sep="|", index=False), []),
    "a separator of its own": ("x.txt", lambda f, p: f.to_csv(p, sep="~", index=False), "--sep ~"),
    "decimal commas": (
        "x.csv",
        lambda f, p: f.assign(age=f["age"] + 0.5).to_csv(p, sep=";", decimal=",", index=False),
        "--decimal ,",
    ),
    "no headings": (
        "x.csv",
        lambda f, p: f.to_csv(p, header=False, index=False),
        "--no-header --columns age,sex,y,pred",
    ),
    "latin-1": (
        "x.csv",
        lambda f, p: f.assign(town="K\xf6ln").to_csv(p, index=False, encoding="latin-1"),
        "--encoding latin-1",
    ),
    "utf-16": (
        "x.csv",
        lambda f, p: f.to_csv(p, index=False, encoding="utf-16"),
        "--encoding utf-16",
    ),
    "Parquet": ("x.parquet", write_parquet, []),
    "Excel": ("x.xlsx", write_excel, []),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_table(capsys, tmp_path, audited, form):
    name, write, more = FORMS[form]
    write(PEOPLE, tmp_path / name)
    asked = ["--target", "y", "--pred", "pred", "--sensitive", "sex"]
    more = more.split() if isinstance(more, str) else more
    status, text, err = run(capsys, "audit", tmp_path / name, *asked, *more)
    assert (status, err) == (0, "")
    assert text.splitlines()[1:] == audited(PEOPLE)[1].splitlines()[1:]


@pytest.mark.parametrize(
    ("form", "advice"),
    [
        ("decimal commas", "pass --decimal ,"),
        ("no headings", "pass --no-header"),
        ("latin-1", "--encoding latin-1"),
        ("utf-16", "--encoding utf-16"),
    ],
)
def test_without_its_option_a_line_says_which(capsys, tmp_path, form, advice):
    name, write, _ = FORMS[form]
    write(PEOPLE, tmp_path / name)
    asked = ["--target", "y", "--pred", "pred", "--sensitive", "sex"]
    status, out, err = run(capsys, "audit", tmp_path / name, *asked)
    assert (status, out) == (2, "")
    assert advice in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "package"),
    [("x.parquet", "polars"), ("x.xlsx", "openpyxl"), ("x.ods", "odfpy")],
)
def test_a_missing_reader_is_one_line(capsys, tmp_path, monkeypatch, name, package):
    monkeypatch.setattr("fairsvd.cli._reading.find_spec", lambda package: None)
    (tmp_path / name).write_bytes(b"PAR1")
    asked = ["--target", "y", "--pred", "pred", "--sensitive", "sex"]
    status, out, err = run(capsys, "audit", tmp_path / name, *asked)
    assert (status, out) == (2, "")
    assert f"pip install {package}" in err and err.count("\n") == 1


def test_missing_numbers_of_parquet_stay_numbers(tmp_path):
    path = tmp_path / "x.parquet"
    polars.DataFrame({"n": [1, None, 3], "t": ["a", None, "b"]}).write_parquet(path)
    options = make_parser().parse_args(["predict", "model", str(path)])
    frame = read_file(path, options)
    assert frame["n"].dtype == np.float64 and frame["t"].dtype == object
    assert frame.isna().sum().tolist() == [1, 1]


def test_a_file_that_cannot_be_read_is_said_before_torch_is_imported(tmp_path):
    code = (
        "import sys; from fairsvd.cli import main; "
        f"status = main(['edit', {str(tmp_path / 'no.csv')!r}, '--target', 'y', '--sensitive', "
        "'g', '--out', 'm']); print(status, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "2 False\n"
    assert "no.csv" in done.stderr and done.stderr.count("\n") == 1


def test_bins_make_groups_of_a_quantity(audited):
    status, text, _ = audited(PEOPLE, "--bins", "age:25,40", sensitive="age")
    assert status == 0
    rows = {row[0]: row[1] for row in tables(text)["age"][1:]}
    assert rows == {"25 to below 40": "15", "40 or more": "18", "below 25": "7"}
    assert "positive label good" in text


def test_bins_of_text_are_refused(audited):
    assert "column sex does not hold numbers only" in audited(PEOPLE, "--bins", "sex:3")[2]
    assert "age:25,40,60" in audited(PEOPLE, "--bins", "age")[2]


def test_control_characters_of_a_file_do_not_reach_the_terminal(audited):
    evil = "f\x1b[2J\x9b\u202eevil"
    status, text, err = audited(PEOPLE.replace({"f": evil}))
    assert status == 0
    assert "f\\x1b[2J\\x9b\\u202eevil" in text
    assert not {"\x1b", "\x9b", "\u202e"} & set(text + err)
    err = audited(PEOPLE.rename(columns={"sex": evil}))[2]
    assert "no column sex" in err and not {"\x1b", "\x9b", "\u202e"} & set(err)


def test_formulas_do_not_reach_a_spreadsheet(audited, tmp_path):
    path = tmp_path / "rates.csv"
    status, _, _ = audited(PEOPLE.replace({"f": "=HYPERLINK(1)"}), "--out", path)
    assert status == 0
    assert pd.read_csv(path)["sex"].tolist() == ["'=HYPERLINK(1)", "m"]


def test_the_ending_of_out_and_json_decide_the_format(audited, tmp_path):
    status, text, _ = audited(PEOPLE, "--json", "--out", tmp_path / "r.json")
    assert status == 0
    content = json.loads(text)
    assert content == json.loads((tmp_path / "r.json").read_text())
    assert [row["sex"] for row in content["groups"]] == ["f", "m"]
    assert {row["gap"]: row["difference"] for row in content["gaps"]}["equalized_odds"] == 0.0
    audited(PEOPLE, "--out", tmp_path / "r.md")
    assert (tmp_path / "r.md").read_text().startswith("| sex | n | selection_rate |")
    err = audited(PEOPLE, "--out", tmp_path / "r.txt")[2]
    assert "must end in one of .csv, .json, .md" in err


@pytest.mark.parametrize(("limit", "status"), [("0.2", 0), ("0.05", 1)])
def test_a_gap_above_the_limit_fails_the_run(audited, limit, status):
    # One of ten negatives of group f is predicted positive, and none of group m.
    wrong = PEOPLE.assign(pred=PEOPLE["pred"].where(PEOPLE.index != 0, "good"))
    found, text, err = audited(wrong, "--fail-above", limit)
    assert found == status
    assert "Rates of every group" in text
    assert ("the gap in equalized odds is 0.100; the limit is 0.05" in err) == bool(status)
    assert audited(wrong, "--fail-above", "0.09", "--gap", "equal_opportunity")[0] == 0
