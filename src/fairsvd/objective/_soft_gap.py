"""A gap between groups as a loss term: the same rates, on probabilities and in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._gap_names import compared

__all__ = ["GapTerms", "RunningMeans", "gap_of", "soft_gap"]

# Weight of the newest batch in running means, which thus remember some ten batches. On development
# rows of faces, 64 a batch in 14 cells, the same weight of the gap then closed .015 more of it.
NEWEST = 0.1


@dataclass(frozen=True)
class GapTerms:
    """All of a soft gap that does not depend on the probabilities of the rows.

    There are k rates, g groups and C columns: classes, or one for the positive class, or one for
    accuracy.

    Attributes
    ----------
    correct : Tensor of shape (n, n_classes), optional
        1 at each row's class, where the rate is the accuracy.
    column : int or None
        The only class that is compared; None: all of them.
    weights : tuple of k Tensors of shape (n, g, C)
        Each row's weight in the mean of its group.
    back : Tensor of shape (n, k * g, n_classes)
        The same weights, for all classes: they carry the gradient of the means to the rows.
    mass : Tensor of shape (k, g, C)
        Sum of the weights; 1 where there are none.
    present : boolean Tensor of shape (k, g, C)
        Whether there are rows.
    used : Tensor of shape (k, 1, C), optional
        Factors of the rates that are added before groups are compared.
    absent : boolean Tensor of shape (k, g, C), or (1, g, C) if the rates are added first
        Whether the mean does not exist; False in a column without any, where all means are 0.
    n_comparable : Tensor of shape ()
        Classes that can be compared, at least 1.
    signs : Tensor of shape (2, 1, 1, 1)
        1 for the largest mean and -1 for the smallest.
    """

    correct: Tensor | None
    column: int | None
    weights: tuple[Tensor, ...]
    back: Tensor
    mass: Tensor
    present: Tensor
    used: Tensor | None
    absent: Tensor
    n_comparable: Tensor
    signs: Tensor

    @classmethod
    def of(
        cls,
        y: Tensor,
        groups: Tensor,
        weights: Tensor | None,
        name: str,
        pos: int | None,
        sizes: tuple[int, int],
        dtype: torch.dtype,
    ) -> GapTerms:
        """Prepare the gap of rows, see :func:`soft_gap`; ``sizes`` are n_classes and n_groups."""
        which, (n_classes, n_groups) = compared(name), sizes
        member = one_hot(groups, n_groups, dtype)
        if weights is not None:
            member = member * weights.to(dtype)[:, None]
        true = one_hot(y, n_classes, dtype)
        correct, column = None, None
        if which == ("accuracy",):
            correct = true
            conditions = [torch.ones_like(true[:, None, :1])]
            spread = true[:, None, :]
        else:
            if n_classes == 2 and pos is not None:
                column = pos
            chosen = true if column is None else true[:, column : column + 1]
            condition = {"tpr": chosen[:, None, :], "fpr": 1 - chosen[:, None, :]}
            conditions = [condition.get(c, torch.ones_like(chosen[:, None, :])) for c in which]
            spread = true.new_zeros(1, 1, n_classes)
            spread[..., slice(None) if column is None else column] = 1
        each = tuple(member[:, :, None] * condition for condition in conditions)
        mass = torch.stack([part.sum(dim=0) for part in each])
        present = mass > 0
        used, known = None, present
        if name == "signed_average_odds":
            # A rate that fewer than two groups have is left out of the sum.
            uses = present.sum(dim=1, keepdim=True) >= 2
            known = ((present | ~uses).all(dim=0) & uses.any(dim=0))[None]
            used = uses.to(dtype)
        comparable = known.sum(dim=1) >= 2
        signs = torch.ones(2, 1, 1, 1, dtype=dtype, device=y.device)
        signs[1] = -1
        return cls(
            correct,
            column,
            each,
            torch.cat(each, dim=1) * spread,
            # A denominator of 1 for absent groups: 0/0 would turn every gradient into NaN.
            torch.where(present, mass, 1.0),
            present,
            used,
            ~known & known.any(dim=1, keepdim=True),
            comparable.any(dim=0).sum().clamp(min=1),
            signs,
        )


def one_hot(codes: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """Mark each row's code in [0, n), (n_rows, n); a row of another code has no mark."""
    return (codes[:, None] == torch.arange(n, device=codes.device)).to(dtype)


