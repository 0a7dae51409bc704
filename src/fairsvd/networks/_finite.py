"""Refuse NaN and infinite outputs, naming the rows and the cause."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .._messages import listed
from ..arrays import Batches
from ..exceptions import NetworkError

__all__ = ["check_finite"]

# Row numbers that a message lists.
SHOWN = 5


def check_finite(values: Tensor, X: Batches, module: nn.Module, what: str = "logits") -> None:
    """Refuse outputs that are not finite: no class and no probability follows from them.

    Parameters
    ----------
    values : Tensor of shape (n_rows, n_outputs)
    X : Batches
        The rows.
    module : nn.Module
        What made the values.
    what : str, default="logits"
        Name of the values.

    Raises
    ------
    NetworkError
        Names the rows, counted from 0, and the probable cause.
    """
    # A finite sum proves finite terms, at the lowest cost.
    if bool(values.sum().isfinite()):
        return
    bad = np.flatnonzero(~values.isfinite().all(dim=1).cpu().numpy())
    if not len(bad):
        return
    raise NetworkError(
        f"the network returns NaN or infinite {what} on {len(bad)} of {len(values)} rows of X "
        f"(row {listed(X.index[bad], SHOWN)}, counted from 0): {_cause(X[bad[:SHOWN]], module)}"
    )


def _cause(rows: Tensor, module: nn.Module) -> str:
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and not _all_finite(value):
            return f"its {name!r} holds NaN or infinite numbers, so its training diverged."
    # In float64 the largest of them is exact.
    largest = float(rows.double().abs().amax())
    return (
        f"values there reach {largest:.3g}, for which its arithmetic overflows or is not defined. "
        "Its training diverged, or X is not scaled as it was for training."
    )


def _all_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())
