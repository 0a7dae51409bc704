"""Removal of entries, by learned masks or by scores, and the tuning of what is left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import Candidate, Task
from ..caching import Cache
from ..layers import layer_parameters
from ..masks import harden, mask_variables
from ._batches import (
    count_candidates,
    count_lessons,
    count_step_rows,
    count_steps,
    is_table,
    list_gap_weights,
)
from ._best import Best
from ._edit import M
from ._leaves import copy_biases, copy_head_and_biases, rate_for_depth
from ._path import (
    TuningPath,
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

# Mask variables of more bytes (256 MiB), those of large networks, are not kept for other caps.
MAX_KEPT = 2**28


@dataclass(frozen=True, kw_only=True)
class MaskingPath(TuningPath[M]):
    """A path that removes entries of the network, then tunes what is left.

    Attributes
    ----------
    whole : MaskedEdit
        The edit that keeps every entry.
    max_removed : float or None
        Cap on the removed share.
    refines : bool
        Whether more than the masks is tuned.
    module, data, constraint, gap_weight, teacher, n_steps, seed, attributes, share, extra_loss
        See :class:`TuningPath`.
    """

    whole: M
    max_removed: float | None
    refines: bool = True

    def key(self) -> dict[str, Any]:
        """Return what a training of masks depends on, besides the scope of the data's cache."""
        aim: Any = [self.gap_weight, count_step_rows(self.data)]
        if self.teacher is not None:
            # Lessons have batches of their own size, of validation rows too.
            rows = self.data.lesson_rows.index
            aim = [self.teacher.rule.weights, self.data.batch_size, rows]
        return {
            # By value: another solver has other factors of equal shape.
            "entries": self.whole.entries(),
            "aim": aim,
            "refines": self.refines,
            "margin": self.data.margin,
            "constraint": vars(self.constraint),
            "n_steps": self.n_steps,
            "n_candidates": self.n_candidates,
            "seed": [self.seed.entropy, self.seed.spawn_key],
        }

    def cache_for(self, size: int) -> Cache:
        """Return the data's cache, or one that keeps nothing if a candidate has too many bytes."""
        return self.data.cache if self.n_candidates * size <= MAX_KEPT else Cache()


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
    if teacher is None:
        weights, n_steps = (
            list_gap_weights(task.data, gap_weight),
            count_steps(max_steps, task.data),
        )
    else:
        weights, n_steps = (0.0,), count_lessons(max_steps, task.data)
    paths = [
        MaskingPath[M].of(
            subtask,
            gap_weight=weight,
            teacher=teacher,
            n_steps=n_steps,
            seed=seed,
            attributes=attributes,
            whole=whole,
            max_removed=max_removed,
            refines=stage is not None,
            n_candidates=count_candidates(task.data, teacher is not None),
        )
        for weight, subtask, seed in task.spread(weights, rng, n_jobs)
    ]
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
) -> int:
    """Count the candidates of :func:`mask_and_tune` without a removal by scores."""
    n_candidates = count_candidates(task.data, imitates)
    if not imitates:
        n_paths, n_steps = (
            len(list_gap_weights(task.data, gap_weight)),
            count_steps(max_steps, task.data),
        )
        return count_best(n_paths, n_steps, n_candidates, 3 if refines else 1)
    n_steps = count_lessons(max_steps, task.data)
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
    units = path.whole.units()

    def train() -> Iterator[tuple[int, dict[str, Tensor]]]:
        masks = mask_variables(units)
        state = partial(path.whole.masked_state, masks)
        for step in path.steps(state, masks.leaves, path.data.margin, rng, MASK_RATE, masks.clamp):
            yield step, masks.by_name()

    cache = path.cache_for(sum(value.nbytes for unit in units for value in unit.values()))
    for step, masks in cache.stream("masks", path.key() if cache.keeps else {}, train):
        hard = harden(masks, path.max_removed)
        yield step, path.whole.remove({n: mask.to(path.data.device) for n, mask in hard.items()})


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
        masks = mask_variables(edit.units())
        state, moving = partial(edit.masked_state, masks), [*masks.leaves, *leaves]
        each = [MASK_RATE] * len(masks.leaves) + rates
        named = {f"mask/{name}": mask for name, mask in masks.by_name().items()}
        named |= {f"leaf/{k}": leaf for k, leaf in enumerate(leaves)}
        for step in first.steps(state, moving, path.data.margin, rng, each, masks.clamp):
            yield step, named

    cache = path.cache_for(sum(tensor.nbytes for tensor in [*values.values(), *leaves]))
    hardened = path.whole
    for step, reached in cache.stream("imitations", first.key() if cache.keeps else {}, train):
        with torch.no_grad():
            for k, leaf in enumerate(leaves):
                leaf.copy_(reached[f"leaf/{k}"])
        masks = harden({name: reached[f"mask/{name}"] for name in values}, path.max_removed)
        hardened = edit.remove({n: mask.to(path.data.device) for n, mask in masks.items()})
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
    rate = rate_for_depth(len(scales))
    slow = HEAD_RATE if path.teacher is not None else rate
    rates = [slow if name in layer_parameters(module, output_layer) else rate for name in plain]
    return edit, [*scales, *plain.values()], [rate] * len(scales) + rates
