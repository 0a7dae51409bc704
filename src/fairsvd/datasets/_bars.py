"""A generator of small images whose spurious correlation is known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch

from ._draws import as_generator, check_count, check_share, per_group, plant
from ._images import COLORS, named_groups

__all__ = ["make_biased_images"]

Codes = NDArray[np.int64]


def make_biased_images(
    n: int = 1000,
    *,
    size: int = 16,
    channels: int = 3,
    n_classes: int = 2,
    n_groups: int = 2,
    strength: float = 0.9,
    noise: ArrayLike = 0.1,
    random_state: Any = None,
) -> Bunch:
    """Draw images in which a bar's angle shows the class, and a colour or texture the group.

    Parameters
    ----------
    n : int, default=1000
        Number of images; the classes are of equal size, up to one image.
    size : int, default=16
        Height and width in pixels, at least 8.
    channels : {1, 3}, default=3
        3: the bar has the colour of its group. 1: the image is grey, its background has
        ``2 * (group + 1)`` horizontal bands.
    n_classes : int in [2, size // 2], default=2
        Number of angles.
    n_groups : int, default=2
        At least 2; at most 10 colours, or ``size // 2`` textures.
    strength : float in [0, 1], default=0.9
        Exact share of each class k that belongs to group ``k % n_groups``, rounded to whole
        rows; the others are spread evenly over the other groups. ``1 / n_groups``: no bias.
    noise : float or array-like of shape (n_groups,), default=0.1
        Standard deviation of the noise, added before values are clipped to [0, 1]. A group
        with more noise is harder to predict.
    random_state : int, RandomState, Generator or None, default=None
        Source of randomness.

    Returns
    -------
    bunch : Bunch
        ``images`` (float32 ndarray of shape (n, channels, size, size) in [0, 1]), ``data`` (the
        same as (n, channels * size * size)), ``target`` and ``groups`` (int64 of shape (n,)),
        ``sensitive_features`` (DataFrame with the column group), and the truth: ``aligned`` (bool
        of shape (n,): the group agrees with the class), ``counts`` (int64 of shape (n_classes,
        n_groups)), ``shapes`` (float32 of shape (n, size, size): the bars alone).

    Raises
    ------
    ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> from fairsvd.datasets import make_biased_images
    >>> make_biased_images(100, strength=0.8, random_state=0).counts.tolist()
    [[40, 10], [10, 40]]
    """
    n, size = check_count("n", n, 1), check_count("size", size, 8)
    n_classes = check_count("n_classes", n_classes, 2, size // 2)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (texture) or 3 (colour), got {channels!r}")
    max_groups = len(COLORS) if channels == 3 else size // 2
    n_groups = check_count("n_groups", n_groups, 2, max_groups)
    scale = per_group("noise", noise, n_groups, zero=True).astype(np.float32)
    rng = as_generator(random_state)
    target = rng.permutation(np.arange(n, dtype=np.int64) % n_classes)
    groups = plant(target, n_groups, check_share("strength", strength), rng)
    shapes = _draw_bars(target, size, n_classes, rng)
    clean = _color(shapes, groups) if channels == 3 else _put_on_stripes(shapes, groups)
    clean += scale[groups, None, None, None] * rng.standard_normal(clean.shape, dtype=np.float32)
    images = np.clip(clean, 0, 1)
    counts = np.bincount(target * n_groups + groups, minlength=n_classes * n_groups)
    return Bunch(
        images=images,
        data=images.reshape(n, -1),
        target=target,
        groups=groups,
        sensitive_features=named_groups("group", groups, [f"g{k}" for k in range(n_groups)]),
        target_names=[str(k) for k in range(n_classes)],
        aligned=groups == target % n_groups,
        counts=counts.reshape(n_classes, n_groups),
        shapes=shapes,
    )


def _draw_bars(
    target: Codes, size: int, n_classes: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw a soft-edged bar per row, angled by class, with a jittered centre: (n, size, size)."""
    angle = (np.pi * target / n_classes).astype(np.float32)[:, None, None]
    middle = (size - 1) / 2
    centre = rng.uniform(middle - size / 8, middle + size / 8, (2, len(target), 1, 1))
    pixel = np.arange(size, dtype=np.float32)
    down = pixel[None, :, None] - centre[0].astype(np.float32)
    right = pixel[None, None, :] - centre[1].astype(np.float32)
    along = np.abs(right * np.cos(angle) + down * np.sin(angle))
    across = np.abs(down * np.cos(angle) - right * np.sin(angle))
    bars = np.clip(0.35 * size - along, 0, 1) * np.clip(size / 16 + 0.5 - across, 0, 1)
    return np.asarray(bars, dtype=np.float32)


def _color(shapes: NDArray[np.float32], groups: Codes) -> NDArray[np.float32]:
    palette = np.array(list(COLORS.values()), dtype=np.float32)
    colored: NDArray[np.float32] = shapes[:, None] * palette[groups][:, :, None, None]
    return colored


def _put_on_stripes(shapes: NDArray[np.float32], groups: Codes) -> NDArray[np.float32]:
    """Put the bars on dim horizontal bands: two for the first group, two more for each next."""
    size = shapes.shape[1]
    bands = np.arange(size)[None, :] * (2 * (groups[:, None] + 1)) // size
    stripes = np.float32(0.4) * (bands % 2).astype(np.float32)
    return np.maximum(shapes, stripes[:, :, None])[:, None]
