"""Calls of an editor, each described by names, and what every one of them must come to."""

from __future__ import annotations

import copy
import pickle
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fuzz_networks import NETWORK_FORMS, ODD_NETWORKS, PLAIN_NETWORKS
from fuzz_rows import (
    GROUP_FORMS,
    N_COLUMNS,
    N_ROWS,
    ODD_GROUPS,
    ODD_X,
    ODD_Y,
    PLAIN_GROUPS,
    PLAIN_X,
    PLAIN_Y,
    X_FORMS,
    Y_FORMS,
    codes,
    groups,
    plain_table,
)
from fuzz_watch import Finding, watched
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.model_selection import KFold, PredefinedSplit, ShuffleSplit

import fairsvd
from editors import CONFIGURATIONS

IMAGE_SHAPE = (3, 6, 6)


def raises(*_: Any) -> float:
    raise KeyError("utility")


# Values of the parameters that all editors share: possible ones and impossible ones.
SHARED: dict[str, tuple[Any, ...]] = {
    "constraint": ("demographic_parity", "equal_opportunity", "accuracy_parity", "parity", None, 1),
    "tolerance": (0, 1, 0.5, -0.1, 1.1, float("nan"), "0.1", None, np.float32(0.1), True),
    "tolerance_fraction": (1, 1e-9, 0, 2, None),
    "utility": (
        *("accuracy", "worst_cell_accuracy", "utility", None, raises),
        *(lambda *_: float("nan"), lambda *_: np.ones(3), lambda *_: "good", lambda *_: None),
    ),
    "threshold": (0.5, 1e-12, 1 - 1e-12, 0, 1, "half", None, float("nan"), np.float32(0.3)),
    "pos_label": (0, 1, "yes", "other", 7, None, float("nan"), [1], b"yes"),
    "sensitive_columns": ("a", "sex", 0, -1, 99, [], ["a", "b"], [0, 0], ("a",), 1.5, [None], {}),
    "missing_group": ("ignore", "own_group", "drop", None),
    "validation": (
        *(0.5, 0.01, 0.99, 0, 1, -0.2, "0.2", None, KFold(3), ShuffleSplit(1, random_state=0)),
        *(PredefinedSplit(np.arange(N_ROWS) % 2 - 1), PredefinedSplit(np.zeros(9)), [[0], [1]]),
    ),
    "batch_size": (1, 2, 10**18, 10**30, 0, -1, 2.5, "8", None, True, np.int64(8)),
    "device": ("cpu", "cuda", "meta", "tpu", "", torch.device("cpu"), 0, "cpu:1"),
    "output": ("logits", "probabilities", "scores", None),
    "output_key": (0, 1, -1, 7, "logits", "", "other", 1.5, None),
    "memory": ("", "~/", "/dev/null", "/proc/here", 3, b"x"),
    "precision": ("mixed", "half", None),
    "on_interrupt": ("keep", "stop", None),
    "n_jobs": (1, 0, "2", 1.5),
    "verbose": (0, True, -1, "yes"),
    "random_state": (
        *(1, 0, 2**32, -1, 1.5, "seed", np.random.RandomState(0), np.int64(3)),
        *(np.random.default_rng(0), True),
    ),
}

# Values of an editor's own parameters; none of them asks for long work.
ANY_VALUES = (
    *(None, 0, 1, 2, -1, 0.5, 1.5, 0.0, 1e-300, 1e300, True, float("nan"), float("inf")),
    *("auto", "all", "x", "", [], [0], ["a"], (0.1, 0.2), {}, np.float32(0.5), np.int64(1)),
    *(b"x", object, 1j, np.array(1), np.array([0.5, 0.1]), torch.tensor(1)),
)

# Calls of an editor after the fit, on other rows.
METHODS = ("predict", "predict_proba", "decision_function", "transform", "score")
LOOKS = ("report_", "history_", "to_module", "to_skorch", "pickle", "clone", "copy", "repr", "save")


class Call(NamedTuple):
    """A call of an editor, by names.

    Attributes
    ----------
    editor : str
        A configuration of ``editors.py``.
    parameters : tuple of (str, object)
        Odd values.
    network, X, y, groups : str
        Forms of what is passed.
    method : str
        What is called after the fit.
    X_after : str
        The form of the rows that this gets.
    """

    editor: str
    parameters: tuple[tuple[str, Any], ...] = ()
    network: str = "plain"
    X: str = "float32"
    y: str = "integers"
    groups: str = "integers"
    method: str = "predict"
    X_after: str = "float32"


