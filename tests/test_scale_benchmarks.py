"""The benchmarks of size and of devices: their rows, their exponents and what they write."""

from __future__ import annotations

import json
import pkgutil
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmark_files import load


def test_made_rows_are_the_same_each_time_and_differ() -> None:
    rows = load("speed.made").MadeRows(70_000, (3, 4, 4), seed=1)
    some = np.stack([rows[i] for i in range(2000)])
    assert some.shape == (2000, 3, 4, 4) and some.dtype == np.float32
    assert np.array_equal(rows[1234], some[1234])
    assert len(np.unique(some.reshape(2000, -1)[:, 0])) > 1990
    assert abs(some.mean()) < 0.05 and abs(some.std() - 1) < 0.05
    assert rows[69_999].shape == (3, 4, 4)


def test_exponent_is_that_of_a_power_law() -> None:
    sizes = [10, 100, 1000]
    assert load("speed.made").exponent(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)


def test_scale_benchmark_writes_a_table_and_json(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bench: ModuleType = load("speed.bench_scale")
    sizes = {"rows": (40, 80, 160), "width": (8, 16), "groups": (2, 64), "classes": (2, 3)}
    monkeypatch.setattr(bench, "SIZES", sizes)
    monkeypatch.setattr(bench, "FIRST_FITTED", 80)
    # Everything runs once, and takes a second whatever its size.
    monkeypatch.setattr(bench, "least_seconds", lambda runs, _: [len([run()]) for run in runs])
    out = tmp_path / "found.json"
    sections = [name for name in bench.SECTIONS if name not in ("memory", "fit")]
    assert bench.main(["--sections", *sections, "--out", str(out)]) == 0
    found = json.loads(out.read_text())["results"]
    assert {line["section"] for line in found} == set(sections)
    bars = {(line["section"], line["bar"]) for line in found if line["bar"] is not None}
    assert bars == {("curvature", 1.1), ("edit", 1.1), ("groups", 1.3)}
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(found)
    monkeypatch.setattr(bench, "peak_in_child", lambda n, _: 4000 * n)
    monkeypatch.setitem(sizes, "memory", (10, 20))
    monkeypatch.setitem(sizes, "fit", (10, 20))
    for seconds, a_row, status in ((1, 300, 0), (1, 400, 1), (301, 300, 1)):
        found = partial(lambda s, b, n, _: [s, b * n], seconds, a_row)
        monkeypatch.setattr(bench, "fit_in_child", found)
        assert bench.main(["--sections", "fit"]) == status
    assert bench.main(["--sections", "memory"]) == 1  # 4,000 bytes a row are too many


def test_gpu_benchmark_times_steps_where_it_is_told_to(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bench: ModuleType = load("speed.bench_gpu")
    monkeypatch.setattr(bench, "STEPS", (2, 6))
    monkeypatch.setattr(bench, "TABLE", (80, 4))
    # A fit takes a second, and as many hundredths as steps.
    monkeypatch.setattr(bench, "measure", lambda _, run: (1 + 0.01 * run.__defaults__[0], 0))
    out = tmp_path / "found.json"
    assert bench.main(["--device", "cpu", "--sections", "steps", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["about"]["device"] == "CPU"
    assert [line["what"] for line in found["results"]] == [
        "a step of GapFineTuner on cpu",
        "a step of FairLRFTransformer on cpu",
    ]
    assert [line["seconds"] for line in found["results"]] == pytest.approx([0.01, 0.01])
    assert capsys.readouterr().out.startswith(f"CPU, torch {torch.__version__}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a CUDA device")
def test_gpu_benchmark_says_where_there_is_nothing_to_measure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bench: ModuleType = load("speed.bench_gpu")
    assert bench.main([]) == 0
    assert "No CUDA device" in capsys.readouterr().out
    with torch.device("meta"):
        weights = sum(p.numel() for p in bench.ResidualNetwork(1000).parameters())
    assert weights == 11_689_512  # those of ResNet-18


def test_a_lean_edit_lowers_its_own_thresholds_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, tasks = load("fairness.bench_thresholds"), load("tasks")
    rng = np.random.default_rng(0)
    y, g = np.tile([0, 1], 40), np.repeat([0, 1], 40)
    rows = tasks.Rows(rng.normal(size=(80, 3)).astype(np.float32), y, g)
    problem = tasks.Problem("adult-sex", "with-group", 0, ("f", "m"), rows, rows, rows)
    monkeypatch.setattr(bench, "load_problem", lambda *_, **__: problem)
    names = {name for _, _, each in bench.LEAN.values() for name in each}

    def lowered() -> set[str]:
        return {name for name in names if not pkgutil.resolve_name(name)}

    seen = []

    def edit(_module: object, _problem: object, kind: str, _settings: object) -> np.ndarray:
        seen.append((kind, lowered()))
        return y

    monkeypatch.setattr(bench, "edit", edit)
    out = tmp_path / "rows.jsonl"
    for _ in range(2):  # a second run finds every row
        assert bench.main(["--seeds", "1", "--epochs", "1", "--out", str(out)]) == 0
    assert lowered() == set()
    lean = [(kind, set(each)) for kind, _, each in bench.LEAN.values()]
    assert [each for each in seen if each[1]] == lean
    assert sorted(kind for kind, each in seen if not each) == [
        "FairLRFTransformer",
        "FairLRFTransformer",
        "GapFineTuner",
    ]
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(written) == 1 + len(seen)
    assert {row["psi"] for row in written if row["of"]} == {1.0}
    assert len(bench.table(written).splitlines()) == 2 + len(written)
