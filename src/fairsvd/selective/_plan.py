"""The plan of a selective fit, made from its parameters and the real and synthetic rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._rng import torch_generator
from ..arrays import LabelledRows, hold_on
from ..base import Candidate, EditData, Task, split_rows
from ..phases import count_steps
from ._blocks import make_block_masks
from ._choice import Choice, synthetic_judge
from ._given import Given
from ._path import Optimizer, Path
from ._scores import (
    Gradients,
    compute_mean_gradients,
    count_needed,
    count_of,
    pool,
    random_order,
    select_items,
)
from ._shares import estimate_shares

__all__ = ["TOP_KS", "Plan"]

# Shares that are tried: the best one differs from task to task, and only a trial shows where full
# fine-tuning is better. Shares between .5 and 1 offer little of either.
TOP_KS = (0.3, 0.5, 1.0)

# Share of the synthetic rows that is held back if they decide the choice and ``validation`` is no
# number; and the maximum number of these rows, since every candidate runs on them.
HELD, MOST_HELD = 0.25, 4000


@dataclass(frozen=True)
class Plan(Task):
    """Resolves the parameters of an editor against a network and the real rows.

    Attributes
    ----------
    editor : SelectiveFineTuner
        Holds the parameters.
    given : Given
    synthetic : LabelledRows
        All synthetic rows, with some in every cell.
    seeds : tuple of numpy.random.SeedSequence
        For the rows held back, for random masks and for the paths.
    """

    editor: Any
    given: Given
    synthetic: LabelledRows
    seeds: tuple[np.random.SeedSequence, ...]

    @property
    def chooses_on_synthetic(self) -> bool:
        """Tell whether the groups are known for synthetic rows only."""
        return bool(self.given.group_labels) and not self.data.has_groups

    @cached_property
    def sides(self) -> tuple[LabelledRows, LabelledRows | None]:
        """Split the synthetic rows into those to tune on and those to choose on."""
        rows = replace(self.synthetic, X=hold_on(self.synthetic.X, self.data.device))
        if not self.chooses_on_synthetic:
            return rows, None
        validation = self.editor.validation
        share = HELD if hasattr(validation, "split") else float(validation)
        rng = np.random.default_rng(self.seeds[0])
        share = min(share, MOST_HELD / len(rows))
        cells = rows.cells(self.given.n_groups).numpy()
        tuned, held = split_rows(share, cells, rows.y.numpy(), rng, self.given.classes)
        return rows.subset(tuned), rows.subset(held)

    @cached_property
    def choice(self) -> Choice:
        """The judge of the candidates."""
        held = self.sides[1]
        if held is None:
            return Choice(self.data)
        # The sizes of synthetic cells are arbitrary, so each cell counts alike.
        constraint = self.constraint
        if isinstance(self.editor.utility, str) and self.editor.utility == "auto":
            constraint = replace(constraint, utility="cell_balanced_accuracy")
        logits = self.data.logits(self.module, {}, held.X)
        judge = synthetic_judge(held, logits, self.data.n_classes, self.given.n_groups, constraint)
        return Choice(self.data, held, judge)

    @cached_property
    def rows(self) -> EditData:
        """The data of the tuning, with the synthetic rows as editing rows."""
        return replace(
            self.data,
            editing=self.sides[0],
            n_groups=self.given.n_groups,
            group_labels=self.given.group_labels,
        )

    @cached_property
    def shares(self) -> NDArray[np.float64] | None:
        """Share of every cell among the real rows; None if it is not needed."""
        if self.given.shares is not None:
            return self.given.shares
        shape = self.data.n_classes, self.given.n_groups
        if not self.chooses_on_synthetic:
            table = self.data.editing.count_cells(*shape).double()
            return (table / table.sum()).numpy()
        if self.given.biased is not None:
            return None
        return estimate_shares(self.module, self.data, self.sides[0], shape[1], self.seeds[0])

    def scores(self) -> tuple[Gradients, Gradients]:
        """Compute absolute differences of mean gradients: real to biased, biased to balanced."""
        data, real = self.data, self.data.editing.repeated(self.data.n_groups)
        equal = torch.full((len(real),), 1 / len(real), dtype=torch.float64)
        (of_real,) = compute_mean_gradients(self.module, data, real, [equal])
        weights = [self._cell_weights(None)]
        if self.given.biased is None:
            weights.append(self._cell_weights(self.shares))
        of_balanced, *rest = compute_mean_gradients(self.module, data, self.sides[0], weights)
        if self.given.biased is not None:
            biased = self.given.biased
            equal = torch.full((len(biased),), 1 / len(biased), dtype=torch.float64)
            rest = compute_mean_gradients(self.module, data, biased, [equal])
        (of_biased,) = rest
        domain = {name: (of_real[name] - of_biased[name]).abs() for name in of_real}
        bias = {name: (of_biased[name] - of_balanced[name]).abs() for name in of_real}
        return domain, bias

    def _cell_weights(self, shares: NDArray[np.float64] | None) -> Tensor:
        """Weight synthetic rows so that cells have the given shares, or equal ones."""
        rows, n_groups = self.sides[0], self.given.n_groups
        cells = rows.cells(n_groups)
        counts = rows.count_cells(self.data.n_classes, n_groups).flatten()
        present = counts > 0
        table = present.double() / present.sum()
        if shares is not None:
            table = torch.as_tensor(shares).flatten() * present
            table = table / table.sum()
        return (table / counts.clamp_min(1))[cells]

    def masks(self) -> tuple[list[tuple[dict[str, Any], dict[str, Tensor]]], dict[str, Any]]:
        """Make the masks to try, each with its record, and the scores behind them."""
        current = dict(self.module.named_parameters())
        if self.editor.mask in ("all", "head", "blocks"):
            editor, head = self.editor, self.data.output_layer
            return make_block_masks(self.module, editor.mask, editor.blocks, head), {}
        granularity = self.editor.granularity
        domain, bias = (
            {name: pool(value, granularity) for name, value in part.items()}
            for part in self.scores()
        )
        needed = count_needed(domain, bias)
        order = needed
        shapes = {name: value.shape for name, value in domain.items()}
        if self.editor.mask == "random":
            generator = torch_generator(np.random.default_rng(self.seeds[1]))
            order = random_order(len(needed), generator).to(needed.device)
        top_ks = TOP_KS if self.editor.top_k is None else (self.editor.top_k,)
        masks = []
        for top_k in top_ks:
            count = count_of(top_k, len(needed), granularity)
            if self.editor.mask == "random":
                # As many items as the measured mask has.
                count = int((needed <= max(count, int(needed.min()))).sum())
            masks.append(({"top_k": top_k}, select_items(order, count, shapes, current)))
        stored = {}
        if self.editor.store_scores:
            stored = {"scores_": {n: (domain[n].cpu(), bias[n].cpu()) for n in domain}}
        return masks, stored

    def attributes(
        self, record: dict[str, Any], mask: dict[str, Tensor], scores: dict[str, Any]
    ) -> dict[str, Any]:
        """Collect the fitted attributes of a candidate under this mask."""
        cpu_masks = {name: each.detach().cpu().clone() for name, each in mask.items()}
        total = sum(each.numel() for each in cpu_masks.values())
        shares = self.shares if self.editor.mask in ("selective", "random") else None
        return {
            "masks_": cpu_masks,
            "masked_fraction_": {n: float(each.double().mean()) for n, each in cpu_masks.items()},
            "tuned_fraction_": sum(int(each.sum()) for each in cpu_masks.values()) / max(1, total),
            "top_k_": record.get("top_k"),
            "block_": record.get("block"),
            "chosen_on_": "synthetic rows" if self.chooses_on_synthetic else "real rows",
            "synthetic_groups_": list(self.given.group_labels),
            "cell_shares_": None if shares is None else self.given.as_shares(shares),
            **scores,
        }

    def untouched(self, attributes: dict[str, Any]) -> Candidate:
        """Make the first candidate; its verdict on the real rows is known already."""
        record = {"stage": "untouched"}
        if not self.chooses_on_synthetic:
            return Candidate({}, record, attributes)
        return self.choice.judge(self.module, {}, record, attributes)

    def paths(
        self, masks: list[tuple[dict[str, Any], dict[str, Tensor]]], scores: dict[str, Any]
    ) -> list[Path]:
        """Make a path for every mask."""
        rows = Task(self.module, self.rows, self.constraint)
        return [
            Path.of(
                task,
                choice=self.choice,
                masks=mask,
                optimizer=self._optimizer(),
                freeze_norm_stats=self.editor.freeze_norm_stats,
                record=record,
                attributes=self.attributes(record, mask, scores),
                seed=seed,
            )
            for (record, mask), task, seed in rows.spread(masks, self.seeds[2], self.editor.n_jobs)
        ]

    def _optimizer(self) -> Optimizer:
        editor, n_rows = self.editor, len(self.rows.editing)
        n_steps = editor.epochs * -(-n_rows // editor.batch_size)
        if editor.epochs:
            n_steps = max(n_steps, count_steps(editor.min_steps, self.rows))
        return Optimizer(
            name=editor.optimizer,
            learning_rate=editor.learning_rate,
            momentum=editor.momentum,
            weight_decay=editor.weight_decay,
            n_steps=n_steps,
            every=max(1, n_steps // max(1, editor.epochs)),
        )
