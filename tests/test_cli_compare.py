"""``fairsvd compare``: from a CSV file to the printed table, the written rows and the plot."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from cli_output import run, tables
from fairsvd import compare
from fairsvd.comparison._methods import names
from helpers import IGNORE_SMALL_DATA, table

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

PEERS = "threshold,ThresholdOptimizer"


@pytest.fixture(scope="module")
def people() -> pd.DataFrame:
    rows = table(300)
    frame = pd.DataFrame(rows.X, columns=list("abcdef"))
    job = np.where(rows.X[:, 0] > 0, "clerk", "smith")
    return frame.assign(job=job, sex=np.array(["f", "m"])[rows.group], y=rows.y)


@pytest.fixture
def csv(people, tmp_path):
    path = tmp_path / "people.csv"
    people.to_csv(path, index=False)
    return path


def asked(path, *more, methods=PEERS, folds=2, target="y", sensitive="sex"):
    columns = ["--target", target, "--sensitive", sensitive]
    return ["compare", path, *columns, "--methods", methods, "--folds", folds, *more]


def test_from_file_to_table(capsys, people, csv, tmp_path):
    out, plot = tmp_path / "new" / "table.csv", tmp_path / "p.png"
    constraints = "equalized_odds,demographic_parity"
    more = ["--constraints", constraints, "--out", out, "--plot", plot]
    status, text, err = run(capsys, *asked(csv, *more))
    assert status == 0
    assert "\r" not in err and {line.split(":")[0] for line in err.splitlines()} == {"compare"}
    assert "compare: 100% (" in err.splitlines()[-1]
    heading = text[: text.index("means over 2 folds\n\n")]
    assert "300 rows of 7 features, 2 classes; sex: f " in heading
    assert "Positive label: 1 (the other is 0" in heading
    assert "Features: 6 columns of numbers and 1 of categories" in heading
    assert "Left out: y (the target)" in heading and "Left out: sex (sensitive" in heading
    read = pd.read_csv(csv)
    # The command and the function take text as it is, and encode it in the same way.
    expected = compare(
        PEERS.split(","),
        read.drop(columns=["y", "sex"]),
        read["y"],
        read["sex"],
        cv=2,
        constraints=constraints.split(","),
        random_state=0,
    )
    written = pd.read_csv(out, keep_default_na=False)
    same = pd.DataFrame(expected).drop(columns="seconds")
    pd.testing.assert_frame_equal(written.drop(columns="seconds"), same, check_dtype=False)
    printed = tables(text)["method"]
    assert printed[0][:6] == ["method", "psi", "low", "high", "balanced accuracy", "gap"]
    summary = expected.summary("demographic_parity").droplevel("constraint")
    assert [row[0] for row in printed[1:]] == summary.index.tolist()
    assert printed[1][1] == f"{summary['psi'].iloc[0]:.3f}"
    assert {row[0]: row[8] for row in printed[1:]}["ThresholdOptimizer"] == "yes"
    assert text.index("equalized odds, means over 2 folds") < text.index(
        "demographic parity, means"
    )
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_tolerance_and_seed_are_passed_on_and_the_interval_is_that_of_psi(capsys, people, csv):
    asked_for = asked(csv, "--tolerance", "0.2", "--seed", "3", methods="threshold")
    text = run(capsys, *asked_for)[1]
    read = pd.read_csv(csv)
    numbers = StandardScaler().fit_transform(read[list("abcdef")])
    jobs = OneHotEncoder(sparse_output=False).fit_transform(read[["job"]])
    found = compare(
        "threshold",
        np.column_stack([numbers, jobs]),
        read["y"],
        read["sex"],
        cv=2,
        tolerance=0.2,
        random_state=3,
    )
    summary = found.summary().droplevel("constraint")
    columns = ["psi", "psi_low", "psi_high", "balanced_accuracy", "gap", "worst_cell", "harm"]
    shown = {row[0]: row[1:8] for row in tables(text)["method"][1:]}
    for name, row in summary.iterrows():
        assert shown[name] == [f"{row[column]:.3f}" for column in columns]
    assert (summary["psi_low"] < summary["psi_high"]).all()
    assert "psi: balanced accuracy - max(0, gap - 0.2)" in text


def test_the_groups_are_among_the_features_when_told(capsys, csv, tmp_path):
    text = run(capsys, *asked(csv, "--keep-sensitive", methods="threshold"))[1]
    assert "2 of categories" in text and "Left out: y (the target)\n" in text


def test_empty_cells_labels_and_failures(capsys, people, tmp_path):
    path = tmp_path / "gaps.csv"
    holes = people.assign(y=people["y"].map({0: "no", 1: "yes"}), empty=np.nan)
    holes.loc[[1, 5], ["a", "job"]] = np.nan
    holes.loc[holes.index % 3 == 0, "sex"] = "x"
    holes.to_csv(path, index=False)
    status, text, _ = run(capsys, *asked(path, "--pos-label", "no", methods="EqOddsPostprocessing"))
    assert status == 0
    assert "Failed: EqOddsPostprocessing: ValueError: AIF360 compares two groups" in text
    rows = {row[0]: row for row in tables(text)["method"]}
    assert rows["EqOddsPostprocessing"][1] == "-" and rows["EqOddsPostprocessing"][-1] == "2"


@pytest.mark.parametrize(
    ("changed", "more", "complaint"),
    [
        ({"target": "z"}, [], "there is no column z; it has a, b, c"),
        ({"sensitive": ","}, [], "--sensitive names no column"),
        ({"methods": "Thresholdoptimizer"}, [], "Did you mean 'ThresholdOptimizer'"),
        ({}, ["--constraints", "fair"], "wanted names among demographic_parity"),
        ({}, ["--pos-label", "7"], "--positive 7 is not among the labels 0, 1"),
        ({}, ["--plot", "p.doc"], "--plot p.doc must end in one of"),
        ({"folds": 1}, [], "at least 2 folds"),
        ({"folds": 299}, [], "n_splits=299 is more than the rows"),
    ],
)
def test_what_cannot_be_used_is_one_line(capsys, csv, changed, more, complaint):
    status, out, err = run(capsys, *asked(csv, *more, **changed))
    assert (status, out) == (2, "")
    assert err.startswith("fairsvd compare: error: ") and err.count("\n") == 1
    assert complaint in err


def test_files_that_cannot_be_used(capsys, people, tmp_path):
    path = tmp_path / "x.csv"
    assert "x.csv" in run(capsys, *asked(path))[2]
    people[["y", "sex"]].to_csv(path, index=False)
    assert "no column is left for features" in run(capsys, *asked(path))[2]
    people.assign(sex=people["sex"].where(people.index > 1)).to_csv(path, index=False)
    assert "column sex is empty in 2 rows" in run(capsys, *asked(path))[2]
    people.iloc[:0].to_csv(path, index=False)
    assert "headings but no rows" in run(capsys, *asked(path))[2]


def test_what_is_not_asked_for_has_the_defaults_that_the_help_tells():
    from fairsvd.cli import make_parser

    parse = make_parser().parse_args
    rows = ["x.csv", "--target", "y", "--sensitive", "g"]
    wanted = {
        ("compare", *rows): {
            "constraints": "equalized_odds", "tolerance": 0.05, "folds": 5, "seed": 0,
            "keep_sensitive": False, "pos_label": None, "jobs": None, "out": None, "plot": None,
        },
        ("audit", *rows, "--pred", "p"): {
            "missing_group": "raise", "pos_label": None, "out": None, "seed": 0,
        },
        ("demo",): {
            "data": "auto", "constraint": "equalized_odds", "tolerance": 0.05, "max_steps": 300,
            "seed": 0,
        },
    }  # fmt: skip
    for argv, values in wanted.items():
        found = vars(parse(argv))
        assert {name: found[name] for name in values} == values
    assert str(parse(["demo"]).plot) == "fairsvd-demo.png"


def test_the_default_methods_are_known():
    from fairsvd.cli import make_parser

    options = make_parser().parse_args(["compare", "x.csv", "--target", "y", "--sensitive", "g"])
    assert set(options.methods.split(",")) <= set(names())


def test_the_no_harm_protocol_in_text_and_json(capsys, people, csv):
    more = ["--reference", "fine-tuning", "--constraints", "equalized_odds,demographic_parity"]
    status, text, _ = run(capsys, *asked(csv, *more))
    assert status == 0
    read = pd.read_csv(csv)
    expected = compare(
        PEERS.split(","),
        read.drop(columns=["y", "sex"]),
        read["y"],
        read["sex"],
        cv=2,
        constraints=["equalized_odds", "demographic_parity"],
        reference="fine-tuning",
        random_state=0,
    )
    # The last table of the text is that of the last constraint's quadrants.
    judged = expected.no_harm("demographic_parity").droplevel("constraint")
    section = text[text.index("demographic parity, against fine-tuning") :]
    printed = {row[0]: row[1:] for row in tables(section)["method"][1:]}
    assert list(printed) == judged.index.tolist()
    for name, row in judged.iterrows():
        assert printed[name][0] == row["quadrant"]
        assert printed[name][2] == f"{row['groups_lost']:.3f}"
        for place, what in ((3, "utility"), (4, "fairness")):
            mean, low, high = (row[f"{what}_change{end}"] for end in ("", "_low", "_high"))
            assert printed[name][place] == f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
    assert text.index("equalized odds, against fine-tuning") < text.index("demographic parity, me")
    assert "A method helps without harm where both go up and no group loses." in text

    found = json.loads(run(capsys, *asked(csv, *more, "--json"))[1])["no_harm"]
    assert found["reference"] == "fine-tuning"
    table = expected.no_harm().reset_index()
    assert [row["quadrant"] for row in found["methods"]] == table["quadrant"].tolist()
    assert [row["fairness_change"] for row in found["methods"]] == pytest.approx(
        table["fairness_change"].tolist()
    )
    for name, part in table[table["quadrant"] != "reference"].groupby("constraint"):
        counts = found["counts"][name]
        assert {q: c["methods"] for q, c in counts.items()} == dict(part["quadrant"].value_counts())
        assert sum(c["clear"] for c in counts.values()) == part["clear"].sum()
        free = (part["groups_lost"] == 0).sum()
        assert sum(c["no_loss"] for c in counts.values()) == free
        for quadrant, each in counts.items():
            clear = f"{each['clear']} clear, {each['no_loss']} without a loss"
            assert f"{quadrant}: {each['methods']} ({clear})" in text


def test_without_a_reference_nothing_is_said_of_harm_against_one(capsys, csv):
    text = run(capsys, *asked(csv, methods="threshold"))[1]
    assert "against" not in text and "quadrant" not in text
    out = run(capsys, *asked(csv, "--json", methods="threshold"))[1]
    assert "no_harm" not in json.loads(out)
    err = run(capsys, *asked(csv, "--reference", "tuning", methods="threshold"))[2]
    assert "reference='tuning' is no method of the comparison" in err
