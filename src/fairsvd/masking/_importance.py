"""How strongly each weight drives the bias, and how strongly the prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..base import EditData, Task
from ..curvature import Gradient, squared_weight_gradients
from ..groups import cell_codes
from ..layers import chosen_weights
from ..objective import edit_loss, shift_logits, soft_gap
from ..phases import make_batches
from ..training import cell_shares

__all__ = [
    "Importance",
    "Operating",
    "as_named",
    "batch_importance",
    "from_named",
    "row_importance",
]

# How the prediction's importance weighs rows, as in both papers: with equal cells both gradients
# would nearly coincide, and their ratio would be constant.
BALANCE = "classes"

Importance = tuple[dict[str, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Operating:
    """Threshold and sharpness of the bias loss.

    Attributes
    ----------
    margin : float
        Operating threshold, in units of the logit margin.
    sharpness : float
        Factor of the logits; 1: the network's own probabilities.
    """

    margin: float
    sharpness: float


def row_importance(
    task: Task,
    layers: Sequence[str],
    at: Operating,
    *,
    max_memory: int,
) -> Importance:
    """Compute the expected square of a batch's mean gradient from single rows' gradients.

    For B rows drawn at random it is ``(1 - 1/B) (E g)^2 + E g^2 / B`` with g a row's own gradient:
    the per-sample Fisher, and the square of the mean gradient, without which a weight that moves
    both groups alike would count like one that moves them apart. The gap is a function of cell
    means of probabilities; its gradient in them, at the untouched network, gives each row of a cell
    its share of the gap.

    Parameters
    ----------
    task : Task
        Its data's ``batch_size`` is B, or the number of editing rows if that is smaller.
    layers : sequence of str
    at : Operating
    max_memory : int
        Limit in bytes of the temporary memory.

    Returns
    -------
    bias, prediction : dict of weight name to Tensor
        Of the weights' shapes, at least 0.
    """
    data = task.data
    counts, means = cell_means(task, at)
    slopes = gap_slopes(means, counts, task)
    shares = cell_shares(counts.reshape(data.n_classes, -1).cpu().numpy(), BALANCE)
    weights = torch.as_tensor(shares).flatten().to(means) * counts.sum() / counts.clamp_min(1)

    def of_gap(logits: Tensor, cells: Tensor) -> Tensor:
        p = torch.softmax(at.sharpness * shift_logits(logits, at.margin), dim=1)
        slope = slopes[cells].to(p)
        return at.sharpness * p * (slope - (slope * p).sum(dim=1, keepdim=True))

    def of_prediction(logits: Tensor, cells: Tensor) -> Tensor:
        p = torch.softmax(shift_logits(logits, at.margin), dim=1)
        true = torch.nn.functional.one_hot(cells // data.n_groups, data.n_classes)
        return weights[cells].to(p)[:, None] * (p - true)

    bias, prediction = (
        _expected_squares(task, layers, gradient, max_memory)
        for gradient in (of_gap, of_prediction)
    )
    return bias, prediction


def _expected_squares(
    task: Task, layers: Sequence[str], gradient: Gradient, max_memory: int
) -> dict[str, Tensor]:
    """Add the rows' mean squared gradient and their squared mean, weighed as in a batch."""
    module, data = task.module, task.data
    squares = squared_weight_gradients(
        module,
        layers,
        _cell_batches(data),
        gradient,
        to_logits=data.to_logits,
        max_memory=max_memory,
        autocast=data.measured_in,
    )
    names = [weight.parameter for weight in chosen_weights(module, layers).values()]
    means = _mean_gradients(task, names, gradient)
    share = 1 / min(data.batch_size, len(data.editing))
    return {
        name: (1 - share) * means[name].square() + share * squares[layer]
        for name, layer in zip(names, layers, strict=True)
    }


def _mean_gradients(task: Task, names: Sequence[str], gradient: Gradient) -> dict[str, Tensor]:
    module, data = task.module, task.data
    current = dict(module.named_parameters())
    leaves = {name: current[name].detach().clone().requires_grad_() for name in names}
    sums = {name: torch.zeros_like(current[name]) for name in names}
    for X, cells, _ in _cell_batches(data):
        logits = data.forward(module, leaves, X)
        cotangent = gradient(logits.detach(), cells) / len(data.editing)
        gradients = torch.autograd.grad(logits, list(leaves.values()), cotangent.to(logits))
        for name, value in zip(names, gradients, strict=True):
            sums[name] += value
    return sums


