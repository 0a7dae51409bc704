"""FairPruner: single weights or whole units of a trained network are removed."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator
from functools import partial
from numbers import Real
from re import Pattern
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from ..base import (
    SHARED_CONSTRAINTS,
    Candidate,
    EditData,
    Interval,
    NetworkEditor,
    StrOptions,
    positive_int,
)
from ..layers import select_layers
from ..objective import Constraint, PhiObjective, Verdict
from ..phases import SPARSITIES, find_privileged, gap_weights, judged, run_paths
from ._prune_phases import PruningPath, run_path
from ._pruned import Pruned, untouched_attributes, weights_of
from ._pruning import Pruning

__all__ = ["FairPruner"]


class FairPruner(NetworkEditor):
    """Remove single weights or whole units of a trained network that drive its bias.

    Weights of the chosen linear and convolution layers are set to zero so that errors fall more
    evenly on the groups; by default a factor for every output unit and the biases are tuned
    afterwards. With ``criterion="learned"`` it is :class:`FairLRFTransformer` without the singular
    value factors, and so the control that tells what those are worth. The network keeps its
    architecture, needs no sensitive attribute to predict, and what the user passed in is not
    changed.

    Parameters
    ----------
    network : None, skorch net, FrozenEstimator(skorch net) or nn.Module, default=None
        None builds and trains a small network; a skorch net is cloned and trained; a frozen net
        or a module is copied and edited as it is. With a trained network pass rows that it was
        not trained on.
    sparsity : float in [0, 1] or None, default=None
        Share of the weights removed, or of the units ("unit"). ``criterion="learned"``: a cap over
        all layers together (None: no cap); otherwise what is removed (None: searched).
    layers : {"hidden", "all"}, list of str or re.Pattern, default="hidden"
        Linear, Conv2d and attention layers to edit, named as for :class:`FairLRFTransformer`;
        "hidden" leaves out the one that makes the logits.
    criterion : {"learned", "curvature", "unit", "magnitude", "random"}, default="learned"
        "learned": straight-through masks; "curvature": ``1/2 w^2 (h_unprivileged - tradeoff *
        h_privileged)``; "unit": whole output units with their bias, by the predicted change of the
        soft gap; "magnitude" and "random" are controls.
    tradeoff : float or None, default=None
        Weight of the soft gap in the loss ("learned" and the factors), and of the privileged
        group's curvature ("curvature"). None: searched on validation.
    hessian : {"fisher", "ggn"}, default="fisher"
        Diagonal curvature: empirical Fisher, or label-free generalised Gauss-Newton.
    n_steps : int, default=1
        Rounds of removal by curvature or of units, re-scored before each.
    ranking : {"layer", "global"}, default="layer"
        Whether each layer loses the same share ("curvature", "unit", "magnitude", "random"), or
        scores compete over all layers. Scores of different layers differ in size by orders, so
        that one ranking for all tends to empty a layer; and FairLRFTransformer ranks by layer.
    refine : {"scale"} or None, default="scale"
        Tune a factor for every output unit of the edited layers, and the biases of linear and
        convolution layers, after the removal, with the soft gap in the loss. Beside learned masks
        these and the output layer are also tuned with nothing removed, for networks that can spare
        little; the better of both is chosen.
    balance : {"auto", "cells", "classes"} or None, default="auto"
        How the cross-entropy weighs rows: every (label, group) cell alike, every class alike, or
        every row alike. "auto": "cells" where some cell holds less than half the rows that
        independence of label and group would give it, else "classes".
    max_steps : int, default=300
        Cap on the steps of each phase, ``min(max_steps, max(30, n_rows))``.
    constraint : str or PhiObjective, default="equalized_odds"
        The gap: "demographic_parity", "equal_opportunity", "equalized_odds", "average_odds",
        "signed_average_odds" or "accuracy_parity"; or a :class:`PhiObjective`.
    tolerance : float in [0, 1], default=0.05
        The gap that is accepted, a difference of rates.
    tolerance_fraction : float in (0, 1], default=0.4
        A gap beyond this share of the tolerance counts against a candidate, point for point with
        its utility, on the rows it is chosen on; one beyond the tolerance is not feasible.
    utility : str or callable, default="auto"
        "balanced_accuracy", "cell_balanced_accuracy", "accuracy", "worst_cell_accuracy",
        "mean_and_worst_cell_accuracy" or ``f(y_true, y_pred)`` on class codes. "auto": by the rule
        of ``balance``, "mean_and_worst_cell_accuracy" or "balanced_accuracy".
    threshold : "tune" or float in (0, 1), default="tune"
        Probability of ``classes_[1]`` above which it is predicted.
    pos_label : label, default=None
        The class that counts as positive; None: ``classes_[1]``.
    sensitive_columns : str, int or list, default=None
        Names or positions of columns of X, or names of index levels of X or y.
    missing_group : {"raise", "ignore", "own_group"}, default="raise"
        What happens to rows whose group is missing.
    validation : float in (0, 1) or splitter, default=0.25
        Rows on which candidates are chosen: a share of every (label, group) cell, or a splitter
        of exactly one split.
    batch_size : int, default=256
        Rows a training step of the base network, and a step of an edit on images; on tables a
        step of an edit sees up to four times as many.
    device : str, torch.device or None, default=None
        Where the copy of the network is edited; None: where it is.
    output : {"features", "logits", "probabilities"}, default="features"
        What ``transform`` returns.
    output_key : str, int or None, default=None
        Where the scores are, for a network that returns more than a tensor: a key or attribute
        ("logits" of a transformers model) or a position in a tuple. None: the tensor itself, the
        first element of a tuple.
    memory : None, str, path or joblib.Memory, default=None
        Folder in which trained base networks, curvature and learned masks are kept, so
        that a later fit that depends on the same ones does not compute them again. Entries are
        checked when they are read. Needs an integer ``random_state``.
    precision : {"full", "mixed"}, default="full"
        "mixed" computes losses and curvature under ``torch.autocast`` in bfloat16, and sums in
        float32; candidates are judged, and predictions made, in full.
    on_interrupt : {"raise", "keep"}, default="raise"
        What an interrupt (Ctrl-C) does to a fit: "raise" leaves the estimator as it was; "keep",
        once candidates are being made, ends the search there and keeps the best so far.
    max_memory : int, default=2**28
        Limit in bytes of the temporary memory of the curvature.
    n_jobs : int or None, default=None
        Parallel trade-offs; does not change the result.
    verbose : int, default=0
        1 shows a progress bar.
    random_state : int, RandomState or None, default=None
        Seed of everything drawn.

    Attributes
    ----------
    masks_ : dict of parameter name to boolean ndarray
        True where a weight is kept; of the weight's shape, such as ``"hidden.0.weight"``. With
        "unit" whole rows are False.
    removed_fraction_ : float in [0, 1]
        Share of the weights removed, over all edited layers.
    privileged_group_ : label or None
        Group whose recall leads most over the other groups pooled.
    balance_ : {"cells", "classes"} or None
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`.

    See Also
    --------
    NetworkEditor : What all editors share.
    FairLRFTransformer : The same removal on the entries of singular value factors.

    Notes
    -----
    "curvature" is the score of FairPrune (arXiv:2203.02110), following two re-implementations that
    agree. Deviations: the curvature is the mean of squared per-sample gradients, exact, in one pass
    and at the operating threshold; one-shot unless ``n_steps`` says otherwise; weights are ranked
    within a layer unless ``ranking="global"``, which is FairPrune's; both signs are searched; the
    output layer is left out. With several groups everyone but the privileged group is unprivileged.
    Biases and normalisation layers are spared. The tuning's learning rate is that of
    :class:`FairLRFTransformer`. What was removed in an earlier round stays removed and counts.

    "unit" follows the pruning of arXiv:2208.00781, which orders units by the mean derivative of a
    signed proxy of the bias in their output, from the end that the bias's sign names. Deviations:
    the gap here has no sign, and outputs before the activation may be negative, where the
    derivative alone does not tell what zero does; units are therefore ordered by the first-order
    change of the soft gap itself, ``-sum_i z_ij dgap/dz_ij``, the steepest fall first. That also
    covers several groups and classes. A unit of a convolution is a whole channel. One pass gives
    the gradient of the whole gap in the logits, a second carries it to the units. Without sensitive
    features there is nothing to score by, and no unit is removed.

    Removal by a score rewards damage to whoever is ahead: read both groups' rates in ``report_``.

    Examples
    --------
    >>> from fairsvd import FairPruner
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(400, random_state=0)
    >>> pruner = FairPruner(tolerance=0.1, tradeoff=1.0, random_state=0)
    >>> pruner = pruner.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> pruner.predict(data.data).shape
    (400,)
    >>> sorted(pruner.masks_)
    ['hidden.0.weight', 'hidden.2.weight']
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **SHARED_CONSTRAINTS,
        "sparsity": [Interval(Real, 0, 1, closed="both"), None],
        "layers": [StrOptions({"hidden", "all"}), list, tuple, Pattern],
        "criterion": [StrOptions({"learned", "curvature", "unit", "magnitude", "random"})],
        "tradeoff": [Interval(Real, 0, None, closed="left"), None],
        "hessian": [StrOptions({"fisher", "ggn"})],
        "n_steps": [positive_int()],
        "ranking": [StrOptions({"layer", "global"})],
        "refine": [StrOptions({"scale"}), None],
        "balance": [StrOptions({"auto", "cells", "classes"}), None],
        "max_steps": [positive_int()],
        "max_memory": [positive_int()],
    }

    def __init__(
        self,
        network: Any = None,
        *,
        sparsity: float | None = None,
        layers: Any = "hidden",
        criterion: str = "learned",
        tradeoff: float | None = None,
        hessian: str = "fisher",
        n_steps: int = 1,
        ranking: str = "layer",
        refine: str | None = "scale",
        balance: str | None = "auto",
        max_steps: int = 300,
        constraint: str | PhiObjective = "equalized_odds",
        tolerance: float = 0.05,
        tolerance_fraction: float = 0.4,
        utility: Any = "auto",
        threshold: Any = "tune",
        pos_label: Any = None,
        sensitive_columns: Any = None,
        missing_group: str = "raise",
        validation: Any = 0.25,
        batch_size: int = 256,
        device: Any = None,
        output: str = "features",
        output_key: str | int | None = None,
        memory: Any = None,
        precision: str = "full",
        on_interrupt: str = "raise",
        max_memory: int = 2**28,
        n_jobs: int | None = None,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.network = network
        self.sparsity = sparsity
        self.layers = layers
        self.criterion = criterion
        self.tradeoff = tradeoff
        self.hessian = hessian
        self.n_steps = n_steps
        self.ranking = ranking
        self.refine = refine
        self.balance = balance
        self.max_steps = max_steps
        self.constraint = constraint
        self.tolerance = tolerance
        self.tolerance_fraction = tolerance_fraction
        self.utility = utility
        self.threshold = threshold
        self.pos_label = pos_label
        self.sensitive_columns = sensitive_columns
        self.missing_group = missing_group
        self.validation = validation
        self.batch_size = batch_size
        self.device = device
        self.output = output
        self.output_key = output_key
        self.memory = memory
        self.precision = precision
        self.on_interrupt = on_interrupt
        self.max_memory = max_memory
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.random_state = random_state

    def _edit(
        self, module: nn.Module, data: EditData, constraint: Constraint, rng: np.random.Generator
    ) -> Iterator[Candidate]:
        names = select_layers(module, self.layers, data.output_layer)
        privileged = find_privileged(data)
        shared = {
            "privileged_group_": None if privileged is None else data.group_labels[privileged],
            "balance_": constraint.balance,
        }
        attributes = {**shared, **untouched_attributes(weights_of(module, names))}
        yield Candidate({}, {"stage": "untouched", "removed_fraction": 0.0}, attributes)
        start, refine = None, self.refine is not None
        if self.criterion != "learned" or self.sparsity == 0:
            pruning = Pruning(
                module=module,
                data=data,
                constraint=constraint,
                layers=names,
                criterion=self.criterion,
                ranking=self.ranking,
                sparsities=SPARSITIES if self.sparsity is None else (self.sparsity,),
                tradeoff=self.tradeoff,
                hessian=self.hessian,
                n_steps=self.n_steps,
                max_memory=self.max_memory,
                privileged=privileged,
                rng=rng,
            )
            start = yield from _removed(pruning, shared)
            if not refine:
                return
        paths = self._paths(module, data, constraint, names, shared, rng)
        yield from run_paths(paths, partial(run_path, start=start, refine=refine), self.n_jobs)

    def _paths(
        self,
        module: nn.Module,
        data: EditData,
        constraint: Constraint,
        layers: list[str],
        shared: dict[str, Any],
        rng: np.random.Generator,
    ) -> list[PruningPath]:
        tradeoffs = gap_weights(data, self.tradeoff)
        seeds = np.random.SeedSequence(int(rng.integers(2**63 - 1))).spawn(len(tradeoffs))
        return [
            PruningPath(
                # Parallel tasks must not share a module.
                module=copy.deepcopy(module),
                data=data,
                constraint=constraint,
                layers=tuple(layers),
                tradeoff=tradeoff,
                max_removed=self.sparsity,
                n_steps=min(self.max_steps, max(30, len(data.editing))),
                seed=seed,
                attributes=shared,
            )
            for tradeoff, seed in zip(tradeoffs, seeds, strict=True)
        ]


def _removed(pruning: Pruning, attributes: dict[str, Any]) -> Generator[Candidate, None, Pruned]:
    """Judge every removal by a score; return the best to start from, or the untouched weights."""

    def pack(edit: Pruned, params: Any, verdict: Verdict, logits: Tensor) -> Candidate:
        return edit.candidate(params, attributes, verdict, logits)

    settings = pruning.module, pruning.data, pruning.constraint
    start = yield from judged(pruning.edits(), *settings, pack)
    return start or pruning.nothing()
