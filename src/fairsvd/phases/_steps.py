"""The steps of a phase: learning masks, and tuning what is left."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..caching import Cache
from ..layers import layer_parameters
from ..masks import clamp_masks, straight_through
from ..training import tune
from ._path import N_CANDIDATES, E, TuningPath

__all__ = ["head_and_biases", "layer_biases", "layered_rate", "trained_masks", "tuned"]

# Masks must be able to cross zero within the budget: 0.5 / 3e-2 is about 17 steps one way.
MASK_RATE = 3e-2
TUNING_RATE = 1e-2

# Scaling so many layers one after the other, the networks that the rate was found on bear it. In
# deeper ones the changes compound: a residual network of 20 layers lost at this rate, later on,
# what its first 60 steps had gained.
FEW_LAYERS = 4

# Mask variables of more bytes, those of large networks, are not kept for another cap: 256 MiB.
MAX_KEPT = 2**28


def trained_masks(
    path: TuningPath[E],
    variables: Callable[[], dict[str, Tensor]],
    size: int,
    masked: Callable[[Mapping[str, Tensor]], E],
    rng: np.random.Generator,
) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
    """Learn which entries to remove, the weights untouched.

    The training does not depend on the cap, which acts when masks are hardened: with a cache one
    training serves every cap.

    Parameters
    ----------
    path : TuningPath
    variables : callable
        Makes the mask variables.
    size : int
        Bytes of all of them.
    masked : callable
        Turns masks into an edit, differentiably.
    rng : numpy.random.Generator

    Yields
    ------
    step, variables
        The mask variables, which go on changing, every tenth of the steps.
    """

    def train() -> Iterator[tuple[int, dict[str, Tensor]]]:
        made = variables()

        def state() -> Mapping[str, Tensor]:
            return masked({name: straight_through(v) for name, v in made.items()}).state()

        steps = tune(
            path.loss(state, path.data.margin),
            list(made.values()),
            path.batches(rng),
            n_steps=path.n_steps,
            learning_rate=MASK_RATE,
            every=path.every,
            after_step=partial(clamp_masks, made),
        )
        for step in steps:
            yield step, made

    cache = path.data.cache if N_CANDIDATES * size <= MAX_KEPT else Cache()
    yield from cache.stream("masks", path.key(), train)


def tuned(
    path: TuningPath[E],
    start: E,
    tensors: Sequence[Tensor],
    edited: Callable[[], E],
    rng: np.random.Generator,
    rate: float,
) -> Iterator[tuple[int, E]]:
    """Tune what is left after the removal, at the threshold that fits it.

    Parameters
    ----------
    path : TuningPath
    start : edit
    tensors : sequence of Tensor
        Leaves; changed in place.
    edited : callable
        Makes the edit that the leaves now stand for.
    rng : numpy.random.Generator
    rate : float
        Learning rate.

    Yields
    ------
    step, edit
        Every tenth of the steps.
    """
    margin = path.data.judge.for_utility(path.logits(start)).margin
    steps = tune(
        path.loss(lambda: edited().state(), margin),
        tensors,
        path.batches(rng),
        n_steps=path.n_steps,
        learning_rate=rate,
        every=path.every,
    )
    for step in steps:
        yield step, edited().detached()


def layered_rate(n_layers: int) -> float:
    """Give the learning rate of what scales layers one after the other: less for many layers."""
    return TUNING_RATE * (FEW_LAYERS / max(FEW_LAYERS, n_layers))


def head_and_biases(path: TuningPath[Any], edited: Container[str]) -> dict[str, Tensor]:
    """Copy the output layer and the biases of all layers as leaves, all but edited weights."""
    leaves, head = layer_biases(path.module), path.data.output_layer
    for name, parameter in layer_parameters(path.module, head).items():
        if name not in leaves and name not in edited:
            leaves[name] = parameter.detach().clone().requires_grad_()
    return leaves


def layer_biases(module: nn.Module) -> dict[str, Tensor]:
    """Copy the biases of the layers that have weights as leaves (not those of normalisations)."""
    kinds = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
    return {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in module.named_parameters()
        if name.endswith("bias")
        and isinstance(module.get_submodule(name.rpartition(".")[0]), kinds)
    }
