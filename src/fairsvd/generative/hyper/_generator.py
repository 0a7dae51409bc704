"""HyperGenerator: a network that maps data sets to generators."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from ..._rng import one_torch_thread, resolve_seed, stage_rng, torch_generator
from ...base import Interval, StrOptions, positive_int, restored_on_failure
from ...exceptions import SmallCellWarning
from ..cells import CellGenerator, Cells, Encoded, make_codec, read_rows
from ._emitted import (
    Emitted,
    Scores,
    as_sequence,
    encoded_rows,
    natural_parameters,
    part_of,
    without_ends,
)
from ._fit import Training, built_generator, set_sizes, trained
from ._loss import HyperLoss
from ._network import HyperNetwork
from ._rows import TableScores
from ._sets import ResampledSets, SimulatedSets

__all__ = ["HyperGenerator"]


def _has_density(estimator: Any) -> bool:
    given = estimator.generator
    return bool(given != "vae" if isinstance(given, str) else getattr(given, "has_density", False))


class HyperGenerator(CellGenerator):
    """Generator whose weights a hypernetwork emits, one set for every (label, group) cell.

    The hypernetwork maps a data set to the weights of a generator. It is trained over many data
    sets, resampled from the table, its cells and tilted parts of them, so that it learns to
    estimate; a small cell borrows from that what its own few rows do not say. A penalty asks
    that the weights emitted for the generator's own samples are the same again on average
    ("autophagy"), which takes the bias out of small-sample estimates. Experimental: the evidence
    for the method is one paper without published training scripts.

    Parameters
    ----------
    generator : {"gaussian", "mixture", "vae"} or nn.Module, default="gaussian"
        What draws the rows. "vae" works on tables and images, the others on tables. A module
        derives from :class:`fairsvd.generative.Generator` or has its ``nll``, ``draw`` and
        ``noise_size``; its parameters are what is emitted, at their values as a start.
    autophagy_weight : float >= 0, default=1.0
        Weight (lambda) of the penalty; 0: plain likelihood.
    n_draws : int, default=8
        Synthetic data sets for each real one, averaged in the penalty.
    penalty : {"pairs", "detached", "through"}, default="pairs"
        "detached": the emitted weights and their samples are taken as given, the average over
        draws comes before the square, the gap is divided by the tensor's size. "pairs": the
        same, without the bias that a square of an average of few draws has; needs two draws.
        "through": the paper's, unscaled, gradients pass the samples too.
    n_components : int, default=3
        Of "mixture".
    covariance : {"full", "diag"}, default="full"
        Of "gaussian" and "mixture".
    latent_size : int, default=4
        Of "vae".
    hidden : sequence of int, default=(32, 32)
        Widths of the network that rows pass before they are averaged.
    outer : bool, default=False
        Three more layers after the average.
    normalize : {"whiten", "scale", "table"}, default="whiten"
        What a data set is normalised by before it is encoded: its own mean and covariance, its
        own mean and standard deviations, or the table's. Images: always the table's.
    set_size : int, pair of int or None, default=None
        Rows of the data sets in training. None: from the smallest cell's (4 to 32) to the
        table's (at most 128).
    n_sets : int, default=8
        Data sets in a step.
    n_steps : int, default=500
        Steps of training.
    learning_rate : float > 0, default=3e-3
    simulator : callable, default=None
        Maps (numpy Generator, n_sets, n_rows) to an array (n_sets, n_rows, n_columns) in X's
        units: data sets to train on in the place of resampled ones. X then has numbers only.
    clip : bool, default=True
        Drawn numbers end at the table's smallest and largest. In a self-consuming loop that costs
        variance in every generation; False leaves floats as they are drawn (not images).
    warm_start : bool, default=False
        A second ``fit`` keeps the hypernetwork and only emits weights for the new rows.
    verbose : int, default=0
        1: a progress bar.
    random_state : int, RandomState instance or None, default=None

    Attributes
    ----------
    cells_ : list
        ``(label, group)`` of every cell that can be drawn; labels alone without groups.
    cell_counts_ : dict
        Rows of every cell in ``fit``: ``sample(conditions=cell_counts_)`` keeps the shares.
    hypernetwork_ : nn.Module
        Maps data sets, a tensor (n_sets, n, d) of encoded rows, to generators.
    generator_ : Generator
        The generator; the weights in it are the start, not those of a cell.
    weights_ : dict
        Of every cell: dict of name to ndarray, the emitted weights.
    loss_curve_ : ndarray of shape (n_steps,)
        Loss of every step, in nats a number of a row.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    See Also
    --------
    fairsvd.autophagy_audit : What becomes of a generator that feeds on itself.

    Notes
    -----
    After arXiv 2405.13977. Departures, each measured or needed: training over many data sets (on
    mini-batches of one the network becomes a constant); no gradient through samples and targets,
    and several draws (a single draw rewards an estimate that is too small); comparison in natural
    form (shares, covariances); the encoder also gets moments and 1/n; its averages are clamped to
    the range of the training. Unbiased estimates do not keep a self-consuming loop from
    collapsing, and the share of a small group is unbiased anyway: what keeps groups alive is
    sampling by condition. Categories become normal scores, so that their shares in the table
    survive whatever draws them. Numbers are only scaled, so that a "gaussian" draws a skewed or
    zero-inflated column badly: transform it first, or use
    :class:`fairsvd.generative.CopulaGenerator`. A cell of one row gets the table's spread, with a
    warning.

    References
    ----------
    :arxiv:`2405.13977`

    Examples
    --------
    >>> import numpy as np
    >>> from fairsvd import HyperGenerator
    >>> rng = np.random.default_rng(0)
    >>> y, group = rng.integers(2, size=200), rng.choice(["a", "b"], size=200)
    >>> X = rng.normal(size=(200, 2)) + y[:, None]
    >>> generator = HyperGenerator(n_steps=20, random_state=0)
    >>> generator = generator.fit(X, y, sensitive_features=group)
    >>> generator.sample(conditions={(1, "b"): 3, (0, "a"): 2}).shape
    (5, 2)
    """

    _emitted: Emitted

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **CellGenerator._parameter_constraints,
        "generator": [StrOptions({"gaussian", "mixture", "vae"}), nn.Module],
        "autophagy_weight": [Interval(Real, 0, None, closed="left")],
        "n_draws": [positive_int()],
        "penalty": [StrOptions({"pairs", "detached", "through"})],
        "n_components": [positive_int()],
        "covariance": [StrOptions({"full", "diag"})],
        "latent_size": [positive_int()],
        "hidden": [list, tuple],
        "outer": ["boolean"],
        "normalize": [StrOptions({"whiten", "scale", "table"})],
        "set_size": [Integral, list, tuple, None],
        "n_sets": [positive_int()],
        "n_steps": [positive_int()],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "simulator": [callable, None],
        "clip": ["boolean"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        generator: Any = "gaussian",
        *,
        autophagy_weight: float = 1.0,
        n_draws: int = 8,
        penalty: str = "pairs",
        n_components: int = 3,
        covariance: str = "full",
        latent_size: int = 4,
        hidden: Sequence[int] = (32, 32),
        outer: bool = False,
        normalize: str = "whiten",
        set_size: Any = None,
        n_sets: int = 8,
        n_steps: int = 500,
        learning_rate: float = 3e-3,
        simulator: Callable[[np.random.Generator, int, int], Any] | None = None,
        clip: bool = True,
        warm_start: bool = False,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.generator = generator
        self.autophagy_weight = autophagy_weight
        self.n_draws = n_draws
        self.penalty = penalty
        self.n_components = n_components
        self.covariance = covariance
        self.latent_size = latent_size
        self.hidden = hidden
        self.outer = outer
        self.normalize = normalize
        self.set_size = set_size
        self.n_sets = n_sets
        self.n_steps = n_steps
        self.learning_rate = learning_rate
        self.simulator = simulator
        self.clip = clip
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state

    @classmethod
    def ple(cls, generator: Any = "gaussian", **settings: Any) -> Self:
        """Make one with the paper's penalty: weight .1, one draw, gradients through the sample.

        Parameters
        ----------
        generator : as in the class
        **settings
            Other parameters.

        Returns
        -------
        generator : HyperGenerator
        """
        paper = {"autophagy_weight": 0.1, "n_draws": 1, "penalty": "through"}
        return cls(generator, **{**paper, "normalize": "table", **settings})

    def fit(self, X: Any, y: Any = None, *, sensitive_features: Any = None) -> Self:
        """Train the hypernetwork and emit a generator for every cell.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, n_columns), or images (n, C, H, W)
            Any column types, missing values included.
        y : array-like of shape (n,), optional
            Labels. None: all rows have one label.
        sensitive_features : array-like of shape (n,) or (n, n_attributes), optional
            Groups; several columns are intersected. Rows without a group are in no cell.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            An argument cannot be used, or the training diverges.
        """
        with restored_on_failure(self), torch.inference_mode(False), torch.enable_grad():
            if self.penalty == "pairs" and self.n_draws < 2 and self.autophagy_weight > 0:
                raise ValueError("n_draws=1: penalty='pairs' compares two draws or more.")
            with one_torch_thread():
                return super().fit(X, y, sensitive_features=sensitive_features)

    def _learn(self, rows: Encoded, cells: Cells) -> None:
        rng = stage_rng(resolve_seed(self.random_state), "edit")
        keep = self.warm_start and hasattr(self, "hypernetwork_")
        like = self._emitted.scores if keep else None
        scores, tensors = encoded_rows(self._codec, rows, like, rng)
        if not keep:
            self._train(tensors, scores, cells, rng)
        _warn_of_single_rows(cells)
        parts = [part_of(tensors, cells.members(cell)) for cell in range(len(cells))]
        with torch.no_grad():
            emissions = [self.hypernetwork_.of_rows(part) for part in parts]
        if not self.clip:
            self._codec = without_ends(self._codec)
        self._emitted = Emitted(self.generator_, emissions, scores)
        self.cell_counts_ = dict(zip(cells.keys, cells.counts().tolist(), strict=True))
        self.weights_ = {
            key: {name: w[0].numpy() for name, w in emission.weights.items()}
            for key, emission in zip(cells.keys, emissions, strict=True)
        }

    def _train(self, rows: Any, scores: Scores, cells: Cells, rng: np.random.Generator) -> None:
        shape = tuple(rows.shape[1:]) if isinstance(rows, Tensor) else rows.shape
        names = ("n_components", "covariance", "latent_size")
        settings = {name: getattr(self, name) for name in names}
        start, hidden = torch_generator(rng), tuple(self.hidden)
        self.generator_ = built_generator(self.generator, shape, settings, start)
        self.hypernetwork_ = HyperNetwork(
            self.generator_, shape, hidden, outer=self.outer, normalize=self.normalize, rng=start
        )
        loss = HyperLoss(
            self.hypernetwork_,
            self.generator_,
            float(self.autophagy_weight),
            self.n_draws,
            self.penalty,
            torch_generator(rng),
        )
        training = Training(self.n_steps, self.learning_rate, type(self).__name__, self.verbose)
        sets = self._data_sets(rows, scores, cells, rng)
        self.loss_curve_ = np.array(trained(loss, sets, training))

    def _data_sets(
        self, rows: Any, scores: Scores, cells: Cells, rng: np.random.Generator
    ) -> ResampledSets | SimulatedSets:
        sizes = set_sizes(self.set_size, cells.counts())
        if self.simulator is not None:
            return SimulatedSets(self.simulator, scores, sizes, self.n_sets, rng)
        # Rows without a group are in no cell: they are only drawn with the table.
        codes = np.where(cells.codes < 0, len(cells), cells.codes)
        move = isinstance(rows, Tensor) and self.normalize == "table"
        rng_sets = torch_generator(rng)
        return ResampledSets(rows, codes, sizes, self.n_sets, move=move, rng=rng_sets)

    def sample(self, n: int | None = None, conditions: Any = None) -> Any:
        """Draw rows.

        Parameters
        ----------
        n : int, optional
            Rows that are wanted; may be left out where ``conditions`` says it.
        conditions : dict of cell to count, or sequence of n cells, optional
            Cells as in ``cells_``; a dict gives its cells one after the other. None: cells by
            their share in ``fit``.

        Returns
        -------
        X : DataFrame or ndarray of n rows
            As the X of ``fit``: type, columns and dtypes. Equal seeds give equal rows, in
            repeated calls too.

        Raises
        ------
        ValueError
            ``n`` and ``conditions`` disagree, or are both missing; a cell that ``fit`` did not
            see.
        """
        check_is_fitted(self, "cells_")
        wanted = as_sequence(conditions)
        if n is None and wanted is None:
            raise ValueError("n and conditions are None: pass the number of rows, or their cells.")
        with torch.no_grad(), one_torch_thread():
            return super().sample(len(wanted or ()) if n is None else n, wanted)

    def _draw(self, cell: int, n: int, rng: np.random.Generator) -> Encoded:
        return self._emitted.draw(cell, n, rng)

    def estimate(self, X: Any) -> dict[str, NDArray[Any]]:
        """Emit a generator for another data set, without training.

        Parameters
        ----------
        X : as in ``fit``
            Rows of one data set, columns as in ``fit``.

        Returns
        -------
        parameters : dict of str to ndarray
            In natural form: "mean" and "covariance" of a Gaussian; "weights", "means" and
            "covariances" of a mixture; weights and scale of a VAE. Numbers in X's units,
            categories as normal scores.
        """
        X = self._read(X)
        rng = stage_rng(resolve_seed(self.random_state), "sample")
        codec = make_codec(X)
        with torch.no_grad(), one_torch_thread():
            scores, rows = encoded_rows(codec, codec.encoded, self._emitted.scores, rng)
            return natural_parameters(self.hypernetwork_, self.generator_, rows, scores)

    def _read(self, X: Any) -> Any:
        check_is_fitted(self, "hypernetwork_")
        X = read_rows(X)
        validate_data(self, X, skip_check_array=True, reset=False)
        return X

    @available_if(_has_density)  # type: ignore[untyped-decorator]
    def score_samples(self, X: Any, conditions: Any = None) -> NDArray[np.float64]:
        """Compute the log density of rows; for "gaussian", "mixture" and modules that have one.

        Parameters
        ----------
        X : as in ``fit``
            A table of numbers, none missing.
        conditions : sequence of n cells, optional
            The cell whose density is meant, for each row. None: the cells' mixture, by share.

        Returns
        -------
        log_density : ndarray of shape (n,), float64
            In units of X.

        Raises
        ------
        ValueError
            The table has categories or missing values, which have no density.
        """
        X, scores = self._read(X), self._emitted.scores
        if not isinstance(scores, TableScores) or not scores.only_numbers:
            raise ValueError(
                "score_samples needs a table of numbers of more than two values each, none of "
                "them missing: categories have no density."
            )
        numbers = np.asarray(X, dtype=np.float64)
        if np.isnan(numbers).any():
            raise ValueError("X has missing values in score_samples: drop these rows.")
        with torch.no_grad(), one_torch_thread():
            each = self._emitted.log_densities(scores.encode_numbers(numbers))
        each -= np.log(scores.scale).sum()
        if conditions is None:
            return np.logaddexp.reduce(each + np.log(self._cells.shares()), axis=1)
        wanted = as_sequence(conditions)
        if isinstance(conditions, Mapping) or wanted is None or len(wanted) != len(X):
            raise ValueError(f"conditions has to name one cell for each of the {len(X)} rows of X.")
        return each[np.arange(len(X)), self._cells.positions(wanted)]


def _warn_of_single_rows(cells: Cells) -> None:
    single = [key for key, count in zip(cells.keys, cells.counts(), strict=True) if count < 2]
    if single:
        warnings.warn(
            f"Cells of one row, {single}: they get the spread of the whole table around it.",
            SmallCellWarning,
            stacklevel=5,
        )
