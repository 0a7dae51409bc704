"""The task that an editor receives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np
import torch
from joblib import effective_n_jobs
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from ..arrays import Batches, LabelledRows, to_device
from ..caching import Cache
from ..networks import (
    OutputKey,
    check_rows,
    copied,
    entering,
    fast_logits,
    share_weights,
    to_logits,
)
from ..objective import Constraint, Judge, Verdict
from ._passes import in_parts, run_pass, with_state

__all__ = ["EditData", "Task", "without_gradients"]

V = TypeVar("V")


@dataclass(frozen=True)
class EditData:
    """All data that an edit may use.

    Attributes
    ----------
    editing : LabelledRows
        Rows to compute losses and curvature on.
    judged : Batches
        Rows of the judge: validation, then a sample of the editing rows.
    judge : Judge
    untouched : Tensor of shape (n_judged, n_classes)
        Logits of the judged rows before any edit.
    kind : str
        Kind of the module's output (see ``networks.to_logits``).
    output_key : str, int or None
        Where the scores are in the module's output.
    output_layer : str
        Name of the layer that makes the logits.
    n_classes, n_groups : int
    group_labels : tuple
        Empty without sensitive features; then there is no fairness term, and one pseudo group.
    margin : float
        The untouched network's threshold of highest utility, in units of the margin.
    batch_size : int
    device : torch.device
    dtype : torch.dtype
        Type of the network's parameters.
    before : Verdict, optional
        Verdict on the untouched network, if it is known.
    autocast : torch.dtype or None
        Type of passes under ``torch.autocast``; None: the network's own.
    cache : Cache
        Its scope covers the rows, the groups and the untouched network.
    unlabelled : Batches, optional
        Editing and validation rows; None: the editing rows alone.
    unlabelled_weights : Tensor of shape (n_unlabelled,), float64, optional
        Weights of these; None: they weigh the same.
    partly : LabelledRows, optional
        Editing rows together with those of unknown group (-1); None: there are none of these.
    unknown : LabelledRows, optional
        Validation rows of unknown group (-1); None: there are none of these.
    certifying : LabelledRows, optional
        Rows that nothing is chosen on, for a promise with a confidence.
    micro_batch_size : int or None
        Rows whose activations a step holds at once.
    """

    editing: LabelledRows
    judged: Batches
    judge: Judge
    untouched: Tensor
    kind: str
    output_layer: str
    n_classes: int
    n_groups: int
    group_labels: tuple[Any, ...]
    margin: float
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    before: Verdict | None = None
    autocast: torch.dtype | None = None
    cache: Cache = field(default_factory=Cache)
    output_key: OutputKey = None
    unlabelled: Batches | None = None
    unlabelled_weights: Tensor | None = None
    partly: LabelledRows | None = None
    unknown: LabelledRows | None = None
    certifying: LabelledRows | None = None
    micro_batch_size: int | None = None

    def count_cells(self) -> NDArray[Any]:
        """Count the rows of every cell, (n_classes, n_groups); a label's share is that of all rows.

        Of rows without a group the labels are known, so that only how the groups share a label is
        taken from the others.
        """
        counts = self.editing.count_cells(self.n_classes, self.n_groups).numpy()
        return counts if self.partly is None else counts * self.rows_a_group.numpy()[:, None]

    @property
    def rows_a_group(self) -> Tensor:
        """Rows of each label, (n_classes,), for each of them whose group is known."""
        known = self.editing.count_labels(self.n_classes).double()
        every = known if self.partly is None else self.partly.count_labels(self.n_classes)
        return torch.where(known > 0, every / known, 0.0)

    @property
    def lesson_rows(self) -> Batches:
        """Rows for what needs no labels."""
        return self.editing.X if self.unlabelled is None else self.unlabelled

    @property
    def lesson_weights(self) -> Tensor | None:
        """Weights of these rows; None: they weigh the same."""
        return self.editing.weights if self.unlabelled is None else self.unlabelled_weights

    def to_logits(self, output: Any) -> Tensor:
        """Convert the module's output to logits (n, n_classes)."""
        return to_logits(output, self.kind, self.output_key)

    @property
    def has_groups(self) -> bool:
        """Tell whether there is a fairness term."""
        return len(self.group_labels) > 0

    @property
    def measured_in(self) -> torch.dtype | None:
        """Type of passes for gradients of single rows, which float16 would lose."""
        return None if self.autocast == torch.float16 else self.autocast

    def forward(
        self, module: nn.Module, state: Mapping[str, Tensor], X: Tensor, *, tapped: bool = False
    ) -> Tensor:
        """Compute the module's logits for a loss, with some entries of its state replaced.

        Differentiable. The pass runs in mixed precision and in parts if requested; the result is in
        full precision. ``tapped``: other tensors than the logits are taken out of the pass.
        """
        alone = not (tapped or X.requires_grad)

        def run(x: Tensor, entries: Mapping[str, Tensor], dtype: torch.dtype | None) -> Tensor:
            with nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype):
                output = functional_call(module, dict(entries), (x,)) if entries else module(x)
                logits = self.to_logits(output)
            check_rows(logits, len(x))
            return logits.to(self.dtype)

        def one(x: Tensor) -> Tensor:
            return run_pass(partial(run, x), module, state, self.autocast, alone=alone)

        return in_parts(one, X, self.micro_batch_size if alone else None)

    def editing_batches(self, size: int = 1024) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (x, y, groups) of all editing rows in order, for passes without training.

        Weighted rows come as often as their weights say, rounded.
        """
        for X, y, groups in self.editing.repeated(self.n_groups).batches(size, self.device):
            yield to_device(X, self.device, self.dtype), y, groups

    def logits(
        self, module: nn.Module, state: Mapping[str, Tensor], rows: Batches | None = None
    ) -> Tensor:
        """Compute logits of the judged rows (or others) in full precision, as for predictions."""

        def run(X: Tensor) -> Tensor:
            return self.to_logits(module(to_device(X, self.device, self.dtype)))

        call = partial(fast_logits, run, self.judged if rows is None else rows)
        return with_state(module, state, call) if state else call()

    def head_inputs(
        self, module: nn.Module, state: Mapping[str, Tensor], rows: Batches
    ) -> tuple[Tensor, Tensor]:
        """Compute what enters the output layer, (n_rows, width), and the logits in the same pass.

        Both are in single precision or wider, on the CPU.
        """

        def run(X: Tensor) -> Tensor:
            with entering(module, self.output_layer) as collected:
                logits = self.to_logits(module(to_device(X, self.device, self.dtype)))
            both = torch.cat([collected[-1].reshape(len(X), -1), logits], dim=1)
            return both.to(torch.promote_types(both.dtype, torch.float32))

        both = with_state(module, state, partial(fast_logits, run, rows))
        return both[:, : -self.n_classes], both[:, -self.n_classes :]


@dataclass(frozen=True)
class Task:
    """The input of an edit, self-contained so that the edit can run in any process.

    Attributes
    ----------
    module : nn.Module
        Its parameters require no gradients. Nothing changes it, and no two tasks that run at the
        same time share it.
    data : EditData
    constraint : Constraint
    settled : object, optional
        What the editor decided before its network was adopted.
    """

    module: nn.Module
    data: EditData
    constraint: Constraint
    settled: Any = field(default=None, kw_only=True)

    @classmethod
    def of(cls, task: Task, **fields: Any) -> Self:
        """Make a task of a subclass from a plain task and the subclass's own fields."""
        return cls(task.module, task.data, task.constraint, **fields)

    def spread(
        self,
        values: Sequence[V],
        rng: np.random.Generator | np.random.SeedSequence,
        n_jobs: int | None,
    ) -> Iterator[tuple[V, Task, np.random.SeedSequence]]:
        """Yield each value with its own task and seed, to run one by one or in parallel.

        Parameters
        ----------
        values : sequence
        rng : numpy.random.Generator or numpy.random.SeedSequence
            Source of the seeds; a generator advances by one draw.
        n_jobs : int or None
            Tasks that run in parallel get a copy of the module each.
        """
        if isinstance(rng, np.random.Generator):
            rng = np.random.SeedSequence(int(rng.integers(2**63 - 1)))
        seeds = rng.spawn(len(values))
        for (value, task), seed in zip(self.deal(values, n_jobs), seeds, strict=True):
            yield value, task, seed

    def deal(self, values: Sequence[V], n_jobs: int | None) -> Iterator[tuple[V, Task]]:
        """Yield each value with its own task, as :meth:`spread` does, without seeds."""
        alone = effective_n_jobs(n_jobs) == 1
        for value in values:
            module = self.module if alone else copied(self.module)
            # Parallel tasks may each hold the module's entries in other states, never its weights.
            share_weights(module, self.module)
            yield value, Task(module, self.data, self.constraint)


@contextmanager
def without_gradients(module: nn.Module) -> Iterator[None]:
    """Switch the parameters' gradients off for a block, then restore each setting."""
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
