"""The mask plot: the weights that an edit tunes or removes, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from ._style import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_mask"]

# Largest number of columns; units of wider layers are averaged over neighbours.
MAX_CELLS = 128


def plot_mask(estimator: Any, *, ax: Axes | None = None) -> Axes:
    """Plot the share of every output unit's weights that a mask covers, layer by layer.

    For bias-mask fine-tuning it shows the weights that may move, for pruning and FairLRF-style
    editing the removed entries. A row is a layer (or one side of its factors), from the input at
    the top to the output, with its output units from left to right. The number beside it is the
    share of the whole layer.

    Parameters
    ----------
    estimator : NetworkEditor
        Fitted, with ``masks_``: ``BiasMaskFineTuner``, ``FairPruner``, ``FairLRFTransformer``.
    ax : matplotlib Axes, default=None
        Axes to draw into. None: a new figure of pyplot, which notebooks show; save it with
        ``ax.figure.savefig(path)``.

    Returns
    -------
    ax : matplotlib Axes
        ``ax.images`` has one image per row, with the shares in [0, 1] as values.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    ValueError
        If it has no masks.

    Examples
    --------
    >>> from fairsvd import BiasMaskFineTuner
    >>> from fairsvd.datasets import make_biased_classification
    >>> from fairsvd.report import plot_mask
    >>> task = make_biased_classification(600, random_state=0)
    >>> tuner = BiasMaskFineTuner(gap_weight=1.0, tolerance=0.2, min_steps=30, random_state=0)
    >>> tuner = tuner.fit(task.data, task.target, sensitive_features=task.sensitive_features)
    >>> [label.get_text() for label in plot_mask(tuner).get_yticklabels()]
    ['hidden.0.weight', 'hidden.2.weight']
    """
    check_is_fitted(estimator, "module_")
    shares = mask_shares(estimator)
    ax = new_axes(8.0, 1.4 + 0.5 * len(shares)) if ax is None else ax
    # A scale up to the largest share, since a few per cent of 1 would all look alike.
    top = max(float(_bin(values).max()) for values in shares.values()) or 1.0
    for row, values in enumerate(shares.values()):
        place = (0, 1, row + 0.42, row - 0.42)
        ax.imshow(_bin(values)[None], cmap="viridis", vmin=0, vmax=top, extent=place)
        ax.annotate(f"{values.mean():.0%}", (1.01, row), va="center", annotation_clip=False)
    _dress(ax, estimator, list(shares))
    return ax


def mask_shares(estimator: Any) -> dict[str, NDArray[np.float64]]:
    """Compute the share of every output unit's weights that is covered, by layer.

    Parameters
    ----------
    estimator : NetworkEditor
        Fitted.

    Returns
    -------
    shares : dict of name to ndarray of shape (n_units,), float64
        In [0, 1]; units of the groups of a convolution follow each other.
    """
    masks = getattr(estimator, "masks_", None)
    if not masks:
        raise ValueError(
            f"{type(estimator).__name__} has no masks_ to plot. Pass a fitted BiasMaskFineTuner, "
            "FairPruner or FairLRFTransformer."
        )
    removes = hasattr(estimator, "removed_fraction_")
    shares = {}
    for name, mask in _flatten(masks).items():
        values = np.asarray(mask, dtype=np.float64)
        if name.endswith((" U", " V")):
            # The factors of a grouped convolution have a leading dimension.
            values = values.reshape(-1, values.shape[-1])
        rows = values.reshape(len(values), -1).mean(axis=1)
        shares[name] = 1 - rows if removes else rows
    return shares


def _flatten(masks: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, mask in masks.items():
        if isinstance(mask, Mapping):
            flat |= {f"{name} {side}": each for side, each in mask.items()}
        else:
            flat[name] = mask
    return flat


def _bin(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(values) <= MAX_CELLS:
        return values
    return np.array([part.mean() for part in np.array_split(values, MAX_CELLS)])


def _dress(ax: Axes, estimator: Any, names: list[str]) -> None:
    removes = hasattr(estimator, "removed_fraction_")
    what = "removed entries" if removes else "weights that may move"
    ax.set_aspect("auto")
    ax.set_xlim(0, 1)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), names)
    ax.set_xticks([0, 1], ["first unit", "last"])
    nothing = not any(np.asarray(image.get_array()).any() for image in ax.images)
    title = f"nothing is {what.split()[0]}" if nothing and removes else f"share of {what}"
    ax.set_title(f"{type(estimator).__name__}: {title}", loc="left", weight="bold")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    bar = ax.figure.colorbar(ax.images[0], ax=ax, location="right", pad=0.12, shrink=0.9)
    bar.set_label(f"share of {what}")
