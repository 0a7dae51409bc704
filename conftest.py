"""What holds for tests and for the examples of docstrings, docs and README alike."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest
import sklearn

# Before matplotlib is imported: no window, whatever screen there is.
os.environ.setdefault("MPLBACKEND", "agg")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect tests without the garbage collector, and let it pass over what they import.

    Else it looks through the same 700,000 objects again and again: a quarter of the time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(autouse=True)
def _configuration() -> Iterator[None]:
    """Give scikit-learn its configuration back, and close figures.

    An example may switch metadata routing on; pyplot warns of many figures that stay open.
    """
    with sklearn.config_context():
        yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
