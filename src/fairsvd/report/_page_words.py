"""What a report says in words: what was done, who lost what, and what it cannot promise."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import numpy as np

from ..containers import is_frame
from ._evaluate import Evaluation, guess_of_groups
from ._fit import chosen_candidate, gap_request, utility_name
from ._slices import name_group

__all__ = ["LIMITS", "NO_ADVICE", "Facts", "facts_of"]

NO_ADVICE = (
    "This page is a record of measurements. It is not legal advice, and no law is met by having it."
)
LIMITS = (
    "A gap on few rows is mostly noise: read it with its interval and its noise floor.",
    "The measures hold for people like those in these rows. Where they change, measure again.",
    "Labels are taken as true. If they record past decisions, a model that agrees with them is as "
    "unfair as they are.",
    "Equal rates can be reached by serving one group worse. The section on losses says who was.",
    "Groups that are not in the data, and attributes that nobody recorded, are not measured.",
    "A threshold was chosen with the network. Another threshold makes other gaps.",
    "Look again after every retraining, when the data or its source changes, when a group's share "
    "of the rows moves by a tenth, and at least once a year.",
)
# Rows by which a hash of X is made are all of them; a data set of torch has none in memory.
NOT_HASHED = "not hashed: the rows are not in memory"

Facts = list[tuple[str, str]]


def facts_of(evaluation: Evaluation, *data: Any) -> dict[str, Facts]:
    """Collect what a report says beside its measures, as names and texts by section.

    Parameters
    ----------
    evaluation : Evaluation
    *data : objects
        X, y, the groups and perhaps weights as the user gave them, for the hash of the data.
    """
    return {
        "identity": _identity(evaluation, *data),
        "edit": _edit(evaluation),
        "data": _data(evaluation),
        "groups": _groups(evaluation),
    }


def _identity(evaluation: Evaluation, *data: Any) -> Facts:
    packages = ("fairsvd", "torch", "scikit-learn", "numpy")
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    return [
        ("made", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("versions", f"{versions}, Python {platform.python_version()}"),
        ("seed", str(evaluation.editor.random_state)),
        ("SHA-256 of the network", _hash_network(evaluation.editor.module_)),
        ("SHA-256 of the data", _hash_data(*data)),
    ]


def _version(name: str) -> str:
    from .. import __version__

    return __version__ if name == "fairsvd" else version(name)


def _hash_network(module: Any) -> str:
    found = sha256()
    for name, value in module.state_dict().items():
        found.update(name.encode())
        found.update(np.ascontiguousarray(value.detach().float().cpu().numpy()).tobytes())
    return found.hexdigest()


def _hash_data(*parts: Any) -> str:
    import pandas as pd

    found = sha256()
    for part in parts:
        if not is_frame(part) and not hasattr(part, "iloc"):
            if not isinstance(part, (np.ndarray, list, tuple)):
                return NOT_HASHED
            array = np.asarray(part)
            if array.dtype != object and array.dtype.kind in "biuf":
                found.update(np.ascontiguousarray(array).tobytes())
                continue
            part = pd.DataFrame(array.reshape(len(array), -1).astype(str))
        found.update(pd.util.hash_pandas_object(part, index=False).to_numpy().tobytes())
    return found.hexdigest()


def _edit(evaluation: Evaluation) -> Facts:
    editor = evaluation.editor
    gap, tolerance, target = gap_request(editor)
    history = editor.history_
    place = chosen_candidate(history)
    chosen = history.iloc[place]
    summary = (type(editor).__doc__ or "").strip().splitlines()[0]
    utility = (utility_name(editor) or "its utility").replace("_", " ")
    threshold = (
        "the most probable class is predicted"
        if editor.threshold_ is None
        else f"{editor.threshold_:.3f}, a probability of {evaluation.classes[1]!r}, "
        f"{'tuned' if editor.threshold == 'tune' else 'given'}"
    )
    network = "one that came trained" if editor._untouched.frozen else "one that was trained here"
    return [
        ("method", f"{type(editor).__name__}: {summary}"),
        ("network", f"{type(editor.module_).__name__}, {network}"),
        ("optimised", f"{utility}, while the gap in {gap.replace('_', ' ')} is at most "
                      f"{tolerance:g}; beyond {target:g} a gap costs as much utility"),
        ("candidates", f"{len(history)}, of which number {place} was chosen (stage "
                       f"{chosen.get('stage', 'untouched')}); the choice used validation rows"),
        ("threshold", threshold),
        *[("note", note) for note in editor.report_.notes],
    ]  # fmt: skip


def _data(evaluation: Evaluation) -> Facts:
    editor, groups = evaluation.editor, evaluation.groups
    counted = evaluation.counted
    unknown = int((groups.codes[counted] < 0).sum())
    fitted = int(editor.group_counts_.sum())
    cells = [
        (int(((evaluation.y == k) & (groups.codes == g)).sum()), label, name_group(group))
        for k, label in enumerate(evaluation.classes)
        for g, group in enumerate(groups.labels)
    ]
    empty = [f"{label}, {group}" for n, label, group in cells if n == 0]
    small = [f"{label}, {group}: {n}" for n, label, group in cells if 0 < n < 100]
    return [
        ("rows of this report", f"{counted.sum():,}"),
        ("weights of rows", _say_weights(evaluation)),
        ("rows of the fit", f"{fitted:,} with a group, a share of them for the choice"),
        ("rows in no group", f"{unknown:,}; they count for all rows, and for no group"),
        ("empty cells, left out of gaps", "; ".join(empty) or "none"),
        ("cells below 100 rows", "; ".join(small) or "none"),
    ]


def _say_weights(evaluation: Evaluation) -> str:
    if evaluation.weights is None:
        return "none: every row counts once"
    weights = evaluation.weights[evaluation.counted]
    effective = weights.sum() ** 2 / (weights**2).sum()
    absent = len(evaluation.weights) - len(weights)
    return (
        f"from {weights.min():.3g} to {weights.max():.3g}; all together they tell as much as "
        f"{effective:,.0f} rows of equal weight"
        + (f"; {absent:,} rows of weight 0 were left out" if absent else "")
    )


def _groups(evaluation: Evaluation) -> Facts:
    auc, source = guess_of_groups(evaluation)
    names = ", ".join(evaluation.shown.names)
    if auc != auc:
        guess = "cannot be said: a group is too small"
    else:
        strength = "hardly" if auc < 0.6 else "in part" if auc < 0.8 else "well"
        guess = (
            f"{strength}: a linear model finds it from {source} with an AUC of {auc:.2f} (0.5 is "
            "chance), so a stronger model finds it at least as well"
        )
    return [
        ("attributes used to fit", f"{names} (from {evaluation.editor.sensitive_source_})"),
        ("attributes used to predict", "none"),
        ("can the group be guessed", guess),
    ]
