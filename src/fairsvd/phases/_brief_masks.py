"""Tuning and removal under a budget: all numbers move by small steps, then entries may go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from torch import Tensor

from ..base import Candidate
from ..masks import harden, mask_variables
from ._brief import Average, tune_averaged
from ._brief_head import tune_heads
from ._edit import M
from ._leaves import copy_head_and_biases
from ._loss import State
from ._masking_path import MaskingPath
from ._path import judge_edits

__all__ = ["LOOKS", "run_brief_masks"]

# Rate of everything that is tuned, as of single weights: entries of U and V have a smaller one
# where a weight would move farther. With one rate for all, the first layers of a pretrained
# network, with large singular values, move several times as far as the others, and its accuracy
# falls. On development rows of tinted Fashion-MNIST the gap was larger at 2e-4, and an edit failed
# at 6e-4.
RATE = 3e-4

# An entry goes only if most steps agree: 0.5 / 1e-2 is 50 steps one way. At 3e-2, the rate of long
# edits, 1.7 % of the entries of a pretrained network went, which then knew no class from another.
MASK_RATE = 1e-2

# Share of the steps before anything is removed.
BEFORE = 0.6

# Candidates of a path: at half of its steps and at the end, or before and after the removal.
LOOKS = 2


def run_brief_masks(path: MaskingPath[M]) -> Iterator[Candidate]:
    """Tune every number of the edit and, under a cap on removal, go on while masks are learned.

    The entries themselves move, too: a pretrained network is changed too coarsely by singular
    values alone, and ten passes do not suffice to learn masks first. Without a cap nothing is
    removed: on development rows of faces, edits with learned masks were less accurate than those
    without, although they removed one entry in a thousand at most.

    Yields
    ------
    candidate : Candidate
    """
    rngs = [np.random.default_rng(seed) for seed in path.seed.spawn(3)]
    module, output_layer = path.module, path.data.output_layer
    plain = copy_head_and_biases(module, output_layer, path.whole.weights())
    edit, scales, entries = path.whole.free(plain)
    of_entries = [RATE / max(1.0, reach) for _, reach in entries]
    rates = [RATE] * len(scales) + of_entries + [RATE] * len(plain)
    average = Average([*scales, *(entry for entry, _ in entries), *plain.values()])
    first, capped = path, path.max_removed is not None
    if capped:
        first = replace(path, n_steps=max(1, round(BEFORE * path.n_steps)), n_candidates=1)
    shown: Iterator[tuple[int, M]] = tune_averaged(
        first, edit.state, edit.detached, average, [], rngs[0], rates
    )
    yield from judge_edits(path, "nothing removed", tune_heads(path, shown, rngs[2]))
    if capped:
        rest = replace(first, n_steps=max(1, path.n_steps - first.n_steps))
        masked = _masked(rest, edit, average, rngs[1], rates)
        yield from judge_edits(path, "masks", tune_heads(path, masked, rngs[2]), first.n_steps)


def _masked(
    path: MaskingPath[M],
    edit: M,
    average: Average,
    rng: np.random.Generator,
    rates: list[float],
) -> Iterator[tuple[int, M]]:
    """Learn masks while everything goes on moving."""
    masks = mask_variables(path.whole.units())

    def state() -> State:
        return edit.remove(masks.straight_through()).state()

    def shown() -> M:
        hard: dict[str, Tensor] = harden(masks.by_name(), path.max_removed)
        kept = {name: mask.to(path.data.device) for name, mask in hard.items()}
        return edit.remove(kept).detached()

    all_rates = [*rates, *[MASK_RATE] * len(masks.leaves)]
    return tune_averaged(path, state, shown, average, masks.leaves, rng, all_rates, masks.clamp)
