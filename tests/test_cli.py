"""The command line: what it prints, what it writes, and what it says to bad input."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from importlib.metadata import entry_points

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    equalized_odds_ratio,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from sklearn.metrics import accuracy_score

from fairsvd import FairLRFTransformer, __version__
from fairsvd.cli import CONSTRAINTS, _demo, main
from fairsvd.cli._tasks import Rows, Task, load_task
from fairsvd.datasets import load_biased_digits
from fairsvd.objective import GAPS

RATES = {
    "selection_rate": selection_rate,
    "tpr": true_positive_rate,
    "fpr": false_positive_rate,
    "accuracy": accuracy_score,
}


def run(capsys, *argv: object) -> tuple[int, str, str]:
    """Run the command line: its status, and what it printed on stdout and on stderr."""
    status = main([str(argument) for argument in argv])
    return status, *capsys.readouterr()


def stop(capsys, *argv: str) -> tuple[int, str, str]:
    """The same where argparse ends the program."""
    with pytest.raises(SystemExit) as end:
        main(list(argv))
    return end.value.code, *capsys.readouterr()


def tables(text: str) -> dict[str, list[list[str]]]:
    """Rows of every printed table by the first word of its headings, cells split at two spaces."""
    found: dict[str, list[list[str]]] = {}
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line and set(line) <= {"-", " "} and "--" in line:
            widths = [len(rule) for rule in line.split("  ")]
            starts = np.cumsum([0, *(w + 2 for w in widths)])
            end = next((k for k in range(i + 1, len(lines)) if not lines[k]), len(lines))
            cut = [
                [row[a : a + w].strip() for a, w in zip(starts[:-1], widths, strict=True)]
                for row in [lines[i - 1], *lines[i + 1 : end]]
            ]
            found[cut[0][0]] = cut
    return found


# The program


def test_the_installed_command_is_main():
    (command,) = [e for e in entry_points(group="console_scripts") if e.name == "fairsvd"]
    assert command.load() is main


def test_version(capsys):
    assert stop(capsys, "--version") == (0, f"fairsvd {__version__}\n", "")


def test_help_does_not_wait_for_torch():
    code = "import sys, fairsvd.cli as c; c._parser().format_help(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_the_constraints_are_the_gaps():
    assert CONSTRAINTS == GAPS


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "COMMAND"),
        (["prove"], "invalid choice: 'prove'"),
        (["audit", "x.csv", "--target", "y"], "--pred, --sensitive"),
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
    assert headings == ["gap", "difference", "low", "high", "noise floor", "ratio"]
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
        assert 0 < row["noise floor"] < 0.1


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
    assert tables(out)["gap"][2] == ["equal opportunity", *"-----"]


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
    assert "--pos-label 7" in refused(capsys, *asked(csv), "--pos-label", "7")
    path = tmp_path / "women.csv"
    people[people.sex == "f"].to_csv(path, index=False)
    assert "single group 'f'" in refused(capsys, *asked(path))
    for name, text in {"empty.csv": "", "headings.csv": "y,sex,pred\n"}.items():
        (tmp_path / name).write_text(text)
        assert name in refused(capsys, *asked(tmp_path / name))


# demo


@pytest.fixture
def small_task(monkeypatch) -> Task:
    """Put rows on which one group is labelled positive more often in the place of the demo's."""
    rng = np.random.default_rng(3)
    group = rng.integers(2, size=3000)
    X = rng.normal(size=(3000, 4)).astype(np.float32)
    X[:, 1] += group
    labels = (X[:, 0] + group + rng.normal(size=3000) > 0.5).astype(np.int64)
    y = pd.Series(labels, index=pd.Index(np.array(["p", "q"])[group], name="kind"))
    task = Task(("Data     drawn",), Rows(X[:1500], y[:1500]), Rows(X[1500:], y[1500:]), [])
    monkeypatch.setattr(_demo, "load_task", lambda name, seed: task)
    return task


@pytest.fixture
def demo(capsys, small_task, tmp_path):
    """Run the demo on the small task."""
    return lambda *argv: run(
        capsys, "demo", "--plot", tmp_path / "plots" / "p.png", "--max-steps", 40, *argv
    )


def test_the_demo_shows_and_draws_what_changed(demo, small_task, tmp_path):
    status, out, err = demo("--constraint", "demographic_parity", "--tolerance", "0.2")
    assert (status, err) == (0, "")
    found = tables(out)
    path = tmp_path / "plots" / "p.png"
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    for text in ("FairLRF-style", str(path), "MLP", "Chosen: candidate", "Time: training"):
        assert text in out
    held = small_task.held_out.y
    assert [row[:2] for row in found["kind"][1:]] == [
        [name, f"{(held.index == name).sum():,}"] for name in "pq"
    ]
    assert len(found["gap"]) == 1 + len(GAPS)
    assert [row[0] for row in found["layer"][1:]] == ["hidden.0", "hidden.2"]
    untouched, _, edited = found[""][1:]
    assert float(edited[-1]) < float(untouched[-1])


