"""Counts of what costs a fit time, for tests of what is kept and found again.

That something is not computed twice shows in no result; the counts are taken where the package
calls its costly steps. A test file makes a fixture of them:
``work = pytest.fixture(count_work)``.
"""

from __future__ import annotations

import importlib

import pytest

# What is counted: the names by which the package calls it, below "fairsvd".
PLACES = {
    "training": ("networks._trained.fit_net", "networks._trained.train_default"),
    "svd": ("low_rank._fairlrf.factorise",),
    "curvature": (
        "low_rank._fairlrf.group_curvature",
        "masking._pruner.group_weight_curvature",
    ),
    "unit effects": ("masking._pruner.unit_effects",),
    "importance": (
        "masking._bias_plan.row_importance",
        "masking._bias_plan.batch_importance",
    ),
    "masks": ("phases._edit.mask_variables",),
}
NOTHING = dict.fromkeys(PLACES, 0)


def count_work(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count, from now on, every call of a costly step by its kind."""
    counts = dict(NOTHING)
    for kind, places in PLACES.items():
        for place in places:
            module, _, name = place.rpartition(".")
            call = getattr(importlib.import_module(f"fairsvd.{module}"), name)

            def counted(*args, _call=call, _kind=kind, **kwargs):
                counts[_kind] += 1
                return _call(*args, **kwargs)

            monkeypatch.setattr(f"fairsvd.{place}", counted)
    return counts


def spent(counts, run):
    """Run something and give what it has added to the counts."""
    before = dict(counts)
    run()
    return {name: counts[name] - before[name] for name in counts}
