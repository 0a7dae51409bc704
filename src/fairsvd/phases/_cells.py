"""Cell networks: the probabilities of the (group, label) cells of a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from .._rng import seeded_globally, torch_generator
from ..arrays import LabelledRows, to_device
from ..base import EditData, Task
from ..caching import Entry
from ..exceptions import NetworkError
from ..networks import (
    MANY_ROWS,
    MLP,
    STEPS_A_LOOK,
    ConvNet,
    LeastLoss,
    channel_statistics,
    copied,
)
from ..training import Batch, RowBatches, tune
from ._batches import is_table
from ._budget import FORWARD, Budget
from ._cell_network import CellNetwork, cell_loss, partial_loss, reset
from ._held_out import HeldOut

__all__ = ["JOINTS", "count_teachers", "train_cells"]

# How the cell network comes about, and its learning rate: a new network; the given one with a new
# last layer; a new last layer alone.
JOINTS = {"refit": 1e-3, "finetune": 3e-4, "head": 3e-3}

# What is trained to its end has lost what it knew of rows that it has not seen.
MAX_EPOCHS, PATIENCE = 40, 4

# Batches, of few rows and of many.
SMALL_BATCH, LARGE_BATCH, FEW_ROWS = 64, 256, 5000

# Tables of many rows: a few epochs at a high rate that falls to 0. On development rows of Adult and
# Bank the validation loss and psi were those of twice as many epochs at a constant rate; with
# batches of 512 rows psi was lower.
FALLING_RATE, FALLING_EPOCHS = 3e-3, 8


# Networks of tables with more weights than this (64 MiB) are not trained anew as teachers.
VAST_BYTES = 2**26


@dataclass(frozen=True)
class CellTask:
    """What training a cell network takes."""

    task: Task
    joint: str
    seed: np.random.SeedSequence
    max_epochs: int = MAX_EPOCHS

    @property
    def rows(self) -> LabelledRows:
        """Rows to train on, some perhaps of unknown group."""
        data = self.task.data
        return data.editing if data.partly is None else data.partly

    @property
    def n_cells(self) -> int:
        """Count the cells."""
        return self.task.data.n_classes * self.task.data.n_groups


def count_teachers(n_teachers: int | None, data: EditData) -> int:
    """Count the networks of the cells: the requested number, or 2, and 1 for tables of many rows.

    There the average of two networks was no better than one of them.
    """
    if n_teachers is not None:
        return n_teachers
    return 1 if _is_large_table(data) else 2


def train_cells(
    task: Task,
    joint: str,
    seeds: list[np.random.SeedSequence],
    budget: Budget | None = None,
) -> list[nn.Module]:
    """Train a network of the cells for each seed, stopped early by the validation rows.

    Parameters
    ----------
    task : Task
    joint : {"refit", "finetune", "head"}
        A new network of the same architecture; the given weights with a new last layer; a new
        last layer alone.
    seeds : list of numpy.random.SeedSequence
    budget : Budget, optional
        What all of them may cost, with their answers for the judged rows.

    Returns
    -------
    networks : list of CellNetwork
        In evaluation mode.

    Raises
    ------
    NetworkError
        The network has no linear layer of its own that makes the logits.
    """
    epochs = MAX_EPOCHS if budget is None else _affordable(task, budget, len(seeds))
    return [_train(CellTask(task, joint, seed, epochs)) for seed in seeds]


def _affordable(task: Task, budget: Budget, n_networks: int) -> int:
    """Count the epochs of each network, after each of which validation rows are looked at."""
    held = FORWARD * int((task.data.judge.parts == 0).sum())
    visits = budget.visits / n_networks - budget.look - held
    return max(1, min(MAX_EPOCHS, int(visits / (budget.n_editing + held))))


def _train(cells: CellTask) -> nn.Module:
    seeds = cells.seed.spawn(2)
    network = _build(cells, np.random.default_rng(seeds[0]))
    parts = {
        "joint": cells.joint,
        "seed": [cells.seed.entropy, cells.seed.spawn_key],
        # The validation rows among them stop the training.
        "rows": cells.task.data.lesson_rows.index,
        "epochs": cells.max_epochs,
    }

    def compute() -> Entry:
        best = _fit(cells, network, np.random.default_rng(seeds[1]))
        return Entry({name: value.cpu() for name, value in best.items()})

    entry = cells.task.data.cache.fetch("cell network", parts, compute)
    network.load_state_dict(entry.tensors)
    return network.eval().requires_grad_(False)


def _build(cells: CellTask, rng: np.random.Generator) -> CellNetwork:
    """Make the untrained network: a copy of the task's with another last layer.

    To be trained anew, a network whose copy cannot be, or a very large one of a table, is the
    package's own instead.
    """
    data, seed = cells.task.data, int(rng.integers(2**31 - 1))
    # The package has no network for named inputs: the copy keeps its weights.
    named = data.editing.X.fields is not None
    with seeded_globally(seed):
        network = None if cells.joint == "refit" and _is_vast(cells.task) else _with_cells(cells)
        if cells.joint == "refit" and (network is None or not reset(network)) and not named:
            network = CellNetwork(_default_network(data, cells.n_cells), "logits", None)
            network = network.to(data.device, data.dtype)
    if network is None:
        head = type(cells.task.module.get_submodule(data.output_layer)).__name__
        raise NetworkError(
            f"the layer {data.output_layer!r} that makes the logits, a {head}, cannot be replaced "
            f"by an nn.Linear with an output for each of the {cells.n_cells} (label, group) cells: "
            "it is none itself, or what follows it does not pass on more outputs. Use "
            "joint='refit', or another network."
        )
    return network


def _is_vast(task: Task) -> bool:
    """Tell whether a table's network is so large that the package's own, small one teaches."""
    fits = is_table(task.data) and task.data.editing.X.fields is None
    return fits and sum(p.nbytes for p in task.module.parameters()) > VAST_BYTES


def _with_cells(cells: CellTask) -> CellNetwork | None:
    """Copy the task's network with a new last layer; None if it cannot have the cells' outputs."""
    data, module = cells.task.data, copied(cells.task.module)
    head = module.get_submodule(data.output_layer)
    if not isinstance(head, nn.Linear):
        return None
    linear = nn.Linear(head.in_features, cells.n_cells).to(head.weight.device, head.weight.dtype)
    if not data.output_layer:
        module = linear
    else:
        parent, _, name = data.output_layer.rpartition(".")
        setattr(module.get_submodule(parent), name, linear)
    network = CellNetwork(module.eval().requires_grad_(True), data.kind, data.output_key)
    X = to_device(data.judged[:2], data.device, data.dtype)
    try:
        with torch.no_grad():
            shape = tuple(network(X).shape)
    except Exception:  # whatever a user's network does with other outputs
        return None
    return network if shape == (len(X), cells.n_cells) else None


def _default_network(data: EditData, n_cells: int) -> nn.Module:
    mean, scale = channel_statistics(data.editing)
    kind = MLP if is_table(data) else ConvNet
    return kind(len(mean), n_cells, mean=mean, scale=scale)


@dataclass(frozen=True)
class Plan:
    """How long, how fast and in what batches a cell network is trained.

    Attributes
    ----------
    rate : float
    batch_size, n_steps : int
    every : int
        Steps between two looks at the validation loss.
    patience : int
        Looks without a smaller validation loss after which the training stops.
    schedule : {"constant", "cosine"}
    """

    rate: float
    batch_size: int
    n_steps: int
    every: int
    patience: int = PATIENCE
    schedule: str = "constant"


def _is_large_table(data: EditData) -> bool:
    return is_table(data) and len(data.editing) >= FEW_ROWS


def _plan(cells: CellTask) -> Plan:
    """Plan passes over the rows, with a look after each, and after a part of each of many rows."""
    data = cells.task.data
    n_rows = len(cells.rows)
    batch_size = SMALL_BATCH if n_rows < FEW_ROWS else LARGE_BATCH
    an_epoch = -(-n_rows // batch_size)
    if _is_large_table(data) and cells.joint != "head":
        every = min(an_epoch, STEPS_A_LOOK)
        n_steps = min(FALLING_EPOCHS, cells.max_epochs) * every
        return Plan(FALLING_RATE, batch_size, n_steps, every, FALLING_EPOCHS, "cosine")
    every = min(an_epoch, STEPS_A_LOOK) if n_rows > MANY_ROWS else an_epoch
    return Plan(JOINTS[cells.joint], batch_size, cells.max_epochs * an_epoch, every)


def _fit(cells: CellTask, network: CellNetwork, rng: np.random.Generator) -> dict[str, Tensor]:
    """Train until the validation rows' cross-entropy has not fallen for some looks at it."""
    data, plan = cells.task.data, _plan(cells)
    leaves = list(network.parameters())
    if cells.joint == "head":
        leaves = list(network.network.get_submodule(data.output_layer).parameters())
        network.requires_grad_(False)
        for leaf in leaves:
            leaf.requires_grad_(True)
    batches = RowBatches(
        cells.rows,
        batch_size=plan.batch_size,
        generator=torch_generator(rng),
        device=data.device,
        dtype=data.dtype,
    )
    held_out = HeldOut.of(data)
    with seeded_globally(int(rng.integers(2**31 - 1))):
        best = LeastLoss(network, plan.patience, held_out.loss(network))
        network.train(cells.joint == "refit")
        loss = partial(cell_loss, network, data.n_groups)
        if data.partly is not None:
            times = to_device(data.rows_a_group, data.device, data.dtype)
            loss = partial(partial_loss, network, data.n_groups, times)
        for _ in _epochs(loss, leaves, batches, plan):
            network.eval()
            if best.settles(held_out.loss(network)):
                break
            network.train(cells.joint == "refit")
    return best.state


def _epochs(
    loss: Callable[[Batch], Tensor], leaves: Sequence[Tensor], batches: RowBatches, plan: Plan
) -> Iterator[int]:
    return tune(
        loss,
        leaves,
        batches,
        n_steps=plan.n_steps,
        learning_rate=plan.rate,
        every=plan.every,
        schedule=plan.schedule,
    )
