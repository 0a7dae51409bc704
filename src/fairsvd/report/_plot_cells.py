"""The contact sheet: images of every (label, group) cell, and the error rate of each cell."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .._messages import listed
from .._rng import resolve_seed
from ..arrays import as_batches, open_rows
from ..containers import read_labels
from ..groups import encode_groups, find_sensitive
from ..networks import plain_copy
from ._style import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_cells"]

# Okabe and Ito's palette, distinguishable by colour-blind readers too.
NEWLY_WRONG, STILL_WRONG, PUT_RIGHT = "#D55E00", "#E69F00", "#009E73"

# Characters of a group's name in a line, so that two attributes are not cut.
NAME_WIDTH = 24
# Height of a picture, in units of a row of the sheet.
HEIGHT = 0.88


@dataclass(frozen=True)
class Cell:
    """The rows of one label and group.

    Attributes
    ----------
    label, group
    rows : ndarray of shape (n,), int64
    drawn : ndarray of shape (n_drawn,), int64
        Rows that are shown.
    """

    label: Any
    group: Any
    rows: NDArray[np.int64]
    drawn: NDArray[np.int64]


def plot_cells(
    estimator: Any,
    X: Any,
    y: Any,
    sensitive_features: Any = None,
    *,
    before: Any = None,
    n_images: int = 8,
    random_state: Any = 0,
    ax: Axes | None = None,
) -> Axes:
    """Show images of every (label, group) cell beside its error rates before and after the edit.

    Each row of the sheet is a cell: a few of its images, drawn at random, and the share of all its
    rows that is predicted wrongly. Frames mark images that the edit corrected, newly gets wrong or
    still gets wrong.

    Parameters
    ----------
    estimator : NetworkEditor
        Editor fitted on images.
    X : images (n, C, H, W), ImageFrame or Dataset
        One channel is shown in grey, three as red, green and blue, other numbers by their mean.
        All rows are predicted, batch by batch; only the shown files are read again.
    y : array-like of shape (n,)
        True labels.
    sensitive_features : array-like of shape (n,) or (n, n_columns), optional
        Groups, as in ``fit``; None: taken from the estimator's ``sensitive_columns``. Rows
        without a group are left out.
    before : array-like of shape (n,), nn.Module, skorch net or FrozenEstimator, optional
        Labels predicted before the edit, or the network before it, which is used without a tuned
        threshold. None: the estimator's ``network`` if that came trained; else only errors after
        the edit are shown.
    n_images : int, default=8
        Largest number of images per cell.
    random_state : int, RandomState or None, default=0
        Seed of the draw of images.
    ax : matplotlib Axes, default=None
        Axes to draw into. None: a new figure of pyplot, ``ax.figure``.

    Returns
    -------
    ax : matplotlib Axes
        ``ax.images`` are the images, cell by cell, ordered by ``classes_`` and then by group;
        ``ax.texts`` are the error rates.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    ValueError
        If X does not hold images, y has a label that the estimator does not know, no row has a
        group, lengths differ, or ``n_images`` is not a positive integer.

    Examples
    --------
    >>> from fairsvd import FairLRFTransformer
    >>> from fairsvd.datasets import load_biased_digits
    >>> from fairsvd.report import plot_cells
    >>> digits = load_biased_digits(classes=(3, 8))
    >>> editor = FairLRFTransformer(max_steps=30, random_state=0)
    >>> rows = digits.images, digits.target
    >>> editor = editor.fit(*rows, sensitive_features=digits.groups)  # doctest: +SKIP
    >>> plot_cells(editor, *rows, digits.groups).figure.savefig("cells.png")  # doctest: +SKIP
    """
    check_is_fitted(estimator, "module_")
    if isinstance(n_images, bool) or not isinstance(n_images, (int, np.integer)) or n_images < 1:
        raise ValueError(f"n_images must be an integer of at least 1, got {n_images!r}")
    X = open_rows(X)
    batches, target = as_batches(X), read_labels(y)
    if len(batches.item_shape) != 3:
        raise ValueError(
            f"plot_cells shows images, X of shape (n, C, H, W), but a row of X has the shape "
            f"{batches.item_shape}: for tables use report_ and fairsvd.report.plot_tradeoff"
        )
    _check_labels(estimator, target, len(batches))
    cells = _find_cells(estimator, X, y, target, sensitive_features, n_images, random_state)
    after = np.asarray(estimator.predict(X)) != target
    former = _predict_before(estimator, X, before)
    wrong = [after if former is None else former != target, after]
    pictures = _as_pictures(batches[np.concatenate([cell.drawn for cell in cells])].numpy())
    ax = new_axes(3.4 + 0.95 * n_images, 1.0 + 0.95 * len(cells)) if ax is None else ax
    _draw(ax, cells, pictures, wrong, compares=former is not None)
    _dress(ax, estimator, cells, pictures, n_images, compares=former is not None)
    return ax


def _check_labels(estimator: Any, target: NDArray[Any], n_rows: int) -> None:
    if target.shape != (n_rows,):
        raise ValueError(f"y must hold one label per row of X, ({n_rows},), got {target.shape}")
    unknown = sorted(set(target.tolist()) - set(estimator.classes_.tolist()), key=str)
    if unknown:
        raise ValueError(
            f"y holds [{listed(unknown, 5, repr)}], which the estimator does not know: its classes "
            f"are [{listed(estimator.classes_.tolist(), show=repr)}]"
        )


def _find_cells(
    estimator: Any,
    X: Any,
    y: Any,
    target: NDArray[Any],
    sensitive_features: Any,
    n_images: int,
    random_state: Any,
) -> list[Cell]:
    """Find the cells that have rows, and draw rows of each."""
    if sensitive_features is None:
        if estimator.sensitive_columns is None:
            raise ValueError(
                "plot_cells got no sensitive_features, and the estimator has no sensitive_columns: "
                "pass the groups of the rows of X"
            )
        sensitive_features = find_sensitive(X, y, estimator.sensitive_columns).values
    groups = encode_groups(sensitive_features, len(target), missing="ignore")
    rng = np.random.default_rng(resolve_seed(random_state))
    cells = []
    for label in estimator.classes_.tolist():
        for code, group in enumerate(groups.labels):
            rows = np.flatnonzero((target == label) & (groups.codes == code))
            if len(rows):
                drawn = rng.choice(rows, size=min(n_images, len(rows)), replace=False)
                cells.append(Cell(label, group, rows, np.sort(drawn)))
    return cells


def _predict_before(estimator: Any, X: Any, before: Any) -> NDArray[Any] | None:
    """Return the labels predicted before the edit; None if they are not known."""
    if before is None:
        trained = isinstance(estimator.network, (nn.Module, FrozenEstimator))
        before = estimator.network if trained else None
    if before is None:
        return None
    network = before.estimator if isinstance(before, FrozenEstimator) else before
    module = network if isinstance(network, nn.Module) else getattr(network, "module_", None)
    if not isinstance(module, nn.Module):
        labels = np.asarray(before)
        if labels.shape != (len(X),):
            raise ValueError(
                "before must be a network or one predicted label per row of X, "
                f"({len(X)},), got {type(before).__name__} of shape {labels.shape}"
            )
        return labels
    # The estimator can read the output of such a network.
    untouched = copy.copy(estimator)
    device = next(estimator.module_.parameters()).device
    untouched.module_, untouched.offset_ = plain_copy(module)[0].to(device), 0.0
    return np.asarray(untouched.predict(X))


def _as_pictures(images: NDArray[Any]) -> NDArray[Any]:
    """Convert images (n, C, H, W) to (n, H, W, 3), scaled to [0, 1] by their extreme values."""
    images = images.astype(np.float64)
    if images.shape[1] != 3:
        images = images.mean(axis=1, keepdims=True).repeat(3, axis=1)
    low, high = images.min(), images.max()
    if low < 0 or high > 1:
        images = (images - low) / (high - low)
    return np.moveaxis(images, 1, -1)


def _draw(
    ax: Axes,
    cells: list[Cell],
    pictures: NDArray[Any],
    wrong: list[NDArray[np.bool_]],
    compares: bool,
) -> None:
    from matplotlib.patches import Rectangle

    width, number = _width(pictures), 0
    for line, cell in enumerate(cells):
        for column, row in enumerate(cell.drawn):
            left, top = column * (width + 1 - HEIGHT), line - HEIGHT / 2
            place = (left, left + width, top + HEIGHT, top)
            ax.imshow(pictures[number], extent=place, interpolation="nearest")
            color = _color(*(bool(each[row]) for each in wrong))
            if color is not None:
                frame: dict[str, Any] = {"fill": False, "edgecolor": color, "linewidth": 2.5}
                ax.add_patch(Rectangle((left, top), width, HEIGHT, **frame))
            number += 1
        rates = [float(each[cell.rows].mean()) for each in wrong]
        text = f"{rates[1]:.0%} wrong"
        if compares:
            text = f"{rates[0]:.0%} wrong before\n{rates[1]:.0%} after"
        place_of_text: dict[str, Any] = {
            "xycoords": ("axes fraction", "data"),
            "annotation_clip": False,
        }
        ax.annotate(text, (1.02, line), va="center", **place_of_text)


def _color(before: bool, after: bool) -> str | None:
    if after:
        return STILL_WRONG if before else NEWLY_WRONG
    return PUT_RIGHT if before else None


def _width(pictures: NDArray[Any]) -> float:
    return HEIGHT * pictures.shape[2] / pictures.shape[1]


def _dress(
    ax: Axes,
    estimator: Any,
    cells: list[Cell],
    pictures: NDArray[Any],
    n_images: int,
    compares: bool,
) -> None:
    from matplotlib.patches import Patch

    names = [
        f"{cell.label}, {fill(_name(cell.group), NAME_WIDTH)}\n{len(cell.rows):,} rows"
        for cell in cells
    ]
    ax.set_aspect("equal")
    ax.set_xlim(0, n_images * (_width(pictures) + 1 - HEIGHT))
    ax.set_ylim(len(cells) - 0.5, -0.5)
    ax.set_yticks(range(len(cells)), names)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(f"{type(estimator).__name__}: label and group", loc="left", weight="bold")
    meaning = {STILL_WRONG: "wrong"}
    if compares:
        meaning = {PUT_RIGHT: "put right", NEWLY_WRONG: "newly wrong", STILL_WRONG: "still wrong"}
    handles = [
        Patch(fill=False, edgecolor=color, linewidth=2.5, label=text)
        for color, text in meaning.items()
    ]
    place: dict[str, Any] = {
        "loc": "upper left",
        "bbox_to_anchor": (0, 0),
        "ncols": 3,
        "frameon": False,
    }
    ax.legend(handles=handles, **place)


def _name(group: Any) -> str:
    """Write a group, or the parts of an intersection."""
    return " and ".join(map(str, group)) if isinstance(group, tuple) else str(group)
