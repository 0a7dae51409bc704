"""The command line: measures by group, weights, and each attribute alone."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from cli_output import run, tables
from fairsvd import group_table
from fairsvd.metrics import disparity_table
from helpers import IGNORE_SMALL_DATA

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]


@pytest.fixture(scope="module")
def people() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    n = 500
    sex, race = rng.choice(["f", "m"], n), rng.choice(["a", "b"], n, p=[0.8, 0.2])
    y = rng.integers(2, size=n)
    score = 1.4 * y - 0.7 + 0.9 * (sex == "m") - 0.5 * (race == "b") + rng.normal(size=n)
    frame = {"y": y, "sex": sex, "race": race, "pred": (score > 0).astype(int)}
    share = 1 / (1 + np.exp(-score))
    times = rng.integers(0, 4, size=n)
    return pd.DataFrame({**frame, "share": share, "times": times, "x": score.round(3)})


@pytest.fixture
def csv(people, tmp_path):
    path = tmp_path / "people.csv"
    people.to_csv(path, index=False)
    return path


def audit(path, *more, sensitive="sex,race"):
    return ["audit", path, "--target", "y", "--sensitive", sensitive, "--pred", "pred", *more]


def test_audit_measures_what_is_named_with_margins_and_small_groups(capsys, people, csv, tmp_path):
    out = tmp_path / "table.csv"
    names = ["ppv", "auc", "calibration_error"]
    more = ["--measures", ",".join(names), "--score", "share", "--out", out]
    status, text, err = run(capsys, *audit(csv, *more))
    assert (status, err) == (0, "")
    data = people["y"], people["pred"], people[["sex", "race"]]
    options = {"y_score": people["share"], "measures": names, "level": 0.95, "margins": True}
    wanted = group_table(*data, **options)
    written = pd.read_csv(out, index_col=["sex", "race"], keep_default_na=True)
    pd.testing.assert_frame_equal(
        written.drop(columns="few_rows"), wanted.drop(columns="few_rows"), check_dtype=False
    )
    shown = {row[0] + row[1]: row for row in tables(text)["sex"][1:]}
    assert shown["(all)b"][3] == f"{wanted.loc[('(all)', 'b'), 'ppv']:.3f}"
    assert "label 0: " in shown["fb"][-1]
    far = disparity_table(*data, **options)
    lines = {(row[0], row[1]): row for row in tables(text)["attributes"][1:]}
    assert len(lines) == 9
    for (attributes, name), row in far.iterrows():
        cells = lines[attributes, name]
        numbers = ["overall", "difference", "difference_low", "difference_high", "ratio"]
        texts = ["-" if np.isnan(row[each]) else f"{row[each]:.3f}" for each in numbers]
        assert cells[2:7] == texts
        assert cells[7] == "/".join(map(str, np.atleast_1d(row["worst_group"])))


def test_audit_weighs_rows_as_if_they_were_repeated(capsys, people, tmp_path):
    weighted, repeated = tmp_path / "w.csv", tmp_path / "r.csv"
    people.to_csv(weighted, index=False)
    people.loc[people.index.repeat(people["times"])].to_csv(repeated, index=False)
    more = ["--json", "--measures", "tpr,f1"]
    found = [
        json.loads(run(capsys, *audit(path, *more, *option))[1])
        for path, option in ((weighted, ["--weights", "times"]), (repeated, []), (weighted, []))
    ]
    for table, columns in (
        ("gaps", ["difference", "ratio"]),
        ("groups", ["tpr", "f1"]),
        ("measures", ["overall", "difference", "worst"]),
    ):
        one, two, plain = (pd.DataFrame(each[table])[columns].to_numpy() for each in found)
        np.testing.assert_allclose(one, two, atol=1e-12)
        assert not np.allclose(one, plain, atol=1e-3), "weights change nothing"
    upper = [pd.DataFrame(each["gaps"])["upper"] for each in found]
    assert (upper[0] >= upper[1]).all(), "weighted rows tell less than as many rows"
    assert [row["n"] for row in found[0]["groups"]] == [row["n"] for row in found[2]["groups"]]
    assert "Rows count by the column times" in found[0]["about"]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--weights", "time"], "there is no column time; it has y, sex"),
        (["--weights", "race"], "--weights race: data row 1 holds"),
        (["--weights", "x"], "--weights x: holds values from -"),
        (["--measures", "ppw"], "measures='ppw'"),
        (["--measures", "auc"], "y_score=None: the measure 'auc' needs it"),
        (["--measures", "auc", "--score", "x"], "wanted probabilities in [0, 1]"),
    ],
)
def test_what_cannot_be_measured_is_one_line(capsys, csv, more, complaint):
    status, out, err = run(capsys, *audit(csv, *more))
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert complaint in err


def fitting(command, path, *more, sensitive="sex,race"):
    columns = ["--target", "y", "--sensitive", sensitive, "--drop", "pred,share"]
    return [command, path, *columns, "--weights", "times", *more]


def test_compare_weighs_measures_and_takes_attributes_alone(capsys, csv, tmp_path):
    out = tmp_path / "rows.csv"
    more = ["--methods", "threshold", "--folds", 2, "--measures", "auc", "--each-attribute"]
    status, text, _ = run(capsys, *fitting("compare", csv, *more, "--out", out))
    assert status == 0
    assert "Left out: times (the weights of the rows)" in text
    assert "equalized odds by each attribute, means over 2 folds" in text
    rows = pd.read_csv(out)
    assert set(rows["constraint"]) == {"equalized_odds by each attribute"}
    printed = tables(text[text.index("How far groups differ") :])["method"]
    assert printed[0] == ["method", "measure", "difference", "ratio", "worst group", "worst"]
    mean = rows[rows["method"] == "threshold"]["auc_difference"].mean()
    assert ["threshold", "auc", f"{mean:.3f}"] in [row[:3] for row in printed]
    content = json.loads(run(capsys, *fitting("compare", csv, *more, "--json"))[1])
    assert content["disparities"][0]["measure"] == "auc"


def test_edit_weighs_the_rows_that_it_fits_on(capsys, csv, tmp_path):
    more = ["--method", "BlindPostProcessor", "--each-attribute", "--out"]
    status, text, err = run(capsys, *fitting("edit", csv, *more, tmp_path / "model"))
    assert status == 0, err
    assert "Weights: times, of the rows to fit on; the report counts rows once each" in text
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["constraint"] == "equalized_odds by each attribute"
    assert card["numbers"] == ["x"]
    assert card["left_out"]["times"] == "the weights of the rows"
