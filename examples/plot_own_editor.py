"""
Write an editor of your own
===========================

A method is one file: a class with its parameters, and what it does to a network. Everything else
(reading inputs, adopting the network, the choice among candidates, the report, predictions,
``compare``) comes from the package. This one fine-tunes under the soft gap and penalises the
distance to the given weights (L2-SP, arXiv:1802.01483), so that little of the network changes.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from fairsvd import compare
from fairsvd.base import Candidate, Task, at_least_0, parameter, positive_int, register_editor
from fairsvd.datasets import make_biased_classification
from fairsvd.phases import (
    TuningEditor,
    TuningPath,
    Values,
    count_steps,
    float_parameters,
    list_gap_weights,
    run_paths,
    run_phases,
    tune_from,
)
from fairsvd.training import Batch

N_TRAIN, MAX_STEPS = 600, 60


def penalise_change(
    strength: float, given: Mapping[str, Tensor], state: Mapping[str, Tensor], *_: Tensor | Batch
) -> Tensor:
    """Return half of ``strength`` times the squared distance of a state to the given weights."""
    squares = [(state[name] - value).square().sum() for name, value in given.items()]
    return 0.5 * strength * sum(squares[1:], squares[0])


@register_editor(max_steps=3, gap_weight=1.0)
class AnchoredFineTuner(TuningEditor):
    """Fine-tune under the soft gap, held near the weights that were given.

    Parameters
    ----------
    strength : float, default=0.01
        Half of it times the squared distance to the given weights is added to the loss.
    gap_weight : float or None, default=None
        Weight of the soft gap. None: chosen on validation.
    learning_rate : float, default=0.001
        Of Adam.
    max_steps : int, default=300
        Cap on the number of steps.
    """

    strength: float = parameter(at_least_0(), default=0.01)
    gap_weight: float | None = parameter(at_least_0(), None, default=None)
    learning_rate: float = parameter(at_least_0(), default=1e-3)
    max_steps: int = parameter(positive_int(), default=300)

    def _edit(self, task: Task, rng: np.random.Generator) -> Iterator[Candidate]:
        attributes = {"balance_": task.constraint.balance}
        yield Candidate({}, {"stage": "untouched"}, attributes)
        start = Values(float_parameters(task.module)).detached()
        own: dict[str, Any] = {
            "n_steps": count_steps(self.max_steps, task.data),
            "attributes": attributes,
            "extra_loss": partial(penalise_change, self.strength, start.plain),
        }
        weights = list_gap_weights(task.data, self.gap_weight)
        paths = [
            TuningPath[Values].of(each, gap_weight=weight, seed=seed, **own)
            for weight, each, seed in task.spread(weights, rng, self.n_jobs)
        ]
        tuning = "tune", partial(tune_from, start, rate=self.learning_rate)
        yield from run_paths(paths, partial(run_phases, first=tuning, second=None), self.n_jobs)


# %%
# It is an estimator like all others, and ``compare`` knows it by its name.

data = make_biased_classification(N_TRAIN, random_state=0)
editors = {
    "held": AnchoredFineTuner(strength=1.0, max_steps=MAX_STEPS),
    "free": AnchoredFineTuner(strength=0.0, max_steps=MAX_STEPS),
}
table = compare(editors, data.data, data.target, data.sensitive_features, cv=2, random_state=0)
print(table.summary()[["psi", "balanced_accuracy", "gap"]])

# %%
# Its place among others is drawn as theirs is.

ax = table.plot()
