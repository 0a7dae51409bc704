"""FairPruner: removes single weights or whole units of a trained network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from re import Pattern
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..base import (
    Candidate,
    LazyState,
    StrOptions,
    Task,
    at_least_0,
    fraction,
    parameter,
    positive_int,
    register_editor,
)
from ..caching import Entry
from ..curvature import group_weight_curvature
from ..layers import chosen_weights, select_layers
from ..masks import MaskVariables, removed_fraction
from ..phases import (
    SPARSITIES,
    Deferred,
    MaskedEdit,
    ScoredRemoval,
    TuningEditor,
    count_masked,
    find_privileged,
    mask_and_tune,
)
from ._scaled import along_rows, mask_and_scale
from ._units import Bias, unit_biases, unit_effects

__all__ = ["FairPruner"]


@register_editor(max_steps=3, gap_weight=1.0)
class FairPruner(TuningEditor):
    """Remove single weights or whole units of a trained network that drive its bias.

    Weights of the chosen linear and convolution layers are set to zero so that errors fall more
    evenly on the groups; by default a factor for every output unit and the biases are tuned
    afterwards. With ``criterion="learned"`` it is :class:`FairLRFTransformer` without the singular
    value factors, and so the control that shows what those are worth. The network keeps its
    architecture, needs no sensitive attribute to predict, and what the user passed in is not
    changed.

    Parameters
    ----------
    sparsity : float in [0, 1] or None, default=None
        Share of the weights removed, or of the units ("unit"). ``criterion="learned"``: a cap over
        all layers together (None: no cap); otherwise what is removed (None: searched).
    layers : {"hidden", "all"}, list of str or re.Pattern, default="hidden"
        Linear, Conv2d and attention layers to edit, named as for :class:`FairLRFTransformer`;
        "hidden" leaves out the one that makes the logits.
    criterion : {"learned", "curvature", "unit", "magnitude", "random"}, default="learned"
        "learned": straight-through masks; "curvature": ``1/2 w^2 (h_unprivileged -
        privileged_weight * h_privileged)``; "unit": whole output units with their bias, by the
        predicted change of the soft gap; "magnitude" and "random" are controls.
    gap_weight : float or None, default=None
        Weight of the soft gap in the loss of the masks and of the factors. None: searched on
        validation, and 1 under a budget.
    privileged_weight : float or None, default=None
        Weight of the privileged group's curvature in the score of ``criterion="curvature"``. None:
        searched on validation, with both signs of the score.
    hessian : {"fisher", "ggn"}, default="fisher"
        Diagonal curvature: empirical Fisher, or label-free generalised Gauss-Newton.
    n_rounds : int, default=1
        Rounds of removal by curvature or of units, re-scored before each.
    ranking : {"layer", "global"}, default="layer"
        Whether each layer loses the same share ("curvature", "unit", "magnitude", "random"), or
        scores compete over all layers. Scores of different layers differ by orders of magnitude, so
        a common ranking tends to empty a layer; FairLRFTransformer ranks by layer, too.
    refine : {"scale"} or None, default="scale"
        Tune a factor for every output unit of the edited layers, and the biases of linear and
        convolution layers. In imitation of a teacher they and the output layer move together with
        learned masks, or after a removal by scores. Under the soft gap they are tuned after the
        removal; with learned masks they and the output layer are also tuned with nothing removed,
        for networks that lose too much by any removal. Under a budget (``max_epochs``) weights
        move, too, and masks are learned only if ``sparsity`` caps them.
    max_steps : int or None, default=None
        Cap on the steps of each phase. None: in imitation of a teacher one step for 25 rows, at
        least 400 and at most 500; under the soft gap ``min(300, max(30, n_rows))``, and for images
        as many as ``max_epochs`` buys.
    max_memory : int, default=2**28
        Limit in bytes of the temporary memory of the curvature.

    Attributes
    ----------
    masks_ : dict of parameter name to boolean ndarray
        True where a weight is kept; of the weight's shape, such as ``"hidden.0.weight"``. With
        "unit" whole rows are False.
    removed_fraction_ : float in [0, 1]
        Share of the weights removed, over all edited layers.
    privileged_group_ : label or None
        Group whose recall leads most over the other groups pooled.
    balance_ : {"cells", "classes"} or None
    objective_ : {"teacher", "soft_gap"}
        What the edit followed.
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`.

    See Also
    --------
    NetworkEditor : What all editors share.
    FairLRFTransformer : The same removal on the entries of singular value factors.

    Notes
    -----
    "curvature" is the score of FairPrune (arXiv:2203.02110), following two re-implementations that
    agree. Deviations: the curvature is the mean of squared per-sample gradients, exact, in one pass
    and at the operating threshold; one-shot unless ``n_rounds`` says otherwise; weights are ranked
    within a layer unless ``ranking="global"``, which is FairPrune's; both signs are searched; the
    output layer is left out. With several groups all but the privileged one are unprivileged.
    Biases and normalisation layers are not removed. The tuning's learning rate is that of
    :class:`FairLRFTransformer`. What was removed in an earlier round stays removed and counts.

    "unit" follows the pruning of arXiv:2208.00781, which orders units by the mean derivative of a
    signed proxy of the bias in their output, and starts at the end given by the bias's sign.
    Deviations: the gap here has no sign, and outputs before the activation may be negative, where
    the derivative alone does not tell the effect of zeroing; units are therefore ordered by the
    first-order change of the soft gap itself, ``-sum_i z_ij dgap/dz_ij``, the steepest fall first.
    That also covers several groups and classes. A unit of a convolution is a whole channel. One
    pass gives the gradient of the whole gap in the logits, a second carries it to the units.
    Without sensitive features units have no score, and none is removed.

    Removal by a score rewards damage to the group that is ahead: read both groups' rates in
    ``report_``.

    Examples
    --------
    >>> from fairsvd import FairPruner
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(400, random_state=0)
    >>> pruner = FairPruner(tolerance=0.1, gap_weight=1.0, random_state=0)
    >>> pruner = pruner.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> pruner.predict(data.data).shape
    (400,)
    >>> sorted(pruner.masks_)
    ['hidden.0.weight', 'hidden.2.weight']
    """

    sparsity: float | None = parameter(fraction(), None, default=None)
    layers: Any = parameter(StrOptions({"hidden", "all"}), list, tuple, Pattern, default="hidden")
    criterion: str = parameter(
        StrOptions({"learned", "curvature", "unit", "magnitude", "random"}), default="learned"
    )
    gap_weight: float | None = parameter(at_least_0(), None, default=None)
    privileged_weight: float | None = parameter(at_least_0(), None, default=None)
    hessian: str = parameter(StrOptions({"fisher", "ggn"}), default="fisher")
    n_rounds: int = parameter(positive_int(), default=1)
    ranking: str = parameter(StrOptions({"layer", "global"}), default="layer")
    refine: str | None = parameter(StrOptions({"scale"}), None, default="scale")
    max_steps: int | None = parameter(positive_int(), None, default=None)
    max_memory: int = parameter(positive_int(), default=2**28)

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
        whole = keep_all(task.module, names, units=self.criterion == "unit")
        privileged = find_privileged(task.data)
        by_score = self.criterion != "learned" or self.sparsity == 0
        tunes = self.refine is not None or not by_score
        imitates = tunes and self._imitates(task, self.gap_weight)
        shared = {
            **self._followed(task, imitates),
            "privileged_group_": None if privileged is None else task.data.group_labels[privileged],
        }
        untouched = Deferred(shared, whole.attributes)
        yield self._first_candidate(task, {"removed_fraction": 0.0}, untouched, imitates=imitates)
        teacher = self._find_teacher(task, rng) if imitates else None
        removal = None
        if by_score:
            removal = Pruning.of(
                task,
                whole=whole,
                layers=names,
                criterion=self.criterion,
                ranking=self.ranking,
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


@dataclass(frozen=True)
class Pruned(MaskedEdit):
    """Weights with removed entries zeroed, factors of their rows, and other tuned parameters.

    Attributes
    ----------
    originals : mapping of parameter name to Tensor
        The weights with nothing removed.
    masks : mapping of parameter name to Tensor
        True (or 1) where a weight is kept; of the weight's shape.
    scales : mapping of parameter name to Tensor of shape (n_units,)
        Factor of every output unit.
    plain : mapping of parameter name to Tensor
        Biases and the output layer, if they may have changed.
    """

    originals: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    scales: Mapping[str, Tensor] = field(default_factory=dict)
    plain: Mapping[str, Tensor] = field(default_factory=dict)

    def entries(self) -> dict[str, Tensor]:
        """Return single weights; removed ones are zero."""
        return {name: w * self.masks[name] for name, w in self.originals.items()}

    def units(self) -> list[dict[str, Tensor]]:
        """Return the weights, one by one."""
        return [{name: weight} for name, weight in self.originals.items()]

    def remove(self, masks: Mapping[str, Tensor]) -> Pruned:
        """Zero what the masks remove."""
        return replace(self, masks=masks)

    def masked_state(self, variables: MaskVariables) -> dict[str, Tensor]:
        """Return the state without the weights whose variables are not positive."""
        state = dict(self.plain)
        for block in variables.blocks:
            state |= mask_and_scale(block, self.originals, self.scales)
        return state

    def loosen(self, plain: Mapping[str, Tensor]) -> tuple[Pruned, list[Tensor]]:
        """Make a factor for every output unit trainable."""
        scales = {
            n: self.scales.get(n, w.new_ones(len(w))).detach().clone().requires_grad_()
            for n, w in self.originals.items()
        }
        return replace(self, scales=scales, plain=plain), list(scales.values())

    def free(
        self, plain: Mapping[str, Tensor]
    ) -> tuple[Pruned, list[Tensor], list[tuple[Tensor, float]]]:
        """Make the factors of output units and the weights trainable."""
        edit, scales = self.loosen(plain)
        originals = {n: w.clone().requires_grad_() for n, w in self.originals.items()}
        return replace(edit, originals=originals), scales, [(w, 1.0) for w in originals.values()]

    def weights(self) -> dict[str, Tensor]:
        """Multiply the weights out, by their names in the state dict."""
        return {name: self._weight(name) for name in self.originals}

    def _weight(self, name: str) -> Tensor:
        w = self.originals[name] * self.masks[name]
        return along_rows(self.scales[name], w) * w if name in self.scales else w

    def kept_state(self) -> Mapping[str, Tensor]:
        """Return the same, weights as the functions that make them from the masks."""
        moving = [*self.plain.values(), *self.scales.values()]
        if any(value.requires_grad for value in moving):
            return super().kept_state()
        weights = {name: partial(self._weight, name) for name in self.originals}
        return LazyState({**self.state_beside(), **weights})

    def state(self) -> dict[str, Tensor]:
        """Return everything that differs from the untouched network's state dict."""
        return {**self.weights(), **self.state_beside()}

    def state_beside(self) -> Mapping[str, Tensor]:
        """Return the parameters beside the weights that differ."""
        return self.plain

    def detached(self) -> Pruned:
        """Return a copy that later steps do not change."""
        scales = {name: value.detach().clone() for name, value in self.scales.items()}
        plain = {name: value.detach().clone() for name, value in self.plain.items()}
        originals = {
            name: value.detach().clone() if value.requires_grad else value
            for name, value in self.originals.items()
        }
        return replace(self, originals=originals, scales=scales, plain=plain)

    def attributes(self) -> dict[str, Any]:
        """Return the masks, and the share that they remove."""
        masks = {
            name: mask.detach().bool().cpu().contiguous().numpy()
            for name, mask in self.masks.items()
        }
        return {"masks_": masks, "removed_fraction_": removed_fraction(self.masks)}


@dataclass(frozen=True)
class PrunedUnits(Pruned):
    """Whole output units, which are removed together with their biases.

    Attributes
    ----------
    biases : mapping of weight name to its units' biases
    kept_biases : mapping of bias name to boolean Tensor
        False where a bias is removed with its unit.
    originals, masks, scales, plain
        See :class:`Pruned`; ``plain`` has every bias of a unit.
    """

    biases: Mapping[str, Sequence[Bias]] = field(default_factory=dict)
    kept_biases: Mapping[str, Tensor] = field(default_factory=dict)

    def remove(self, masks: Mapping[str, Tensor]) -> PrunedUnits:
        """Zero the units that the masks (n_units,) remove, and their biases."""
        kept = {name: torch.ones_like(self.plain[name], dtype=torch.bool) for name in self.plain}
        for weight, biases in self.biases.items():
            for name, rows in biases:
                kept[name][rows] &= masks[weight]
        weight_masks = {n: along_rows(masks[n], w).expand_as(w) for n, w in self.originals.items()}
        return replace(self, masks=weight_masks, kept_biases=kept)

    def state_beside(self) -> Mapping[str, Tensor]:
        """Return the parameters beside the weights that differ."""
        kept = self.kept_biases
        return {n: v * kept[n] if n in kept else v for n, v in self.plain.items()}


def keep_all(module: nn.Module, layers: Sequence[str], *, units: bool) -> Pruned:
    """Make the edit that keeps every weight of some layers."""
    chosen = chosen_weights(module, layers).values()
    weights = {weight.parameter: weight.value.detach() for weight in chosen}
    masks = {n: w.new_ones((), dtype=torch.bool).expand_as(w) for n, w in weights.items()}
    if not units:
        return Pruned(weights, masks)
    biases, parameters = unit_biases(module, layers), dict(module.named_parameters())
    names = [name for each in biases.values() for name, _ in each]
    plain = {name: parameters[name].detach() for name in names}
    return PrunedUnits(weights, masks, plain=plain, biases=biases)


@dataclass(frozen=True, kw_only=True)
class Pruning(ScoredRemoval[Pruned]):
    """Removal of weights or units by a score; ``criterion`` can also be "unit".

    Attributes
    ----------
    layers : sequence of str
    ranking : {"layer", "global"}
        Whether each layer loses the same share, or scores compete over all layers.
    """

    layers: Sequence[str]
    ranking: str

    def block_of(self, name: str) -> str:
        """Rank within a layer, or all together."""
        return name if self.ranking == "layer" else ""

    def edits(self) -> Iterator[tuple[dict[str, object], Pruned]]:
        """Yield (params, edit) for every sparsity and every form of the score."""
        if self.criterion != "unit":
            yield from super().edits()
        # Without groups there is no gap that a unit could be scored by.
        elif self.data.has_groups and tuple(self.sparsities) != (0,):
            effects = self._first_effects()
            yield from self.in_rounds({}, effects, self._effects, lambda edit, effects: effects)

    def first_curvature(self) -> dict[str, Tensor]:
        """Measure the curvature of the untouched network's loss."""
        parts = {
            "criterion": "weight curvature",
            "layers": list(self.layers),
            "hessian": self.hessian,
            "margin": self.data.margin,
            "privileged": self.privileged,
        }
        return self._fetch("curvature", parts, lambda: self._measure(self.module))

    def curvature(self, edit: Pruned) -> dict[str, Tensor]:
        """Measure the curvature of the edited network."""
        return self._measure(self.edited(edit))

    def _measure(self, module: nn.Module) -> dict[str, Tensor]:
        curvature = group_weight_curvature(
            module, self.layers, self.sides(), **self.pass_settings()
        )
        weights = chosen_weights(self.module, self.layers)
        return {
            weight.parameter: curvature[layer].reshape(2, *weight.value.shape)
            for layer, weight in weights.items()
        }

    def _first_effects(self) -> dict[str, Tensor]:
        parts = {
            "layers": list(self.layers),
            "margin": self.data.margin,
            "gap": [self.constraint.gap, self.constraint.pos],
            "rows": self.data.batch_size,
        }
        return self._fetch("unit effects", parts, lambda: self._effects(self.whole))

    def _effects(self, edit: Pruned) -> dict[str, Tensor]:
        return unit_effects(self, edit.state(), unit_biases(self.module, self.layers))

    def _fetch(
        self, name: str, parts: Mapping[str, object], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        entry = self.data.cache.fetch(name, parts, lambda: Entry(compute()))
        return {key: value.to(self.data.device) for key, value in entry.tensors.items()}
