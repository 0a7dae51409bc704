"""CellSampler, which balances (label, group) cells by synthetic rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin
from sklearn.utils.validation import validate_data

from ..._rng import resolve_seed, stage_rng
from ...base import HasMethods, Interval, NetworkEditor, StrOptions, as_device, positive_int
from ..cells import as_array, take
from ._data import SamplerData, carried_columns, carrier_rows, read_sampler_inputs
from ._draw import NAMED_GENERATORS, draw_cells, fresh_generator
from ._overlap import mark_overlap
from ._request import make_request
from ._result import assemble
from ._strategy import MODES, STRATEGIES, check_sources, rows_to_draw

__all__ = ["CellSampler"]


class CellSampler(OneToOneFeatureMixin, BaseEstimator):
    """Balance the (label, group) cells with synthetic rows.

    The sampler has imbalanced-learn's interface but does not need it installed. imbalanced-learn's
    ``Pipeline`` resamples in ``fit`` only, so predictions and scores are on real rows. It takes
    tables of any column types, missing values included, and images (n, C, H, W).

    Parameters
    ----------
    sampling_strategy : {"joint", "parity", "group", "match"}, dict or callable, default="joint"
        How many rows each cell (label y, group s) gets. Below, n(.) counts real rows and n is
        their total.

        - "joint": every cell gets as many rows as the largest cell. This balances labels and
          groups.
        - "parity": cells are proportional to n(y) n(s), with n rows in all. Label and group become
          independent and keep their own shares. With ``mode="augment"`` the table is scaled up
          until no cell has to lose a row.
        - "group": every group gets as many rows as the largest, and keeps its own shares of the
          labels.
        - "match": every cell keeps its number of rows. With ``mode="replace"`` this is a synthetic
          copy of the data with the same imbalance; "augment" adds nothing.
        - dict: ``(label, group) -> rows``, or ``label -> rows`` without groups; with several
          attributes a group is a tuple. Cells that are not named keep their number.
        - callable: gets the dict of present numbers and returns such a dict.
    mode : {"augment", "replace", "mix"}, default="augment"
        "augment": keep all real rows, unchanged and first, and add the missing rows of each cell.
        "replace": return synthetic rows only, with the strategy's numbers.
        "mix": keep all real rows and add ``mix_ratio`` as many synthetic ones in the strategy's
        proportions (a dict or callable gives their numbers).
    generator : {"copula", "smoothed", "smote", "hyper"} or object, default="copula"
        Generator of the rows of a cell: :class:`CopulaGenerator`, :class:`SmoothedGenerator`,
        :class:`SmoteGenerator`, :class:`HyperGenerator`, or an object, which is copied. If its
        ``sample`` takes ``conditions``, it is fitted once by
        ``fit(X, y, sensitive_features=...)``, and ``sample(n, conditions=cells)`` gets n keys of
        ``sampling_strategy``. Any other object with ``fit(X)`` and ``sample(n)``, such as
        scikit-learn's GaussianMixture, is fitted on every cell separately.
    sensitive_columns : str, int or list of these, optional
        Columns of X, or levels of the index of X or y, that hold the groups.
    missing_group : {"raise", "ignore", "own_group"}, default="raise"
        Rows without a group are an error; belong to no cell, but are kept with the real rows; or
        form a group "missing".
    min_cell_size : int >= 1, default=10
        Real rows that a cell needs before synthetic ones are drawn for it. An empty cell can
        never be filled.
    mix_ratio : float > 0, default=1.0
        Synthetic rows per real row under ``mode="mix"``.
    overlap : float in (0, 1) or None, default=None
        With a number the overlap region of every group is a class of its own while the generator
        learns, and nothing is drawn from it: the rows of the group's largest class to which
        forests trained on other rows give more than this probability of another class. .3 is a
        start. None: no such region.
    device : str, torch.device or None, default=None
        Where a generator that trains a network does so (:class:`HyperGenerator`,
        :class:`DiffusionGenerator`, or an object with a parameter ``device``), unless it has a
        device of its own. Rows come back as those of X.
    random_state : int, RandomState instance or None, default=None
        Equal seeds give equal rows.

    Attributes
    ----------
    sampling_strategy_ : dict
        Cell -> number of rows in the result.
    cell_counts_ : dict
        Cell -> number of real rows.
    classes_ : ndarray of shape (n_classes,)
    groups_ : list
        Group labels; tuples for intersections; empty without groups.
    sensitive_source_ : str or None
        Where the groups were found.
    sensitive_features_ : Series, DataFrame or None
        The groups of the rows of the result, in their order.
    is_synthetic_ : ndarray of shape (n_rows,), bool
        True for the synthetic rows of the result.
    is_overlap_ : ndarray of shape (n_input_rows,), bool, or None
        True for the rows of X in the overlap region; None if ``overlap`` is.
    generator_ : object, dict or None
        The fitted generator; a dict cell -> generator if every cell has its own; None if nothing
        was drawn.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    Zhao et al. (2025), :arxiv:`2503.05665`: "joint" with "replace" is their balanced set,
    "match" with "replace" their biased one, "augment" their data repairing, "mix" their real +
    synthetic. A classifier can learn to tell synthetic from real rows and so recognise the cells
    that were filled: compare with resampling the real rows.

    ``overlap`` follows D'souza et al. (2025), :arxiv:`2412.15657`; with ``mode="replace"`` and
    "joint" a classifier learns from equally many clear rows of every cell, as theirs does.
    Deviations: the region is found within each group, and of more than two classes between the
    largest and all others; 5 folds of 50 trees and .3 are guesses, since theirs are not known.

    imbalanced-learn's Pipeline resamples X and y but no metadata. So y comes back as a Series with
    the groups in its index, under their names, and an editor after the sampler needs
    ``sensitive_columns=``. Without metadata routing the sampler needs ``sensitive_columns`` too.
    With routing, ``sensitive_features`` passed to ``cross_validate`` or ``fit`` reaches the
    sampler, and the editor must decline it, since it is as long as the data before resampling:
    ``editor.set_fit_request(sensitive_features=False)``.

    Columns of X that the group determines (the attribute itself, its one-hot form) are copied from
    a real row of the cell, never generated. Without groups the cells are the classes, with a
    warning, and y keeps its container. X always keeps its container, columns and dtypes. A
    DataFrame gets a new index 0, 1, ..., or the new groups if its index held the groups.
    Synthetic rows come after the real ones, in random order.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from fairsvd import CellSampler
    >>> rng = np.random.default_rng(0)
    >>> X = pd.DataFrame({"age": rng.integers(18, 90, 200), "job": rng.choice(["a", "b"], 200)})
    >>> y, sex = rng.integers(0, 2, 200), rng.choice(["F", "M"], 200, p=[0.2, 0.8])
    >>> sampler = CellSampler(random_state=0)
    >>> X_res, y_res = sampler.fit_resample(X, y, sensitive_features=pd.Series(sex, name="sex"))
    >>> sorted(set(y_res.groupby([y_res, y_res.index]).size()))
    [82]
    """

    _estimator_type = "sampler"  # imbalanced-learn checks it

    __metadata_request__fit: ClassVar[dict[str, bool]] = {"sensitive_features": True}
    __metadata_request__fit_resample: ClassVar[dict[str, bool]] = {"sensitive_features": True}

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "sampling_strategy": [StrOptions(set(STRATEGIES)), Mapping, callable],
        "mode": [StrOptions(set(MODES))],
        "generator": [StrOptions(set(NAMED_GENERATORS)), HasMethods(["fit", "sample"])],
        "sensitive_columns": NetworkEditor._parameter_constraints["sensitive_columns"],
        "missing_group": [StrOptions({"raise", "ignore", "own_group"})],
        "min_cell_size": [positive_int()],
        "mix_ratio": [Interval(Real, 0, None, closed="neither")],
        "overlap": [Interval(Real, 0, 1, closed="neither"), None],
        "device": NetworkEditor._parameter_constraints["device"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        sampling_strategy: str | Mapping[Any, int] | Callable[..., Any] = "joint",
        mode: str = "augment",
        generator: Any = "copula",
        sensitive_columns: Any = None,
        missing_group: str = "raise",
        min_cell_size: int = 10,
        mix_ratio: float = 1.0,
        overlap: float | None = None,
        device: Any = None,
        random_state: Any = None,
    ) -> None:
        self.sampling_strategy = sampling_strategy
        self.mode = mode
        self.generator = generator
        self.sensitive_columns = sensitive_columns
        self.missing_group = missing_group
        self.min_cell_size = min_cell_size
        self.mix_ratio = mix_ratio
        self.overlap = overlap
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any, *, sensitive_features: Any = None) -> Self:
        """Check the data and compute how many rows each cell would get, without drawing.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, n_columns), or images (n, C, H, W)
        y : array-like of shape (n,)
        sensitive_features : array-like of shape (n,) or (n, n_attributes), optional
            All as in :meth:`fit_resample`.

        Returns
        -------
        self : object
        """
        data, drawn, _ = self._plan(X, y, sensitive_features)
        self._keep(data, drawn)
        return self

    def fit_resample(self, X: Any, y: Any, *, sensitive_features: Any = None) -> tuple[Any, Any]:
        """Resample the data.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, n_columns), or images (n, C, H, W)
            Any column types, dense; None, NaN and NA are missing.
        y : array-like of shape (n,)
            At least two classes, any labels. Its index may hold the groups.
        sensitive_features : array-like of shape (n,) or (n, n_attributes), optional
            Groups, any labels; several columns are intersected. None: taken from
            ``sensitive_columns``, else the classes alone are balanced, with a warning.

        Returns
        -------
        X_res : same type as X
        y_res : Series (DataFrame if y is one)
            With the groups in its index; without groups of the type of y.

        Raises
        ------
        ValueError
            If an argument cannot be used; the message names it and says what to do. GroupError
            if a cell is too small to draw from.
        """
        data, drawn, seed = self._plan(X, y, sensitive_features)
        rng = stage_rng(seed, "sample")
        real = np.arange(0 if self.mode == "replace" else len(data.X))
        carriers = carrier_rows(data, drawn, rng)
        overlap = None
        if self.overlap is not None:
            overlap = mark_overlap(data, drawn, float(self.overlap), self.min_cell_size, seed)
        generator, generated, positions = self._generate(data, drawn, rng, overlap)
        # Generated rows and carriers both come cell by cell, so one permutation shuffles both.
        order = rng.permutation(len(carriers))
        generated = None if generated is None else take(generated, order)
        X, y, groups = assemble(data, real, carriers[order], generated, positions)
        self._keep(data, drawn)
        self.generator_, self.is_overlap_ = generator, overlap
        self.sensitive_features_ = groups
        self.is_synthetic_ = np.arange(len(real) + len(carriers)) >= len(real)
        return X, y

    def _plan(
        self, X: Any, y: Any, sensitive_features: Any
    ) -> tuple[SamplerData, NDArray[np.int64], int]:
        """Read the data and count the rows to draw for every cell."""
        self._validate_params()
        data = read_sampler_inputs(
            X, y, sensitive_features, self.sensitive_columns, self.missing_group
        )
        counts, keys = data.counts(), data.keys
        drawn = rows_to_draw(self.sampling_strategy, self.mode, float(self.mix_ratio), counts, keys)
        check_sources(drawn, counts, keys, self.min_cell_size)
        return data, drawn, resolve_seed(self.random_state)

    def _keep(self, data: SamplerData, drawn: NDArray[np.int64]) -> None:
        validate_data(self, data.X, skip_check_array=True)
        kept = 0 if self.mode == "replace" else data.counts()
        self.sampling_strategy_ = data.by_cell(drawn + kept)
        self.cell_counts_ = data.by_cell(data.counts())
        self.classes_ = as_array(data.labels)
        self.groups_ = [] if data.sensitive is None else data.groups
        self.sensitive_source_ = data.source

    def _generate(
        self,
        data: SamplerData,
        drawn: NDArray[np.int64],
        rng: np.random.Generator,
        overlap: NDArray[np.bool_] | None,
    ) -> tuple[Any, Any, list[int]]:
        """Draw the columns that the group does not determine: generator, rows and positions."""
        seed = int(rng.integers(2**31 - 1))
        carried = carried_columns(data)
        positions = [k for k in range(data.X.shape[1]) if k not in carried]
        if not drawn.any() or not positions:
            return None, None, positions
        request = make_request(data, drawn, positions, overlap)
        fresh = fresh_generator(self.generator, seed, as_device(self.device))
        generator, drawn_rows = draw_cells(fresh, request, seed)
        return generator, drawn_rows, positions

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn which inputs the sampler takes."""
        tags: Any = super().__sklearn_tags__()
        tags.estimator_type = "sampler"
        tags.target_tags.required = True
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        tags.transformer_tags = None
        return tags
