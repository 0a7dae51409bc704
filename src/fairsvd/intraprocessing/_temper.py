"""Attention tempering: factors of a transformer's attention scores, chosen by the judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._messages import listed
from ..base import (
    Candidate,
    FitInputs,
    NetworkEditor,
    StrOptions,
    Task,
    at_least_0,
    parameter,
    positive_int,
    register_editor,
)
from ..exceptions import NetworkError
from ..networks import AttentionNet
from ..objective import Constraint
from ..phases import judge_state
from ._attention import PACKED, QUERIES, Attention, find_attention, reached, scaled

__all__ = ["AttentionTemper"]

# Factors of all scores, evenly spaced by their logarithms, as far as the paper looks.
FACTORS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.4, 2.0, 3.0, 5.0, 10.0)

# A trial changes every unit with this probability, and one at least.
CHANGED = 0.3


@register_editor(factors=[0.5], n_trials=2)
class AttentionTemper(NetworkEditor):
    """Scale the attention scores of a transformer, by factors chosen on validation.

    Before the softmax the scores of a head are multiplied by a factor: above 1 it attends more
    narrowly, below 1 more widely. One factor for the whole network is tried at several values, then
    factors of single layers or heads are searched from the best of them. There is no gradient. To
    scale the scores is to scale the query projection, so the result has the same architecture and
    the same entries of its state. It needs no sensitive attribute to predict, and what the user
    passed in is not changed.

    Parameters
    ----------
    network : nn.Module, skorch net or FrozenEstimator
        Has attention layers: ``nn.MultiheadAttention``, those of transformers' BERT, ViT and
        others whose queries are a linear layer of their own, or one linear layer ``qkv``. None: an
        :class:`AttentionNet` is trained on tables; images are refused.
    granularity : {"model", "layer", "head"}, default="layer"
        What has a factor of its own; "model": one factor for all.
    factors : sequence of float or None, default=None
        Factors of the whole network that are tried; None: ten between 0.1 and 10.
    n_trials : int, default=40
        Changes of single factors that are tried, each from the best so far; none for "model".
    scale : float, default=0.5
        Standard deviation of the change of a factor's logarithm in a trial.

    Attributes
    ----------
    factors_ : dict of layer name to ndarray of shape (n_heads,)
        The chosen factors; 1 where nothing was scaled.
    module_, threshold_, offset_, classes_, groups_, group_counts_, report_, history_
        See :class:`NetworkEditor`; ``history_`` has the mean of the factors' logarithms
        (``mean_log_factor``) and the largest deviation of one from it (``spread``).

    See Also
    --------
    RandomPerturbation : Noise on all parameters, for any network.

    Notes
    -----
    After attention temperature scaling of Zayed et al. (arXiv:2305.13088), with one factor for the
    whole network; factors of layers and heads, their search and the choice by the judge are ours.
    Where a network has a bias of positions in its scores, only the part that depends on the
    content is scaled. Before anything is tried, it is checked for each layer that with queries of
    zero its keys do not matter: what does not pass, such as layers that normalise their queries or
    let keys meet positions, is left out.

    Examples
    --------
    >>> from fairsvd import AttentionTemper
    >>> from fairsvd.datasets import make_biased_classification
    >>> data = make_biased_classification(400, random_state=0)
    >>> editor = AttentionTemper(n_trials=3, tolerance=0.2, random_state=0)
    >>> editor = editor.fit(data.data, data.target, sensitive_features=data.sensitive_features)
    >>> editor.factors_["attention"].shape
    (1,)
    """

    granularity: str = parameter(StrOptions({"model", "layer", "head"}), default="layer")
    factors: Any = parameter(list, tuple, np.ndarray, None, default=None)
    n_trials: int = parameter(positive_int(0), default=40)
    scale: float = parameter(at_least_0(), default=0.5)

    _of_table = AttentionNet

    def _settle(self, inputs: FitInputs, constraint: Constraint, seed: int) -> tuple[None, None]:
        if self.network is None and len(inputs.rows.X.item_shape) > 1:
            raise NetworkError(
                "AttentionTemper scales attention scores, and the default network of images has no "
                "attention layer: pass a transformer as network=."
            )
        return None, None

    def _count_candidates(self, task: Task) -> int:
        n_trials = 0 if self.granularity == "model" else self.n_trials
        return 1 + len(self._grid()) + n_trials

    def _grid(self) -> list[float]:
        grid = [float(each) for each in (FACTORS if self.factors is None else self.factors)]
        wrong = [each for each in grid if not 0 < each < np.inf]
        if wrong:
            raise ValueError(f"factors has {wrong[0]!r}: wanted positive numbers.")
        return grid

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        grid, layers = self._grid(), reached(task, find_attention(task.module), rng)
        if not layers:
            raise NetworkError(
                f"AttentionTemper scales attention scores, and {type(task.module).__name__} has no "
                "attention layer whose queries it finds (nn.MultiheadAttention, or linear layers "
                f"named {listed(QUERIES)} or {listed(PACKED)} beside a number of heads): use an "
                "editor for any network, such as RandomPerturbation."
            )
        sizes = [layer.n_heads for layer in layers]
        best = np.zeros(sum(sizes))
        yield Candidate({}, {"stage": "untouched"}, _attributes(layers, best))
        leading = task.data.judge(task.data.untouched).rank
        shared = np.array([np.full(len(best), np.log(factor)) for factor in grid])
        units = np.arange(len(best))
        if self.granularity == "layer":
            units = np.repeat(np.arange(len(layers)), sizes)
        n_trials = 0 if self.granularity == "model" else self.n_trials
        for trial in range(len(grid) + n_trials):
            stage = "model" if trial < len(grid) else self.granularity
            tried = shared[trial] if stage == "model" else self._moved(best, units, rng)
            record = {"stage": stage, "mean_log_factor": float(tried.mean())}
            record["spread"] = float(np.abs(tried - tried.mean()).max())
            state = scaled(layers, tried)
            made = judge_state(task, state, record, _attributes(layers, tried))
            if made.verdict is not None and made.verdict.rank > leading:
                best, leading = tried, made.verdict.rank
            yield made
            del made, state

    def _moved(
        self, best: NDArray[np.float64], units: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Change the logarithms of some units' factors, one at least."""
        n_units = 1 + int(units.max())
        chosen = rng.random(n_units) < CHANGED
        chosen[rng.integers(n_units)] = True
        step = np.where(chosen, rng.normal(scale=self.scale, size=n_units), 0.0)
        return best + step[units]


def _attributes(layers: Sequence[Attention], logarithms: NDArray[np.float64]) -> dict[str, Any]:
    parts = np.split(np.exp(logarithms), np.cumsum([layer.n_heads for layer in layers])[:-1])
    return {"factors_": {layer.name: part for layer, part in zip(layers, parts, strict=True)}}