@st.composite
def calls(draw: Callable[..., Any], editor: str) -> Call:
    """Draw a call of which one to three parts are odd, so that many get far."""
    odd = draw(
        st.lists(
            st.sampled_from(("X", "network", "y", "groups", "parameters", "X_after")),
            min_size=1,
            max_size=3,
            unique=True,
        )
    )

    def form(part: str, plain: Mapping[str, Any], strange: Mapping[str, Any]) -> str:
        return str(draw(st.sampled_from(list(strange if part in odd else plain))))

    parameters: tuple[tuple[str, Any], ...] = ()
    if "parameters" in odd:
        own = sorted(set(CONFIGURATIONS[editor].kind().get_params()) - set(SHARED) - {"network"})
        names = draw(
            st.lists(st.sampled_from([*SHARED, *own]), min_size=1, max_size=2, unique=True)
        )
        parameters = tuple((n, draw(st.sampled_from(SHARED.get(n, ANY_VALUES)))) for n in names)
    return Call(
        editor,
        parameters,
        form("network", PLAIN_NETWORKS, ODD_NETWORKS),
        form("X", PLAIN_X, ODD_X),
        form("y", PLAIN_Y, ODD_Y),
        form("groups", PLAIN_GROUPS, ODD_GROUPS),
        draw(st.sampled_from((*METHODS, *LOOKS))),
        form("X_after", PLAIN_X, ODD_X),
    )


def shape_of_rows(X: str) -> tuple[int, ...]:
    """Return the shape of a row, for the network; that of a plain table for all else."""
    if "image" in X:
        return IMAGE_SHAPE
    return (1,) if X == "one column" else (N_COLUMNS,)


def n_outputs(y: str) -> int:
    """Return the number of outputs that a network for these labels has."""
    return {"three classes": 3, "eleven classes": 11}.get(y, 2)


def run(call: Call) -> None:
    """Make the inputs, fit, and call what comes after; check each.

    Raises
    ------
    Finding
        Something ended otherwise than it may.
    """
    with torch.random.fork_rng(), warnings.catch_warnings():
        # Advice about such rows is wanted, and so is any other warning: no error by itself.
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        inputs = {
            "X": X_FORMS[call.X](plain_table()),
            "y": Y_FORMS[call.y](codes()),
            "sensitive_features": GROUP_FORMS[call.groups](groups()),
            "network": NETWORK_FORMS[call.network](shape_of_rows(call.X), n_outputs(call.y)),
        }
        after = X_FORMS[call.X_after](plain_table())
        fit_and_use(call, inputs, after)


def fit_and_use(call: Call, inputs: dict[str, Any], after: Any) -> None:
    kind, quick, _ = CONFIGURATIONS[call.editor]
    settings = {**quick, "random_state": 0, **dict(call.parameters)}
    editor = kind(inputs["network"], **settings)
    parameters = editor.get_params()

    def fit() -> Any:
        return editor.fit(inputs["X"], inputs["y"], sensitive_features=inputs["sensitive_features"])

    before = dict(vars(editor))
    fitted = watched(fit, {**inputs, **dict(call.parameters)}, parameters)
    if fitted is None:
        if vars(editor) != before:
            raise Finding("a failed fit left attributes behind")
        return
    use = {**inputs, "X_after": after}
    result = watched(lambda: used(call, fitted, inputs, after), use, parameters)
    if result is not None and call.method in METHODS[:4]:
        check_result(call.method, np.asarray(result), fitted)


def used(call: Call, fitted: Any, inputs: Mapping[str, Any], after: Any) -> Any:
    """Call what comes after the fit."""
    if call.method == "score":
        return fitted.score(after, inputs["y"])
    if call.method in METHODS:
        return getattr(fitted, call.method)(after)
    if call.method in ("report_", "history_"):
        return repr(getattr(fitted, call.method))
    if call.method in ("to_module", "to_skorch"):
        return getattr(fitted, call.method)()
    if call.method == "save":
        return save(fitted)
    if call.method in ("pickle", "copy") and not can_be_copied(inputs["network"]):
        return None
    same = {
        "pickle": lambda: pickle.loads(pickle.dumps(fitted)),
        "copy": lambda: copy.deepcopy(fitted),
        "clone": lambda: clone(fitted),
        "repr": lambda: repr(fitted),
    }
    return same[call.method]()


def can_be_copied(network: Any) -> bool:
    """Tell whether pickle and copy take the user's network, which the editor keeps."""
    try:
        pickle.dumps(network)
        copy.deepcopy(network)
    except Exception:
        return False
    return True


def save(fitted: Any) -> Any:
    """Save an editor to a file that is deleted again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "editor.fairsvd"
        fairsvd.save(fitted, path)
        return path.stat().st_size


def check_result(method: str, result: np.ndarray, fitted: Any) -> None:
    """Check a prediction: a row each, finite, of known classes."""
    if result.ndim not in (1, 2):
        raise Finding(f"{method} returned the shape {result.shape}")
    if method == "predict":
        if not set(result.tolist()) <= set(fitted.classes_.tolist()):
            raise Finding("predict returned what is no class")
    elif not np.isfinite(result).all():
        raise Finding(f"{method} returned NaN or infinity")
    if method == "predict_proba" and not np.allclose(result.sum(axis=1), 1, atol=1e-3):
        raise Finding("probabilities do not add up to 1")
