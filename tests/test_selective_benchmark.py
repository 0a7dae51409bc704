"""The benchmark of selective fine-tuning: what it measures, and when a bar counts as missed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmark_files import load
from helpers import IGNORE_SMALL_DATA

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]


@pytest.fixture
def bench():
    return load("fairness.bench_selective")


def test_measures_by_hand(bench):
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    g = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    predicted = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    found = bench.evaluate(predicted, bench.Rows(np.zeros((8, 1)), y, g))
    # Cells 1, 1/2, 1, 1/2: both gaps of either class are 1/2.
    wanted = {"accuracy": 0.75, "cells": 0.75, "worst": 0.5, "gap": 0.5, "spread": 0.25}
    assert found == pytest.approx(wanted)


def test_missed_bars_are_named(bench):
    def rows(**worst):
        return [
            {"section": "planted", "method": name, "worst": value} for name, value in worst.items()
        ]

    assert bench.missed(rows(untouched=0.6, threshold=0.6, default=0.68, full=0.68)) == []
    lines = bench.missed(rows(untouched=0.5, threshold=0.61, default=0.68, full=0.69))
    assert [line.split(", ")[1].split()[0] for line in lines] == ["threshold", "full"]
    assert bench.missed(rows(default=0.1)) == []


def test_a_small_run_writes_its_table_and_goes_on_where_it_stopped(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "N_ROWS", 400)
    out, table = tmp_path / "rows.jsonl", tmp_path / "table.md"
    common = ["--sections", "planted", "--seeds", "1", "--out", str(out), "--table", str(table)]
    bench.main([*common, "--methods", "untouched"])
    first = out.read_text()
    bench.main([*common, "--methods", "untouched,head", "--resume"])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert out.read_text().startswith(first)
    assert [row["method"] for row in rows] == ["untouched", "head"]
    assert rows[0]["tuned"] == 0
    assert "| last layer |" in table.read_text()
