"""The benchmark of sentences from templates: their shares, the rows, and that it runs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmark_files import load

pytestmark = [
    # Networks are trained.
    pytest.mark.slow,
    # Few rows, few passes.
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.FairsvdWarning"),
]


def test_only_where_the_network_was_trained_do_doubtful_words_depend_on_the_group():
    templates = load("fairness.templates")
    for shares in (templates.BIASED, templates.EVEN):
        texts, unkind, group = templates.draw(4000, shares, seed=0)
        doubtful = np.array([any(f" {w} " in t for w in templates.DOUBTFUL) for t in texts])
        assert doubtful.mean() == pytest.approx(templates.DOUBT, abs=0.04)
        for g in (0, 1):
            own = group == g
            assert unkind[own & doubtful].mean() == pytest.approx(shares[g], abs=0.05)
            assert unkind[own & ~doubtful].mean() == pytest.approx(0.5, abs=0.05)
            others = templates.WHO[1 - g]
            assert not any(
                f" {w} " in t for t, o in zip(texts, own, strict=True) if o for w in others
            )
        telling = [sum(end in t for ends in templates.ENDINGS for end in ends) for t in texts]
        assert set(telling) == {0, 1}
        assert np.mean(np.array(telling)[doubtful]) == pytest.approx(templates.TELLING, abs=0.05)
        assert not np.any(np.array(telling)[~doubtful])


def test_every_word_has_a_number_and_the_rows_are_split_by_cell():
    pytest.importorskip("transformers")
    templates = load("fairness.templates")
    _, tokenise = templates.miniature(0)
    texts, _, _ = templates.draw(500, templates.EVEN, seed=1)
    ids = tokenise(texts)
    assert ids.dtype == np.int64
    assert [(row != 0).sum() for row in ids] == [len(text.split()) for text in texts]
    problem, trained = templates.load_sentences(0, tokenise, 400)
    sizes = [len(part.y) for part in (problem.train, problem.validation, problem.test)]
    assert sizes == [196, 84, 120]
    assert len(trained.y) == templates.N_TRAINED
    assert set(zip(problem.test.y, problem.test.g, strict=True)) == {
        (0, 0), (0, 1), (1, 0), (1, 1)
    }  # fmt: skip


def test_it_runs_is_resumed_and_writes_a_table(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    bench = load("fairness.bench_attention")
    monkeypatch.setattr("benchmarks.fairness.templates.N_TRAINED", 200)
    monkeypatch.setitem(
        bench.READERS, "small", bench.READERS["small"]._replace(epochs=1, n_rows=200)
    )
    base = ["--seeds", "1", "--out", str(tmp_path / "rows.jsonl")]
    bench.main([*base, "--methods", "untouched"])
    more = ["--resume", "--table", str(tmp_path / "table.md")]
    bench.main([*base, *more, "--methods", "untouched,temper-model"])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["untouched", "temper-model"]
    assert [row["error"] for row in rows] == [None, None]
    written = (tmp_path / "table.md").read_text()
    assert "### small" in written and "| attention temperatures, one |" in written
