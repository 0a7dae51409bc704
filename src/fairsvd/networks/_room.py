"""What to do where rows do not fit into a device's memory."""

from __future__ import annotations

import torch

from .._warn import warn
from ..exceptions import OutOfMemoryWarning

__all__ = ["fewer_rows"]


def fewer_rows(n_rows: int, what: str) -> int:
    """Halve a number of rows that did not fit into a device's memory, free it, and say so.

    Call it when the error is handled: until then its frames hold their tensors.

    Parameters
    ----------
    n_rows : int
        At least 2.
    what : str
        What goes on with fewer rows, as the beginning of a sentence.

    Returns
    -------
    n_rows : int
    """
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    fewer = n_rows // 2
    warn(
        f"{n_rows} rows did not fit into the device's memory. {what} {fewer} rows, which changes "
        "the result a little.",
        OutOfMemoryWarning,
    )
    return fewer
