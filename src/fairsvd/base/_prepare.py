"""Preparation of an edit: parts of the rows, a trained network and a judge."""

from __future__ import annotations

import sys
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from .._rng import one_torch_thread, stage_rng
from .._warn import warn
from ..arrays import Batches, hold_on, to_device
from ..caching import Cache, Entry, NotStableError, open_cache
from ..exceptions import CacheWarning
from ..networks import (
    AdoptedNetwork,
    adopt,
    check_finite,
    checked_logits,
    fast_logits,
    first_parameter,
    laid_out,
    probe_rows,
    share_weights,
)
from ..objective import Constraint, Judge, Verdict, make_judge
from ._inputs import FitInputs
from ._parts import Parts, keep_half, make_parts
from ._passes import AUTOCAST
from ._report_calibration import check_calibrate
from ._request import as_device
from ._task import EditData

__all__ = ["Prepared", "excess_fit", "prepare"]

# The network counts as over-fitted if its balanced accuracy is higher by more than this on the
# editing rows than on the validation rows.
OVERFIT_NETWORK = 0.10


@dataclass(frozen=True)
class Prepared:
    """A trained network, and the data on which to edit and judge it.

    Attributes
    ----------
    parts : Parts
    adopted : AdoptedNetwork
    data : EditData
    """

    parts: Parts
    adopted: AdoptedNetwork
    data: EditData

    @property
    def constraint(self) -> Constraint:
        """The constraint, with the untouched network's decisions if they matter."""
        return self.data.judge.constraint


def prepare(
    editor: Any,
    inputs: FitInputs,
    constraint: Constraint,
    seed: int,
    trained: AdoptedNetwork | None = None,
) -> Prepared:
    """Split the rows, train or adopt the network, and gather the data of the edit.

    Parameters
    ----------
    editor : NetworkEditor
        Holds the shared parameters.
    inputs : FitInputs
    constraint : Constraint
    seed : int
    trained : AdoptedNetwork, optional
        The network that an earlier call for the same inputs and seed trained or adopted.
    """
    device = as_device(editor.device)
    cache = make_cache(editor, inputs)
    parts = make_parts(editor.validation, inputs, seed)
    if constraint.phi is not None:
        # Phi uses validation rows only.
        parts = replace(parts, sample=parts.sample[:0])
    if constraint.confidence is not None:
        parts = keep_half(parts, inputs, seed)
    if editor.calibrate is not None:
        check_calibrate(editor.calibrate, inputs.rows.y.numpy()[parts.validation], inputs.classes)
    cache = cache.within(parts.training)
    adopted = trained or adopt(
        editor.network,
        inputs.rows.subset(parts.training),
        inputs.classes,
        batch_size=min(int(editor.batch_size), sys.maxsize),
        rng=stage_rng(seed, "base"),
        device=device,
        cache=cache,
        output_key=editor.output_key,
        output_kind=editor.output_kind,
        of_table=editor._of_table,
    )
    share_weights(adopted.module, editor.network)
    with one_torch_thread():
        data = make_data(editor, inputs, parts, adopted, constraint, cache)
    return Prepared(parts, adopted, data)


