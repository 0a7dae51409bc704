"""A gap between groups as a loss term: the same rates, on probabilities and in torch."""

from __future__ import annotations

import torch

from ._gap_names import compared

__all__ = ["soft_gap"]


Means = tuple[torch.Tensor, torch.Tensor]


def _soft_means(values: torch.Tensor, weights: torch.Tensor) -> Means:
    """Compute weighted means of the groups and whether each exists, both (n_groups, C).

    ``values`` has shape (n, C); ``weights`` has shape (n, n_groups, C) or (n, n_groups, 1).
    """
    weights = weights.expand(*weights.shape[:2], values.shape[1])
    mass = weights.sum(dim=0)
    present = mass > 0
    # A denominator of 1 for absent groups: 0/0 would turn every gradient into NaN.
    return torch.einsum("nc,ngc->gc", values, weights) / torch.where(present, mass, 1.0), present


def _soft_sum(tpr: Means, fpr: Means) -> Means:
    """Add both rates of each group; a rate that fewer than two groups have is left out."""
    used = [present.sum(dim=0) >= 2 for _, present in (tpr, fpr)]
    total = torch.where(used[0], tpr[0], 0.0) + torch.where(used[1], fpr[0], 0.0)
    present = (tpr[1] | ~used[0]) & (fpr[1] | ~used[1]) & (used[0] | used[1])
    return total, present


def _soft_spread(mean: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the spread of the groups' means and whether it exists, both of shape (C,)."""
    high = torch.where(present, mean, -torch.inf).amax(dim=0)
    low = torch.where(present, mean, torch.inf).amin(dim=0)
    comparable = present.sum(dim=0) >= 2
    return torch.where(comparable, high - low, 0.0), comparable


def soft_gap(
    probabilities: torch.Tensor,
    y: torch.Tensor,
    groups: torch.Tensor,
    weights: torch.Tensor | None,
    name: str,
    pos: int | None,
    n_groups: int,
) -> torch.Tensor:
    """Measure a gap on probabilities, differentiable in them.

    Parameters
    ----------
    probabilities : Tensor of shape (n, n_classes), floating
        Predicted probabilities, rows sum to 1.
    y : Tensor of shape (n,), int64
        Class codes in [0, n_classes).
    groups : Tensor of shape (n,), int64
        Group codes in [0, n_groups); rows with code -1 are left out.
    weights : Tensor of shape (n,) or None
        Weight of each row in its group's mean, at least 0; None means equal weights.
    name : str
        One of ``GAPS``.
    pos : int or None
        With two classes the code of the positive one. None, and more than two classes: every
        class against the rest, and the gaps averaged over the classes that can be compared.
    n_groups : int
        Number of groups; those absent from the batch are skipped.

    Returns
    -------
    gap : Tensor of shape (), dtype of ``probabilities``
        In [0, 1]; for equalized and average odds the **sum** of the TPR and FPR gaps, in [0, 2],
        since the gradient of a maximum reaches one of them only, and for signed average odds the
        gap of TPR + FPR, on the same scale. 0 with a zero gradient where nothing can be compared.

    Raises
    ------
    ValueError
        If ``name`` is unknown.

    Notes
    -----
    The mean of probabilities replaces the rate, as in arXiv:1811.00247, which uses Lagrangian
    multipliers. For 0/1 probabilities and equal weights it equals the hard gap, except for the sum
    named above.
    """
    which = compared(name)
    member = (groups[:, None] == torch.arange(n_groups, device=groups.device)).to(probabilities)
    if weights is not None:
        member = member * weights.to(probabilities)[:, None]
    true = (y[:, None] == torch.arange(probabilities.shape[1], device=y.device)).to(probabilities)
    if which == ("accuracy",):
        values, true = (probabilities * true).sum(dim=1, keepdim=True), true[:, :1]
    elif probabilities.shape[1] == 2 and pos is not None:
        values, true = probabilities[:, pos : pos + 1], true[:, pos : pos + 1]
    else:
        values = probabilities
    condition = {"tpr": true[:, None, :], "fpr": 1 - true[:, None, :]}
    means = [_soft_means(values, member[:, :, None] * condition.get(c, 1.0)) for c in which]
    if name == "signed_average_odds":
        means = [_soft_sum(*means)]
    spreads, comparable = zip(*(_soft_spread(*each) for each in means), strict=True)
    classes = torch.stack(comparable).any(dim=0).sum()
    return torch.stack(spreads).sum() / classes.clamp(min=1)
