"""What holds for tests and for the examples of docstrings, docs and README alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sklearn


@pytest.fixture(autouse=True)
def _configuration() -> Iterator[None]:
    """Give scikit-learn its configuration back: an example may switch metadata routing on."""
    with sklearn.config_context():
        yield