def _cell_batches(data: EditData) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for X, y, groups in data.editing_batches():
        yield X, cell_codes(y, groups, data.n_groups), torch.zeros_like(y)


def cell_means(task: Task, at: Operating) -> tuple[Tensor, Tensor]:
    """Count the editing rows of every cell and average their probabilities.

    Returns
    -------
    counts : Tensor of shape (n_cells,), float64
        Cells are numbered ``y * n_groups + group``.
    means : Tensor of shape (n_cells, n_classes), float64
        0 where a cell is empty.
    """
    data = task.data
    n_cells = data.n_classes * data.n_groups
    sums = torch.zeros(n_cells, data.n_classes, dtype=torch.float64, device=data.device)
    counts = torch.zeros(n_cells, dtype=torch.float64, device=data.device)
    with torch.no_grad():
        for X, cells, _ in _cell_batches(data):
            logits = shift_logits(data.forward(task.module, {}, X), at.margin)
            p = torch.softmax(at.sharpness * logits, dim=1).double()
            sums.index_add_(0, cells, p)
            counts += torch.bincount(cells, minlength=n_cells)
    return counts, sums / counts.clamp_min(1)[:, None]


def gap_slopes(means: Tensor, counts: Tensor, task: Task) -> Tensor:
    """Differentiate the gap in the probabilities of a cell's rows.

    Returns
    -------
    slopes : Tensor of shape (n_cells, n_classes)
        Multiplied by the number of all rows, so that the mean over rows of slope times probability
        has the gap's gradient; 0 without a fairness term.
    """
    data, constraint = task.data, task.constraint
    if not data.has_groups:
        return torch.zeros_like(means)
    cells = torch.arange(len(means), device=means.device)
    y, groups = cells // data.n_groups, cells % data.n_groups
    leaf = means.clone().requires_grad_()
    gap = soft_gap(leaf, y, groups, counts, constraint.gap, constraint.pos, data.n_groups)
    (slopes,) = torch.autograd.grad(gap, leaf, allow_unused=True)
    if slopes is None:
        return torch.zeros_like(means)
    return slopes * counts.sum() / counts.clamp_min(1)[:, None]


def batch_importance(
    task: Task,
    layers: Sequence[str],
    at: Operating,
    rng: np.random.Generator,
) -> Importance:
    """Average the squared gradients of the mean losses of mini-batches.

    This is what the papers' code measures, with every cell in every batch; values depend on the
    size of the batches, ``data.batch_size``. Parameters and results as in :func:`row_importance`.
    """
    module, data = task.module, task.data
    names = [weight.parameter for weight in chosen_weights(module, layers).values()]
    current = dict(module.named_parameters())
    leaves = {name: current[name].detach().clone().requires_grad_() for name in names}
    batches = make_batches(data, BALANCE, rng, size=data.batch_size)
    n_batches = -(-len(data.editing) // data.batch_size)
    # (weight of the soft gap, weight of the cross-entropy) of the bias and of the prediction.
    losses = (1.0 if data.has_groups else 0.0, 0.0), (0.0, 1.0)
    sums = [{name: torch.zeros_like(leaves[name]) for name in names} for _ in losses]
    for _, batch in zip(range(n_batches), batches, strict=False):
        logits = data.forward(module, leaves, batch.X)
        for total, (gap_weight, share) in zip(sums, losses, strict=True):
            loss = edit_loss(
                logits,
                batch,
                task.constraint,
                margin=at.margin,
                gap_weight=gap_weight,
                n_groups=data.n_groups,
                share=share,
                sharpness=at.sharpness,
            )
            gradients = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
            for name, gradient in zip(names, gradients, strict=True):
                total[name].add_(gradient.square(), alpha=1 / n_batches)
    bias, prediction = sums
    return bias, prediction


def as_named(importance: Importance) -> dict[str, Tensor]:
    """Put both importances into one dictionary, as the cache keeps it."""
    return {
        f"{kind}/{name}": value
        for kind, values in zip(("bias", "prediction"), importance, strict=True)
        for name, value in values.items()
    }


def from_named(tensors: Mapping[str, Tensor], device: torch.device) -> Importance:
    """Undo :func:`as_named`."""
    parts: dict[str, dict[str, Tensor]] = {"bias": {}, "prediction": {}}
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        parts[kind][name] = value.to(device)
    return parts["bias"], parts["prediction"]
