"""What the user wants compared, as methods that run on a fold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from .. import intraprocessing, low_rank, masking, postprocessing, selective
from .._messages import did_you_mean, listed
from .._signature import takes
from ..base import EDITORS, NetworkEditor
from ..conformance import ConFairReweigher, DifFair
from ..interop import GroupAwareWrapper
from ._aif360 import eq_odds, post_process_as_given, reject_option, reweigh, reweigh_as_given
from ._answers import Answer
from ._classifiers import SENSITIVE, fit_classifier
from ._editors import edit, one_threshold, untouched
from ._fairlearn import adversarial, adversarial_as_given, post_process, reduce, reduce_as_given
from ._fine_tuning import fine_tune
from ._fold import Fold

__all__ = ["UNTOUCHED", "Method", "names", "resolve", "shared_preprocessing", "with_reference"]

UNTOUCHED = "untouched"

# An import of these folders registers their editors.
FAMILIES = (intraprocessing, low_rank, masking, postprocessing, selective)


@dataclass(frozen=True)
class Method:
    """A method of the comparison.

    Attributes
    ----------
    name : str
        Its name in the table.
    run : callable
        Maps a fold and the name of a gap to class codes for the test rows, or to an ``Answer``;
        travels to other processes.
    needs_group : bool
        Whether predicting needs the group.
    preprocessing : Pipeline or None
        The steps before an editor that came in a Pipeline.
    """

    name: str
    run: Callable[[Fold, str], NDArray[np.int64] | Answer]
    needs_group: bool = False
    preprocessing: Any = None


def _threshold_optimizer(fold: Fold, constraint: str) -> NDArray[np.int64]:
    from fairlearn.postprocessing import ThresholdOptimizer

    return post_process(ThresholdOptimizer(objective="balanced_accuracy_score"), fold, constraint)


OTHERS = (
    Method(UNTOUCHED, untouched),
    Method("threshold", one_threshold),
    Method("fine-tuning", fine_tune),
    Method("ConFairReweigher", partial(edit, ConFairReweigher())),
    Method("DifFair", partial(edit, DifFair())),
    Method("ThresholdOptimizer", _threshold_optimizer, needs_group=True),
    Method("ExponentiatedGradient", reduce),
    Method("AdversarialFairnessClassifier", adversarial),
    Method("Reweighing", reweigh),
    Method("EqOddsPostprocessing", eq_odds, needs_group=True),
    Method("RejectOptionClassification", reject_option, needs_group=True),
)

# How instances of other packages are run, by the names of their classes.
INSTANCES: dict[str, Callable[[Any, Fold, str], NDArray[np.int64] | Answer]] = {
    "ThresholdOptimizer": post_process,
    "ExponentiatedGradient": reduce_as_given,
    "GridSearch": reduce_as_given,
    "AdversarialFairnessClassifier": adversarial_as_given,
    "Reweighing": reweigh_as_given,
    "EqOddsPostprocessing": post_process_as_given,
    "CalibratedEqOddsPostprocessing": post_process_as_given,
    "RejectOptionClassification": post_process_as_given,
}


def names() -> list[str]:
    """List the names that :func:`compare` knows."""
    return [*(method.name for method in OTHERS), *sorted(EDITORS)]


def resolve(methods: Any) -> list[Method]:
    """Read the user's list; the untouched network is always the first method.

    Parameters
    ----------
    methods : str, estimator, list of these, or mapping of str to these

    Raises
    ------
    ValueError
        A name is unknown (the message has the nearest) or appears twice, or an object is no
        method.
    """
    if isinstance(methods, Mapping):
        found = [_method(value, str(name)) for name, value in methods.items()]
    else:
        # A Pipeline can be iterated over, too.
        several = isinstance(methods, Iterable) and not isinstance(methods, (str, Pipeline))
        found = [_method(value) for value in (methods if several else [methods])]
    counts = Counter(method.name for method in found)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"methods hold {', '.join(twice)} more than once: pass a dict of names of your own."
        )
    remaining = [method for method in found if method.run is not untouched]
    if UNTOUCHED in (method.name for method in remaining):
        raise ValueError(f"{UNTOUCHED!r} is the base network's own name: choose another one.")
    return [OTHERS[0], *remaining]


def with_reference(methods: list[Method], reference: str | None) -> list[Method]:
    """Add the reference of the no-harm protocol where it is missing and has a known name.

    Raises
    ------
    ValueError
        If nothing has that name.
    """
    if reference is None or reference in (method.name for method in methods):
        return methods
    if not isinstance(reference, str) or reference not in names():
        known = listed([*(method.name for method in methods), "fine-tuning"], show=repr)
        raise ValueError(
            f"reference={reference!r} is no method of the comparison: wanted one of {known}."
        )
    return [methods[0], _by_name(reference), *methods[1:]]


def _method(value: Any, name: str | None = None) -> Method:
    if isinstance(value, str):
        method = _by_name(value)
        return method if name is None else Method(name, method.run, method.needs_group)
    return _by_instance(value, name or type(value).__name__)


def _by_name(name: str) -> Method:
    if name in EDITORS:
        return Method(name, partial(edit, EDITORS[name]()))
    for method in OTHERS:
        if method.name == name:
            return method
    hint = did_you_mean(name, names())
    raise ValueError(f"Unknown method {name!r}: wanted one of {', '.join(names())}.{hint}")


def _by_instance(value: Any, name: str) -> Method:
    if isinstance(value, type):
        raise ValueError(f"methods hold the class {value.__name__}: pass its name or {name}(...).")
    if isinstance(value, (NetworkEditor, ConFairReweigher, DifFair)):
        return Method(name, partial(edit, value))
    if isinstance(value, Pipeline) and isinstance(value.steps[-1][1], NetworkEditor):
        steps = value[:-1] if len(value.steps) > 1 else None
        return Method(_unless_pipeline(name, value), partial(edit, value[-1]), False, steps)
    run = _of_package(value)
    if run is not None:
        needs = hasattr(value, "predict") and run in (post_process, post_process_as_given)
        return Method(name, partial(run, value), needs)
    if not (hasattr(value, "fit") and hasattr(value, "predict") and hasattr(value, "get_params")):
        raise ValueError(
            f"methods hold a {type(value).__name__}: wanted a name, an editor, a method of "
            f"fairlearn or AIF360 ({', '.join(INSTANCES)}), or a classifier of scikit-learn's form."
        )
    return Method(name, partial(fit_classifier, value), _told_the_group(value))


def _unless_pipeline(name: str, pipeline: Pipeline) -> str:
    """Name a Pipeline that got no name of the user's by its editor."""
    return type(pipeline[-1]).__name__ if name == type(pipeline).__name__ else name


