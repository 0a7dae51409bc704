"""Shifts of the output layer along directions that separate groups: stable on few rows.

A network that has memorised its rows shows no gap on them, so a loss has nothing to follow. One
number for each group and class can still be chosen on the validation rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..base import Candidate, Task
from ..networks import all_features
from ..phases import Best, judge_state

__all__ = ["group_directions", "run_shift"]

# Sizes of a shift, in standard deviations of the logits' margin.
SIZES = tuple(size for size in np.linspace(-1, 1, 41).tolist() if abs(size) > 1e-9)

# Ridge of a direction, as a share of the features' mean variance; without it memorised rows would
# determine the direction.
RIDGE = 1e-2

# Variance, as a share of the mean square, that float32 rounding alone may cause.
ROUNDING = 1e-12

# With more pairs of group and class than this the search takes longer than tuning.
MOST_LINES = 24


@dataclass(frozen=True)
class Line:
    """One direction of the output layer's parameters.

    Attributes
    ----------
    row : int
        Row of the weight, that of the shifted class.
    weight : Tensor of shape (n_features,)
    bias : Tensor of shape ()
        What a shift of size 1 adds; over the rows its mean effect is zero.
    params : dict
        For the record: the group and the class.
    """

    row: int
    weight: Tensor
    bias: Tensor
    params: dict[str, Any]


def group_directions(
    features: NDArray[np.float64],
    groups: NDArray[np.int64],
    n_groups: int,
    weights: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit the linear function of the features that separates each group from all others.

    It is a ridge regression of +1 and -1 in which both sides have equal weight, scaled so that its
    values on the rows have a standard deviation of 1.

    Parameters
    ----------
    features : ndarray of shape (n, d), float64
    groups : ndarray of shape (n,), int64
        Codes in [0, n_groups).
    n_groups : int
    weights : ndarray of shape (n,), float64, optional
        How often each row counts; None: once.

    Returns
    -------
    directions : ndarray of shape (k, d), float64
        One for each group, or for the second of two only; zero if nothing separates the group.
    centres : ndarray of shape (k,), float64
        Their mean values on the rows.
    """
    first = 1 if n_groups == 2 else 0
    directions = np.stack(
        [_direction(features, groups == group, weights) for group in range(first, n_groups)]
    )
    centre = features.mean(axis=0) if weights is None else np.average(features, 0, weights)
    return directions, directions @ centre


def _direction(
    features: NDArray[np.float64], inside: NDArray[np.bool_], given: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    if inside.all() or not inside.any():
        return np.zeros(features.shape[1])
    if given is None:
        weights = np.where(inside, 0.5 / inside.mean(), 0.5 / (~inside).mean()) / len(inside)
    else:
        weights = given * np.where(inside, 0.5 / given[inside].sum(), 0.5 / given[~inside].sum())
    centred = features - weights @ features
    covariance = (centred * weights[:, None]).T @ centred
    ridge = RIDGE * np.trace(covariance) / len(covariance)
    # Constant features differ only by rounding.
    if RIDGE * np.square(features).mean() * ROUNDING >= ridge:
        return np.zeros(features.shape[1])
    slope = (centred * weights[:, None]).T @ np.where(inside, 1.0, -1.0)
    direction = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), slope)
    spread = (features @ direction).std()
    return direction / spread if spread > 0 else np.zeros_like(direction)


def run_shift(task: Task, attributes: Mapping[str, Any]) -> Iterator[Candidate]:
    """Try every size along each line in turn, starting from the best result of earlier lines.

    Parameters
    ----------
    task : Task
    attributes : mapping
        Fitted attributes of every candidate.

    Yields
    ------
    candidate : Candidate
        Nothing is yielded if the output layer is not linear, or if there are more than
        ``MOST_LINES`` pairs of group and class.
    """
    name, head = task.data.output_layer, task.module.get_submodule(task.data.output_layer)
    prefix = f"{name}." if name else ""
    start = {f"{prefix}{key}": value.detach() for key, value in head.named_parameters()}
    leader = Best(start)
    # If no shift along a line is an improvement, the line is left at its start.
    leader.offer((task.data.before or task.data.judge(task.data.untouched)).rank, start)
    for line in _lines(task, head):
        base = leader.value or start
        for size in SIZES:
            state = _shift(base, prefix, line, size)
            record = {"stage": "shift", "shift": size, **line.params}
            candidate = judge_state(task, state, record, attributes)
            if candidate.verdict is not None:
                leader.offer(candidate.verdict.rank, state)
            yield candidate


def _lines(task: Task, head: nn.Module) -> list[Line]:
    data = task.data
    if not isinstance(head, nn.Linear) or not data.has_groups:
        return []
    # Two classes have one margin; the last row of the weight is that of the second class.
    rows = [head.out_features - 1] if data.n_classes == 2 else list(range(data.n_classes))
    n_directions = 1 if data.n_groups == 2 else data.n_groups
    if len(rows) * n_directions > MOST_LINES or (head.bias is None and len(rows) > 1):
        return []
    features = all_features(task.module, data.judged, data.output_layer).double().numpy()
    if features.shape[1] != head.in_features:
        return []
    # Under phi the judged rows include no editing rows.
    editing = data.judge.parts == data.judge.parts.max()
    editing_rows = features[editing], data.judge.groups[editing]
    weights = None if data.judge.weights is None else data.judge.weights[editing]
    directions, centres = group_directions(*editing_rows, data.n_groups, weights)
    labels = data.group_labels[1:] if data.n_groups == 2 else data.group_labels
    logits = data.untouched.double()
    spreads = [float(s) for s in (logits - logits.mean(dim=1, keepdim=True)).std(dim=0)]
    lines = []
    for direction, centre, label in zip(directions, centres, labels, strict=True):
        for row in rows:
            # Each of two centred logits varies half as much as the margin.
            unit = 2 * spreads[1] if data.n_classes == 2 else spreads[row]
            weight = torch.as_tensor(unit * direction).to(head.weight)
            bias = torch.as_tensor(-unit * centre).to(head.weight)
            if direction.any():
                lines.append(Line(row, weight, bias, {"group": label, "class": row}))
    return lines


def _shift(base: Mapping[str, Tensor], prefix: str, line: Line, size: float) -> dict[str, Tensor]:
    """Add ``size`` times the line to the row of its class."""
    state = {name: value.clone() for name, value in base.items()}
    state[f"{prefix}weight"][line.row] += size * line.weight
    if f"{prefix}bias" in state:
        state[f"{prefix}bias"][line.row] += size * line.bias
    return state
