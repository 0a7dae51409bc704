"""What an editor is given, a task, and what it returns, candidates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np
import torch
from joblib import effective_n_jobs
from torch import Tensor, nn
from torch.func import functional_call

from ..arrays import Batches, LabelledRows, to_device
from ..caching import Cache
from ..networks import OutputKey, fast_logits, to_logits
from ..objective import Constraint, Judge, Verdict

__all__ = [
    "Candidate",
    "EditData",
    "Task",
    "apply_candidate",
    "apply_to_copy",
    "without_gradients",
]

V = TypeVar("V")


@dataclass(frozen=True)
class Candidate:
    """One edited network.

    Attributes
    ----------
    state : mapping of name to Tensor
        The entries of the state dict that differ from the untouched network's.
    params : mapping
        What made it, for ``history_``.
    attributes : mapping
        Fitted attributes of the editor should it be chosen.
    finish : callable, optional
        Changes the structure of the chosen network (compression).
    verdict : Verdict, optional
        Where the editor has judged it already.
    logits : Tensor, optional
        Of the judged rows, where the editor has them.
    """

    state: Mapping[str, Tensor]
    params: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[nn.Module], nn.Module] | None = None
    verdict: Verdict | None = None
    logits: Tensor | None = None


@dataclass(frozen=True)
class EditData:
    """Everything an edit may look at.

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
        What the module's output is (see ``networks.to_logits``).
    output_key : str, int or None
        Where in what the module returns it is.
    output_layer : str
        Name of the layer that makes the logits.
    n_classes, n_groups : int
    group_labels : tuple
        Empty without sensitive features: no fairness term then, and one pseudo group.
    margin : float
        The untouched network's threshold of highest utility, in units of the margin.
    batch_size : int
    device : torch.device
    dtype : torch.dtype
        Of the network.
    before : Verdict, optional
        Of the untouched network, where it is known.
    autocast : torch.dtype or None
        What passes run in under ``torch.autocast``; None: as the network is.
    cache : Cache
        Its scope covers the rows, the groups and the untouched network.
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

    def to_logits(self, output: Any) -> Tensor:
        """Read what the module returned as logits (n, n_classes)."""
        return to_logits(output, self.kind, self.output_key)

    @property
    def has_groups(self) -> bool:
        """Tell whether there is a fairness term."""
        return len(self.group_labels) > 0

    def forward(self, module: nn.Module, state: Mapping[str, Tensor], X: Tensor) -> Tensor:
        """Logits of the module with some entries of its state replaced, for a loss.

        Differentiable; in mixed precision where that was asked for, and returned in full.
        """
        with self.in_precision():
            logits = self._run(module, state, X)
        return logits.to(self.dtype)

    def _run(self, module: nn.Module, state: Mapping[str, Tensor], X: Tensor) -> Tensor:
        output = functional_call(module, dict(state), (X,)) if state else module(X)
        return self.to_logits(output)

    def in_precision(self) -> AbstractContextManager[Any]:
        """Run a block in mixed precision where that was asked for."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def editing_batches(self, size: int = 1024) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (x, y, groups) of all editing rows in order, for passes without training."""
        for X, y, groups in self.editing.batches(size, self.device):
            yield X.to(self.dtype), y, groups

    def logits(
        self, module: nn.Module, state: Mapping[str, Tensor], rows: Batches | None = None
    ) -> Tensor:
        """Logits of the judged rows (or others) in full precision, as predictions are made."""

        def run(X: Tensor) -> Tensor:
            return self.to_logits(module(to_device(X, self.device, self.dtype)))

        call = partial(fast_logits, run, self.judged if rows is None else rows)
        return _with_state(module, state, call) if state else call()


@dataclass(frozen=True)
class Task:
    """What an edit works on, self-contained so that it can run anywhere.

    Attributes
    ----------
    module : nn.Module
        Its parameters ask for no gradients. It stays as it is, and no two tasks that run at the
        same time share it.
    data : EditData
    constraint : Constraint
    settled : object, optional
        What the editor has settled before its network was adopted.
    """

    module: nn.Module
    data: EditData
    constraint: Constraint
    settled: Any = field(default=None, kw_only=True)

    @classmethod
    def of(cls, task: Task, **own: Any) -> Self:
        """Extend a plain task by what a subclass needs beside it."""
        return cls(task.module, task.data, task.constraint, **own)

    def spread(
        self,
        values: Sequence[V],
        rng: np.random.Generator | np.random.SeedSequence,
        n_jobs: int | None,
    ) -> Iterator[tuple[V, Task, np.random.SeedSequence]]:
        """Make a task and a seed for each of some values, to run one by one or side by side.

        Parameters
        ----------
        values : sequence
        rng : numpy.random.Generator or numpy.random.SeedSequence
            Gives the seeds; a generator moves on by one draw.
        n_jobs : int or None
            Tasks that run side by side get a copy of the module each.
        """
        if isinstance(rng, np.random.Generator):
            rng = np.random.SeedSequence(int(rng.integers(2**63 - 1)))
        seeds = rng.spawn(len(values))
        for (value, task), seed in zip(self.deal(values, n_jobs), seeds, strict=True):
            yield value, task, seed

    def deal(self, values: Sequence[V], n_jobs: int | None) -> Iterator[tuple[V, Task]]:
        """Make a task for each of some values, as :meth:`spread` does, without seeds."""
        alone = effective_n_jobs(n_jobs) == 1
        for value in values:
            module = self.module if alone else copy.deepcopy(self.module)
            yield value, Task(module, self.data, self.constraint)


class _Around(nn.Module):
    """Makes any call that runs the module a forward pass of its own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, call: Callable[[], Tensor]) -> Tensor:
        """Run the call."""
        return call()


def _with_state(
    module: nn.Module, state: Mapping[str, Tensor], call: Callable[[], Tensor]
) -> Tensor:
    """Replace entries of the module's state once for all of its runs in the call."""
    entries = {f"module.{name}": value for name, value in state.items()}
    logits: Tensor = functional_call(_Around(module), entries, (call,))
    return logits


@contextmanager
def without_gradients(module: nn.Module) -> Iterator[None]:
    """Switch the parameters' gradients off for a block, then back to what each was."""
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def apply_to_copy(module: nn.Module, candidate: Candidate) -> nn.Module:
    """Build the chosen network: a copy with the candidate's state, in evaluation mode."""
    return apply_candidate(copy.deepcopy(module), candidate)


def apply_candidate(module: nn.Module, candidate: Candidate) -> nn.Module:
    """Give the module the candidate's state and structure; in evaluation mode."""
    with torch.no_grad():
        current = module.state_dict()
        for name, value in candidate.state.items():
            current[name].copy_(value)
    # What the training of the network left on its parameters is of no use any more.
    module.zero_grad(set_to_none=True)
    if candidate.finish is not None:
        module = candidate.finish(module)
    return module.eval()
