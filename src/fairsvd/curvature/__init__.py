"""Per-group diagonal curvature of a network, for all groups in one pass over the rows.

The curvature of a row is the squared gradient of its cross-entropy (empirical Fisher), or the
diagonal of the generalised Gauss-Newton matrix, which needs no labels. It is taken with respect to
the entries of the singular value factors of chosen layers or to their weights. The squares are
exact: they come from layer inputs and output gradients, without a loop over rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ._checks import find_target
from ._engine import CurvaturePass, Gradient
from ._rows import Batch

__all__ = [
    "Gradient",
    "group_curvature",
    "group_weight_curvature",
    "squared_weight_gradients",
]


def group_curvature(
    module: nn.Module,
    factors: Mapping[str, tuple[Tensor, Tensor, Tensor]],
    batches: Iterable[Batch],
    *,
    n_groups: int,
    to_logits: Callable[[Tensor], Tensor],
    hessian: str = "fisher",
    max_memory: int = 2**28,
    autocast: torch.dtype | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Measure how much each group's loss curves along every entry of some layers' factors.

    The factors of a layer write its weight, reshaped to (c, m, n), as
    ``W[k] ~ U[k] diag(S[k]) V[k]^T``; c is the number of groups of a grouped convolution, 3 for
    the packed projection of an attention layer (query, key, value), and 1 otherwise. If G_i is the
    gradient of row i with respect to the weight, ``hU`` is the mean over a group's rows of the
    squares of ``G_i V diag(S)``, and ``hV`` that of ``G_i^T U diag(S)``.

    Parameters
    ----------
    module : nn.Module
        Network; run in evaluation mode. Its parameters, their ``grad`` and ``requires_grad``, the
        modes of its parts and its hooks are restored, also after an error.
    factors : mapping of str to (U, S, V)
        By layer name (of :func:`fairsvd.networks.layer_weights`): U (c, m, r), S (c, r), V (c,
        n, r). ``nn.Linear``, ``nn.Conv2d`` and the projections of ``nn.MultiheadAttention`` are
        fast. Any other layer with a parameter ``weight``, read as (c, shape[0] / c, rest), goes
        through ``torch.func``. So does a weight that is also used outside its layer, or by a
        layer whose input does not have the rows in its first dimension, such as attention within
        windows of an image. All are exact.
    batches : iterable of (x, y, group)
        Read once. x (n, ...) is the module's input, y (n,) int64 class codes, group (n,) int64
        codes in [0, n_groups), -1 for rows to leave out; all on the module's device. With several
        groups, rows of successive batches are sorted together and run in batches of that size.
    n_groups : int
        Number of groups.
    to_logits : callable
        Maps the output of the module to logits (n, n_classes), row by row.
    hessian : {"fisher", "ggn"}, default="fisher"
        "fisher": squared gradients of the rows. "ggn": diagonal of the generalised Gauss-Newton
        matrix, without labels, in n_classes - 1 backward passes.
    max_memory : int, default=2**28
        Limit in bytes of the temporary memory: half for gradients of single rows, which
        convolutions form in chunks, and half for batches that wait to be sorted by group. At least
        one row and one batch are held.
    autocast : torch.dtype or None, default=None
        Precision in which the module runs forward and backward under ``torch.autocast``
        (``torch.bfloat16`` or ``torch.float16``). Logits, squares and sums keep at least float32.
        None: the module's own precision, even if the caller has entered another.

    Returns
    -------
    curvature : dict of str to (hU, hV)
        hU (n_groups, c, m, r) and hV (n_groups, c, n, r), at least 0, in float32, or float64 for a
        float64 layer, on the device of the layer. A group without rows gets zeros.

    Raises
    ------
    ValueError
        If a layer does not exist, has no usable weight, never runs, or its input is changed in
        place; or if shapes, class or group codes or options are out of range.

    Notes
    -----
    The score that FairLRF builds on this curvature, and the Gauss-Newton alternative, follow the
    family of :arxiv:`2203.02110`. That code squares gradients of whole batches, this one those of
    single rows. Memory is bounded by the batch and ``max_memory`` for any number of rows. The
    gradient of a layer that is used several times in a forward pass is the sum over its uses; that
    of a weight that several layers share is the sum over the layers.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> U, S, Vh = torch.linalg.svd(net[0].weight.detach(), full_matrices=False)
    >>> rows = torch.randn(6, 4), torch.tensor([0, 1] * 3), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> h = group_curvature(
    ...     net,
    ...     {"0": (U[None], S[None], Vh.mT[None])},
    ...     [rows],
    ...     n_groups=2,
    ...     to_logits=lambda output: output,
    ... )
    >>> hU, hV = h["0"]
    >>> hU.shape, hV.shape
    (torch.Size([2, 1, 3, 3]), torch.Size([2, 1, 4, 3]))
    """
    curvature = CurvaturePass(
        module,
        factors,
        n_groups=n_groups,
        to_logits=to_logits,
        hessian=hessian,
        max_memory=max_memory,
        autocast=autocast,
    ).run(batches)
    return {name: (hU, hV) for name, (hU, hV) in curvature.items()}


