"""The base networks of the benchmarks and the fine-tuning loop of the controls."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from benchmarks.residual import ResidualNetwork
from benchmarks.tasks import Rows

__all__ = [
    "PER_BATCH",
    "STEEPNESS",
    "convnet",
    "fine_tune",
    "in_blocks",
    "margins",
    "mlp",
    "residual",
    "train",
]

PER_BATCH = 256
# Soft rates are sigmoid(4 x margin): steep enough to resemble counts, flat enough for a gradient.
STEEPNESS = 4.0


def mlp(width: int, seed: int, outputs: int = 2) -> nn.Sequential:
    """Make the base network of the tables: two hidden layers of 64, freshly initialised."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs)
        )


def convnet(channels: int, seed: int, side: int = 28, outputs: int = 2) -> nn.Sequential:
    """Make the base network of images: convolutions 16/32/64, each pooled, and two linear layers.

    Parameters
    ----------
    channels : int
    seed : int
        Of the initial weights.
    side : int, default=28
        Height and width of the images.
    outputs : int, default=2
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in ((channels, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        flat = 64 * (side // 8) ** 2
        head = [nn.Flatten(), nn.Linear(flat, 64), nn.ReLU(), nn.Linear(64, outputs)]
        return nn.Sequential(*layers, *head)


def residual(seed: int, outputs: int = 2, width: int = 16) -> ResidualNetwork:
    """Make the base network of larger images: ResNet-18, narrow so that a CPU can train it.

    Parameters
    ----------
    seed : int
        Of the initial weights.
    outputs : int, default=2
    width : int, default=16
        Channels of the first stage, 64 in the original.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResidualNetwork(outputs, width)


def as_inputs(X: np.ndarray) -> torch.Tensor:
    """Turn features into a tensor; images get channels last, with which convolutions are faster."""
    inputs = torch.from_numpy(X)
    return inputs.contiguous(memory_format=torch.channels_last) if X.ndim == 4 else inputs


