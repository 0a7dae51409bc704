"""Fine-tuning, on synthetic rows, of the parameters that a mask selects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..base import Candidate, Task
from ..phases import make_batches, make_loss
from ..training import Batch, tune
from ._choice import Choice

__all__ = ["Optimizer", "Path", "run_path"]


@dataclass(frozen=True)
class Optimizer:
    """Settings of the optimizer.

    Attributes
    ----------
    name : {"adam", "sgd"}
    learning_rate, momentum, weight_decay : float
    n_steps, every : int
        Updates, and updates between two candidates.
    """

    name: str
    learning_rate: float
    momentum: float
    weight_decay: float
    n_steps: int
    every: int


@dataclass(frozen=True)
class Path(Task):
    """The tuning under one mask; the editing rows of its data are the synthetic ones.

    Attributes
    ----------
    choice : Choice
        Judges candidates.
    masks : dict of parameter name to boolean Tensor
        True where a parameter may change; parameters that are left out stay.
    optimizer : Optimizer
    freeze_norm_stats : bool
        False: normalisation runs on the batches and its running statistics follow them.
    record : dict
        Entries of ``history_``.
    attributes : dict
        Fitted attributes if a candidate of this path is chosen.
    seed : numpy.random.SeedSequence
    """

    choice: Choice
    masks: dict[str, Tensor]
    optimizer: Optimizer
    freeze_norm_stats: bool
    record: dict[str, Any]
    attributes: dict[str, Any]
    seed: np.random.SeedSequence

    def loss(self, state: Mapping[str, Tensor]) -> Callable[[Batch], Tensor]:
        """Make the loss of a batch; the tensors of the state may change between two batches."""
        plain = make_loss(self, lambda: state, margin=self.data.margin, gap_weight=0.0)
        layers = [] if self.freeze_norm_stats else _norm_layers(self.module)

        def of_batch(batch: Batch) -> Tensor:
            for layer in layers:
                layer.train()
            try:
                return plain(batch)
            finally:
                for layer in layers:
                    layer.eval()

        return of_batch

    def statistics(self) -> dict[str, Tensor]:
        """Copy the running statistics, if they are to change."""
        if self.freeze_norm_stats:
            return {}
        norm_ids = set(map(id, _norm_layers(self.module)))
        return {
            f"{name}.{key}" if name else key: value.detach().clone()
            for name, layer in self.module.named_modules()
            if id(layer) in norm_ids
            for key, value in layer.named_buffers(recurse=False)
        }


def _norm_layers(module: nn.Module) -> list[nn.Module]:
    """List the layers that keep statistics of the batches they have seen."""
    return [m for m in module.modules() if getattr(m, "running_mean", None) is not None]


def run_path(path: Path) -> Iterator[Candidate]:
    """Tune the parameters that the mask selects."""
    current = dict(path.module.named_parameters())
    names = [name for name, mask in path.masks.items() if bool(mask.any())]
    leaves = {name: current[name].detach().clone().requires_grad_() for name in names}
    if not leaves or not path.optimizer.n_steps:
        return
    moving = {**leaves, **path.statistics()}
    steps = tune(
        path.loss(moving),
        list(leaves.values()),
        make_batches(path.data, "cells", np.random.default_rng(path.seed)),
        n_steps=path.optimizer.n_steps,
        learning_rate=path.optimizer.learning_rate,
        every=path.optimizer.every,
        optimizer=path.optimizer.name,
        momentum=path.optimizer.momentum,
        weight_decay=path.optimizer.weight_decay,
        update_masks=[_partial(path.masks[name]) for name in names],
    )
    for step in steps:
        # Statistics change without gradients.
        state = {**leaves, **{n: v.clone() for n, v in moving.items() if n not in leaves}}
        params = {**path.record, "stage": "tune", "step": step}
        yield path.choice.judge(path.module, state, params, path.attributes)


def _partial(mask: Tensor) -> Tensor | None:
    """Leave out a mask that selects everything: its updates need no copy."""
    return None if bool(mask.all()) else mask
