"""Plain passes over shuffled rows: a short fine-tuning, and a training that is stopped early."""

from __future__ import annotations

import copy

import torch
from torch import nn

from benchmarks.nets import as_inputs
from benchmarks.tasks import Rows

__all__ = ["batch_gap", "refit", "short_fine_tune"]


def batch_gap(positive: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Compute soft equalized odds of a batch in any order; cells without rows do not count.

    Parameters
    ----------
    positive : Tensor of shape (n,)
        Probabilities of label 1.
    y, g : int64 Tensor of shape (n,)
        Labels and groups.

    Returns
    -------
    gap : scalar Tensor
        The largest less the smallest mean probability of a group, summed over both labels.
    """
    gap = positive.new_zeros(())
    for label in (0, 1):
        cells = [positive[(y == label) & (g == group)] for group in g.unique()]
        rates = torch.stack([cell.mean() for cell in cells if len(cell)] or [gap.detach()])
        gap = gap + rates.amax() - rates.amin()
    return gap


def short_fine_tune(
    module: nn.Module,
    rows: Rows,
    *,
    penalty: float,
    seed: int,
    epochs: int = 5,
    rate: float = 1e-4,
    batch: int = 64,
) -> nn.Module:
    """Fine-tune a copy by some passes over shuffled rows, as is usual for a pretrained network.

    Parameters
    ----------
    module : nn.Module
        Gives (n, 2) logits; stays as it is.
    rows : Rows
    penalty : float
        Factor of the soft gap of the batch, 0 for none.
    seed : int
        Orders the rows.
    epochs, batch : int
        Passes over the rows, and rows of a batch.
    rate : float, default=1e-4
        Of Adam.

    Returns
    -------
    tuned : nn.Module
        After the last pass, in eval mode.
    """
    tuned = copy.deepcopy(module).train()
    optimizer = torch.optim.Adam(tuned.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    inputs, labels, groups = as_inputs(rows.X), torch.from_numpy(rows.y), torch.from_numpy(rows.g)
    for _ in range(epochs):
        for taken in torch.randperm(len(labels), generator=generator).split(batch):
            logits, y = tuned(inputs[taken]), labels[taken]
            loss = nn.functional.cross_entropy(logits, y)
            if penalty:
                loss = loss + penalty * batch_gap(logits.softmax(dim=1)[:, 1], y, groups[taken])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return tuned.eval()


def refit(
    module: nn.Module,
    training: Rows,
    validation: Rows,
    *,
    seed: int,
    epochs: int = 40,
    patience: int = 4,
) -> nn.Module:
    """Train a network in place by Adam 1e-3, and go back to its best epoch on validation rows.

    Parameters
    ----------
    module : nn.Module
        Gives (n, 2) logits; freshly initialised.
    training, validation : Rows
    seed : int
        Orders the rows.
    epochs, patience : int
        At most so many passes; it stops after so many without a lower cross-entropy.
    """
    batch = 64 if len(training.y) < 5000 else 256
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    X, y = as_inputs(training.X), torch.from_numpy(training.y)
    held = as_inputs(validation.X), torch.from_numpy(validation.y)
    least, waiting, best = float("inf"), 0, copy.deepcopy(module.state_dict())
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=generator).split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(X[rows]), y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = float(nn.functional.cross_entropy(module(held[0]), held[1]))
        waiting = 0 if loss < least else waiting + 1
        if loss < least:
            least, best = loss, copy.deepcopy(module.state_dict())
        if waiting == patience:
            break
    module.load_state_dict(best)
    return module.eval()