def make_data(
    editor: Any,
    inputs: FitInputs,
    parts: Parts,
    adopted: AdoptedNetwork,
    constraint: Constraint,
    cache: Cache,
) -> EditData:
    """Gather the data of an edit, including the judge's floor and the operating threshold.

    Parameters
    ----------
    editor : NetworkEditor
        Holds ``batch_size``, ``micro_batch_size`` and ``precision``.
    inputs, parts, adopted, constraint
        Results of the earlier steps of a fit.
    cache : Cache
        Its scope covers the inputs and the parts.

    Raises
    ------
    ValueError
        The network's logits on X are not finite.
    """
    rows = np.concatenate([parts.validation, parts.sample])
    of_part = np.repeat([0, 1], [len(parts.validation), len(parts.sample)])
    probe = probe_rows(adopted.module, inputs.rows.X)
    laid = laid_out(adopted.module, inputs.rows.X, adopted.output_key)
    of_fit = replace(inputs.rows, X=hold_on(laid, probe.device))
    # In their own order, and also where the device cannot hold all rows.
    judged = replace(of_fit.subset(rows), X=hold_on(laid.subset(rows), probe.device))
    n_classes = len(inputs.classes)
    weights = None if judged.weights is None else judged.weights.numpy()
    columns = judged.y.numpy(), judged.groups.numpy(), of_part
    judge = make_judge(*columns, n_classes, inputs.n_groups, constraint, weights)
    passes = editor.precision
    if editor.micro_batch_size is not None:
        # Sums of parts are rounded otherwise.
        passes += f", {editor.micro_batch_size} rows at once"
    cache = _of_network(cache, adopted, probe.device.type, passes)
    parts_of_key = {"rows": rows, "parts": of_part, "constraint": vars(constraint)}
    entry = cache.fetch("judgement", parts_of_key, lambda: _judged(judge, judged.X, adopted, probe))
    facts = entry.facts
    judge = replace(judge.apart() if facts["separate"] else judge, floor=facts["floor"])
    judge = judge.referring(entry.tensors["logits"])
    lessons = of_fit.subset(parts.lessons(len(of_fit)))
    return EditData(
        certifying=of_fit.subset(parts.certifying) if len(parts.certifying) else None,
        editing=of_fit.subset(parts.editing),
        partly=of_fit.subset(parts.training) if len(parts.ungrouped[0]) else None,
        unknown=of_fit.subset(parts.ungrouped[1]) if len(parts.ungrouped[1]) else None,
        unlabelled=lessons.X,
        unlabelled_weights=lessons.weights,
        judged=judged.X,
        judge=judge,
        untouched=entry.tensors["logits"],
        before=Verdict(*facts["before"]),
        kind=adopted.kind,
        output_key=adopted.output_key,
        output_layer=adopted.output_layer,
        n_classes=n_classes,
        n_groups=inputs.n_groups,
        group_labels=inputs.group_labels,
        margin=facts["margin"],
        batch_size=int(editor.batch_size),
        micro_batch_size=editor.micro_batch_size,
        device=probe.device,
        dtype=first_parameter(adopted.module).dtype,
        autocast=AUTOCAST[editor.precision],
        cache=cache,
    )


def _judged(judge: Judge, X: Batches, adopted: AdoptedNetwork, probe: Tensor) -> Entry:
    """Judge the untouched network: its logits, its operating threshold and the floor it sets."""

    def run(block: Tensor) -> Tensor:
        output = adopted.module(to_device(block, probe.device, probe.dtype))
        return checked_logits(output, adopted.kind, adopted.output_key, len(block))

    logits = fast_logits(run, X)
    check_finite(logits, X, adopted.module)
    judge = judge.referring(logits)
    curves = judge.curves(logits)
    margin = judge.for_utility(curves).margin
    if judge.comparable and _excess(judge, logits, margin) > OVERFIT_NETWORK:
        judge = judge.apart()
        curves = judge.curves(logits)
    judge = judge.against(curves)
    facts = {
        "margin": margin,
        "separate": judge.separate,
        "floor": judge.floor,
        "before": astuple(judge(curves)),
    }
    return Entry({"logits": logits}, facts)


def make_cache(editor: Any, inputs: FitInputs) -> Cache:
    """Open the cache of a fit; its scope is the rows, the labels and the groups.

    With random_state=None no two fits share a key, so nothing is cached.
    """
    cache = open_cache(editor.memory)
    if not cache.keeps:
        return cache
    if editor.random_state is None:
        warn(
            "memory= has no effect with random_state=None: every fit draws other numbers, so "
            "that no earlier result fits. Pass an integer as random_state.",
            CacheWarning,
        )
        return Cache()
    rows = inputs.rows
    weights = () if rows.weights is None else (rows.weights,)
    sizes = len(inputs.classes), inputs.n_groups
    try:
        return cache.within(rows.X, rows.y, rows.groups, *sizes, *weights)
    except NotStableError as error:
        warn(
            f"memory= has no effect, since X cannot be told from other data: {error}. Let its "
            "transforms be functions of a module, or objects that hold numbers and strings.",
            CacheWarning,
        )
        return Cache()


def _of_network(cache: Cache, adopted: AdoptedNetwork, *parts: str) -> Cache:
    """Narrow a cache to a network; if the network has no stable key, keep nothing."""
    try:
        return cache.within(adopted.module, adopted.kind, adopted.output_key, *parts)
    except NotStableError as error:
        warn(
            "memory= keeps nothing of what is computed on this network, since it cannot be told "
            f"from others: {error}.",
            CacheWarning,
        )
        return Cache()


def excess_fit(data: EditData) -> float | None:
    """Return how far the network is over-fitted, or None if it is not."""
    if not data.judge.separate:
        return None
    return _excess(data.judge, data.untouched, data.margin)


def _excess(judge: Judge, logits: Tensor, margin: float) -> float:
    return judge.excess(logits.double().numpy(), margin, "balanced_accuracy")
