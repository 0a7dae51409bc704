"""A colour bias of known strength, planted into real images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch

from . import _descriptions
from ._draws import as_generator, check_count, check_share, plant, rows_of_classes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLORS", "load_biased_digits", "make_tinted", "named_groups"]

# Red, green, blue in [0, 1]; red and blue come first, for two groups.
COLORS = {
    "red": (1.0, 0.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "green": (0.0, 1.0, 0.0),
    "yellow": (1.0, 1.0, 0.0),
    "magenta": (1.0, 0.0, 1.0),
    "cyan": (0.0, 1.0, 1.0),
    "orange": (1.0, 0.5, 0.0),
    "violet": (0.5, 0.0, 1.0),
    "azure": (0.0, 0.5, 1.0),
    "lime": (0.5, 1.0, 0.0),
}


def make_tinted(
    images: ArrayLike,
    labels: ArrayLike,
    strength: float = 0.9,
    *,
    n_colors: int = 2,
    groups: ArrayLike | None = None,
    saturation: float = 1.0,
    random_state: Any = None,
) -> Bunch:
    """Tint grey images so that the colour agrees with the label for a known share of them.

    Parameters
    ----------
    images : array-like of shape (n, H, W) or (n, 1, H, W), uint8 or float in [0, 1]
        Grey images; bytes are divided by 255.
    labels : array-like of shape (n,)
        Labels of any type. The k-th of the sorted labels agrees with colour ``k % n_colors``.
    strength : float in [0, 1], default=0.9
        Exact share of each class that gets the agreeing colour, rounded to whole rows. The other
        rows get the other colours in equal parts. ``1 / n_colors`` plants no bias.
    n_colors : int in [2, 10], default=2
        Number of colours; the first two are red and blue.
    groups : array-like of shape (n,), int in [0, n_colors), default=None
        Colours to use instead of drawn ones; ``strength`` is then ignored.
        ``groups=(tinted.groups + 1) % 2`` paints two-coloured images in the other colour.
    saturation : float in [0, 1], default=1.0
        0: all images stay grey. 1: channels that the colour lacks are black. In between: dimmed.
    random_state : int, RandomState, Generator or None, default=None
        Decides which rows of a class get which colour.

    Returns
    -------
    tinted : Bunch
        ``images`` (float32 ndarray of shape (n, 3, H, W) in [0, 1]), ``target`` (the labels),
        ``groups`` (int64 colour codes of shape (n,)), ``sensitive_features`` (DataFrame with the
        column color: the names), ``aligned`` (bool of shape (n,): the colour agrees with the label)
        and ``color_names``.

    Raises
    ------
    ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> from fairsvd.datasets import make_tinted
    >>> tinted = make_tinted(np.ones((20, 8, 8)), [0, 1] * 10, 0.8, random_state=0)
    >>> tinted.images.shape, float(tinted.aligned.mean())
    ((20, 3, 8, 8), 0.8)
    """
    grey = _grey(images)
    target = np.asarray(labels)
    if target.shape != (len(grey),):
        raise ValueError(
            f"labels must hold one label per image, shape ({len(grey)},), got {target.shape}"
        )
    n_colors = check_count("n_colors", n_colors, 2, len(COLORS))
    codes = np.unique(target, return_inverse=True)[1].astype(np.int64)
    if groups is None:
        strength = check_share("strength", strength)
        colors = plant(codes, n_colors, strength, as_generator(random_state))
    else:
        colors = _color_codes(groups, len(grey), n_colors)
    names = list(COLORS)[:n_colors]
    return Bunch(
        images=_tint(grey, colors, check_share("saturation", saturation)),
        target=target,
        groups=colors,
        sensitive_features=named_groups("color", colors, names),
        aligned=colors == codes % n_colors,
        color_names=names,
    )


def load_biased_digits(
    *,
    strength: float = 0.9,
    classes: Sequence[int] | None = None,
    n_colors: int = 2,
    random_state: Any = 0,
) -> Bunch:
    """Load scikit-learn's handwritten digits, tinted by label, without any download.

    Parameters
    ----------
    strength : float in [0, 1], default=0.9
        Share of each class whose colour agrees with its label; see :func:`make_tinted`.
    classes : sequence of int in [0, 9], default=None
        Keep only these digits, for example ``(3, 8)``. None keeps all ten. The labels are
        not renumbered. The k-th class kept agrees with colour ``k % n_colors``.
    n_colors : int in [2, 10], default=2
        Number of colours.
    random_state : int, RandomState, Generator or None, default=0
        Decides which rows of a class get which colour.

    Returns
    -------
    bunch : Bunch
        ``images`` (float32 ndarray of shape (n, 3, 8, 8) in [0, 1]), ``data`` (the same as (n,
        192)), ``target`` (int64 digits of shape (n,)), ``target_names``, ``groups`` (int64 colour
        codes), ``sensitive_features`` (DataFrame with the column color), ``aligned``,
        ``color_names`` and ``DESCR``.

    Raises
    ------
    ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> from fairsvd.datasets import load_biased_digits
    >>> digits = load_biased_digits(classes=(3, 8), strength=0.9)
    >>> digits.images.shape
    (357, 3, 8, 8)
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey, target = digits.images / 16.0, digits.target.astype(np.int64)  # 16 grey levels
    if classes is not None:
        rows = rows_of_classes(target, classes)
        grey, target = grey[rows], target[rows]
    tinted = make_tinted(grey, target, strength, n_colors=n_colors, random_state=random_state)
    tinted.data = tinted.images.reshape(len(target), -1)
    tinted.target_names = [str(digit) for digit in np.unique(target)]
    tinted.DESCR = _descriptions.BIASED_DIGITS
    return tinted


def named_groups(column: str, codes: NDArray[np.int64], names: list[str]) -> pd.DataFrame:
    """Write group codes as a DataFrame of one categorical column of names."""
    import pandas as pd

    return pd.DataFrame({column: pd.Categorical.from_codes(codes, categories=pd.Index(names))})


def _grey(images: ArrayLike) -> NDArray[np.float32]:
    """Check grey images and bring them to float32 of shape (n, H, W) in [0, 1]."""
    array = np.asarray(images)
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 3 or array.size == 0:
        raise ValueError(
            f"images must be grey, of shape (n, H, W) or (n, 1, H, W), got {array.shape}"
        )
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    if array.dtype.kind != "f" or not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"images must be uint8 or floats in [0, 1] without NaN, got {array.dtype}"
            + (f" in [{array.min()}, {array.max()}]" if array.dtype.kind in "iuf" else "")
        )
    return array.astype(np.float32)


def _color_codes(groups: ArrayLike, n: int, n_colors: int) -> NDArray[np.int64]:
    codes = np.asarray(groups)
    integers = codes.shape == (n,) and codes.dtype.kind in "iu"
    if not integers or codes.min() < 0 or codes.max() >= n_colors:
        raise ValueError(
            f"groups must be {n} integers from 0 to {n_colors - 1} (n_colors={n_colors}), "
            f"got {codes.dtype} of shape {codes.shape}"
        )
    return codes.astype(np.int64)


def _tint(
    grey: NDArray[np.float32], colors: NDArray[np.int64], saturation: float
) -> NDArray[np.float32]:
    """Multiply images (n, H, W) by each row's colour: (n, 3, H, W)."""
    palette = np.array(list(COLORS.values()), dtype=np.float32)
    weights = 1 - np.float32(saturation) * (1 - palette)
    tinted: NDArray[np.float32] = grey[:, None] * weights[colors][:, :, None, None]
    return tinted