def group_weight_curvature(
    module: nn.Module,
    names: Sequence[str],
    batches: Iterable[Batch],
    *,
    n_groups: int,
    to_logits: Callable[[Tensor], Tensor],
    hessian: str = "fisher",
    max_memory: int = 2**28,
    autocast: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Measure how much each group's loss curves along every entry of some layers' weights.

    Parameters
    ----------
    module, batches, n_groups, to_logits, hessian, max_memory, autocast
        As in :func:`group_curvature`.
    names : sequence of str
        Names of the layers.

    Returns
    -------
    curvature : dict of str to Tensor of shape (n_groups, c, m, n)
        Means over each group's rows of the squared gradient with respect to
        ``weight.reshape(c, m, n)``; a group without rows gets zeros.

    Raises
    ------
    ValueError
        As in :func:`group_curvature`.

    Notes
    -----
    FairPrune (:arxiv:`2203.02110`) ranks weights by this diagonal; here per-row squares are exact.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> rows = torch.randn(6, 4), torch.tensor([0, 1] * 3), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> h = group_weight_curvature(net, ["0"], [rows], n_groups=2, to_logits=lambda output: output)
    >>> h["0"].shape
    torch.Size([2, 1, 3, 4])
    """
    curvature = CurvaturePass(
        module,
        dict.fromkeys(names),
        n_groups=n_groups,
        to_logits=to_logits,
        hessian=hessian,
        max_memory=max_memory,
        autocast=autocast,
    ).run(batches)
    return {name: squares for name, (squares,) in curvature.items()}


def squared_weight_gradients(
    module: nn.Module,
    names: Sequence[str],
    batches: Iterable[Batch],
    gradient: Gradient,
    *,
    to_logits: Callable[[Tensor], Tensor],
    max_memory: int = 2**28,
    autocast: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Average the squared gradients of any loss of single rows in some layers' weights.

    Parameters
    ----------
    module, batches, to_logits, max_memory, autocast
        As in :func:`group_curvature`. The codes y of the batches are passed to ``gradient``; rows
        of group 0 are averaged, those of group -1 left out.
    names : sequence of str
        Names of the layers.
    gradient : callable
        Maps logits (n, n_classes) and codes (n,) to the gradient (n, n_classes) of each row's
        loss in its logits.

    Returns
    -------
    squares : dict of str to Tensor, each of the shape of the layer's weight
        Means over the rows, at least 0, in float32 or float64.

    Raises
    ------
    ValueError
        As in :func:`group_curvature`.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> rows = torch.randn(6, 4), torch.zeros(6, dtype=torch.int64), torch.zeros(6).long()
    >>> squares = squared_weight_gradients(
    ...     net, ["0"], [rows], lambda logits, codes: logits, to_logits=lambda output: output
    ... )
    >>> squares["0"].shape
    torch.Size([3, 4])
    """
    curvature = CurvaturePass(
        module,
        dict.fromkeys(names),
        n_groups=1,
        to_logits=to_logits,
        hessian="fisher",
        max_memory=max_memory,
        autocast=autocast,
        gradient=gradient,
    ).run(batches)
    shapes = {name: find_target(module, name).value.shape for name in names}
    return {name: squares[0].reshape(shapes[name]) for name, (squares,) in curvature.items()}
