"""A model by the command line: edited, kept in a folder, used, reported on and exported."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import fairsvd
from cli_output import run, tables
from helpers import IGNORE_SMALL_DATA

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

N = 400


def draw() -> pd.DataFrame:
    """People of two groups; with text, empty cells, an identifier and rows without a group."""
    rng = np.random.default_rng(5)
    sex = rng.choice(["f", "m"], N).astype(object)
    hours = rng.normal(40, 8, N).round(1)
    job = rng.choice(["clerk", "smith", "cook, or the like"], N)
    score = 0.1 * (hours - 40) + (job == "smith") + 0.8 * (sex == "m") + rng.normal(size=N)
    sex[[7, 9]] = None
    hours[[3, 4]] = np.nan
    frame = {"person": np.arange(N), "hours worked": hours, "job": job, "sex": sex}
    return pd.DataFrame(frame | {"income": np.where(score > 0.9, "high", "low")})


ASKED = ["--target", "income", "--sensitive", "sex", "--positive", "high"]
QUICK = ["--method", "GapFineTuner", "--missing-group", "ignore"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Edit a file once: the folder of the model, and the file."""
    folder = tmp_path_factory.mktemp("models")
    draw().to_csv(folder / "people.csv", sep=";", index=False)
    arguments = ["edit", folder / "people.csv", *ASKED, *QUICK, "--out", folder / "model"]
    about = ["--intended-use", "grants <b>", "--owner", "the office"]
    from fairsvd.cli import main

    assert main([str(each) for each in [*arguments, *about]]) == 0
    return folder / "model", folder / "people.csv"


def test_the_folder_has_all_that_predict_needs(model):
    folder, _ = model
    names = {path.name for path in folder.iterdir()}
    reports = {"report.html", "report.md", "report.json", "report-ll144.csv"}
    assert names == {"card.json", "model.safetensors", *reports}
    card = json.loads((folder / "card.json").read_text())
    assert (card["numbers"], card["categories"]) == (["hours worked"], ["job"])
    assert (card["classes"], card["positive"]) == (["high", "low"], "high")
    assert card["left_out"]["person"].startswith("an identifier")
    # 398 rows have a group; three tenths of every cell are held out.
    assert sum(card["rows"].values()) == 398 and card["rows"]["held_out"] == pytest.approx(
        119, abs=2
    )
    pipe = fairsvd.load(folder / "model.safetensors")
    assert card["threshold"] == pipe[-1].threshold_
    page = (folder / "report.html").read_text()
    assert "grants &lt;b&gt;" in page and "the office" in page


def test_predict_needs_no_groups_and_gives_what_the_model_gives(model, capsys, tmp_path):
    folder, _ = model
    new = draw().drop(columns=["income", "sex", "person"]).head(20)
    new.to_csv(tmp_path / "new.csv", index=False)
    out = tmp_path / "predictions.csv"
    status, text, err = run(capsys, "predict", folder, tmp_path / "new.csv", "--out", out)
    assert (status, err) == (0, "")
    written = pd.read_csv(out)
    pipe = fairsvd.load(folder / "model.safetensors")
    shares = pipe.predict_proba(new)
    assert written["prediction"].tolist() == pipe.predict(new).tolist()
    assert written["probability of high"].to_numpy() == pytest.approx(shares[:, 0], abs=1e-12)
    shown = tables(text)["row"]
    assert len(shown) == 1 + 10 and shown[1][:2] == ["1", written["prediction"][0]]


def test_truth_values_are_labels_in_the_table_too(capsys, tmp_path):
    frame = draw().dropna()
    frame.assign(income=frame["income"] == "high").to_csv(tmp_path / "a.csv", index=False)
    asked = ["--target", "income", "--sensitive", "sex", "--method", "BlindPostProcessor"]
    assert run(capsys, "edit", tmp_path / "a.csv", *asked, "--out", tmp_path / "m")[0] == 0
    _, text, _ = run(capsys, "predict", tmp_path / "m", tmp_path / "a.csv")
    assert {row[1] for row in tables(text)["row"]} == {"prediction", "True", "False"}


def test_predict_tells_what_is_new_and_what_is_missing(model, capsys, tmp_path):
    folder, _ = model
    new = draw().head(5).assign(job="astronaut")
    new.to_csv(tmp_path / "new.csv", index=False)
    status, text, _ = run(capsys, "predict", folder, tmp_path / "new.csv")
    assert status == 0
    assert "Warning: column job: 5 rows hold values that the model does not know: astronaut" in text
    new.drop(columns="job").to_csv(tmp_path / "new.csv", index=False)
    status, out, err = run(capsys, "predict", folder, tmp_path / "new.csv")
    assert (status, out) == (2, "") and "there is no column job" in err
    new.assign(**{"hours worked": "many"}).to_csv(tmp_path / "new.csv", index=False)
    err = run(capsys, "predict", folder, tmp_path / "new.csv")[2]
    assert "column hours worked holds 'many', where a number is wanted" in err


