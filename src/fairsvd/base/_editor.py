"""NetworkEditor: the template that every editor shares."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from scipy.special import expit
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .._rng import one_torch_thread, resolve_seed, stage_rng
from .._warn import merged_warnings
from ..arrays import as_batches
from ..caching import open_cache
from ..containers import read_labels
from ..networks import (
    MLP,
    AdoptedNetwork,
    Portable,
    all_features,
    copied,
    explaining,
    probe_rows,
    share_weights,
)
from ..objective import Constraint
from ._apply import apply_candidate
from ._candidate import Candidate
from ._choice import Outcome, choose
from ._complaints import warn_about
from ._html import editor_html
from ._inputs import FitInputs, Reading, read_fit_inputs
from ._parameters import with_parameters
from ._predictor import Predictor
from ._prepare import excess_fit, prepare
from ._progress import progress_bar
from ._report import describe
from ._request import make_constraint
from ._restore import restored_on_failure
from ._retry import in_smaller_batches
from ._shared import SharedParameters
from ._summary import FairnessReport
from ._task import Task, without_gradients
from ._untouched import keep_untouched

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NetworkEditor"]


@with_parameters
class NetworkEditor(
    Portable,
    ClassNamePrefixFeaturesOutMixin,
    ClassifierMixin,
    TransformerMixin,
    BaseEstimator,
    SharedParameters,
    Predictor,
    metaclass=ABCMeta,
):
    """Base class of the editors: reads inputs, adopts the network, chooses, predicts.

    A subclass implements :meth:`_edit`, declares its own parameters as fields and documents them.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, in the order of the columns of ``predict_proba``.
    groups_ : list
        Group labels; tuples for intersections; empty without sensitive features.
    group_counts_ : ndarray of shape (n_groups,), int64
        Rows of each group in ``fit``.
    sensitive_source_ : str or None
        Where the sensitive features came from.
    module_ : nn.Module
        The edited network, without the threshold.
    threshold_ : float or None
        Probability of ``classes_[1]`` above which it is predicted; None for several classes.
    offset_ : float
        The threshold as a logit, subtracted from the margin everywhere.
    report_ : FairnessReport
        The tables ``groups``, ``gaps``, ``constraints``, ``harm``, ``measures`` and ``notes`` on
        the validation rows, as ``report_.summary()`` puts them. Computed when it is read.
    history_ : DataFrame
        One row for each candidate, the untouched network first; ``chosen`` marks the one kept.
    n_features_in_, feature_names_in_
        As in scikit-learn; without the sensitive columns that were taken out of X.
    """

    # Metadata routing passes sensitive_features to fit without a call of set_fit_request.
    __metadata_request__fit: ClassVar[dict[str, bool]] = {"sensitive_features": True}
    _of_table: ClassVar[type[nn.Module]] = MLP  # what is trained for a table without a network

    @abstractmethod
    def _edit(self, task: Task, rng: np.random.Generator) -> Iterable[Candidate]:
        """Yield candidates lazily, without changing the module.

        A method that trains parameters in place must train a copy of the task's module. It must not
        set attributes of the editor: fitted attributes travel in ``Candidate.attributes``.
        """

    # In the class itself, which is where scikit-learn's set_output looks for it.
    transform = Predictor.transform

    def _loss_balance(self) -> str | None:
        """Name how the cross-entropy of the edit weighs rows: "auto", "cells", "classes", None."""
        return "auto"

    def _count_candidates(self, task: Task) -> int | None:
        """Count what :meth:`_edit` will yield, for the progress bar; None if it is not known.

        An untouched network counts if it is yielded. The search may end earlier.
        """
        return None

    def _gets_groups_elsewhere(self) -> bool:
        """Tell whether the groups come from elsewhere than the rows of ``fit``."""
        return False

    def _settle(
        self, inputs: FitInputs, constraint: Constraint, seed: int
    ) -> tuple[AdoptedNetwork | None, Any]:
        """Decide what has to be decided before the network is adopted.

        Returns
        -------
        trained : AdoptedNetwork or None
            The network, if this step has trained it already.
        settled : object
            The value of ``Task.settled``.
        """
        return None, None

    def fit(
        self, X: Any, y: Any, *, sensitive_features: Any = None, sample_weight: Any = None
    ) -> Self:
        """Adopt the network, edit it, and choose among the results.

        Parameters
        ----------
        X : array-like (n, n_features), images (n, C, H, W) or map-style Dataset
            Tables and images as float (or integer) numbers without NaN.
        y : array-like of shape (n,)
            Two or more classes with any labels. With ``sensitive_columns`` the index may hold the
            groups.
        sensitive_features : array-like of shape (n,) or (n, n_columns), optional
            Groups with any labels; several columns are intersected. None: ``sensitive_columns``
            names them; without these the method optimises utility alone and warns.
        sample_weight : array-like of shape (n,), optional
            How often each row counts, at least 0: in the training of the network, in the edit, in
            the choice of candidate and threshold, and in the report. 2 counts a row twice, 0 leaves
            it out. Integers stand for copies; other weights are scaled to a mean of 1. None: every
            row counts once.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            An input is invalid; the message names the argument and what to do.
        """
        # An edit needs gradients even in a script that has switched them off.
        with (
            restored_on_failure(self),
            merged_warnings(f"{type(self).__name__}.fit"),
            torch.inference_mode(False),
            torch.enable_grad(),
            explaining(),
        ):
            return in_smaller_batches(self, self._fit, X, y, sensitive_features, sample_weight)

    def _fit(self, X: Any, y: Any, sensitive_features: Any, sample_weight: Any) -> Self:
        self._validate_params()
        self._check_calibrate()
        # A folder that cannot be used is refused before any work.
        open_cache(self.memory)
        seed = resolve_seed(self.random_state)
        asked = self.network, self.sensitive_columns, self.missing_group, self.batch_size
        how = Reading(*asked, other_groups=self._gets_groups_elsewhere())
        inputs = read_fit_inputs(self, X, y, sensitive_features, how, sample_weight)
        constraint = make_constraint(self, inputs)
        trained, settled = self._settle(inputs, constraint, seed)
        ready = prepare(self, inputs, constraint, seed, trained)
        adopted, data, constraint = ready.adopted, ready.data, ready.constraint
        keep = self.on_interrupt == "keep"
        # An interrupt while an edit is being undone would spoil the module of the search.
        spare = copied(adopted.module) if keep else adopted.module
        share_weights(spare, adopted.module)
        with one_torch_thread():
            with without_gradients(adopted.module):
                task = Task(adopted.module, data, constraint, settled=settled)
                outcome = self._choose(task, stage_rng(seed, "edit"), keep)
            if outcome.interrupted:
                adopted = replace(adopted, module=spare)
            self._keep(inputs, adopted, outcome)
            held = inputs.rows.subset(ready.parts.validation)
            made = inputs, held, data, (self.module_, self.offset_), constraint, outcome, seed
            shift, mapped, flips = self.shift_probabilities, self.calibrate, self.flip_rate
            self._report = describe(*made, shift=shift, calibrate=mapped, flip_rate=flips)
        if self._report.calibration is not None and self.threshold_ is not None:
            self.threshold_ = self._report.calibration.of_margin(self.offset_)
        self._report.notes.extend([*inputs.notes, *ready.parts.notes, *adopted.notes])
        if not outcome.candidate.state and outcome.candidate.finish is None:
            self._report.notes.append("The untouched network was chosen: no edit did better.")
        warn_about(self._report, excess_fit(data))
        return self

    def _choose(self, task: Task, rng: np.random.Generator, keep: bool) -> Outcome:
        total = self._count_candidates(task) if self.verbose else None
        with progress_bar(self.verbose, type(self).__name__, total=total) as progress:
            edits, told = self._edit(task, rng), progress.candidate
            outcome = choose(task.module, edits, task.data, keep=keep, progress=told)
            if not outcome.interrupted:
                progress.end()
        return outcome

    def _keep(self, inputs: FitInputs, adopted: AdoptedNetwork, outcome: Outcome) -> None:
        codes = inputs.rows.groups.numpy()
        self.classes_ = inputs.classes
        self.groups_ = list(inputs.group_labels)
        self.group_counts_ = np.bincount(codes[codes >= 0], minlength=len(self.groups_))
        self.sensitive_source_ = inputs.source
        self._untouched = keep_untouched(adopted)
        # Nothing else uses the adopted network, so it is edited in place.
        self.module_ = apply_candidate(adopted.module, outcome.candidate)
        self.offset_ = outcome.verdict.margin if len(self.classes_) == 2 else 0.0
        self.threshold_ = float(expit(self.offset_)) if len(self.classes_) == 2 else None
        # module_ holds the network.
        self._adopted = replace(adopted, module=nn.Identity(), **outcome.candidate.reading)
        self._probe = probe_rows(self.module_, inputs.rows.X)
        self._history = outcome.table
        row, layer = as_batches(self._probe[:1], self._probe.dtype), self._adopted.output_layer
        self._feature_width = all_features(self.module_, row, layer).shape[1]
        self._fitted_threshold = self.threshold
        for name, value in outcome.candidate.attributes.items():
            setattr(self, name, value)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute the accuracy of the predictions.

        Parameters
        ----------
        X : as in ``predict``
        y : array-like of shape (n,)
            Labels in any form that ``fit`` takes.
        sample_weight : array-like of shape (n,), optional

        Returns
        -------
        accuracy : float in [0, 1]
        """
        return float(super().score(X, read_labels(y), sample_weight=sample_weight))

    @property
    def report_(self) -> FairnessReport:
        """Tables of all groups, gaps and harm on the validation rows, and notes."""
        check_is_fitted(self, "module_")
        return self._report.report()

    @property
    def history_(self) -> pd.DataFrame:
        """One row for each candidate, the untouched network first; one is ``chosen``."""
        import pandas as pd

        check_is_fitted(self, "module_")
        return pd.DataFrame(self._history)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        """Add the parameters in groups, and the report of a fit, to scikit-learn's diagram."""
        bundle: dict[str, str] = super()._repr_mimebundle_(**kwargs)
        if "text/html" in bundle:
            bundle["text/html"] += editor_html(self)
        return bundle

    def _repr_html_(self) -> str:
        return f"{super()._repr_html_inner()}{editor_html(self)}"

    def __sklearn_tags__(self) -> Any:
        """Describe the editor to scikit-learn."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"] if self.output == "features" else []
        return tags
