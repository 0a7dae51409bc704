"""Selective fine-tuning on synthetic rows: tune what reacts to bias and not to the domain."""

from __future__ import annotations

from collections.abc import Iterator
from re import Pattern
from typing import Any, Self

import numpy as np

from .._warn import warn
from ..base import (
    Candidate,
    FitInputs,
    HasMethods,
    NetworkEditor,
    StrOptions,
    Task,
    at_least_0,
    fraction,
    parameter,
    positive,
    positive_int,
    register_editor,
)
from ..exceptions import ConstraintNotMetWarning
from ..generative.sampler import NAMED_GENERATORS
from ..objective import Constraint
from ..phases import run_paths
from ._generated import generate_rows
from ._given import Given, read_given
from ._path import run_path
from ._plan import Plan

__all__ = ["SelectiveFineTuner"]

# Values of the authors' run script: 55 of ResNet-18's 62 parameter tensors.
PUBLISHED: dict[str, Any] = {
    "mask": "selective",
    "granularity": "tensor",
    "top_k": 55 / 62,
    "epochs": 10,
    "min_steps": 0,
    "learning_rate": 0.06,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "freeze_norm_stats": False,
    "batch_size": 128,
    "threshold": 0.5,
}


@register_editor(epochs=3, min_steps=3, top_k=0.5, generator="smoothed")
class SelectiveFineTuner(NetworkEditor):
    """Tune on balanced synthetic rows what reacts to bias and not to the synthesis (AIM-Fair).

    Three mean gradients are compared at the trained network: on the real rows, on synthetic rows in
    which every (label, group) cell has its real share, and on synthetic rows in which all cells are
    alike. The first two differ by the domain, the last two by the bias. Parameters that are among
    the least domain-sensitive and among the most bias-sensitive are tuned on the balanced synthetic
    rows; the others do not change. The network keeps its architecture, needs no sensitive attribute
    to predict, and what the user passed in is not changed.

    Parameters
    ----------
    synthetic : (X, y, sensitive_features) or None, default=None
        Ready synthetic rows of every (label, group) cell, in any numbers. X must be as the editor
        gets it: after the steps of a Pipeline, with or without the sensitive columns. Labels and
        groups must have the names of the real rows' ones. The groups of the real rows are then not
        needed. None: ``generator`` makes the rows from the rows of ``fit``. A clone copies them.
    synthetic_biased : (X, y) or None, default=None
        Ready synthetic rows with the cells' real shares, for the mask. None: the balanced rows
        are weighted to ``cell_shares``.
    cell_shares : dict or None, default=None
        Keys ``(label, group)``, values each cell's share of the real rows, or its count. None:
        counted, or estimated if the real rows have no groups (see ``cell_shares_``).
    generator : {"auto", "copula", "smoothed", "smote", "hyper"} or object, default="auto"
        Makes synthetic rows if no ready ones are passed, fitted on the editing rows of each fit: a
        name as in :class:`CellSampler`, or an object with ``fit`` and ``sample``, which is copied.
        "auto": "copula" for tables, "smoothed" for images, copies of rows of named inputs.
    n_per_cell : int or None, default=None
        Rows that are generated for every cell. None: as many as the largest cell has.
    mask : {"selective", "random", "all", "head", "blocks"}, default="selective"
        What is tuned. "random": as many items as "selective" would choose, at random, a control.
        "all": everything. "head": the layer that makes the logits. "blocks": see ``blocks``.
    granularity : {"element", "unit", "tensor"}, default="element"
        The items of the choice: a single number, an output's incoming weights (of a bias or a
        normalisation: one number), a parameter tensor.
    top_k : float in (0, 1], int or None, default=None
        k, a share of all items or their number: an item is tuned if it is among the k least
        domain-sensitive and among the k most bias-sensitive. If no item is in both sets, k is
        raised until one is. None: .3, .5 and 1, which is full fine-tuning, are tried.
    blocks : list of str, re.Pattern or None, default=None
        With ``mask="blocks"``: names of submodules that are tuned together. None: every top-level
        submodule alone is tried.
    epochs : int, default=10
        Passes over the synthetic rows; each yields one candidate.
    min_steps : int, default=300
        At least ``min(min_steps, max(30, n_synthetic))`` updates are made; 0: as many as ``epochs``
        needs.
    learning_rate : float, default=3e-3
    optimizer : {"adam", "sgd"}, default="adam"
    momentum : float in [0, 1), default=0.9
        Momentum of "sgd".
    weight_decay : float, default=0.0
        Masked like every other part of an update.
    freeze_norm_stats : bool, default=True
        Keep running statistics of normalisation layers. False: they run on the batches, and
        follow the synthetic rows in all layers, frozen ones included, as in the paper's code.
    store_scores : bool, default=False
        Keep ``scores_``.
    constraint : str, default="equalized_odds"
        "demographic_parity", "equal_opportunity", "equalized_odds", "average_odds" or
        "accuracy_parity".
    utility : str or callable, default="auto"
        "balanced_accuracy", "cell_balanced_accuracy", "accuracy", "worst_cell_accuracy",
        "mean_and_worst_cell_accuracy" or ``f(y_true, y_pred)`` on class codes. "auto":
        "cell_balanced_accuracy" if synthetic rows decide the choice, "mean_and_worst_cell_accuracy"
        if some cell holds less than half the rows that independence of label and group would give
        it, else "balanced_accuracy".

    Attributes
    ----------
    masks_ : dict of parameter name to boolean Tensor
        What was tuned in the chosen network; nothing if the untouched one was chosen.
    masked_fraction_ : dict of parameter name to float in [0, 1]
        Share of each parameter that was tuned.
    tuned_fraction_ : float in [0, 1]
        Share of all parameters that was tuned.
    top_k_ : float, int or None
        k of the chosen candidate; None without a measured mask.
    block_ : str or None
        What was tuned, with ``mask="blocks"``.
    cell_shares_ : dict or None
        Shares of the cells that the mask was measured with.
    synthetic_groups_ : list
        Groups of the synthetic rows.
    chosen_on_ : {"real rows", "synthetic rows"}
        Where candidates were compared.
    scores_ : dict of parameter name to (domain, bias)
        Only with ``store_scores=True``; Tensors with one entry per item, at least 0.
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`.

    See Also
    --------
    BiasMaskFineTuner : Masks by the gradients of a gap and of the loss, on real rows.
    CellSampler : Gives balanced synthetic rows to any estimator.

    Notes
    -----
    AIM-Fair is arXiv:2503.05665; :meth:`aim_fair` has its values, the defaults are ours, chosen by
    measurement. Deviations from the released code: masks of single numbers, which do better on
    tables; gradients are exact means over all rows, in evaluation mode and without augmentation;
    the biased synthetic rows are the balanced ones, weighted, unless they are given; batches hold
    every cell alike; masks multiply updates; learning rates stay constant; as in every editor the
    untouched network is among the candidates and the objective chooses. Labels of real rows affect
    the mask and the choice, their groups only the choice and the shares.

    If the groups of the real rows are not known, candidates are compared on synthetic rows of every
    cell, held back from the tuning (the share of ``validation``, or a quarter): utility and gap at
    the best threshold for these. The threshold that is kept is the one of highest utility on the
    real rows, where a candidate must keep half of the untouched network's lead over chance.
    ``history_`` then has the figures of the synthetic rows, which are as reliable as the synthesis.
    Shares of cells are estimated from features of the untouched network; a difference between the
    sets that points from one group to another is mistaken for a share, so pass ``cell_shares`` if
    they are known.

    Ready sets are the same in all folds of a search: if they were made from all rows, they leak
    test rows of each fold into its training. A ``generator`` is fitted in every fold, after the
    steps of the Pipeline. It sees as many rows as 256 MB hold.

    Without sensitive features anywhere, classes are balanced and the utility alone counts.

    Examples
    --------
    >>> from fairsvd import SelectiveFineTuner
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(800, random_state=0)
    >>> tuner = SelectiveFineTuner(generator="smoothed", tolerance=0.3, top_k=0.5, random_state=0)
    >>> tuner = tuner.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> tuner.predict(data.data).shape
    (800,)
    """

    synthetic: Any = parameter(tuple, list, None, default=None)
    synthetic_biased: Any = parameter(tuple, list, None, default=None)
    cell_shares: Any = parameter(dict, None, default=None)
    generator: Any = parameter(
        StrOptions({"auto", *NAMED_GENERATORS}), HasMethods(["fit", "sample"]), default="auto"
    )
    n_per_cell: int | None = parameter(positive_int(), None, default=None)
    mask: str = parameter(
        StrOptions({"selective", "random", "all", "head", "blocks"}), default="selective"
    )
    granularity: str = parameter(StrOptions({"element", "unit", "tensor"}), default="element")
    top_k: Any = parameter(fraction(closed="right"), positive_int(), None, default=None)
    blocks: Any = parameter(str, list, tuple, Pattern, None, default=None)
    epochs: int = parameter(positive_int(0), default=10)
    min_steps: int = parameter(positive_int(0), default=300)
    learning_rate: float = parameter(positive(), default=3e-3)
    optimizer: str = parameter(StrOptions({"adam", "sgd"}), default="adam")
    momentum: float = parameter(fraction(closed="left"), default=0.9)
    weight_decay: float = parameter(at_least_0(), default=0.0)
    freeze_norm_stats: bool = parameter("boolean", default=True)
    store_scores: bool = parameter("boolean", default=False)

    @classmethod
    def aim_fair(cls, network: Any = None, **parameters: Any) -> Self:
        """Make an editor with AIM-Fair's values (arXiv:2503.05665, released code).

        Parameters
        ----------
        network : as in the class
        **parameters
            Values that replace the paper's.
        """
        return cls(network, **{**PUBLISHED, **parameters})

    def _gets_groups_elsewhere(self) -> bool:
        synthetic = self.synthetic
        return synthetic is not None and len(synthetic) == 3 and synthetic[2] is not None

    def _settle(self, inputs: FitInputs, constraint: Constraint, seed: int) -> tuple[None, Given]:
        # Read here, so that an unsuitable set is reported before a network is trained.
        return None, read_given(self, inputs)

    def _keep(self, inputs: FitInputs, adopted: Any, outcome: Any) -> None:
        super()._keep(inputs, adopted, outcome)
        if self.chosen_on_ == "synthetic rows" and not outcome.verdict.feasible:
            warn(
                f"No candidate keeps {self.constraint} within the tolerance of "
                f"{self.tolerance:.3g} on the synthetic rows that were held back; the chosen one "
                f"has {outcome.verdict.gap:.3f}. Raise tolerance, or pass more rows.",
                ConstraintNotMetWarning,
            )

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        seeds = np.random.SeedSequence(int(rng.integers(2**63 - 1))).spawn(4)
        given: Given = task.settled
        rows = given.balanced
        if rows is None:
            rows = generate_rows(self.generator, task.data, self.n_per_cell, seeds[3])
        plan = Plan.of(task, editor=self, given=given, synthetic=rows, seeds=tuple(seeds[:3]))
        masks, scores = plan.masks()
        nothing = {name: mask & False for name, mask in masks[0][1].items()}
        yield plan.untouched(plan.attributes({}, nothing, scores))
        yield from run_paths(plan.paths(masks, scores), run_path, self.n_jobs)
