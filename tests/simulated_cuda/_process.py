"""Which process has the device, and whether it was used."""

from __future__ import annotations

import os

_OWNER: list[int] = []
_USED: list[bool] = []


def own() -> None:
    """Make this process the one that has the device."""
    _OWNER.append(os.getpid())


def is_owned() -> bool:
    """Tell whether the device is in place, here or in the process that this one was forked from."""
    return bool(_OWNER)


def is_forked() -> bool:
    """Tell whether this process was forked from the one that has the device."""
    return bool(_OWNER) and os.getpid() != _OWNER[0]


def is_started() -> bool:
    """Tell whether the device runs for this process, which on a real one takes its memory."""
    return bool(_USED) and not is_forked()


def use() -> None:
    """Start the device, which CUDA refuses to do again in a forked child."""
    if is_forked():
        raise RuntimeError(
            "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you "
            "must use the 'spawn' start method (simulated)"
        )
    if not _USED:
        _USED.append(True)
