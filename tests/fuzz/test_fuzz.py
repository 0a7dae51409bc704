"""Thousands of calls of every editor with odd rows, networks and parameters; `make fuzz`."""

from __future__ import annotations

import os

import pytest
from fuzz_calls import calls, run
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from editors import CONFIGURATIONS

pytestmark = pytest.mark.slow

# Of all editors together. The default is that of `make test`.
CALLS = int(os.environ.get("FAIRSVD_FUZZ_CALLS", "150"))


@pytest.mark.parametrize("editor", CONFIGURATIONS)
def test_every_call_ends_well(editor):
    """Every call ends fitted or in an error of ours that names an argument, and changes nothing."""

    @settings(
        max_examples=max(1, CALLS // len(CONFIGURATIONS)),
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        database=None,
        # The same calls in every `make test`; others in every `make fuzz`.
        derandomize="FAIRSVD_FUZZ_CALLS" not in os.environ,
    )
    @given(st.data())
    def search(data):
        run(data.draw(calls(editor), label="call"))

    search()
