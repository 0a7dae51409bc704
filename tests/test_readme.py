"""The README's own code blocks, one after the other, as a reader runs them."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fairsvd import load
from fairsvd.cli import main
from fairsvd.exceptions import FairsvdWarning
from helpers import mlp, table, trained

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.slow


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


def people() -> pd.DataFrame:
    """Draw a table with text, as a reader may have one."""
    rng = np.random.default_rng(1)
    sex, job = rng.choice(["f", "m"], 500), rng.choice(["cook", "clerk", "smith"], 500)
    hours = rng.normal(40, 8, 500).round(1)
    score = 0.1 * (hours - 40) + (job == "smith") + (sex == "m") + rng.normal(size=500)
    income = np.where(score > 0.7, ">50K", "<=50K")
    return pd.DataFrame({"hours": hours, "job": job, "sex": sex, "income": income})


def run(block: str, names: dict[str, object]) -> dict[str, object]:
    with warnings.catch_warnings():
        # Advice about small data, which this is.
        warnings.simplefilter("ignore", FairsvdWarning)
        exec(compile(block, "README.md", "exec"), names)
    return names


def test_it_is_short_and_its_first_code_comes_early():
    lines = README.splitlines()
    assert len(lines) <= 100
    assert lines.index("```python") <= 20


def test_a_table_with_text_becomes_a_saved_model_and_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    people().to_csv("people.csv", index=False)
    names = run(blocks("python")[0], {})
    assert "<title>Fairness report: FairLRFTransformer" in Path("report.html").read_text()
    again = load("model.safetensors")
    assert again.predict(names["X_new"]).tolist() == names["model"].predict(names["X_new"]).tolist()
    assert "Rates on these rows" in capsys.readouterr().out
    changed = names["report"].table.query("group == 'f'").set_index("state")["selection_rate"]
    assert changed["before"] != changed["after"]


def test_the_commands_do_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    people().to_csv("people.csv", index=False)
    people().drop(columns=["income", "sex"]).to_csv("new.csv", index=False)
    lines = [line for block in blocks("console") for line in block.splitlines()]
    commands = [shlex.split(line)[2:] for line in lines if line.startswith("$ fairsvd ")]
    assert 3 <= len(commands) <= 10
    assert [main(command) for command in commands] == [0] * len(commands)
    assert len(pd.read_csv("predictions.csv")) == 500
    assert Path("report.html").read_text() == Path("model/report.html").read_text()


def test_a_trained_network_comes_back_edited(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = table(400)
    net = trained(mlp(), rows)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    given = {"net": net, "images": rows.X, "labels": rows.y, "groups": rows.group}
    names = run(blocks("python")[1], given)
    assert "The gap in equalized odds was" in capsys.readouterr().out
    state = torch.load("edited.pt", weights_only=True)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in before.items()}
    assert any((state[name] != value).any() for name, value in before.items())
    assert all((net.state_dict()[name] == value).all() for name, value in before.items())
    fresh = mlp()
    fresh.load_state_dict(state)
    with torch.no_grad():
        codes = fresh(torch.tensor(rows.X)).argmax(dim=1).numpy()
    assert codes.tolist() == names["editor"].predict(rows.X).tolist()