class RunningMeans:
    """Means of the groups over the latest batches.

    In a small batch the extreme groups are mostly those with the luckiest rows, so that the
    gradient of its gap pushes groups at random. The running means say which groups are the
    extremes, and the rows of the batch are moved.
    """

    def __init__(self) -> None:
        self.values: Tensor | float = 0.0
        self.n_batches: Tensor | float = 0.0

    def follow(self, means: Tensor, present: Tensor) -> Tensor:
        """Draw the values towards a batch's means where it has rows; the first ten count alike.

        Parameters
        ----------
        means : Tensor of shape (k, g, C)
        present : boolean Tensor of shape (k, g, C)

        Returns
        -------
        values : Tensor of shape (k, g, C)
        """
        self.n_batches = self.n_batches + present.to(means.dtype)
        newest = present / self.n_batches.clamp(min=1, max=1 / NEWEST)
        self.values = self.values + newest * (means - self.values)
        return self.values


class Spread(torch.autograd.Function):
    """The largest minus the smallest mean of the groups, added over rates, averaged over classes.

    Written out, since a training step on a GPU takes as long as it has operators.
    """

    @staticmethod
    def forward(
        ctx: Any, probabilities: Tensor, terms: GapTerms, running: RunningMeans | None
    ) -> Tensor:
        """Compute the gap; groups of equal means share its gradient."""
        if terms.correct is not None:
            values = (probabilities * terms.correct).sum(dim=1, keepdim=True)
        elif terms.column is not None:
            values = probabilities[:, terms.column : terms.column + 1]
        else:
            values = probabilities
        sums = [torch.einsum("nc,ngc->gc", values, weights) for weights in terms.weights]
        means = torch.stack(sums) / terms.mass
        if running is not None:
            means = running.follow(means, terms.present)
        if terms.used is not None:
            means = (means * terms.used).sum(dim=0, keepdim=True)
        sides = (means * terms.signs).masked_fill(terms.absent, -torch.inf)
        ends = sides.amax(dim=2, keepdim=True)
        ctx.terms = terms
        ctx.save_for_backward(sides, ends)
        return ends.sum(dim=0).sum() / terms.n_comparable

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Carry the gradient to the rows of the extreme groups."""
        terms: GapTerms = ctx.terms
        sides, ends = ctx.saved_tensors
        extreme = sides == ends
        share = grad / terms.n_comparable * terms.signs * extreme / extreme.sum(2, keepdim=True)
        of_means = share.sum(dim=0)
        if terms.used is not None:
            of_means = of_means * terms.used
        of_sums = (of_means / terms.mass).flatten(0, 1)
        of_rows = torch.einsum("gc,ngc->nc", of_sums.expand(-1, terms.back.shape[2]), terms.back)
        return of_rows, None, None


def gap_of(probabilities: Tensor, terms: GapTerms, running: RunningMeans | None = None) -> Tensor:
    """Measure a gap on probabilities whose labels, groups and weights are prepared.

    With running means it is the gap between these, and its gradient that of the batch's own means.
    """
    gap: Tensor = Spread.apply(probabilities, terms, running)
    return gap


def soft_gap(
    probabilities: Tensor,
    y: Tensor,
    groups: Tensor,
    weights: Tensor | None,
    name: str,
    pos: int | None,
    n_groups: int,
) -> Tensor:
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
    sizes = probabilities.shape[1], n_groups
    terms = GapTerms.of(y, groups, weights, name, pos, sizes, probabilities.dtype)
    return gap_of(probabilities, terms)
