"""Search of one parameter tensor in a box around its values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._rng import one_torch_thread
from ..base import Candidate, EditData
from ..exceptions import NetworkError
from ..objective import Verdict
from ..phases import Best, lighten
from ._layerwise_surrogate import propose
from ._perturb_trials import float_parameters

__all__ = ["TensorSearch", "run_search", "score", "searched_entries", "select_parameters"]

# Below every score: a network whose logits are not finite.
WORST = -4.0


@dataclass(frozen=True)
class TensorSearch:
    """The search of one tensor, self-contained so that it can run anywhere.

    Attributes
    ----------
    module : nn.Module
        Not changed, and not run by another task at the same time.
    data : EditData
    name : str
        Of the parameter.
    n_calls, n_initial : int
    max_entries : int
    width : float
        Half the side of the box, in standard deviations of the tensor's entries.
    guided : bool
        Let the surrogate choose after the initial calls; else draw on.
    attributes : dict
        Fitted attributes that do not depend on the candidate.
    seed : numpy.random.SeedSequence
    """

    module: nn.Module
    data: EditData
    name: str
    n_calls: int
    n_initial: int
    max_entries: int
    width: float
    guided: bool
    attributes: dict[str, Any]
    seed: np.random.SeedSequence


def select_parameters(module: nn.Module, layers: Any) -> list[str]:
    """Resolve the ``layers`` parameter to names of parameters, in the network's order.

    Parameters
    ----------
    module : nn.Module
    layers : int, list of str or re.Pattern
        The last so many; names of parameters, or of modules for all below them; a pattern that is
        searched in the names of the parameters.

    Raises
    ------
    NetworkError
        A name does not exist, or nothing is left to search.
    """
    names = list(float_parameters(module))
    if isinstance(layers, Integral):
        chosen = names[-int(layers) :]
    elif isinstance(layers, re.Pattern):
        chosen = [name for name in names if layers.search(name)]
    else:
        chosen = _named(names, layers)
    if not chosen:
        raise NetworkError(
            f"layers={layers!r} leaves no parameter to search; the network has {names}. Pass a "
            "number of tensors, names, or a pattern that matches some of these."
        )
    return chosen


def _named(names: list[str], wanted: Iterable[str]) -> list[str]:
    found: set[str] = set()
    for each in wanted:
        below = {name for name in names if name == each or name.startswith(f"{each}.")}
        if not below:
            near = difflib.get_close_matches(str(each), names, n=3, cutoff=0.0)
            raise NetworkError(
                f"layers names {each!r}, which is no parameter of the network and no module with "
                f"parameters; the nearest names are {near}."
            )
        found |= below
    return [name for name in names if name in found]


def searched_entries(module: nn.Module, names: list[str], most: int) -> dict[str, int]:
    """Count the entries of each tensor that a search moves; 0 where its box has no width."""
    parameters = float_parameters(module)
    return {
        name: min(parameters[name].numel(), most) if _deviation(parameters[name]) > 0 else 0
        for name in names
    }


def _deviation(values: Tensor) -> float:
    """Compute the standard deviation of the entries; exactly 0 where they are alike."""
    if not values.numel() or bool((values == values.flatten()[0]).all()):
        return 0.0
    return float(values.double().std(correction=0))


def score(verdict: Verdict) -> float:
    """Write a verdict as one finite number, for the surrogate; greater is better.

    Feasible: 1 + utility, so that these lie above all others (of utilities in [0, 1]). Else, above
    the floor of the choice, utility minus the excess of the gap; below it, utility minus gap minus
    1, so that there still is a way up.
    """
    if not np.isfinite(verdict.utility):
        return WORST
    if np.isfinite(verdict.value):
        return float(verdict.feasible) + verdict.value
    return verdict.utility - min(1.0, verdict.gap) - 1.0


def run_search(search: TensorSearch) -> Iterator[Candidate]:
    """Judge random points of the box, then those that the surrogate proposes.

    Yields
    ------
    candidate : Candidate
        Its state, the one tensor, is left out where an earlier one ranks at least as high. None
        where all entries of the tensor are alike: the box has no width.
    """
    rng = np.random.default_rng(search.seed)
    original = float_parameters(search.module)[search.name]
    radius = search.width * _deviation(original)
    if radius == 0:
        return
    entries = _entries(original.numel(), search.max_entries, rng)
    rows, best = search.data.judged.held(), Best[dict[str, Tensor]]()
    points: list[NDArray[np.float32]] = []
    scores: list[float] = []
    with one_torch_thread():
        for call in range(1, search.n_calls + 1):
            guided = search.guided and call > search.n_initial
            points.append(
                propose(np.stack(points), np.array(scores), rng)
                if guided
                else rng.random(len(entries), dtype=np.float32)
            )
            state = {search.name: _moved(original, entries, radius, points[-1])}
            candidate = _judged(search, state, rows, call, "guided" if guided else "random")
            scores.append(score(candidate.verdict))  # type: ignore[arg-type]
            yield lighten(candidate, best)


def _entries(size: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw which entries are searched, without repeats; all of them where they are few."""
    if size <= most:
        return np.arange(size)
    return np.sort(rng.choice(size, most, replace=False))


def _moved(
    original: Tensor, entries: NDArray[np.int64], radius: float, point: NDArray[np.float32]
) -> Tensor:
    """Copy the tensor with its entries moved to a point of the unit box."""
    shift = radius * (2 * torch.from_numpy(point).double() - 1)
    flat = original.flatten().clone()
    where = torch.from_numpy(entries).to(flat.device)
    flat[where] = (flat[where].double() + shift.to(flat.device)).to(flat.dtype)
    return flat.reshape(original.shape)


def _judged(
    search: TensorSearch, state: dict[str, Tensor], rows: Any, call: int, stage: str
) -> Candidate:
    logits = search.data.logits(search.module, state, rows)
    return Candidate(
        state,
        {"stage": stage, "parameter": search.name, "call": call},
        {**search.attributes, "edited_parameter_": search.name},
        verdict=search.data.judge(logits),
        logits=logits,
    )
