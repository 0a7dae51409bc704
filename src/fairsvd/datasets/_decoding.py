"""Decode image files, in this process or in several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import NDArray

from ._pixels import from_pixels, open_image

__all__ = ["decoded"]

# Fewer files are decoded sooner than they are handed out and their pixels handed back.
FEWEST_FILES = 16


def decoded(
    paths: Sequence[str], mode: str, size: tuple[int, int] | None, n_jobs: int | None
) -> Iterator[tuple[str, Any]]:
    """Yield each path and its image, decoded and resized as by :func:`open_image`.

    Only that happens in other processes, so that results do not depend on their number: what is
    random, and the user's functions, stay in this one.

    Parameters
    ----------
    paths : sequence of str
    mode, size
        As of :func:`open_image`.
    n_jobs : int or None
        Number of processes, as joblib counts them; None: this one, unless joblib's
        ``parallel_config`` says otherwise.
    """
    n_parts = min(effective_n_jobs(n_jobs), len(paths) // FEWEST_FILES)
    if n_parts < 2:
        yield from ((path, open_image(path, mode, size)) for path in paths)
        return
    parts = [list(part) for part in np.array_split(np.array(paths, dtype=object), n_parts)]
    tasks = (delayed(_decode)(part, mode, size) for part in parts)
    for part, images in zip(parts, Parallel(n_jobs=n_jobs)(tasks), strict=True):
        yield from zip(part, map(from_pixels, images), strict=True)


def _decode(
    paths: Sequence[str], mode: str, size: tuple[int, int] | None
) -> list[NDArray[np.uint8]]:
    return [np.asarray(open_image(path, mode, size)) for path in paths]
