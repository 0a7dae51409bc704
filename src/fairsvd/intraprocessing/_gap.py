"""Fine-tuning of a trained network under the soft gap between groups."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..base import (
    Candidate,
    EditData,
    StrOptions,
    Task,
    at_least_0,
    parameter,
    positive,
    positive_int,
    register_editor,
)
from ..layers import Factors, editable_layers, factorise, full_rank, layer_parameters
from ..phases import (
    RATE_SCALES,
    VALUE_LOOKS,
    TuningEditor,
    TuningPath,
    Values,
    brief_weights,
    copy_biases,
    count_best,
    count_candidates,
    count_lessons,
    count_settling,
    count_steps,
    has_free_head,
    is_table,
    list_gap_weights,
    run_best,
    run_brief_values,
    run_paths,
    run_phases,
    settles,
    tune_from,
    tune_values,
)
from ._group_shift import run_shift

__all__ = ["GapFineTuner"]

SCOPES = ("all", "head", "spectrum", "bias")

# Learning rate of the second phase, which starts from the best of the first, as a share of the
# first one's.
SLOWER = 1 / 3

# A few numbers that scale whole units tolerate larger steps than single weights do. In a descent
# nothing preserves the utility: at the rates of the penalty the first candidate has lost it.
RATES = {
    "brief": {"all": 3e-4, "head": 3e-3, "spectrum": 3e-3, "bias": 3e-3},
    "penalty": {"all": 1e-3, "head": 1e-2, "spectrum": 1e-2, "bias": 1e-2},
    "descent": {"all": 1e-4, "head": 3e-4, "spectrum": 3e-4, "bias": 3e-4},
    "imitation": {"all": 1e-3, "head": 3e-3, "spectrum": 1e-2, "bias": 1e-2},
}


@register_editor(max_steps=3, n_teachers=1)
class GapFineTuner(TuningEditor):
    """Fine-tune a trained network towards the fair rule, or under a differentiable gap.

    With a teacher the network imitates the fair Bayes rule row by row; labels and the soft gap then
    put right what is left of the gap. Under the soft gap it minimises cross-entropy plus the gap of
    soft predictions at the operating threshold, so that this falls together with the gap of the
    decisions. The network keeps its architecture, needs no sensitive attribute to predict, and what
    the user passed in is not changed.

    Parameters
    ----------
    mode : {"penalty", "descent"}, default="penalty"
        "penalty": what ``objective`` names; under the soft gap cross-entropy plus ``gap_weight``
        times the soft gap. "descent": the soft gap alone, starting from the trained weights; the
        choice stops it before the utility is lost.
    gap_weight : float or None, default=None
        Weight of the soft gap in "penalty". None: chosen on validation, and 1 under a budget. Not
        used with a teacher.
    scope : {"all", "head", "spectrum", "bias"}, default="all"
        What is tuned: every parameter; the layer that makes the logits; the singular values of all
        linear and convolution layers, and their biases; these biases alone.
    learning_rate : float or None, default=None
        Learning rate of Adam. None: 1e-3 for "all" and 1e-2 for the other scopes; in "descent" 1e-4
        and 3e-4; with a teacher 3e-3 for "head". Under a budget (``max_epochs``) 3e-4 for "all" and
        3e-3 for the other scopes.
    max_steps : int or None, default=None
        Cap on the steps of each phase. None: in imitation of a teacher one step for 25 rows, at
        least 400 and at most 500; under the soft gap ``min(300, max(30, n_rows))``, and for images
        as many as ``max_epochs`` buys.
    group_shift : {"auto", "always", "never"}, default="auto"
        Before the tuning, try shifts of the output layer along the directions that separate the
        groups in its input. "auto": if the network is over-fitted (its balanced accuracy is more
        than 0.10 higher on the editing than on the validation rows), ``scope`` is "all" or "head"
        and ``mode`` is "penalty", since memorised rows show no gap that a loss could follow; not
        under a budget, which many trials exceed.

    Attributes
    ----------
    gap_weight_ : float or None
        The weight of the chosen candidate; None if the untouched network or a shift was chosen.
    balance_ : {"cells", "classes"} or None
    objective_ : {"teacher", "soft_gap"}
        What the edit followed.
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`.

    See Also
    --------
    BiasMaskFineTuner : Tunes only a part of the weights.
    FairLRFTransformer : Removes entries of the weights' singular vectors.

    Notes
    -----
    "descent" follows bias gradient descent/ascent of Marcinkevics et al. (arXiv:2208.00781).
    Deviations: the gap is the unsigned soft one of ``constraint``, for any number of groups and
    classes, so that descent is correct whatever the sign of the bias; candidates are chosen by the
    objective that all editors share, with the untouched network among them, instead of the smallest
    bias above a floor of utility; steps are larger and fewer. Penalties of this form are older than
    deep networks; the loss at the operating threshold, cell-stratified batches and the two phases
    are ours. Without sensitive features plain fine-tuning runs in either mode.

    A shift adds a multiple of a ridge regression of the group on the output layer's input to the
    weights of a class; multiples up to one standard deviation of the logits are tried for each
    group and class in turn. Shifts are left out if the last layer is no ``nn.Linear``, or if there
    are more than 24 pairs of group and class.

    Examples
    --------
    >>> from fairsvd import GapFineTuner
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> tuner = GapFineTuner(gap_weight=1.0, max_steps=60, tolerance=0.1, random_state=0)
    >>> tuner = tuner.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> tuner.predict(data.data).shape
    (800,)
    """

    mode: str = parameter(StrOptions({"penalty", "descent"}), default="penalty")
    gap_weight: float | None = parameter(at_least_0(), None, default=None)
    scope: str = parameter(StrOptions(set(SCOPES)), default="all")
    learning_rate: float | None = parameter(positive(), None, default=None)
    max_steps: int | None = parameter(positive_int(), None, default=None)
    group_shift: str = parameter(StrOptions({"auto", "always", "never"}), default="auto")

    def _count_candidates(self, task: Task) -> int | None:
        imitates = self._may_imitate() and self._imitates(task, self.gap_weight)
        if self._shifts(task, imitates):
            return None
        if self._is_brief(task, imitates):
            return 1 + int(self._brief_fields(task)["n_candidates"])
        settings, _ = self._settings(task.data, imitates)
        n_steps, n_candidates = self._counts(task, imitates)
        settling = count_settling(n_steps) if imitates and settles(task.data) else 0
        return 1 + settling + count_best(len(settings), n_steps, n_candidates, 2 - imitates)

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        imitates = self._may_imitate() and self._imitates(task, self.gap_weight)
        shared = self._followed(task, imitates)
        untouched = {**shared, "gap_weight_": None}
        yield self._first_candidate(task, {}, untouched, imitates=imitates)
        teacher = self._find_teacher(task, rng) if imitates else None
        if self._shifts(task, imitates):
            yield from run_paths([task], partial(run_shift, attributes=untouched))
        start = collect_values(task.module, task.data.output_layer, self.scope)
        settings, share = self._settings(task.data, imitates)
        brief = self._is_brief(task, imitates)
        if brief:
            settings = [(w, 1.0) for w in brief_weights(task.data, self.gap_weight)]
        n_steps, n_candidates = self._counts(task, imitates)
        fields = {"n_steps": n_steps, "n_candidates": n_candidates}
        paths = [
            TuningPath[Values].of(
                subtask,
                gap_weight=weight,
                teacher=teacher,
                seed=seed,
                attributes={**shared, "gap_weight_": weight if teacher is None else None},
                share=share,
                rate_scale=scale,
                **(self._brief_fields(task) if brief else fields),
            )
            for (weight, scale), subtask, seed in task.spread(settings, rng, self.n_jobs)
        ]
        mode = "brief" if brief and share else "penalty" if share else "descent"
        rates = RATES[mode if teacher is None else "imitation"]
        rate = float(rates[self.scope] if self.learning_rate is None else self.learning_rate)
        if brief:
            run_brief = partial(run_brief_values, start=start, rate=rate)
            yield from run_paths(paths, run_brief, self.n_jobs)
            return
        first = ("tune", partial(tune_from, start, rate=rate))
        second = None
        if teacher is None:
            second = ("settle", partial(tune_values, rate=rate * SLOWER))
        elif settles(task.data):
            second = ("settle", partial(settle_values, rate=rate))
        scout = partial(run_phases, first=first, second=None)
        run = partial(run_phases, first=first, second=second)
        yield from run_best(paths, run, scout, self.n_jobs)

    def _is_brief(self, task: Task, imitates: bool) -> bool:
        return not imitates and self._budget(task) is not None

    def _brief_fields(self, task: Task) -> dict[str, Any]:
        """Count steps and candidates of the one path that a budget has."""
        budget = self._budget(task)
        assert budget is not None, "asked for without a budget"
        frees_head = self.mode == "penalty" and self.scope in ("all", "head")
        frees_head = frees_head and has_free_head(task)
        budget, head = budget.keep_features() if frees_head else (budget, False)
        looks = budget.count_looks(VALUE_LOOKS)
        loyalty = TuningPath.find_loyalty(task.data, self._settings(task.data, False)[1])
        n_steps = budget.count_steps(looks, asked=budget.asked(loyalty))
        return {
            "n_steps": n_steps if self.max_steps is None else min(n_steps, self.max_steps),
            "n_candidates": looks,
            "rows": budget.step_rows,
            "head": head,
        }

    def _counts(self, task: Task, imitates: bool) -> tuple[int, int]:
        count, data = count_lessons if imitates else count_steps, task.data
        counts = count(self.max_steps, data), count_candidates(data, imitates)
        budget = self._budget(task, imitates)
        if budget is None or not imitates:
            return counts
        return budget.count_lessons(*counts, min(data.batch_size, len(data.lesson_rows)))

    def _may_imitate(self) -> bool:
        if self.mode == "descent" and self.objective == "teacher":
            raise ValueError(
                "mode='descent' follows the soft gap alone, but objective='teacher' asks for an "
                "imitation. Use mode='penalty', or objective='soft_gap'."
            )
        return self.mode == "penalty"

    def _shifts(self, task: Task, imitates: bool) -> bool:
        if self.group_shift != "auto":
            return self.group_shift == "always"
        follows_gap = self.mode == "penalty" and not imitates
        # Their many trials would cost a budget more than all of its steps.
        if self._budget(task) is not None:
            return False
        return task.data.judge.separate and follows_gap and self.scope in ("all", "head")

    def _settings(self, data: EditData, imitates: bool) -> tuple[list[tuple[float, float]], float]:
        """Return pairs of a weight of the soft gap and a factor of the learning rate to try.

        Returns
        -------
        settings : list of (float, float)
        share : float
            Weight of the cross-entropy.
        """
        weights, share = list_gap_weights(data, self.gap_weight), 1.0
        if imitates:
            weights = (0.0,)
        elif self.mode == "descent" and data.has_groups:
            weights, share = (1.0,), 0.0
        # A user's own rate is taken as it is.
        searches = self.learning_rate is None and not is_table(data)
        return list(product(weights, RATE_SCALES if searches else (1.0,))), share


def settle_values(
    path: TuningPath[Values], start: Values, rng: np.random.Generator, *, rate: float
) -> Iterator[tuple[int, Values]]:
    """Tune the values under the soft gap, from the best imitation on."""
    return tune_values(path.settling(), start, rng, rate=rate)


def collect_values(module: nn.Module, output_layer: str, scope: str) -> Values:
    """Collect the values that a scope tunes, unchanged.

    Parameters
    ----------
    module : nn.Module
    output_layer : str
    scope : {"all", "head", "spectrum", "bias"}

    Raises
    ------
    ValueError
        The network has no parameter of that kind.
    """
    factors: dict[str, Factors] = {}
    plain: dict[str, Tensor]
    if scope == "all":
        plain = {n: p for n, p in module.named_parameters() if p.is_floating_point()}
    elif scope == "head":
        plain = dict(layer_parameters(module, output_layer))
    else:
        plain = copy_biases(module)
    if scope == "spectrum":
        layers = editable_layers(module)
        factors = {name: factorise(layer, full_rank(layer)) for name, layer in layers.items()}
    values = Values({n: p.detach() for n, p in plain.items()}, factors)
    if not values.tensors():
        raise ValueError(
            f"scope={scope!r}, but the network has no parameter of that kind: its linear and "
            "convolution layers have no biases. Use scope='all', 'head' or 'spectrum'."
        )
    return values
