"""FairLRF-style editing: sparse low-rank factors of a trained network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from re import Pattern
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..base import (
    Candidate,
    StrOptions,
    Task,
    at_least_0,
    fraction,
    parameter,
    positive_int,
    register_editor,
    with_parameters,
)
from ..caching import Cache, Entry
from ..curvature import group_curvature
from ..layers import (
    Factors,
    chosen_weights,
    factorise,
    full_rank,
    resolve_ranks,
    resolve_solver,
    select_layers,
)
from ..phases import (
    SPARSITIES,
    Deferred,
    ScoredRemoval,
    TuningEditor,
    count_masked,
    find_privileged,
    mask_and_tune,
)
from ._bases import TurnedEdit
from ._factor_edit import FactorEdit, keep_all, untouched_attributes

__all__ = ["FactorSettings", "FairLRFTransformer"]


@with_parameters
class FactorSettings(TuningEditor):
    """Parameters of an edit of factors, except those that a grid search chooses.

    Parameters
    ----------
    layers : {"hidden", "all"}, list of str or re.Pattern, default="hidden"
        Linear, Conv2d and attention layers to edit; "hidden" leaves out the one that makes the
        logits. An ``nn.MultiheadAttention`` called ``attn`` has ``attn.in_proj``, in which the
        projections of queries, keys and values are factored one by one, and ``attn.out_proj``. If
        layers share a weight, the first stands for all of them.
    criterion : {"learned", "curvature", "magnitude", "random"}, default="learned"
        "learned": straight-through masks; "curvature": ``1/2 u^2 (h_unprivileged -
        privileged_weight * h_privileged)``; "magnitude" and "random" are controls.
    hessian : {"fisher", "ggn"}, default="fisher"
        Diagonal curvature: empirical Fisher, or label-free generalised Gauss-Newton.
    n_rounds : int, default=1
        Rounds of removal by curvature, re-scored before each.
    refine : {"spectrum", "bases"} or None, default="spectrum"
        "spectrum": tune singular values and biases, too. In imitation of a teacher they and the
        output layer move together with learned masks, or after a removal by scores. Under the soft
        gap they are tuned after the removal; with learned masks they and the output layer are also
        tuned with nothing removed, for networks that lose too much by any removal. Under a budget
        (``max_epochs``) singular vectors move, too, and masks are learned only if ``sparsity``
        caps them. "bases": beside these the leading 64 singular vectors of each side turn among
        themselves, under a budget instead of moving freely; entries are removed before they turn.
    max_steps : int or None, default=None
        Cap on the steps of each phase. None: in imitation of a teacher one step for 25 rows, at
        least 400 and at most 500; under the soft gap ``min(300, max(30, n_rows))``, and for images
        as many as ``max_epochs`` buys.
    svd_solver : {"auto", "full", "randomized"}, default="auto"
        "randomized" approximates the leading singular vectors with an error within 1 % of the
        smallest that the rank allows; "auto" uses it for large layers cut to a small rank.
    compress : bool, default=False
        Leave the factors in the network (``LowRankLinear``, ``LowRankConv2d``) where they hold
        fewer numbers than the weight. Attention and weights that layers share stay dense.
    max_memory : int, default=2**28
        Limit in bytes of the temporary memory of the curvature.
    """

    layers: Any = parameter(StrOptions({"hidden", "all"}), list, tuple, Pattern, default="hidden")
    criterion: str = parameter(
        StrOptions({"learned", "curvature", "magnitude", "random"}), default="learned"
    )
    hessian: str = parameter(StrOptions({"fisher", "ggn"}), default="fisher")
    n_rounds: int = parameter(positive_int(), default=1)
    refine: str | None = parameter(StrOptions({"spectrum", "bases"}), None, default="spectrum")
    max_steps: int | None = parameter(positive_int(), None, default=None)
    svd_solver: str = parameter(StrOptions({"auto", "full", "randomized"}), default="auto")
    compress: bool = parameter("boolean", default=False)
    max_memory: int = parameter(positive_int(), default=2**28)


@register_editor(max_steps=3, gap_weight=1.0)
class FairLRFTransformer(FactorSettings):
    """FairLRF-style editing: remove entries of a network's SVD factors that drive its bias.

    Every chosen layer's weight is factored as U S V^T, truncated to ``rank``, and single entries
    of U and V are removed so that errors fall more evenly on the groups; by default singular
    values and biases are tuned afterwards. The network keeps its architecture, needs no
    sensitive attribute to predict, and what the user passed in is not changed.

    Parameters
    ----------
    rank : int, float in (0, 1] or None, default=None
        Rank kept: a fraction of each layer's full rank, an absolute number (capped by each
        layer), or the full rank.
    sparsity : float in [0, 1] or None, default=None
        Share of U and V entries removed. ``criterion="learned"``: a cap over all layers together
        (None: no cap, and nothing removed under a budget); otherwise the share removed in each
        layer (None: searched).
    gap_weight : float or None, default=None
        Weight of the soft gap in the loss of the masks and of the spectrum. None: searched on
        validation, and 1 under a budget. Not used with a teacher.
    privileged_weight : float or None, default=None
        Weight of the privileged group's curvature in the score of ``criterion="curvature"``. None:
        searched on validation, with both signs of the score.

    Attributes
    ----------
    masks_ : dict of layer name to dict of {"U", "V"} to boolean ndarray
        True where an entry is kept; shapes (out, rank) and (in, rank), with a leading dimension
        for grouped convolutions and for the three projections of ``attn.in_proj``.
    ranks_ : dict of layer name to int
    removed_fraction_ : float in [0, 1]
        Share of U and V entries removed, over all edited layers.
    privileged_group_ : label or None
        Group whose recall leads most over the other groups pooled.
    balance_ : {"cells", "classes"} or None
    objective_ : {"teacher", "soft_gap"}
        What the edit followed.
    rotations_ : dict of layer name to dict of {"U", "V"} to ndarray of shape (k, k)
        With ``refine="bases"`` only: how the first k singular vectors turned, with a leading
        dimension where ``masks_`` has one; empty if nothing turned.
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`.

    See Also
    --------
    NetworkEditor : What all editors share.

    Notes
    -----
    The idea, sparse SVD factors for fairness without retraining, is FairLRF's (arXiv:2511.16549),
    whose equations are not public to us. Deviations, all ours: the score follows FairPrune
    (arXiv:2203.02110), whose two re-implementations agree; the curvature is the mean of squared
    per-sample gradients, exact, in one pass; full rank unless ``rank`` is set; the output layer is
    left out; entries are ranked within a layer; removal is one-shot unless ``n_rounds`` says
    otherwise; both signs are searched. Singular values and biases are tuned by Adam at a rate of
    1e-2, reduced in proportion if more than four layers are edited, since their changes compound.
    On the tables of ``docs/results`` removal by curvature alone was little better than random
    removal and far worse than the default, which therefore learns the masks and tunes the spectrum.

    Under a budget, the default for images, all factors, biases and the output layer move by small
    steps, and candidates are averages over some 100 steps; the factors keep their rank, so that
    ``rank`` and ``compress`` make a small network in the same passes. The loss then also holds on
    to the untouched network's probabilities, the more the better it is, and the threshold moves
    only where that gains more than noise.

    Masks of factors of more than 128 MiB are learned without Adam's moments: the variables are in
    bfloat16, and squared gradients are averaged for rows and columns alone (Adafactor,
    arXiv:1804.04235).

    The rotations of ``refine="bases"`` follow SODA (arXiv:2405.21050), which adapts spectrum and
    basis of diffusion models. Deviations: rotations are Cayley maps of skew matrices, tuned by
    Adam; both sides turn, within the space that their singular vectors span; one rotation of 64
    vectors at most stands for the paper's Kronecker products. Without turns it is "spectrum".

    With a teacher, masks, singular values and output layer imitate the fair Bayes rule (see
    :class:`BlindPostProcessor`) for 400 to 500 steps; 150 small steps under labels and the soft gap
    follow, unless the network has memorised its rows.

    Examples
    --------
    >>> from fairsvd import FairLRFTransformer
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> editor = FairLRFTransformer(tolerance=0.1, random_state=0)
    >>> editor = editor.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> editor.predict(data.data).shape
    (800,)
    """

    rank: float | None = parameter(positive_int(), fraction(closed="right"), None, default=None)
    sparsity: float | None = parameter(fraction(), None, default=None)
    gap_weight: float | None = parameter(at_least_0(), None, default=None)
    privileged_weight: float | None = parameter(at_least_0(), None, default=None)

    def _count_candidates(self, task: Task) -> int | None:
        if self.criterion != "learned" or self.sparsity == 0:
            return None
        return 1 + count_masked(
            task,
            imitates=self._imitates(task, self.gap_weight),
            refines=self.refine is not None,
            gap_weight=self.gap_weight,
            max_removed=self.sparsity,
            max_steps=self.max_steps,
            layers=select_layers(task.module, self.layers, task.data.output_layer),
            budget=self._budget(task, self._imitates(task, self.gap_weight)),
        )

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        names = select_layers(task.module, self.layers, task.data.output_layer)
        ranks = resolve_ranks(task.module, names, self.rank)
        measured = factors_of(task.module, ranks, self.svd_solver, task.data.cache)
        whole = keep_all({n: f.truncated(ranks[n]) for n, f in measured.items()}, self.compress)
        if self.refine == "bases":
            whole = TurnedEdit.of(whole)
        privileged = find_privileged(task.data)
        by_score = self.criterion != "learned" or self.sparsity == 0
        tunes = self.refine is not None or not by_score
        imitates = tunes and self._imitates(task, self.gap_weight)
        shared = {
            **self._followed(task, imitates),
            "privileged_group_": None if privileged is None else task.data.group_labels[privileged],
        }
        full = resolve_ranks(task.module, names, None)
        known = {**shared, "rotations_": {}} if self.refine == "bases" else shared
        # Masks of the whole network's size are made only if it stays as it was.
        untouched = Deferred(known, partial(untouched_attributes, whole.stored, full))
        yield self._first_candidate(task, {"removed_fraction": 0.0}, untouched, imitates=imitates)
        teacher = self._find_teacher(task, rng) if imitates else None
        removal = None
        if by_score:
            removal = Removal.of(
                task,
                whole=whole,
                measured=measured,
                criterion=self.criterion,
                sparsities=SPARSITIES if self.sparsity is None else (self.sparsity,),
                privileged_weight=self.privileged_weight,
                hessian=self.hessian,
                n_rounds=self.n_rounds,
                max_memory=self.max_memory,
                privileged=privileged,
                rng=rng,
                attributes=shared,
            )
        yield from mask_and_tune(
            task,
            whole,
            removal,
            self.refine,
            teacher=teacher,
            gap_weight=self.gap_weight,
            max_removed=self.sparsity,
            max_steps=self.max_steps,
            budget=self._budget(task, imitates),
            attributes=shared,
            rng=rng,
            n_jobs=self.n_jobs,
        )


def factors_of(
    module: nn.Module, ranks: Mapping[str, int], solver: str, cache: Cache
) -> dict[str, Factors]:
    """Factor layers before truncation, so that one decomposition serves every rank.

    The randomised solver computes no more than it is asked for: its factors have the given rank.
    """
    layers = chosen_weights(module, ranks)
    solvers = {name: resolve_solver(layers[name], r, solver) for name, r in ranks.items()}
    target_ranks = {
        name: r if solvers[name] == "randomized" else full_rank(layers[name])
        for name, r in ranks.items()
    }

    def compute() -> Entry:
        factors = {n: factorise(layers[n], target_ranks[n], solvers[n]) for n in layers}
        parts = {f"{n}/{side}": getattr(f, side) for n, f in factors.items() for side in "USV"}
        return Entry(parts)

    tensors = cache.fetch("factors", {"ranks": target_ranks, "solvers": solvers}, compute).tensors
    factors = {}
    for name, layer in layers.items():
        value = layer.value
        # Contiguous, as tensors from a file are: products of other layouts round differently.
        U, S, V = (tensors[f"{name}/{s}"].to(value.device).contiguous() for s in "USV")
        factors[name] = Factors(U, S, V, tuple(value.shape), layer.parameter)
    return factors


@dataclass(frozen=True, kw_only=True)
class Removal(ScoredRemoval[FactorEdit]):
    """Removal of entries of U and V by a score.

    Attributes
    ----------
    measured : dict of name to Factors
        The factors before truncation, on which the curvature is measured, so that one measurement
        serves every rank.
    """

    measured: dict[str, Factors]

    def block_of(self, name: str) -> str:
        """Rank within a layer."""
        return layer_of(name)

    def edits(self) -> Iterator[tuple[dict[str, object], FactorEdit]]:
        """Yield (params, edit) for every sparsity and every form of the score."""
        factors = self.whole.stored.values()
        truncated = any(f.S.shape[1] < min(f.U.shape[1], f.V.shape[1]) for f in factors)
        if tuple(self.sparsities) == (0,) and truncated:
            # At full rank this edit would be the untouched network.
            yield {"sparsity": 0.0}, self.whole
        yield from super().edits()

    def first_curvature(self) -> dict[str, Tensor]:
        """Measure the curvature of the untouched network's loss, cut to the rank of the factors."""
        parts = {
            "criterion": "curvature",
            "factors": {name: (f.S.shape[1], f.shape) for name, f in self.measured.items()},
            "hessian": self.hessian,
            "margin": self.data.margin,
            "privileged": self.privileged,
        }
        entry = self.data.cache.fetch(
            "curvature", parts, lambda: Entry(self._measure(self.module, self.measured))
        )
        ranks = {name: f.S.shape[1] for name, f in self.whole.stored.items()}
        return {
            key: h[..., : ranks[layer_of(key)]].to(self.data.device)
            for key, h in entry.tensors.items()
        }

    def curvature(self, edit: FactorEdit) -> dict[str, Tensor]:
        """Measure the curvature of the edited network."""
        return self._measure(self.edited(edit), edit.factors)

    def _measure(self, module: nn.Module, factors: Mapping[str, Factors]) -> dict[str, Tensor]:
        triples = {name: (f.U, f.S, f.V) for name, f in factors.items()}
        curvature = group_curvature(module, triples, self.sides(), **self.pass_settings())
        return {
            f"{name}/{side}": h
            for name, pair in curvature.items()
            for side, h in zip("UV", pair, strict=True)
        }


def layer_of(name: str) -> str:
    """Return the layer of a mask; its U and V are ranked together."""
    return name.rpartition("/")[0]
