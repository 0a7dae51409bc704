"""Removal of entries, by learned masks or by scores, and the tuning of what is left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import Candidate, Task
from ..layers import chosen_weights, layer_parameters
from ..masks import harden, packed
from ._batches import (
    count_candidates,
    count_lessons,
    count_steps,
    is_table,
    list_gap_weights,
)
from ._best import Best
from ._brief_head import has_free_head
from ._brief_masks import LOOKS, run_brief_masks
from ._budget import Budget, brief_weights
from ._edit import M
from ._leaves import copy_biases, copy_head_and_biases, rate_for_depth
from ._masking_path import MaskingPath
from ._path import (
    count_best,
    count_settling,
    run_best,
    run_paths,
    run_phases,
    settles,
    tune_edit,
)
from ._removal import ScoredRemoval, judge_removals
from ._teacher import Teacher

__all__ = ["MaskingPath", "count_masked", "imitate_masked", "learn_masks", "mask_and_tune"]

# Masks must be able to cross zero within the budget: 0.5 / 3e-2 is about 17 steps one way.
MASK_RATE = 3e-2

# The output layer moves slower in imitation of a teacher than what scales the other layers.
HEAD_RATE = 3e-3


# Candidates of a phase under a budget that has no phases of its own.
FEW_LOOKS = 3


@dataclass(frozen=True)
class Plan:
    """Weights of the soft gap to try, and what their paths have in common."""

    weights: tuple[float, ...]
    fields: dict[str, Any]

    @property
    def counts(self) -> tuple[int, int]:
        """Steps and candidates of a phase."""
        return self.fields["n_steps"], self.fields["n_candidates"]


def _plan(
    task: Task,
    *,
    teacher: Teacher | None,
    gap_weight: float | None,
    max_steps: int | None,
    budget: Budget | None,
    looks: int,
    head: bool = False,
    imitates: bool | None = None,
) -> Plan:
    """Count steps and candidates, which a budget limits; ``head``: heads may be tuned."""
    data = task.data
    imitates = teacher is not None if imitates is None else imitates
    count = count_lessons if imitates else count_steps
    n_steps, n_candidates = count(max_steps, data), count_candidates(data, imitates)
    weights = (0.0,) if imitates else list_gap_weights(data, gap_weight)
    if budget is None:
        return Plan(weights, {"n_steps": n_steps, "n_candidates": n_candidates})
    if imitates:
        rows = min(data.batch_size, len(data.lesson_rows))
        n_steps, n_candidates = budget.count_lessons(n_steps, n_candidates, rows)
    else:
        weights = brief_weights(data, gap_weight)
        budget, head = budget.keep_features() if head else (budget, False)
        n_candidates = budget.count_looks(looks)
        n_steps = budget.count_steps(
            n_candidates, asked=budget.asked(MaskingPath.find_loyalty(data))
        )
        n_steps = n_steps if max_steps is None else min(max_steps, n_steps)
    common = {"rows": budget.step_rows, "head": head and not imitates}
    return Plan(weights, {"n_steps": n_steps, "n_candidates": n_candidates, **common})


def mask_and_tune(
    task: Task,
    whole: M,
    removal: ScoredRemoval[M] | None,
    stage: str | None,
    *,
    teacher: Teacher | None,
    gap_weight: float | None,
    max_removed: float | None,
    max_steps: int | None,
    budget: Budget | None = None,
    attributes: dict[str, Any],
    rng: np.random.Generator,
    n_jobs: int | None,
) -> Iterator[Candidate]:
    """Remove by scores or learned masks, then tune the rest: one path per weight of the gap.

    Parameters
    ----------
    task : Task
    whole : MaskedEdit
        Keeps every entry.
    removal : ScoredRemoval or None
        The tuning starts from its best edit; None: masks are learned.
    stage : str or None
        Name of the tuning in the record; None: nothing is tuned.
    teacher : Teacher or None
        Whom the edit imitates; None: it follows the soft gap.
    gap_weight : float or None
        Weight of the soft gap; None: several are tried.
    budget : Budget or None
        What is left to spend; None: ``max_steps`` alone counts.
    max_removed, max_steps, attributes, rng, n_jobs
        As the parameters of the editors and of :class:`MaskingPath`.
    """
    start = None
    if removal is not None:
        best = Best[M]()
        yield from run_paths([removal], partial(judge_removals, start=best))
        if stage is None:
            return
        start = best.value or whole
        budget = None if budget is None else budget.less(removal.visits)
    brief = stage is not None and start is None
    plan = _plan(
        task,
        teacher=teacher,
        gap_weight=gap_weight,
        max_steps=max_steps,
        budget=budget,
        looks=LOOKS if brief else FEW_LOOKS,
        head=brief and has_free_head(task, whole.weights()),
    )
    paths = [
        MaskingPath[M].of(
            subtask,
            gap_weight=weight,
            teacher=teacher,
            seed=seed,
            attributes=attributes,
            whole=whole,
            max_removed=max_removed,
            refines=stage is not None,
            **plan.fields,
        )
        for weight, subtask, seed in task.spread(plan.weights, rng, n_jobs)
    ]
    if budget is not None and teacher is None and stage is not None and start is None:
        yield from run_paths(paths, run_brief_masks, n_jobs)
        return
    learn = learn_masks if teacher is None else imitate_masked
    run = shallow = partial(run_phases, first=("masks", learn), second=None, start=start)
    if stage is not None:
        if teacher is None or start is not None:
            run = partial(run, second=(stage, tune_rest))
        elif settles(task.data):
            run = partial(run, second=("settle", settle))
    if stage is not None and (teacher is None or not is_table(task.data)):
        # Some networks, mostly of images, lose too much accuracy if anything is removed.
        run = partial(run, beside=("nothing removed", tune_whole))
    yield from run_best(paths, run, shallow if start is None else run, n_jobs)


def count_masked(
    task: Task,
    *,
    imitates: bool,
    refines: bool,
    gap_weight: float | None,
    max_removed: float | None,
    max_steps: int | None,
    layers: Iterable[str],
    budget: Budget | None = None,
) -> int:
    """Count the candidates of :func:`mask_and_tune` without a removal by scores.

    ``layers`` are the names of the layers whose weights are edited.
    """
    edited = {weight.parameter for weight in chosen_weights(task.module, layers).values()}
    plan = _plan(
        task,
        teacher=None,
        gap_weight=gap_weight,
        max_steps=max_steps,
        budget=budget,
        looks=LOOKS if refines else FEW_LOOKS,
        head=refines and has_free_head(task, edited),
        imitates=imitates,
    )
    n_steps, n_candidates = plan.counts
    if not imitates:
        if budget is not None and refines:
            return LOOKS if max_removed is not None else count_best(1, n_steps, n_candidates, 1)
        return count_best(len(plan.weights), n_steps, n_candidates, 3 if refines else 1)
    beside = count_best(1, n_steps, n_candidates, int(refines and not is_table(task.data)))
    beside += count_settling(n_steps) if refines and settles(task.data) else 0
    if refines and max_removed is not None:
        n_steps -= max(1, n_steps // 2)
    return beside + count_best(1, n_steps, n_candidates, 1)


def learn_masks(path: MaskingPath[M], rng: np.random.Generator) -> Iterator[tuple[int, M]]:
    """Learn which entries to remove, the weights untouched.

    The training does not depend on the cap, which applies when masks are hardened; with a cache one
    training therefore serves every cap.

    Yields
    ------
    step, edit
        With hardened masks, whenever a candidate is due.
    """
    units, optimizer = path.whole.units(), path.whole.optimizer

    def train() -> Iterator[tuple[int, dict[str, Tensor]]]:
        masks = path.whole.variables()
        state = partial(path.whole.masked_state, masks)
        moving = (state, masks.leaves, path.margin, rng, MASK_RATE, masks.clamp, optimizer)
        for step in path.steps(*moving):
            yield step, masks.by_name()

    cache = path.cache_for(sum(value.nbytes for unit in units for value in unit.values()))
    for step, masks in cache.stream("masks", path.key() if cache.keeps else {}, train):
        hard = harden(masks, path.max_removed)
        kept = {n: mask.to(path.data.device) for n, mask in hard.items()}
        del hard
        yield step, path.whole.remove(packed(kept))


def imitate_masked(path: MaskingPath[M], rng: np.random.Generator) -> Iterator[tuple[int, M]]:
    """Learn masks together with what is tuned beside them, in imitation of the teacher.

    Under a cap the masks are hardened after half of the steps, and the rest is tuned on without
    the removed entries. The first half does not depend on the cap.

    Yields
    ------
    step, edit
        With hardened masks, whenever a candidate is due.
    """
    capped = path.max_removed is not None and path.refines
    first = replace(path, n_steps=max(1, path.n_steps // 2)) if capped else path
    values = {name: value for unit in path.whole.units() for name, value in unit.items()}
    edit: M = path.whole
    leaves: list[Tensor] = []
    rates: list[float] = []
    if path.refines:
        edit, leaves, rates = _loosen(path, path.whole, head=True)

    def train() -> Iterator[tuple[int, dict[str, Tensor]]]:
        masks = edit.variables()
        state, moving = partial(edit.masked_state, masks), [*masks.leaves, *leaves]
        each = [MASK_RATE] * len(masks.leaves) + rates
        kinds = [edit.optimizer] * len(masks.leaves) + ["adam"] * len(leaves)
        named = {f"mask/{name}": mask for name, mask in masks.by_name().items()}
        named |= {f"leaf/{k}": leaf for k, leaf in enumerate(leaves)}
        for step in first.steps(state, moving, path.data.margin, rng, each, masks.clamp, kinds):
            yield step, named

    cache = path.cache_for(sum(tensor.nbytes for tensor in [*values.values(), *leaves]))
    hardened = path.whole
    for step, reached in cache.stream("imitations", first.key() if cache.keeps else {}, train):
        with torch.no_grad():
            for k, leaf in enumerate(leaves):
                leaf.copy_(reached[f"leaf/{k}"])
        masks = harden({name: reached[f"mask/{name}"] for name in values}, path.max_removed)
        kept = {n: mask.to(path.data.device) for n, mask in masks.items()}
        hardened = edit.remove(packed(kept))
        del masks, kept
        if not capped:
            yield step, hardened.detached()
    if capped:
        rest = replace(path, n_steps=path.n_steps - first.n_steps)
        hardened = hardened.applied()
        for step in rest.steps(hardened.state, leaves, path.data.margin, rng, rates):
            yield first.n_steps + step, hardened.detached()


def tune_rest(path: MaskingPath[M], start: M, rng: np.random.Generator) -> Iterator[tuple[int, M]]:
    """Tune the rest after a removal, and the biases; removed entries stay removed.

    In imitation of a teacher the output layer is tuned, too.

    Yields
    ------
    step, edit
        Whenever a candidate is due.
    """
    edit, leaves, rates = _loosen(path, start, head=path.teacher is not None)
    return tune_edit(path, start, leaves, lambda: edit, rng, rates)


def tune_whole(path: MaskingPath[M], rng: np.random.Generator) -> Iterator[tuple[int, M]]:
    """Tune the same and the output layer, with nothing removed.

    Yields
    ------
    step, edit
        Whenever a candidate is due.
    """
    edit, leaves, rates = _loosen(path, path.whole, head=True)
    return tune_edit(path, path.whole, leaves, lambda: edit, rng, rates)


def settle(path: MaskingPath[M], start: M, rng: np.random.Generator) -> Iterator[tuple[int, M]]:
    """Tune what moved beside the masks under the soft gap, from the best imitation on.

    Yields
    ------
    step, edit
        Whenever a candidate is due.
    """
    edit, leaves, rates = _loosen(path, start, head=True)
    return tune_edit(path.settling(), start, leaves, lambda: edit, rng, rates)


def _loosen(path: MaskingPath[M], start: M, *, head: bool) -> tuple[M, list[Tensor], list[float]]:
    """Make what is tuned beside the masks trainable, with a learning rate for each tensor.

    The values are those of the start, and the untouched network's for what it has not tuned.
    """
    module, output_layer = path.module, path.data.output_layer
    plain = (
        copy_head_and_biases(module, output_layer, path.whole.weights())
        if head
        else copy_biases(module)
    )
    tuned = start.plain
    plain = {n: tuned[n].clone().requires_grad_() if n in tuned else v for n, v in plain.items()}
    edit, scales = start.loosen(plain)
    rate = rate_for_depth(len(path.whole.weights()))
    slow = HEAD_RATE if path.teacher is not None else rate
    rates = [slow if name in layer_parameters(module, output_layer) else rate for name in plain]
    return edit, [*scales, *plain.values()], [rate] * len(scales) + rates
