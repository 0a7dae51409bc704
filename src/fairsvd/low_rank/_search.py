"""FairLRF-style editing whose rank, sparsity and weights are chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.model_selection import ParameterGrid

from ..base import Candidate, FitInputs, HasMethods, Task, parameter, progress_bar, with_parameters
from ..model_selection import best_under_gap
from ..networks import AdoptedNetwork
from ..objective import Constraint
from ..phases import SPARSITIES
from ._fairlrf import FactorSettings, FairLRFTransformer
from ._grid import fold_results, path_frame, search_results, splits_of

__all__ = ["FairLRFTransformerCV"]

RANKS = (0.25, 0.5, 1.0)

# The editor's parameter for each grid.
AXES = {
    "ranks": "rank",
    "sparsities": "sparsity",
    "gap_weights": "gap_weight",
    "privileged_weights": "privileged_weight",
}


@with_parameters
class FairLRFTransformerCV(FactorSettings):
    """FairLRF-style editing with rank, sparsity and weights chosen by cross-validation.

    Chooses what :class:`~sklearn.model_selection.GridSearchCV` over :class:`FairLRFTransformer`
    would choose, for little more than one training per fold. On every fold the base network is
    trained, factored and its curvature measured once. With ``criterion="curvature"`` the sparsities
    of a rank are nested, and each removes more; with ``"learned"`` one training of masks for each
    rank and gap weight serves every sparsity, which is the cap when masks are hardened. The best
    setting is then fitted on all rows.

    Parameters
    ----------
    network : None, skorch net, FrozenEstimator(skorch net) or nn.Module, default=None
        As in :class:`FairLRFTransformer`. An already trained network should not have seen the rows
        of this search.
    ranks : sequence, default=None
        Values of ``rank``; None: 0.25, 0.5 and 1.0.
    sparsities : sequence, default=None
        Values of ``sparsity``; None: .01, .02, .05, .1, .2, .35 and .5.
    gap_weights : sequence, default=None
        Values of ``gap_weight``; None: each fit searches it on its own validation rows.
    privileged_weights : sequence, default=None
        Values of ``privileged_weight``; None: each fit searches it on its own validation rows.
    cv : None, int, splitter or iterable of (train, test), default=None
        None: ``JointStratifiedKFold(5)``; an integer: that many of its folds; without sensitive
        features ``StratifiedKFold``.
    refit : callable, default=None
        Takes ``cv_results_`` and returns the index of the chosen setting; None:
        ``best_under_gap("utility", "gap", limit=tolerance)``; the limit of a :class:`PhiObjective`
        is its epsilon.
    validation : float in (0, 1) or splitter, default=0.25
        Rows on which candidates are chosen, set apart within every fold's training rows.
    on_interrupt : {"raise", "keep"}, default="raise"
        What an interrupt (Ctrl-C) does to the final fit; during the search it is always raised.
    n_jobs : int or None, default=None
        Trainings that run in parallel; does not change the result.
    random_state : int, RandomState or None, default=None
        Seed of all random draws; every fold and setting gets the same one, as the clones of a
        search do.

    Attributes
    ----------
    cv_results_ : dict
        In the layout of ``GridSearchCV``, for the metrics "utility" and "gap" (minus the gap, so
        that greater is better) on the test rows of each fold. The times leave out what the settings
        of a fold share.
    best_index_ : int
    best_params_ : dict
        ``rank``, ``sparsity`` and, if they were searched, both weights.
    best_score_ : float
        Mean utility of the chosen setting over the folds.
    n_splits_ : int
    path_ : DataFrame
        One row for each fold and setting: share removed, threshold, and utility and gap on the
        validation and on the test rows.
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
    ``GridSearchCV`` with the same grid and folds. :class:`FairLRFTransformer` describes the
    method's source (arXiv:2511.16549) and our deviations from it.

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

    ranks: Sequence[Any] | None = parameter(list, tuple, np.ndarray, None, default=None)
    sparsities: Sequence[Any] | None = parameter(list, tuple, np.ndarray, None, default=None)
    gap_weights: Sequence[Any] | None = parameter(list, tuple, np.ndarray, None, default=None)
    privileged_weights: Sequence[Any] | None = parameter(
        list, tuple, np.ndarray, None, default=None
    )
    cv: Any = parameter(Integral, HasMethods(["split"]), Iterable, None, default=None)
    refit: Any = parameter(callable, None, default=None)

    def _settle(
        self, inputs: FitInputs, constraint: Constraint, seed: int
    ) -> tuple[AdoptedNetwork, None]:
        grid = list(ParameterGrid(self._axes()))
        # Folds run in parallel; nothing does within a fold.
        editors = [(params, self._editor(params, n_jobs=1)) for params in grid]
        for _, editor in editors:
            editor._validate_params()
        splits = splits_of(self.cv, inputs)
        tasks = fold_results(editors, inputs, splits, seed, self.n_jobs)
        with progress_bar(
            self.verbose, type(self).__name__, unit=" trainings", total=1 + len(splits)
        ) as tick:
            results: list[Any] = []
            for result in tasks:
                results.append(result)
                tick()
        adopted, *points = results
        self.n_splits_ = len(splits)
        self.cv_results_ = search_results(grid, points)
        self.path_ = path_frame(points)
        rule = self.refit or best_under_gap("utility", "gap", limit=constraint.tolerance)
        self.best_index_ = int(rule(self.cv_results_))
        self.best_params_ = dict(grid[self.best_index_])
        self.best_score_ = float(self.cv_results_["mean_test_utility"][self.best_index_])
        return adopted, None

    def _axes(self) -> dict[str, list[Any]]:
        defaults = {"ranks": RANKS, "sparsities": SPARSITIES}
        axes = {}
        for name in AXES:
            values = getattr(self, name)
            values = defaults.get(name) if values is None else values
            if values is not None:
                if not len(values):
                    raise ValueError(f"{name} is empty: pass at least one value, or None.")
                axes[AXES[name]] = _plain(values)
        return axes

    def _editor(self, params: Any, n_jobs: int | None) -> FairLRFTransformer:
        settings = {f.name: getattr(self, f.name) for f in fields(FactorSettings)}
        return FairLRFTransformer(**{**settings, **params, "n_jobs": n_jobs})

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterable[Candidate]:
        return self._editor(self.best_params_, n_jobs=self.n_jobs)._edit(task, rng)


def _plain(values: Sequence[Any]) -> list[Any]:
    # numpy's numbers would look odd in best_params_, and 1.0 must not become the rank 1.
    return [value.item() if isinstance(value, np.generic) else value for value in values]