def test_report_gives_the_saved_one_or_a_new_one(model, capsys, tmp_path):
    folder, people = model
    page, measures = tmp_path / "r.html", tmp_path / "r.json"
    status, _, _ = run(capsys, "report", folder, "--html", page)
    assert status == 0
    assert page.read_text() == (folder / "report.html").read_text()
    asked = ["--json", measures, "--markdown", tmp_path / "r.md", "--owner", "somebody else"]
    status, _, _ = run(capsys, "report", folder, people, *asked)
    assert status == 0
    content = json.loads(measures.read_text())
    everybody = [m for m in content["measures"] if m["slice"] == "all rows"]
    assert {m["n"] for m in everybody} == {398}
    assert content["about"]["owner"] == "somebody else"
    assert content["about"]["intended_use"] == "grants <b>"
    pipe, rows = fairsvd.load(folder / "model.safetensors"), draw().dropna(subset=["sex"])
    accuracy = (pipe.predict(rows[["hours worked", "job"]]) == rows["income"]).mean()
    (found,) = [m for m in everybody if (m["metric"], m["state"]) == ("accuracy", "after")]
    assert found["value"] == pytest.approx(accuracy, abs=1e-12)
    weights = np.arange(len(draw())) % 3
    draw().assign(times=weights).to_csv(tmp_path / "weighted.csv", sep=";", index=False)
    asked = ["--json", measures, "--weights", "times"]
    status, _, _ = run(capsys, "report", folder, tmp_path / "weighted.csv", *asked)
    assert status == 0
    everybody = json.loads(measures.read_text())["measures"]
    (found,) = [
        m
        for m in everybody
        if (m["metric"], m["state"], m["slice"]) == ("accuracy", "after", "all rows")
    ]
    right = pipe.predict(rows[["hours worked", "job"]]) == rows["income"]
    wanted = np.average(right, weights=weights[rows.index])
    assert found["value"] == pytest.approx(wanted, abs=1e-9) != pytest.approx(accuracy, abs=1e-6)


def test_export_predicts_without_fairsvd(model, capsys, tmp_path):
    import onnxruntime

    folder, _ = model
    status, _, _ = run(capsys, "export", folder, "--onnx", tmp_path / "net.onnx")
    assert status == 0
    about = json.loads((tmp_path / "net.json").read_text())
    rows = draw().head(50)
    columns = []
    for column in about["columns"]:
        values = rows[column["column"]]
        if "one_hot" in column:
            columns += [(values == name).astype(float) for name in column["one_hot"]]
        else:
            scaled = values.fillna(column["empty"]) - column["minus"]
            columns.append(scaled / column["divided_by"])
    assert len(about["inputs"]) == len(columns)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    entry = session.get_inputs()[0].name
    (scores,) = session.run(None, {entry: np.column_stack(columns).astype(np.float32)})
    predicted = np.array(about["classes"])[scores.argmax(axis=1)]
    pipe = fairsvd.load(folder / "model.safetensors")
    assert predicted.tolist() == pipe.predict(rows[["hours worked", "job"]]).tolist()


def test_the_network_of_a_model_can_be_edited_again(model, capsys, tmp_path):
    folder, people = model
    again = ["edit", people, *ASKED, *QUICK, "--network", folder, "--out", tmp_path / "second"]
    status, _, _ = run(capsys, *again)
    assert status == 0
    first, second = (
        fairsvd.load(path / "model.safetensors") for path in (folder, tmp_path / "second")
    )
    given = second[-1].network.state_dict()
    for name, value in first[-1].module_.state_dict().items():
        assert (given[name] == value).all()
    err = run(capsys, *again, "--overwrite", "--drop", "job")[2]
    assert "its features are hours worked, job" in err


def test_a_folder_is_not_overwritten_unless_told(model, capsys, tmp_path):
    folder, people = model
    edit = ["edit", people, *ASKED, *QUICK, "--out"]
    assert "holds a model: pass --overwrite" in run(capsys, *edit, folder)[2]
    (tmp_path / "letters.txt").write_text("dear")
    assert "holds other files" in run(capsys, *edit, tmp_path, "--overwrite")[2]
    assert (tmp_path / "letters.txt").read_text() == "dear"


def test_a_folder_that_was_altered_is_refused(model, capsys, tmp_path):
    folder, people = model
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "model.safetensors").open("ab") as file:
        file.write(b" ")
    assert (
        "is not the file that card.json belongs to" in run(capsys, "predict", tmp_path, people)[2]
    )
    assert (
        "wanted a folder that fairsvd edit wrote"
        in run(capsys, "predict", tmp_path / "none", people)[2]
    )


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--method", "FairLRF"], "Did you mean 'FairLRFTransformer'"),
        (["--held-out", "1"], "--held-out 1: wanted a share between 0 and 1"),
        (["--missing-group", "raise"], "column sex is empty in 2 rows"),
        (["--positive", "rich"], "--positive rich is not among the labels high, low"),
        (["--drop", "salary"], "there is no column salary"),
    ],
)
def test_what_cannot_be_edited_is_one_line(model, capsys, tmp_path, more, complaint):
    _, people = model
    status, out, err = run(capsys, "edit", people, *ASKED, *QUICK, "--out", tmp_path / "m", *more)
    assert (status, out) == (2, "")
    assert complaint in err and err.count("\n") == 1
    assert not (tmp_path / "m").exists()
