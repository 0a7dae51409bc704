"""A program whose fits are killed or interrupted, for tests that look at what is left behind.

``python cut_off.py kill FOLDER TIMES`` kills cached searches at random moments and in the middle
of a write. ``python cut_off.py interrupt FOLDER TIMES`` presses Ctrl-C while worker processes are
at work. Both print what they found as JSON.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.model_selection import GridSearchCV

import fairsvd._files
from fairsvd import GapFineTuner, JointStratifiedKFold
from fairsvd.exceptions import CacheWarning
from helpers import mlp, quick, skorch_net, table

ROWS = table(160)
X = np.column_stack([ROWS.X, ROWS.group]).astype(np.float32)
NEVER_ENDING = 10**7  # steps

random_moment = random.Random(0)


def search(folder: str | None, *, n_jobs: int | None = None, max_steps: int = 2) -> GridSearchCV:
    """Search a small grid, with steps of tuning; its entries do not depend on their number."""
    editor = quick(
        skorch_net(mlp()),
        criterion="curvature",
        sparsity=0.2,
        max_steps=max_steps,
        objective="soft_gap",
        sensitive_columns=6,
        memory=folder,
    )
    grid = {"rank": [0.5, 1.0]}
    cv = JointStratifiedKFold(2, sensitive_columns=6)
    return GridSearchCV(
        editor, grid, scoring="balanced_accuracy", cv=cv, n_jobs=n_jobs, error_score="raise"
    ).fit(X, ROWS.y)


def result(found: GridSearchCV) -> list[Any]:
    return [found.cv_results_["mean_test_score"].tolist(), found.predict_proba(X).tolist()]


def count_unfinished(folder: str) -> int:
    return len(list(Path(folder).rglob("*.tmp")))


# Killed.


class DyingFile(io.FileIO):
    """Ends the process when half of the bytes are written."""

    def write(self, data: Any) -> int:
        super().write(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def die_in_write(number: int, where: str) -> None:
    """Prepare this process to die in the write of that number, counted from 0."""
    counts = {"open": 0, "replace": 0}

    def is_due(call: str) -> bool:
        counts[call] += 1
        return counts[call] == number + 1

    def opened(path: Any, mode: str) -> Any:
        return DyingFile(path, mode) if is_due("open") and where == "half" else open(path, mode)

    def replaced(source: Any, target: Any) -> None:
        due = is_due("replace")
        if where == "after" or not due:
            replace(source, target)
        if due and where != "half":
            os.kill(os.getpid(), signal.SIGKILL)

    replace, os.replace = os.replace, replaced
    fairsvd._files.open = opened  # type: ignore[attr-defined]


def in_child(prepare: Callable[[], None], folder: str, delay: float | None = None) -> int:
    """Search in a forked process, kill it after a delay, and return its exit status."""
    child = os.fork()
    if not child:
        # Nothing may be reported damaged of what the killed ones before left.
        warnings.simplefilter("error", CacheWarning)
        status = 1
        try:
            prepare()
            search(folder)
            status = 0
        finally:
            os._exit(status)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ways_to_die(times: int, whole: float) -> Iterator[tuple[Callable[[], None], float | None]]:
    """Give moments: one after the other at any time, and at each place of a write."""
    for k in range(times):
        number, where = k // 6 % 3, ("half", "before", "after")[k // 2 % 3]
        if k % 2:
            yield lambda n=number, w=where: die_in_write(n, w), None
        else:
            yield lambda: None, random_moment.uniform(0, whole)


def kill(folder: str, times: int) -> dict[str, Any]:
    start = time.monotonic()
    assert in_child(lambda: None, folder) == 0
    whole = time.monotonic() - start
    shutil.rmtree(folder)
    ends, unfinished = [], 0
    for prepare, delay in ways_to_die(times, whole):
        ends.append(in_child(prepare, folder, delay))
        if ends[-1] == 0:  # all is kept: from the start again
            unfinished += count_unfinished(folder)
            shutil.rmtree(folder)
    unfinished += count_unfinished(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CacheWarning)
        found = result(search(folder))
    return {
        "ends": ends,
        "unfinished": unfinished,
        "warnings": [str(w.message) for w in caught if w.category is CacheWarning],
        "same": found == result(search(None)),
    }


# Interrupted.


def workers() -> list[Path]:
    """Find the living processes that this one started, directly or not, but joblib's trackers."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            is_tracker = b"tracker" in (path / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        ours = int(session) == os.getsid(0) and int(path.name) != os.getpid()
        if ours and state != "Z" and not is_tracker:
            found.append(path)
    return found


def time_used(paths: list[Path]) -> float:
    """Count the seconds of processor time that processes have used."""
    fields = [(path / "stat").read_text().rpartition(")")[2].split() for path in paths]
    ticks = sum(int(each[11]) + int(each[12]) for each in fields)
    return ticks / os.sysconf("SC_CLK_TCK")


class Press(threading.Thread):
    """Presses Ctrl-C at a random moment after the workers have begun to work."""

    def __init__(self, everywhere: bool) -> None:
        super().__init__(daemon=True)
        self.everywhere, self.at = everywhere, 0.0

    def run(self) -> None:
        warm = workers()
        before = time_used(warm)
        while time_used(warm) < before + 0.3:
            time.sleep(0.02)
        time.sleep(random_moment.uniform(0, 1))
        self.at = time.monotonic()
        if self.everywhere:  # as a terminal does
            os.killpg(0, signal.SIGINT)
        else:
            os.kill(os.getpid(), signal.SIGINT)


def edit(folder: str, on_interrupt: str) -> None:
    settings = {"objective": "soft_gap", "max_steps": NEVER_ENDING, "n_jobs": 2}
    editor = GapFineTuner(
        mlp(), **settings, on_interrupt=on_interrupt, memory=folder, random_state=0
    )
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    editor.predict(ROWS.X)


FITS = {
    "search": lambda folder: search(folder, n_jobs=2, max_steps=NEVER_ENDING),
    "editor": lambda folder: edit(folder, "raise"),
    "editor that keeps": lambda folder: edit(folder, "keep"),
}


def interrupt(folder: str, times: int) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", CacheWarning)
    ends = []
    for k in range(times):
        name = list(FITS)[k % 3]
        joblib.Parallel(n_jobs=2)(joblib.delayed(time.sleep)(0.05) for _ in range(4))
        press = Press(everywhere=k // 3 % 2 == 1)
        press.start()
        try:
            FITS[name](folder)
            end = "kept"
        except KeyboardInterrupt:
            end = "interrupted"
        took = time.monotonic() - press.at
        while workers() and time.monotonic() < press.at + 10:
            time.sleep(0.02)
        ends.append({"fit": name, "end": end, "seconds": took, "left": len(workers())})
    same = result(search(folder)) == result(search(None))
    return {"ends": ends, "same": same, "unfinished": count_unfinished(folder)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    do = {"kill": kill, "interrupt": interrupt}[sys.argv[1]]
    print(json.dumps(do(sys.argv[2], int(sys.argv[3]))))
