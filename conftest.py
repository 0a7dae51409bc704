"""What holds for tests and for the examples of docstrings, docs and README alike."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
import sklearn

# Before matplotlib is imported: no window, whatever screen there is.
os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture(autouse=True)
def _configuration() -> Iterator[None]:
    """Give scikit-learn its configuration back, and close figures.

    An example may switch metadata routing on; pyplot warns of many figures that stay open.
    """
    with sklearn.config_context():
        yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
