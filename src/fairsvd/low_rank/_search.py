"""FairLRF-style editing whose rank, sparsity and trade-off are chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.model_selection import ParameterGrid
from torch import nn

from ..base import Candidate, EditData, FitInputs, HasMethods, NetworkEditor
from ..model_selection import best_under_gap
from ..networks import AdoptedNetwork
from ..objective import Constraint, PhiObjective
from ._fairlrf import FairLRFTransformer
from ._grid import fold_results, path_frame, search_results, splits_of
from ._removal import SPARSITIES

__all__ = ["FairLRFTransformerCV"]

RANKS = (0.25, 0.5, 1.0)

# What a value of each grid is to the editor.
AXES = {"ranks": "rank", "sparsities": "sparsity", "tradeoffs": "tradeoff"}


class FairLRFTransformerCV(NetworkEditor):
    """FairLRF-style editing with rank, sparsity and trade-off chosen by cross-validation.

    What :class:`~sklearn.model_selection.GridSearchCV` over :class:`FairLRFTransformer` would
    choose, for little more than one training a fold: on every fold the base network is trained,
    factored and its curvature measured once; for ``criterion="curvature"`` the sparsities of a
    rank are nested, each step removing more; for ``"learned"`` one training of masks for each
    rank and trade-off serves every sparsity, which is the cap at which it is hardened. The best
    setting is then fitted on all rows.

    Parameters
    ----------
    network : None, skorch net, FrozenEstimator(skorch net) or nn.Module, default=None
        As in :class:`FairLRFTransformer`. A network that is trained already should not have seen
        the rows of this search.
    ranks : sequence, default=None
        Values of ``rank``; None: 0.25, 0.5 and 1.0.
    sparsities : sequence, default=None
        Values of ``sparsity``; None: .01, .02, .05, .1, .2, .35 and .5.
    tradeoffs : sequence, default=None
        Values of ``tradeoff``; None: each fit searches it on its own validation rows.
    cv : None, int, splitter or iterable of (train, test), default=None
        None: ``JointStratifiedKFold(5)``; an integer: that many of its folds; without sensitive
        features ``StratifiedKFold``.
    refit : callable, default=None
        Takes ``cv_results_`` and gives the index of the chosen setting; None:
        ``best_under_gap("utility", "gap", limit=tolerance)``, with a :class:`PhiObjective` under
        its epsilon.
    layers, criterion, hessian, n_steps, refine, balance, max_steps : object
        As in :class:`FairLRFTransformer`.
    svd_solver, compress, constraint, tolerance, tolerance_fraction, utility : object
        As in :class:`FairLRFTransformer`.
    threshold, pos_label, sensitive_columns, missing_group, validation, batch_size : object
        As in :class:`FairLRFTransformer`; ``validation`` is set apart within every fold's
        training rows.
    device, output, output_key, memory, precision, on_interrupt, max_memory : object
        As in :class:`FairLRFTransformer`; an interrupt of the search over folds is always raised.
    n_jobs : int or None, default=None
        Trainings at the same time; does not change the result.
    verbose, random_state : object
        As in :class:`FairLRFTransformer`; every fold and setting gets the same seed, as the
        clones of a search do.

    Attributes
    ----------
    cv_results_ : dict
        In the layout of ``GridSearchCV``, for the metrics "utility" and "gap" (minus the gap, so
        that greater is better) on the rows that each fold held back. The times leave out what
        the settings of a fold share.
    best_index_ : int
    best_params_ : dict
        Of ``rank``, ``sparsity`` and, where it was searched, ``tradeoff``.
    best_score_ : float
        Mean utility of the chosen setting over the folds.
    n_splits_ : int
    path_ : DataFrame
        A row for each fold and setting: share removed, threshold, utility and gap on the rows it
        was chosen on and on those held back.
    masks_, ranks_, removed_fraction_, privileged_group_, balance_
        Of the final fit, as in :class:`FairLRFTransformer`.
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        Of the final fit, see :class:`NetworkEditor`.

    See Also
    --------
    FairLRFTransformer : The edit with given settings.
    best_under_gap : The rule of choice.

    Notes
    -----
    With ``criterion="curvature"`` and an integer ``random_state`` the scores are those of
    ``GridSearchCV`` with the same grid and folds. The method's source and our deviations from it
    (arXiv:2511.16549) are told in :class:`FairLRFTransformer`.

    Examples
    --------
    >>> from fairsvd import FairLRFTransformerCV
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(600, random_state=0)
    >>> search = FairLRFTransformerCV(
    ...     ranks=[0.5, 1.0],
    ...     sparsities=[0.0, 0.1],
    ...     cv=2,
    ...     criterion="curvature",
    ...     refine=None,
    ...     random_state=0,
    ... )
    >>> search = search.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> len(search.cv_results_["params"])
    4
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{
            name: kinds
            for name, kinds in FairLRFTransformer._parameter_constraints.items()
            if name not in ("rank", "sparsity", "tradeoff")
        },
        "ranks": [list, tuple, np.ndarray, None],
        "sparsities": [list, tuple, np.ndarray, None],
        "tradeoffs": [list, tuple, np.ndarray, None],
        "cv": [Integral, HasMethods(["split"]), Iterable, None],
        "refit": [callable, None],
    }

    def __init__(
        self,
        network: Any = None,
        *,
        ranks: Sequence[Any] | None = None,
        sparsities: Sequence[Any] | None = None,
        tradeoffs: Sequence[Any] | None = None,
        cv: Any = None,
        refit: Any = None,
        layers: Any = "hidden",
        criterion: str = "learned",
        hessian: str = "fisher",
        n_steps: int = 1,
        refine: str | None = "spectrum",
        balance: str | None = "auto",
        max_steps: int = 300,
        svd_solver: str = "auto",
        compress: bool = False,
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
        self.ranks = ranks
        self.sparsities = sparsities
        self.tradeoffs = tradeoffs
        self.cv = cv
        self.refit = refit
        self.layers = layers
        self.criterion = criterion
        self.hessian = hessian
        self.n_steps = n_steps
        self.refine = refine
        self.balance = balance
        self.max_steps = max_steps
        self.svd_solver = svd_solver
        self.compress = compress
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

    def _search(self, inputs: FitInputs, constraint: Constraint, seed: int) -> AdoptedNetwork:
        grid = list(ParameterGrid(self._axes()))
        # Folds run at the same time; inside of one nothing does.
        editors = [(params, self._editor(params, n_jobs=1)) for params in grid]
        for _, editor in editors:
            editor._validate_params()
        splits = splits_of(self.cv, inputs)
        tasks = fold_results(editors, inputs, splits, seed, self.n_jobs)
        adopted, *points = self._shown(tasks, 1 + len(splits))
        self.n_splits_ = len(splits)
        self.cv_results_ = search_results(grid, points)
        self.path_ = path_frame(points)
        rule = self.refit or best_under_gap("utility", "gap", limit=constraint.tolerance)
        self.best_index_ = int(rule(self.cv_results_))
        self.best_params_ = dict(grid[self.best_index_])
        self.best_score_ = float(self.cv_results_["mean_test_utility"][self.best_index_])
        return adopted

    def _axes(self) -> dict[str, list[Any]]:
        given = {"ranks": self.ranks, "sparsities": self.sparsities, "tradeoffs": self.tradeoffs}
        defaults = {"ranks": RANKS, "sparsities": SPARSITIES, "tradeoffs": None}
        axes = {}
        for name, values in given.items():
            values = defaults[name] if values is None else values
            if values is not None:
                if not len(values):
                    raise ValueError(f"{name} is empty: pass at least one value, or None.")
                axes[AXES[name]] = _plain(values)
        return axes

    def _editor(self, params: Any, n_jobs: int | None) -> FairLRFTransformer:
        own = self.get_params(deep=False)
        names = set(FairLRFTransformer._get_param_names()) & set(own)
        settings = {name: own[name] for name in names}
        return FairLRFTransformer(**{**settings, **params, "n_jobs": n_jobs})

    def _shown(self, tasks: Iterable[Any], n_tasks: int) -> Iterable[Any]:
        if not self.verbose:
            return tasks
        from tqdm.auto import tqdm

        return tqdm(tasks, desc=type(self).__name__, unit=" trainings", total=n_tasks)

    def _edit(
        self, module: nn.Module, data: EditData, constraint: Constraint, rng: np.random.Generator
    ) -> Iterable[Candidate]:
        editor = self._editor(self.best_params_, n_jobs=self.n_jobs)
        return editor._edit(module, data, constraint, rng)


def _plain(values: Sequence[Any]) -> list[Any]:
    # numpy's numbers would look odd in best_params_, and 1.0 must not become the rank 1.
    return [value.item() if isinstance(value, np.generic) else value for value in values]