def shared_preprocessing(methods: Iterable[Method], given: Any) -> Any:
    """Return the preprocessing that all methods share: the one given, or that of the Pipelines.

    Raises
    ------
    ValueError
        If Pipelines around editors have different steps, since all edit one network.
    """
    steps = {joblib.hash(clone(m.preprocessing)): m for m in methods if m.preprocessing is not None}
    if given is not None:
        return given
    if len(steps) > 1:
        names = ", ".join(method.name for method in steps.values())
        raise ValueError(
            f"the Pipelines {names} have different steps before their editors, which edit one "
            "network of each fold: give them the same steps, or call compare once for each."
        )
    return next(iter(steps.values())).preprocessing if steps else None


def _of_package(value: Any) -> Callable[[Any, Fold, str], NDArray[np.int64] | Answer] | None:
    """Find how a method of fairlearn or AIF360 is run, without importing either."""
    for kind in type(value).__mro__:
        if kind.__module__.split(".")[0] in ("fairlearn", "aif360") and kind.__name__ in INSTANCES:
            return INSTANCES[kind.__name__]
    return None


def _told_the_group(classifier: Any) -> bool:
    """Tell whether predicting needs the group, as an argument or read from X."""
    if isinstance(classifier, GroupAwareWrapper):
        return takes(classifier.estimator.predict, SENSITIVE)
    return takes(classifier.predict, SENSITIVE)
