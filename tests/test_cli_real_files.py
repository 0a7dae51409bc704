"""The beginnings of published files, as they are and as people keep them, become models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars
import pytest

from cli_output import run
from fairsvd.cli import make_parser
from fairsvd.cli._features import read_features
from helpers import IGNORE_SMALL_DATA

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

N = 300
ADULT = "age,work,weight,school,years,marital,job,role,race,sex,gain,loss,hours,country,income"


def lines(data_folder: Path, name: str, n: int = N) -> str:
    with (data_folder / name).open(encoding="utf-8") as file:
        return "".join(line for _, line in zip(range(n), file, strict=False))


def recidivism(data_folder: Path) -> pd.DataFrame:
    return pd.read_csv(data_folder / "compas" / "compas-scores-two-years.csv", nrows=N)


def adult_as_published(data_folder, path):
    path.write_text(lines(data_folder, "adult/adult.data"))


def adult_with_a_title(data_folder, path):
    path.write_text(lines(data_folder, "adult/adult.test"))


def adult_below_its_title(data_folder, path):
    path.write_text(lines(data_folder, "adult/adult.test").partition("\n")[2])


def german_with_spaces(data_folder, path):
    path.write_text(lines(data_folder, "german/german.data"))


def bank_with_semicolons(data_folder, path):
    path.write_text(lines(data_folder, "bank/bank-additional-full.csv", 2000))


def bank_with_tabs(data_folder, path):
    path.write_text(lines(data_folder, "bank/bank-additional-full.csv", 2000).replace(";", "\t"))


def recidivism_with_ids_and_texts(data_folder, path):
    recidivism(data_folder).to_csv(path, index=False)


def recidivism_in_latin_1(data_folder, path):
    frame = recidivism(data_folder)
    frame["race"] = frame["race"].replace({"Hispanic": "Hispano de Espa\xf1a"})
    frame.to_csv(path, index=False, encoding="latin-1")


def recidivism_with_dates(data_folder, path):
    frame = recidivism(data_folder)
    days = pd.date_range("2013-01-01", periods=len(frame)).strftime("%Y-%m-%d")
    frame.assign(screened=days).to_csv(path, index=False)


def recidivism_with_notes(data_folder, path):
    frame = recidivism(data_folder)
    frame["note"] = [f"seen by officer {k} in the morning of day {k}" for k in range(len(frame))]
    frame.to_csv(path, index=False)


def recidivism_in_parquet(data_folder, path):
    columns = {name: column.tolist() for name, column in recidivism(data_folder).items()}
    texts = ("sex", "age_cat", "race", "c_charge_degree", "c_charge_desc", "score_text")
    for name in texts:
        columns[name] = [value if isinstance(value, str) else None for value in columns[name]]
    polars.DataFrame(columns).write_parquet(path)


def recidivism_in_excel(data_folder, path):
    recidivism(data_folder).to_excel(path, index=False)


def lesions_without_some_groups(data_folder, path):
    table = pd.read_csv(data_folder / "ham10000" / "HAM10000_metadata.csv")
    rows = table.iloc[np.linspace(0, len(table) - 1, 900).astype(int)]
    rows.replace({"sex": {"unknown": np.nan}}).to_csv(path, index=False)


def faces_with_paths(data_folder, path):
    path.write_text(lines(data_folder, "fairface/labels.csv"))


COMPAS = "--target two_year_recid --sensitive race --missing-group ignore --drop is_recid"
BANK = "--target y --sensitive marital"

# What writes the file, its name, what is asked, what a line must say to add, and what is added.
FILES = {
    "no headings": (
        adult_as_published,
        "adult.data",
        "--target income --sensitive sex",
        "pass --no-header",
        f"--no-header --columns {ADULT}",
    ),
    "a title above it": (
        adult_with_a_title,
        "adult.test",
        "--no-header --target 15 --sensitive 10",
        "its first line is no row of the table, since all others have 15 cells",
        None,
    ),
    "the title removed": (
        adult_below_its_title,
        "adult.test",
        "--no-header --target 15 --sensitive 10",
        "",
        "",
    ),
    "spaces": (
        german_with_spaces,
        "german.data",
        "--target 21 --sensitive 9",
        'pass --sep, such as --sep " "',
        "--no-header --sep space",
    ),
    "semicolons": (bank_with_semicolons, "bank.csv", BANK, "", ""),
    "tabs": (bank_with_tabs, "bank.tsv", BANK, "", ""),
    "a quantity for a group": (
        bank_with_semicolons,
        "bank.csv",
        "--target y --sensitive age",
        "pass --bins",
        "--bins age:35,45",
    ),
    "ids and texts": (recidivism_with_ids_and_texts, "compas.csv", COMPAS, "", ""),
    "latin-1": (
        recidivism_in_latin_1,
        "compas.csv",
        COMPAS,
        "--encoding latin-1",
        "--encoding latin-1",
    ),
    "dates": (recidivism_with_dates, "compas.csv", COMPAS, "", ""),
    "free text": (recidivism_with_notes, "compas.csv", COMPAS, "", ""),
    "Parquet": (recidivism_in_parquet, "compas.parquet", COMPAS, "", ""),
    "Excel": (recidivism_in_excel, "compas.xlsx", COMPAS, "", ""),
    "missing groups and many classes": (
        lesions_without_some_groups,
        "lesions.csv",
        "--target dx_type --sensitive sex --drop lesion_id,dx",
        "--missing-group",
        "--missing-group ignore",
    ),
    "paths": (faces_with_paths, "faces.csv", "--target sex --sensitive race", "", ""),
}
LEFT_OUT = {
    "ids and texts": {"id": "an identifier"},
    "dates": {"id": "an identifier", "screened": "a date"},
    "free text": {"note": "free text"},
    "Parquet": {"id": "an identifier"},
    "Excel": {"id": "an identifier"},
    "missing groups and many classes": {"image_id": "an identifier"},
    "paths": {"path": "an identifier"},
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_gives_features_or_a_line_that_says_what_to_pass(
    kind, data_folder, capsys, tmp_path
):
    write, name, asked, advice, added = FILES[kind]
    write(data_folder, tmp_path / name)
    words = ["edit", str(tmp_path / name), "--out", str(tmp_path / "model"), *asked.split()]
    if advice:
        status, _, err = run(capsys, *words)
        assert status == 2
        assert advice in err and err.count("\n") == 1
    if added is None:
        return
    options = make_parser().parse_args(words + separated(added))
    rows, features = read_features(options)
    assert len(rows.frame) >= N - 1 and len(features.numbers) + len(features.categories) >= 2
    for column, reason in LEFT_OUT.get(kind, {}).items():
        assert features.left_out[column].startswith(reason)


def separated(words: str) -> list[str]:
    return [" " if word == "space" else word for word in words.split()]


@pytest.mark.parametrize("kind", ["no headings", "Excel", "missing groups and many classes"])
def test_a_file_becomes_a_model(kind, data_folder, capsys, tmp_path):
    write, name, asked, _, added = FILES[kind]
    write(data_folder, tmp_path / name)
    words = ["--method", "RandomPerturbation", "--out", tmp_path / "model"]
    words += [*asked.split(), *separated(added)]
    status, text, err = run(capsys, "edit", tmp_path / name, *words)
    assert status == 0, err
    reports = {path.name for path in (tmp_path / "model").glob("report*")}
    forms = {"report.html", "report.json", "report.md"}
    assert reports == forms | (set() if "many classes" in kind else {"report-ll144.csv"})
    for column in LEFT_OUT.get(kind, {}):
        assert f"Left out: {column} (" in text
