"""The command line: what it prints, what it writes, and what it says to bad input."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    equalized_odds_ratio,
)

from cli_output import RATES, run, stop, tables
from fairsvd import __version__
from fairsvd._rng import stage_rng
from fairsvd.cli import CONSTRAINTS, main
from fairsvd.objective import GAPS, count_table
from fairsvd.report import gap_estimates

# The program


def test_the_installed_command_is_main():
    (command,) = [e for e in entry_points(group="console_scripts") if e.name == "fairsvd"]
    assert command.load() is main


def test_version(capsys):
    assert stop(capsys, "--version") == (0, f"fairsvd {__version__}\n", "")


def test_help_does_not_wait_for_torch():
    code = (
        "import sys, fairsvd.cli as c; c.make_parser().format_help(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_the_constraints_are_the_gaps():
    assert CONSTRAINTS == GAPS


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "COMMAND"),
        (["prove"], "invalid choice: 'prove'"),
        (["audit", "x.csv", "--target", "y"], "--sensitive, --pred"),
        (["demo", "--constraint", "fair"], "invalid choice: 'fair'"),
        (["demo", "--seed", "one"], "invalid int value"),
    ],
)
def test_arguments_that_are_not_understood(capsys, argv, complaint):
    status, out, err = stop(capsys, *argv)
    assert (status, out) == (2, "")
    assert complaint in err


# audit


@pytest.fixture
def people() -> pd.DataFrame:
    """Draw 2,000 people; one race is rare."""
    rng = np.random.default_rng(11)
    sex = rng.choice(["f", "m"], 2000)
    race = rng.choice(["a", "b", "c"], 2000, p=[0.6, 0.38, 0.02])
    y = rng.integers(2, size=2000)
    pred = (y + 0.5 * (sex == "m") + rng.normal(size=2000) > 0.8).astype(int)
    return pd.DataFrame({"y": y, "sex": sex, "race": race, "pred": pred, "score": rng.random(2000)})


@pytest.fixture
def csv(people, tmp_path):
    path = tmp_path / "people.csv"
    people.to_csv(path, index=False)
    return path


def asked(path: object, sensitive: str = "sex", *, pred: str = "pred") -> list[object]:
    return ["audit", path, "--target", "y", "--sensitive", sensitive, "--pred", pred]


def test_audit_is_fairlearns_metric_frame(capsys, people, csv, tmp_path):
    path = tmp_path / "table.csv"
    status, out, err = run(capsys, *asked(csv, "sex,race"), "--out", path)
    assert (status, err) == (0, "")
    features = people[["sex", "race"]]
    frame = MetricFrame(
        metrics=RATES, y_true=people.y, y_pred=people.pred, sensitive_features=features
    ).by_group
    written = pd.read_csv(path, index_col=["sex", "race"])
    pd.testing.assert_frame_equal(written[list(RATES)], frame, atol=1e-12, check_dtype=False)
    assert written["n"].to_dict() == features.value_counts().to_dict()
    printed = tables(out)["sex"]
    assert printed[0] == ["sex", "race", "n", "selection rate", "tpr", "fpr", "accuracy"]
    for row in printed[1:]:
        group = frame.loc[tuple(row[:2])]
        assert row[3:] == [f"{group[name]:.3f}" for name in RATES]
    assert str(path) in out


def test_audit_prints_the_gaps_with_interval_floor_and_ratio(capsys, people, csv):
    status, out, _ = run(capsys, *asked(csv))
    assert status == 0
    headings, *rows = tables(out)["gap"]
    assert headings == ["gap", "difference", "low", "high", "upper", "noise floor", "ratio"]
    found = {row[0]: dict(zip(headings[1:], map(float, row[1:]), strict=True)) for row in rows}
    assert list(found) == [name.replace("_", " ") for name in GAPS]
    data = people.y, people.pred
    groups = {"sensitive_features": people.sex}
    expected = demographic_parity_difference(*data, **groups)
    assert found["demographic parity"]["difference"] == pytest.approx(expected, abs=5e-4)
    odds = found["equalized odds"]
    assert odds["difference"] == pytest.approx(equalized_odds_difference(*data, **groups), abs=5e-4)
    assert odds["ratio"] == pytest.approx(equalized_odds_ratio(*data, **groups), abs=5e-4)
    for row in found.values():
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["low"] <= row["upper"] <= row["high"]
        assert 0 < row["noise floor"] < 0.1


def test_audits_intervals_are_those_of_its_seed(capsys, people, csv):
    _, out, _ = run(capsys, *asked(csv), "--seed", 7)
    group = (people.sex == "m").to_numpy().astype(int)
    counts = count_table(people.y.to_numpy(), people.pred.to_numpy(), group, 2, 2)
    wanted = gap_estimates(counts, 1, stage_rng(7, "bootstrap"))
    shown = {row[0].replace(" ", "_"): row[1:6] for row in tables(out)["gap"][1:]}
    for name, row in wanted.iterrows():
        columns = ["difference", "low", "high", "upper", "noise_floor"]
        assert shown[name] == [f"{row[column]:.3f}" for column in columns]


def test_audit_warns_of_cells_below_100_rows_and_names_six(capsys, tmp_path):
    """Group k has 94 + k rows of each label: eight groups, of which the first six are small."""
    path = tmp_path / "cells.csv"
    sizes = {f"g{k}": 94 + k for k in range(8)}
    frame = pd.DataFrame(
        [(y, name) for name, size in sizes.items() for y in (0, 1) for _ in range(size)],
        columns=["y", "sex"],
    )
    frame.assign(pred=frame.index % 2).to_csv(path, index=False)
    (line,) = [part for part in run(capsys, *asked(path))[1].splitlines() if "few rows" in part]
    assert [f"group g{k}): {94 + k}" in line for k in range(8)] == [True] * 3 + [False] * 5
    assert " and 6 more. Below about 100 rows" in line


def test_audit_repeats_itself_for_a_seed(capsys, csv):
    first, second, other = (run(capsys, *asked(csv), "--seed", seed)[1] for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_audit_names_small_cells(capsys, people, csv):
    (line,) = [
        part
        for part in run(capsys, *asked(csv, "sex,race"))[1].splitlines()
        if part.startswith("Warning: few rows")
    ]
    size = int(((people.y == 1) & (people.sex == "m") & (people.race == "c")).sum())
    assert f"(label 1, group m/c): {size}" in line
    assert "m/a" not in line
    assert "Warning" not in run(capsys, *asked(csv))[1]


@pytest.mark.parametrize("label", ["0", "0.0"])
def test_audit_takes_the_positive_label(capsys, people, csv, label):
    _, out, _ = run(capsys, *asked(csv), "--pos-label", label)
    rate = (people.pred[people.sex == "f"] == 0).mean()
    assert tables(out)["sex"][1][2] == f"{rate:.3f}"
    assert "positive label 0" in out


def test_audit_takes_labels_that_are_text(capsys, people, tmp_path):
    path = tmp_path / "text.csv"
    names = {0: "reject", 1: "admit"}
    people.assign(y=people.y.map(names), pred=people.pred.map(names)).to_csv(path, index=False)
    _, out, _ = run(capsys, *asked(path), "--pos-label", "admit")
    rate = people.pred[people.sex == "f"].mean()
    assert tables(out)["sex"][1][2] == f"{rate:.3f}"


def test_audit_takes_several_classes(capsys, people, tmp_path):
    path = tmp_path / "three.csv"
    people.assign(y=people.y + people.index % 2, pred=people.pred).to_csv(path, index=False)
    status, out, _ = run(capsys, *asked(path))
    assert status == 0
    assert "means over 3 labels" in out


def test_audit_takes_a_single_label(capsys, people, tmp_path):
    path = tmp_path / "one.csv"
    people.assign(y=0, pred=0).to_csv(path, index=False)
    status, out, _ = run(capsys, *asked(path))
    assert status == 0
    assert "positive label 1" in out
    assert "(label 1, group f): 0" in out
    assert tables(out)["gap"][2] == ["equal opportunity", *"------"]


@pytest.fixture
def incomplete(people, tmp_path):
    path = tmp_path / "incomplete.csv"
    people.loc[[3, 8], "sex"] = None
    people.to_csv(path, index=False)
    return path


def test_audit_leaves_rows_without_a_group_out_when_told(capsys, incomplete):
    _, out, _ = run(capsys, *asked(incomplete), "--missing-group", "ignore")
    assert "1,998 rows (2 without a group left out)" in out
    _, out, _ = run(capsys, *asked(incomplete), "--missing-group", "own_group")
    assert [row[:2] for row in tables(out)["sex"]][3] == ["missing", "2"]


def refused(capsys, *argv: object) -> str:
    """Run what has to fail: the one line on stderr."""
    status, out, err = run(capsys, *argv)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and err.startswith(f"fairsvd {argv[0]}: error: ")
    return err


def test_audit_names_columns_that_are_not_there(capsys, csv):
    err = refused(capsys, *asked(csv, "sex,rage"))
    assert f"{csv}: there is no column rage; it has y, sex, race, pred, score" in err


def test_audit_names_a_file_that_is_not_there(capsys, tmp_path):
    assert "nothing.csv" in refused(capsys, *asked(tmp_path / "nothing.csv"))


def test_audit_names_a_table_that_cannot_be_written(capsys, csv, tmp_path):
    folder = tmp_path / "nowhere"
    assert str(folder) in refused(capsys, *asked(csv), "--out", folder / "x.csv")


def test_audit_refuses_empty_cells(capsys, people, incomplete, tmp_path):
    err = refused(capsys, *asked(incomplete))
    assert "column sex is empty in 2 rows" in err and "--missing-group" in err
    path = tmp_path / "gaps.csv"
    people.assign(pred=people.pred.where(people.index != 5)).to_csv(path, index=False)
    assert "column pred is empty in 1 rows, first in data row 6" in refused(capsys, *asked(path))


def test_audit_refuses_scores(capsys, csv):
    err = refused(capsys, *asked(csv, pred="score"))
    assert "column score" in err and "threshold" in err


def test_audit_refuses_labels_of_different_types(capsys, people, tmp_path):
    path = tmp_path / "mixed.csv"
    people.assign(pred=people.pred.map({0: "no", 1: "yes"})).to_csv(path, index=False)
    assert "columns y and pred hold labels of different types" in refused(capsys, *asked(path))


def test_audit_refuses_what_leaves_nothing_to_compare(capsys, people, csv, tmp_path):
    assert "--sensitive names no column" in refused(capsys, *asked(csv, ","))
    assert "--positive 7" in refused(capsys, *asked(csv), "--pos-label", "7")
    path = tmp_path / "women.csv"
    people[people.sex == "f"].to_csv(path, index=False)
    assert "single group 'f'" in refused(capsys, *asked(path))
    for name, text in {"empty.csv": "", "headings.csv": "y,sex,pred\n"}.items():
        (tmp_path / name).write_text(text)
        assert name in refused(capsys, *asked(tmp_path / name))