@pytest.mark.filterwarnings("ignore::fairsvd.exceptions.FairsvdWarning")
def test_the_demos_numbers_are_those_of_the_estimator(demo, small_task):
    found = tables(demo("--seed", "4")[1])
    fit, held = small_task.fit, small_task.held_out.y
    shared = {"sensitive_columns": "kind", "random_state": 4}
    plain = FairLRFTransformer(sparsity=0, refine=None, threshold=0.5, **shared)
    plain.fit(fit.X, fit.y)
    edited = FairLRFTransformer(plain.module_, max_steps=40, **shared).fit(fit.X, fit.y)
    X = small_task.held_out.X
    before, after = plain.predict(X), edited.predict(X)
    for k, (name, metric) in enumerate(RATES.items(), start=2):
        for row in found["kind"][1:]:
            own = held.index == row[0]
            values = [metric(held[own], predicted[own]) for predicted in (before, after)]
            assert row[k] == " -> ".join(f"{value:.3f}" for value in values), name
    odds = [
        equalized_odds_difference(held, p, sensitive_features=held.index) for p in (before, after)
    ]
    assert [row[-1] for row in (found[""][1], found[""][3])] == [f"{value:.3f}" for value in odds]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--plot", "plot.txt"], "plot.txt must end in one of"),
        (["--tolerance", "2"], "'tolerance'"),
        (["--max-steps", "0"], "'max_steps'"),
    ],
)
def test_the_demo_refuses_options_out_of_range(demo, argv, complaint):
    status, _, err = demo(*argv)
    assert status == 2
    assert complaint in err and err.count("\n") == 1


@pytest.fixture
def nothing_there(monkeypatch, tmp_path):
    """No data in the user's folder, none in the cache, and no network."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("FAIRSVD_DATA", str(tmp_path))
    monkeypatch.setenv("FAIRSVD_CACHE", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.usefixtures("nothing_there")
def test_the_demo_says_where_adult_would_have_to_be(capsys, tmp_path):
    status, _, err = run(capsys, "demo", "--data", "adult", "--plot", tmp_path / "p.png")
    assert status == 2
    assert "adult/adult.data was not found" in err and err.count("\n") == 1


@pytest.mark.usefixtures("nothing_there")
def test_digits_stand_in_where_adult_is_not(monkeypatch):
    task = load_task("auto", 0)
    assert "digits" in task.about[0]
    monkeypatch.delenv("FAIRSVD_DATA")
    assert "digits" in load_task("auto", 0).about[0]


def test_held_out_digits_are_shown_in_both_colours():
    task = load_task("digits", 0)
    colors = np.asarray(task.held_out.y.index)
    grey = task.held_out.X.sum(axis=1)
    red, blue = (grey[colors == color] for color in ("red", "blue"))
    np.testing.assert_array_equal(red, blue)
    assert task.held_out.X[colors == "red", 2].max() == 0
    assert task.held_out.X[colors == "blue", 0].max() == 0
    np.testing.assert_array_equal(
        task.held_out.y[colors == "red"].to_numpy(), task.held_out.y[colors == "blue"].to_numpy()
    )
    assert len(task.fit.y) + len(red) == len(load_biased_digits().target)
    seen = {image.tobytes() for image in task.fit.X.sum(axis=1)}
    assert sum(image.tobytes() in seen for image in red) == 0
    aligned = (np.asarray(task.fit.y.index) == "blue") == (task.fit.y.to_numpy() == 1)
    assert aligned.mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.usefixtures("data_folder")
def test_adult_is_split_within_cells_and_sex_is_no_feature():
    task = load_task("auto", 0)
    assert "Adult" in task.about[0]
    assert "sex" not in task.fit.X.columns and "race" in task.fit.X.columns
    assert not set(task.fit.X.index) & set(task.held_out.X.index)
    shares = [
        rows.y.groupby(rows.y.index).agg(["mean", "size"]) for rows in (task.fit, task.held_out)
    ]
    np.testing.assert_allclose(shares[0]["mean"], shares[1]["mean"], atol=1e-3)
    np.testing.assert_allclose(shares[1]["size"] / 3, shares[0]["size"] / 7, rtol=1e-3)


@pytest.mark.slow
def test_the_demo_on_digits(capsys, tmp_path):
    plot = tmp_path / "digits.png"
    status, out, err = run(capsys, "demo", "--data", "digits", "--plot", plot, "--max-steps", 120)
    assert (status, err) == (0, "")
    assert plot.stat().st_size > 10_000
    untouched, _, edited = tables(out)[""][1:]
    assert float(edited[-1]) < float(untouched[-1])
    assert float(edited[3]) > float(untouched[3])  # the worst cell


@pytest.mark.slow
@pytest.mark.usefixtures("data_folder")
def test_the_demo_on_adult_in_its_own_process(tmp_path):
    command = [sys.executable, "-W", "error", "-c", "from fairsvd.cli import main; exit(main())"]
    done = subprocess.run(
        [*command, "demo", "--data", "adult", "--plot", "a.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MPLBACKEND": "TkAgg"},  # no window is there, and none is needed
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    untouched, _, edited = tables(done.stdout)[""][1:]
    assert float(edited[-1]) < 0.8 * float(untouched[-1])
    assert float(edited[3]) > float(untouched[3])  # the worst cell
