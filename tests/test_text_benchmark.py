"""The benchmark of tweets: its split, its table, and what it says of the editors' gaps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmark_files import load

pytestmark = pytest.mark.slow


@pytest.fixture
def tweets(tmp_path, monkeypatch):
    """Two hundred embeddings, written as the real ones are."""
    rng = np.random.default_rng(0)
    toxic, dialect = rng.integers(2, size=200), np.array(["AAE", "WAE"])[np.arange(200) % 2]
    E = rng.normal(size=(200, 4)) + toxic[:, None]
    (tmp_path / "hate_dialect").mkdir()
    np.savez(
        tmp_path / "hate_dialect" / "davidson_minilm.npz",
        E=E.astype(np.float16),
        toxic=toxic.astype(np.int8),
        dialect=dialect,
    )
    monkeypatch.setenv("FAIRSVD_DATA", str(tmp_path))
    return load("fairness.bench_text")


def test_development_runs_see_no_test_row(tweets):
    problem, dev = (tweets.load_tweets(3, dev) for dev in (False, True))
    parts = [problem.train, problem.validation, problem.test]
    assert [len(part.y) for part in parts] == [98, 42, 60]
    assert problem.groups == ("AAE", "WAE")
    assert problem.train.X.dtype == np.float32
    tested = {row.tobytes() for row in problem.test.X}
    used = [row.tobytes() for part in (dev.train, dev.validation, dev.test) for row in part.X]
    assert len(used) == 140 and not tested & set(used)


def test_gaps_are_compared_over_the_seeds_that_both_have(tweets):
    rows = {
        ("own", 0): {"equalized_odds_difference": 0.1, "balanced_accuracy": 0.8},
        ("own", 1): {"equalized_odds_difference": 0.2, "balanced_accuracy": 0.7},
        ("own", 2): {"equalized_odds_difference": 0.9, "balanced_accuracy": 0.1},
        ("other", 0): {"equalized_odds_difference": 0.3, "balanced_accuracy": 0.9},
        ("other", 1): {"equalized_odds_difference": 0.3, "balanced_accuracy": 0.8},
    }
    assert tweets.compared(rows, "own", "other") == ("0.50", "0.100")
    assert tweets.compared(rows, "none", "other") == ("", "")


def test_it_runs_and_is_resumed(tweets, tmp_path, capsys):
    base = ["--seeds", "1", "--out", str(tmp_path / "rows.jsonl")]
    tweets.main([*base, "--methods", "untouched"])
    more = ["--resume", "--table", str(tmp_path / "table.md")]
    tweets.main([*base, *more, "--methods", "untouched,untouched-utility"])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["method"], row["error"]) for row in rows] == [
        ("untouched", None),
        ("untouched-utility", None),
    ]
    text = (tmp_path / "table.md").read_text()
    assert text.count("| untouched,") == 2
    assert "| editor | ratio, threshold .5 | lost, threshold .5 |" in text