def train(
    module: nn.Module,
    X: np.ndarray,
    y: np.ndarray,
    *,
    seed: int,
    weights: np.ndarray | None = None,
    epochs: int = 20,
    steps: int = 1500,
) -> nn.Module:
    """Train a network in place by Adam 1e-3 in batches of 256, for ``epochs`` or ``steps``.

    The training lasts as long as the larger of the two asks for.

    Parameters
    ----------
    module : nn.Module
        Gives (n, 2) logits.
    X : float32 ndarray of shape (n, ...)
    y : int64 ndarray of shape (n,)
    seed : int
        Orders the rows.
    weights : ndarray of shape (n,), default=None
        Weight of every row's cross-entropy, mean 1.
    epochs, steps : int
        Least number of passes over the rows, least number of batches.

    Returns
    -------
    module : nn.Module
        In eval mode.
    """
    inputs, labels = as_inputs(X), torch.from_numpy(y)
    scale = torch.ones(len(y)) if weights is None else torch.from_numpy(weights).float()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    n_batches = -(-len(y) // PER_BATCH)
    module.train()
    for _ in range(max(epochs, -(-steps // n_batches))):
        for batch in torch.randperm(len(y), generator=generator).split(PER_BATCH):
            losses = nn.functional.cross_entropy(
                module(inputs[batch]), labels[batch], reduction="none"
            )
            optimizer.zero_grad()
            (losses * scale[batch]).mean().backward()
            optimizer.step()
    return module.eval()


def in_blocks(module: nn.Module, X: np.ndarray) -> torch.Tensor:
    """Run a network on all rows; images in blocks that the cache can hold."""
    module.eval()
    with torch.no_grad():
        blocks = as_inputs(X).split(64 if X.ndim == 4 else 1024)
        return torch.cat([module(block) for block in blocks])


def margins(module: nn.Module, X: np.ndarray) -> np.ndarray:
    """Compute logit 1 minus logit 0 of every row; float64 ndarray of shape (n,)."""
    logits = in_blocks(module, X)
    return (logits[:, 1] - logits[:, 0]).double().numpy()


def cell_members(rows: Rows) -> list[torch.Tensor]:
    """List the row positions of every (group, label) cell, label running fastest."""
    n_groups = int(rows.g.max()) + 1
    cells = [np.flatnonzero((rows.g == g) & (rows.y == y)) for g in range(n_groups) for y in (0, 1)]
    return [torch.from_numpy(cell) for cell in cells]


def soft_gap(margin: torch.Tensor, shares: torch.Tensor, constraint: str) -> torch.Tensor:
    """Compute a differentiable gap of a batch that is laid out by cell.

    Parameters
    ----------
    margin : Tensor of shape (n_groups, 2, rows a cell)
        Margins less the operating threshold.
    shares : Tensor of shape (n_groups, 2)
        True share of every cell.
    constraint : {"equalized_odds", "demographic_parity"}
        Equalized odds: the sum of the TPR and FPR gaps.

    Returns
    -------
    gap : scalar Tensor
    """
    rates = torch.sigmoid(STEEPNESS * margin).mean(dim=2)
    if constraint == "demographic_parity":
        rates = (rates * shares).sum(dim=1, keepdim=True) / shares.sum(dim=1, keepdim=True)
    return (rates.amax(dim=0) - rates.amin(dim=0)).sum()


def cell_weights(shares: torch.Tensor, balance: str) -> torch.Tensor:
    """Weigh cells in the cross-entropy so that classes, or cells, weigh alike; the sum is 1."""
    if balance == "cells":
        return torch.full_like(shares, 1 / shares.numel())
    return shares / shares.sum(dim=0, keepdim=True) / 2


def fine_tune(
    module: nn.Module,
    rows: Rows,
    *,
    offset: float,
    penalty: float,
    constraint: str,
    seed: int,
    balance: str = "classes",
    names: Sequence[str] | None = None,
    rate: float = 1e-3,
    steps: int = 300,
    every: int = 30,
) -> Iterator[nn.Module]:
    """Fine-tune a copy under a soft gap and give a copy of it every few steps.

    Parameters
    ----------
    module : nn.Module
        Stays as it is.
    rows : Rows
        Every batch holds 256 rows, as many of each (label, group) cell.
    offset : float
        The operating threshold on the margin; every loss is taken there.
    penalty : float
        Factor of the soft gap, 0 for none.
    constraint : str
    seed : int
    balance : {"classes", "cells"}, default="classes"
        What weighs alike in the cross-entropy.
    names : sequence of str, default=None
        Parameters that may change; None for all.
    rate : float, default=1e-3
    steps, every : int

    Yields
    ------
    candidate : nn.Module
    """
    tuned = copy.deepcopy(module).eval()
    free = [p for name, p in tuned.named_parameters() if names is None or name in names]
    optimizer = torch.optim.Adam(free, lr=rate)
    generator = torch.Generator().manual_seed(seed)
    inputs, cells = as_inputs(rows.X), cell_members(rows)
    shares = torch.tensor([len(cell) for cell in cells]).float().reshape(-1, 2)
    shares /= shares.sum()
    weights, sign = cell_weights(shares, balance), torch.tensor([1.0, -1.0]).reshape(1, 2, 1)
    per_cell = PER_BATCH // len(cells)
    for step in range(1, steps + 1):
        draws = [c[torch.randint(len(c), (per_cell,), generator=generator)] for c in cells]
        logits = tuned(inputs[torch.cat(draws)])
        margin = (logits[:, 1] - logits[:, 0] - offset).reshape(-1, 2, per_cell)
        losses = nn.functional.softplus(sign * margin).mean(dim=2)
        loss = (losses * weights).sum() + penalty * soft_gap(margin, shares, constraint)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % every == 0:
            yield copy.deepcopy(tuned)
