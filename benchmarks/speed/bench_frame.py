"""Count how often a search over an ImageFrame reads each file, and measure its memory.

2,000 images are written into a temporary folder. GridSearchCV tries two edits on two folds with two
workers, and every read is logged with the pass that it belongs to. A pass is one run over rows in
blocks (a judgement, statistics, a prediction), one epoch of the base network's training, one step
of the edit, or one look at the first rows of X.

There are three bars. No file is read twice in a pass. No process holds more rows than one batch,
except while skorch trains, which keeps a batch until the next one is there. (A fitted editor also
keeps the first 32 rows, to probe its network. skorch's collated batch is a copy, which only the
peak of memory shows.) The peak of memory must not grow with the bytes of the images: it is compared
with the peak of the same search over a quarter of the files.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.speed.reads import Counted, encode, read_log, summary
from fairsvd import GapFineTuner, ImageFrame, JointStratifiedKFold, fairness_scorer

# Predictions are made in blocks of 64 rows, whatever the batch size.
BATCH, EPOCHS, STEPS, WORKERS, FOLDS = 64, 3, 20, 2, 2
# How much a worker's peak may grow from a quarter of the files to all of them, as a share of the
# added images' bytes.
BAR_MEMORY = 0.1


def network() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2),
        )  # fmt: skip
    settings = {"max_epochs": EPOCHS, "batch_size": BATCH, "lr": 0.01, "verbose": 0}
    return NeuralNetClassifier(module, criterion=nn.CrossEntropyLoss, **settings)


def make_files(folder: Path, n_files: int, size: int) -> pd.DataFrame:
    """Write images of two classes and two groups; brightness shows the class."""
    rng = np.random.default_rng(0)
    label, group = np.arange(n_files) % 2, np.arange(n_files) // 2 % 2
    names = [f"{number:06d}.png" for number in range(n_files)]
    for number, name in enumerate(names):
        shade = int(60 * label[number] + 40 * group[number])
        encode(number, size, size, shade, rng).save(folder / name, compress_level=1)
    return pd.DataFrame({"path": names, "label": label, "sex": np.array(["f", "m"])[group]})


def search() -> GridSearchCV:
    editor = GapFineTuner(
        network(),
        max_steps=STEPS,
        gap_weight=1.0,
        batch_size=BATCH,
        sensitive_columns="sex",
        random_state=0,
    )
    gap = fairness_scorer("equalized_odds_difference", sensitive_columns="sex")
    return GridSearchCV(
        editor,
        {"scope": ["all", "head"]},
        scoring={"utility": "balanced_accuracy", "gap": gap},
        refit="utility",
        cv=JointStratifiedKFold(FOLDS, sensitive_columns="sex"),
        n_jobs=WORKERS,
        error_score="raise",
    )


def measure_apart(n_files: int, size: int) -> dict[str, Any]:
    """Measure in a new process, so that earlier peaks do not count."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, n_files, size).result()


def measure(n_files: int, size: int) -> dict[str, Any]:
    """Run one search and summarise its reads."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        table = make_files(Path(folder), n_files, size)
        log = Path(folder) / "reads.jsonl"
        frame = ImageFrame(table, root=folder, transform=Counted(str(log)))
        start = time.perf_counter()
        search().fit(frame, table["label"].to_numpy())
        seconds = time.perf_counter() - start
        lines = read_log(log)
    return {
        "files": n_files,
        "seconds": seconds,
        "image_bytes": n_files * 3 * size * size * 4,
        "growth": growth(lines),
        "rows": [asdict(row) for row in summary(lines)],
    }


def growth(lines: Sequence[dict[str, Any]]) -> list[int]:
    """Compute by how many bytes each process's peak grew since its first read."""
    found = []
    for process in sorted({each["process"] for each in lines}):
        peaks = [each["peak"] for each in lines if each["process"] == process]
        found.append(peaks[-1] - peaks[0])
    return found


def show(found: dict[str, Any]) -> None:
    print(f"\n{found['files']} files, {found['image_bytes'] / 2**20:.0f} MiB as float32, "
          f"batches of {BATCH}, {found['seconds']:.0f} s")  # fmt: skip
    print(f"{'call':8} {'pass':22} {'calls':>5} {'passes':>7} {'of a call':>9} {'reads':>8} "
          f"{'of a file in a pass':>20} {'rows held':>10}")  # fmt: skip
    for row in found["rows"]:
        print(f"{row['call']:8} {row['kind']:22} {row['calls']:5} {row['passes']:7} "
              f"{row['most_passes']:9} {row['reads']:8} {row['most_reads']:20} "
              f"{row['held']:10}")  # fmt: skip
    print("peaks of the processes grew by (MiB):",
          *(f"{each / 2**20:.0f}" for each in found["growth"]))  # fmt: skip


def misses(few: dict[str, Any], all_: dict[str, Any]) -> list[str]:
    """List the bars that were missed."""
    found = [
        f"{row['call']}, {row['kind']}: a file was read {row['most_reads']} times in a pass"
        for part in (few, all_)
        for row in part["rows"]
        if row["most_reads"] > 1
    ]
    for row in all_["rows"]:
        limit = BATCH * (2 if "epoch" in row["kind"] else 1)
        if row["held"] > limit:
            found.append(f"{row['call']}, {row['kind']}: {row['held']} rows held, not {limit}")
    grew = max(all_["growth"]) - max(few["growth"])
    share = grew / (all_["image_bytes"] - few["image_bytes"])
    if share > BAR_MEMORY:
        found.append(f"the peak follows the images: {share:.2f} bytes for each more of them")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--size", type=int, default=96, help="height and width in pixels")
    parser.add_argument("--out", type=Path, help="write what was found as JSON")
    options = parser.parse_args(arguments)
    parts = [measure_apart(n, options.size) for n in (options.files // 4, options.files)]
    for part in parts:
        show(part)
    if options.out:
        options.out.write_text(json.dumps(parts, indent=1))
    missed = misses(*parts)
    print("\n" + ("\n".join(missed) or "All bars are met."))
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
