"""HyperGenerator, a network that maps data sets to generators."""

from __future__ import annotations

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
from ...base import (
    Interval,
    NetworkEditor,
    StrOptions,
    as_device,
    positive_int,
    restored_on_failure,
)
from ...networks import explaining
from ..cells import CellGenerator, Cells, Encoded, make_codec, read_rows
from ._emitted import (
    Emitted,
    Scores,
    as_sequence,
    encode_rows,
    natural_parameters,
    take_rows,
    unclip,
    warn_of_single_rows,
)
from ._fit import Training, build_generator, set_sizes, train
from ._loss import HyperLoss
from ._network import HyperNetwork
from ._rows import TableScores
from ._sets import ResampledSets, SimulatedSets

__all__ = ["HyperGenerator"]


def _has_density(estimator: Any) -> bool:
    choice = estimator.generator
    return bool(
        choice != "vae" if isinstance(choice, str) else getattr(choice, "has_density", False)
    )


class HyperGenerator(CellGenerator):
    """Generator whose weights a hypernetwork emits, one set for every (label, group) cell.

    The hypernetwork maps a data set to the weights of a generator. It is trained on many data
    sets, resampled from the table, its cells and tilted parts of them. So it learns to estimate,
    which helps small cells, whose few rows tell little. A penalty ("autophagy") asks that the
    weights emitted for the generator's own samples equal the original weights on average, which
    removes bias from small-sample estimates. Experimental: the only evidence for the method is one
    paper without published training scripts.

    Parameters
    ----------
    generator : {"gaussian", "mixture", "vae"} or nn.Module, default="gaussian"
        Model that draws the rows. "vae" works on tables and images, the others on tables. A module
        derives from :class:`fairsvd.generative.Generator` or has its ``nll``, ``draw`` and
        ``noise_size``; the hypernetwork emits its parameters and starts from their values.
    autophagy_weight : float >= 0, default=1.0
        Weight (lambda) of the penalty; 0: plain likelihood.
    n_draws : int, default=8
        Number of synthetic data sets for each real one, averaged in the penalty.
    penalty : {"pairs", "detached", "through"}, default="pairs"
        "detached": no gradient passes through the emitted weights and their samples, the average
        over draws is squared, and the gap is divided by the tensor's size. "pairs": the same,
        without the bias of squaring an average of few draws; needs at least two draws.
        "through": the paper's penalty, unscaled, with gradients through the samples too.
    n_components : int, default=3
        Number of components of "mixture".
    covariance : {"full", "diag"}, default="full"
        Covariance of "gaussian" and "mixture".
    latent_size : int, default=4
        Latent dimensions of "vae".
    hidden : sequence of int, default=(32, 32)
        Widths of the network that encodes each row before the average over rows.
    outer : bool, default=False
        Whether to add three layers after the average.
    normalize : {"whiten", "scale", "table"}, default="whiten"
        Moments that normalise a data set before it is encoded: its own mean and covariance, its
        own mean and standard deviations, or the table's. Images always use the table's.
    set_size : int, pair of int or None, default=None
        Rows of a training data set. None: from those of the smallest cell (4 to 32) to those of
        the table (at most 128).
    n_sets : int, default=8
        Data sets per step.
    n_steps : int, default=500
        Training steps.
    learning_rate : float > 0, default=3e-3
    simulator : callable, default=None
        Maps (numpy Generator, n_sets, n_rows) to an array (n_sets, n_rows, n_columns) in X's
        units, to train on instead of resampled data sets. X must then hold only numbers.
    clip : bool, default=True
        Whether to clip drawn numbers to the range of the table. In a self-consuming loop that
        costs variance in every generation. False leaves floats unclipped, except in images.
    device : str, torch.device or None, default=None
        Where the hypernetwork is trained; None: on the CPU. Draws are the CPU's everywhere, and
        what is fitted lies on the CPU.
    warm_start : bool, default=False
        If True, a second ``fit`` keeps the hypernetwork and only emits weights for the new rows.
    verbose : int, default=0
        1 shows a progress bar, or lines if stderr is no terminal.
    random_state : int, RandomState instance or None, default=None

    Attributes
    ----------
    cells_ : list
        ``(label, group)`` of every cell that can be drawn; labels alone without groups.
    cell_counts_ : dict
        Rows of every cell in ``fit``; ``sample(conditions=cell_counts_)`` keeps the shares.
    hypernetwork_ : nn.Module
        Maps data sets, as tensors (n_sets, n, d) of encoded rows, to generators.
    generator_ : Generator
        The generator; it holds the starting weights, not those of a cell.
    weights_ : dict
        For every cell a dict of name to ndarray, the emitted weights.
    loss_curve_ : ndarray of shape (n_steps,)
        Loss of every step, in nats per number of a row.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    See Also
    --------
    fairsvd.autophagy_audit : Audit of a generator that is trained on its own samples.

    Notes
    -----
    The method follows arXiv 2405.13977. The deviations, each measured or necessary: training on
    many data sets (on mini-batches of one the network becomes a constant); no gradient through
    samples and targets, and several draws (a single draw rewards an estimate that is too small);
    comparison in natural form (shares, covariances); the encoder also gets moments and 1/n; its
    averages are clamped to their range in training. Unbiased estimates do not keep a
    self-consuming loop from collapsing, and the share of a small group is unbiased anyway; sampling
    by condition is what keeps groups alive. Categories become normal scores, so every generator
    keeps their shares in the table. Numbers are only scaled, so a "gaussian" draws a skewed or
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
        "device": NetworkEditor._parameter_constraints["device"],
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
        device: Any = None,
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
        self.device = device
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state

    @classmethod
    def ple(cls, generator: Any = "gaussian", **settings: Any) -> Self:
        """Use the paper's penalty: weight 0.1, one draw, gradients through the sample.

        Parameters
        ----------
        generator : as in the class
        **settings
            Other parameters of the class.

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
            Labels. None: all rows have the same label.
        sensitive_features : array-like of shape (n,) or (n, n_attributes), optional
            Groups; several columns are intersected. Rows without a group belong to no cell.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If an argument cannot be used, or the training diverges.
        """
        with (
            restored_on_failure(self),
            torch.inference_mode(False),
            torch.enable_grad(),
            explaining(),
        ):
            if self.penalty == "pairs" and self.n_draws < 2 and self.autophagy_weight > 0:
                raise ValueError("n_draws=1: penalty='pairs' needs at least 2 draws to compare.")
            with one_torch_thread():
                return super().fit(X, y, sensitive_features=sensitive_features)

    def _learn(self, rows: Encoded, cells: Cells) -> None:
        rng = stage_rng(resolve_seed(self.random_state), "edit")
        keep = self.warm_start and hasattr(self, "hypernetwork_")
        like = self._emitted.scores if keep else None
        scores, tensors = encode_rows(self._codec, rows, like, rng)
        if not keep:
            self._train(tensors, scores, cells, rng)
        warn_of_single_rows(cells)
        parts = [take_rows(tensors, cells.members(cell)) for cell in range(len(cells))]
        with torch.no_grad():
            emissions = [self.hypernetwork_.of_rows(part) for part in parts]
        if not self.clip:
            self._codec = unclip(self._codec)
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
        self.generator_ = build_generator(self.generator, shape, settings, start)
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
        training = Training(
            self.n_steps,
            self.learning_rate,
            type(self).__name__,
            self.verbose,
            as_device(self.device) or "cpu",
        )
        sets = self._data_sets(rows, scores, cells, rng)
        self.loss_curve_ = np.array(train(loss, sets, training))

    def _data_sets(
        self, rows: Any, scores: Scores, cells: Cells, rng: np.random.Generator
    ) -> ResampledSets | SimulatedSets:
        sizes = set_sizes(self.set_size, cells.counts())
        if self.simulator is not None:
            return SimulatedSets(self.simulator, scores, sizes, self.n_sets, rng)
        # Rows without a group belong to no cell; only draws from the whole table have them.
        codes = np.where(cells.codes < 0, len(cells), cells.codes)
        move = isinstance(rows, Tensor) and self.normalize == "table"
        rng_sets = torch_generator(rng)
        return ResampledSets(rows, codes, sizes, self.n_sets, move=move, rng=rng_sets)

    def sample(self, n: int | None = None, conditions: Any = None) -> Any:
        """Draw rows.

        Parameters
        ----------
        n : int, optional
            Number of rows; may be omitted if ``conditions`` implies it.
        conditions : dict of cell to count, or sequence of n cells, optional
            Cells as in ``cells_``; the cells of a dict come one after the other. None: cells are
            drawn by their share in ``fit``.

        Returns
        -------
        X : DataFrame or ndarray of n rows
            Same type, columns and dtypes as the X of ``fit``. Equal seeds give equal rows, in
            repeated calls too.

        Raises
        ------
        ValueError
            If ``n`` and ``conditions`` disagree or are both missing, or ``fit`` did not see a
            cell.
        """
        check_is_fitted(self, "cells_")
        cells = as_sequence(conditions)
        if n is None and cells is None:
            raise ValueError("n and conditions are None: pass the number of rows, or their cells.")
        with torch.no_grad(), one_torch_thread():
            return super().sample(len(cells or ()) if n is None else n, cells)

    def _draw(self, cell: int, n: int, rng: np.random.Generator) -> Encoded:
        return self._emitted.draw(cell, n, rng)

    def estimate(self, X: Any) -> dict[str, NDArray[Any]]:
        """Emit a generator for another data set without training.

        Parameters
        ----------
        X : as in ``fit``
            Rows of one data set, with the columns of ``fit``.

        Returns
        -------
        parameters : dict of str to ndarray
            The natural form: "mean" and "covariance" of a Gaussian; "weights", "means" and
            "covariances" of a mixture; weights and scale of a VAE. Numbers in X's units,
            categories as normal scores.
        """
        X = self._read(X)
        rng = stage_rng(resolve_seed(self.random_state), "sample")
        codec = make_codec(X)
        with torch.no_grad(), one_torch_thread():
            scores, rows = encode_rows(codec, codec.encoded, self._emitted.scores, rng)
            return natural_parameters(self.hypernetwork_, self.generator_, rows, scores)

    def _read(self, X: Any) -> Any:
        check_is_fitted(self, "hypernetwork_")
        X = read_rows(X)
        validate_data(self, X, skip_check_array=True, reset=False)
        return X

    @available_if(_has_density)  # type: ignore[untyped-decorator]
    def score_samples(self, X: Any, conditions: Any = None) -> NDArray[np.float64]:
        """Compute the log density of rows; needs "gaussian", "mixture" or a module with a density.

        Parameters
        ----------
        X : as in ``fit``
            A table of numbers without missing values.
        conditions : sequence of n cells, optional
            The cell of each row, whose density is used. None: the mixture of the cells by share.

        Returns
        -------
        log_density : ndarray of shape (n,), float64
            In units of X.

        Raises
        ------
        ValueError
            If the table has categories or missing values, which have no density.
        """
        X, scores = self._read(X), self._emitted.scores
        if not isinstance(scores, TableScores) or not scores.only_numbers:
            raise ValueError(
                "score_samples needs a table of columns with more than two different numbers each, "
                "none missing: categories have no density."
            )
        numbers = np.asarray(X, dtype=np.float64)
        if np.isnan(numbers).any():
            raise ValueError("X has missing values in score_samples: drop these rows.")
        with torch.no_grad(), one_torch_thread():
            log_density = self._emitted.log_densities(scores.encode_numbers(numbers))
        bad = np.flatnonzero(np.isnan(log_density).any(axis=1))
        if len(bad):
            raise ValueError(
                f"X has values for which no density can be computed in float32, in {len(bad)} rows "
                f"(the first is row {bad[0]}, counted from 0): they are far beyond those of fit."
            )
        log_density -= np.log(scores.scale).sum()
        if conditions is None:
            return np.logaddexp.reduce(log_density + np.log(self._cells.shares()), axis=1)
        cells = as_sequence(conditions)
        if isinstance(conditions, Mapping) or cells is None or len(cells) != len(X):
            raise ValueError(f"conditions has to name one cell for each of the {len(X)} rows of X.")
        return log_density[np.arange(len(X)), self._cells.positions(cells)]
