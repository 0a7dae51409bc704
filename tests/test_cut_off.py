"""Fits that are killed or interrupted from outside leave no process and no half-written entry.

``make torture`` sets FAIRSVD_TORTURE, the number of moments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and forks"),
]

PROGRAM = Path(__file__).with_name("cut_off.py")


def run(what: str, folder: Path, moments: int) -> Any:
    """Run the program in a session of its own, in which all its processes are."""
    moments = int(os.environ.get("FAIRSVD_TORTURE", moments))
    done = subprocess.run(
        [sys.executable, str(PROGRAM), what, str(folder), str(moments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,
        timeout=120 + 30 * moments,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["ends"]) == moments
    return found


def test_what_killed_searches_leave_is_whole_or_not_there(tmp_path: Path) -> None:
    found = run("kill", tmp_path / "folder", 4)
    # 0 where it had ended before it was to be killed; 1 is an error, as after a damaged entry.
    assert set(found["ends"]) <= {0, -9}
    assert found["ends"].count(-9) >= 2
    assert found["unfinished"] >= 1  # one was killed in the middle of a write
    assert found["warnings"] == []
    assert found["same"]


def test_ctrl_c_ends_fits_with_warm_workers_within_seconds(tmp_path: Path) -> None:
    found = run("interrupt", tmp_path, 2)
    for each in found["ends"]:
        assert each["end"] == ("kept" if each["fit"] == "editor that keeps" else "interrupted")
        assert each["seconds"] < 10
        assert each["left"] == 0
    assert found["same"]
