"""Parameters that are declared once: their order, defaults, legal values and texts."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone

from fairsvd import BiasMaskFineTuner, FairLRFTransformer, FairLRFTransformerCV, FairPruner
from fairsvd.base import (
    EDITORS,
    QUICK,
    StrOptions,
    at_least_0,
    fraction,
    parameter,
    positive,
    positive_int,
    register_editor,
    with_parameters,
)
from fairsvd.base._shared import SharedParameters
from helpers import table


@with_parameters
class Base(BaseEstimator):
    """Base.

    Parameters
    ----------
    network : object, default=None
        A network.
    low, high : float, default=0.0
        Two at once.
    seed : int, default=1
        A seed.

    Attributes
    ----------
    a_ : int
        Of the base.
    """

    network: object = parameter(default=None, kw_only=False)
    low: float = parameter(at_least_0(), default=0.0)
    high: float = parameter(at_least_0(), default=0.0)
    seed: int = parameter(positive_int(), default=1)


@with_parameters
class Derived(Base):
    """Derived.

    More about it.

    Parameters
    ----------
    own : {"a", "b"}, default="a"
        The class's own.
    seed : int, default=1
        A seed, told anew.

    See Also
    --------
    Base : The other.
    """

    own: str = parameter(StrOptions({"a", "b"}), default="a")
    last: object = parameter(default=None)


def test_own_parameters_come_first_but_for_the_network():
    names = list(inspect.signature(Derived).parameters)
    assert names == ["network", "own", "last", "low", "high", "seed"]
    kinds = [p.kind.name for p in inspect.signature(Derived).parameters.values()]
    assert kinds == ["POSITIONAL_OR_KEYWORD"] + ["KEYWORD_ONLY"] * 5
    assert Derived("net", own="b").get_params() == {
        **dict.fromkeys(("network", "last"), None),
        **{"network": "net", "own": "b", "low": 0.0, "high": 0.0, "seed": 1},
    }
    with pytest.raises(TypeError):
        Derived("net", "b")


def test_texts_are_those_of_the_signature_and_the_nearest_class_s():
    assert inspect.getdoc(Derived) == inspect.cleandoc(
        """Derived.

    More about it.

    Parameters
    ----------
    network : object, default=None
        A network.
    own : {"a", "b"}, default="a"
        The class's own.
    low, high : float, default=0.0
        Two at once.
    seed : int, default=1
        A seed, told anew.

    See Also
    --------
    Base : The other.
    """
    )
    assert "A seed.\n" in inspect.getdoc(Base)


def test_a_class_without_texts_of_its_own_has_the_inherited_ones():
    @with_parameters
    class Plain(Base):
        """Plain.

        Notes
        -----
        A note.
        """

    text = inspect.getdoc(Plain)
    assert text.index("Plain.") < text.index("Parameters\n---") < text.index("low, high : ")
    assert text.index("seed : int") < text.index("Notes\n-----\nA note.")


LEGAL = {
    "positive_int": (positive_int(), [1, np.int64(7)], [0, -1, 1.0, 1.5, "1", None]),
    "from 0": (positive_int(0), [0, 3], [-1, 0.0]),
    "positive": (positive(), [1e-9, 3, np.float32(2)], [0, -1.0, "1", None]),
    "at_least_0": (at_least_0(), [0, 0.0, 2], [-1e-9, "0", None]),
    "fraction": (fraction(), [0, 1, 0.5], [-0.1, 1.1]),
    "above 0": (fraction(closed="right"), [1e-9, 1], [0, 1.01]),
    "below 1": (fraction(closed="left"), [0, 0.99], [1, -0.1]),
    "inside": (fraction(closed="neither"), [0.5], [0, 1]),
}


@pytest.mark.parametrize("kind", LEGAL)
def test_legal_values_are_taken_and_others_are_errors(kind):
    accepted, good, bad = LEGAL[kind]

    @with_parameters
    class One(BaseEstimator):
        value: object = parameter(accepted, default=1)

    for value in good:
        One(value=value)._validate_params()
    for value in bad:
        with pytest.raises(ValueError, match="'value' parameter of One"):
            One(value=value)._validate_params()


def test_without_legal_values_everything_is_taken():
    for value in (None, 3, "text", object()):
        Derived(last=value)._validate_params()


# Every parameter that has bounds or options, and a value beyond each of them.
WRONG = {
    FairLRFTransformer: {
        "rank": [0, 0.0, 1.5, "full"],
        "sparsity": [-0.1, 1.1],
        "gap_weight": [-0.1],
        "privileged_weight": [-0.1],
        "layers": ["some", 3],
        "criterion": ["unit"],
        "hessian": ["full"],
        "n_rounds": [0, 1.5],
        "refine": ["scale"],
        "max_steps": [0],
        "svd_solver": ["fast"],
        "compress": ["yes"],
        "max_memory": [0],
        "balance": ["groups"],
    },
    FairPruner: {
        "sparsity": [-0.1, 1.1],
        "criterion": ["units"],
        "gap_weight": [-0.1],
        "privileged_weight": [-0.1],
        "n_rounds": [0],
        "ranking": ["network"],
        "refine": ["spectrum"],
        "max_steps": [0],
        "max_memory": [0],
    },
    BiasMaskFineTuner: {
        "mask": ["none"],
        "tuned_fraction": [0, 1.1],
        "granularity": ["channel"],
        "importance": ["gradient"],
        "rank_by": ["prediction"],
        "loss": ["both"],
        "gap_weight": [-0.1],
        "head_reset": ["all"],
        "impair_epochs": [-1],
        "repair_epochs": [-1],
        "min_steps": [-1],
        "learning_rate": [0],
        "head_learning_rate": [0],
        "optimizer": ["rmsprop"],
        "momentum": [1, -0.1],
        "weight_decay": [-0.1],
        "patience": [0],
        "store_importance": ["no"],
        "max_memory": [0],
    },
    FairLRFTransformerCV: {"ranks": [0.5], "sparsities": [0.5], "gap_weights": [1.0], "cv": [0.5]},
}
SHARED = {
    "constraint": ["parity"],
    "tolerance": [-0.1, 1.1],
    "tolerance_fraction": [0, 1.1],
    "utility": ["auc"],
    "threshold": [0, 1, "best"],
    "missing_group": ["drop"],
    "flip_rate": [-0.1, 1],
    "validation": [0, 1],
    "batch_size": [0],
    "micro_batch_size": [0, 0.5],
    "output": ["labels"],
    "precision": ["half"],
    "on_interrupt": ["stop"],
    "n_jobs": [1.5],
    "verbose": [-1],
    "random_state": ["seed"],
}


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_every_editor_names_the_parameter_that_is_wrong(kind):
    rows = table()
    for name, values in {**WRONG[kind], **SHARED}.items():
        for value in values:
            with pytest.raises(ValueError, match=f"'{name}' parameter of {kind.__name__}"):
                kind(**{name: value}).fit(rows.X, rows.y, sensitive_features=rows.group)


def test_every_editor_has_all_shared_parameters_after_its_own():
    shared = list(inspect.signature(SharedParameters).parameters)
    for kind in EDITORS.values():
        names = list(inspect.signature(kind).parameters)
        assert names[0] == "network"
        assert names[1 - len(shared) :] == shared[1:]
        assert sorted(kind().get_params()) == sorted(names)
        # Each is explained, in the order of the signature.
        section = inspect.getdoc(kind).partition("Parameters\n----------\n")[2].partition("\n\n")[0]
        entries = re.findall(r"^(\w.*?) : ", section, re.MULTILINE)
        assert [name for entry in entries for name in entry.split(", ")] == names


def test_an_editor_is_registered_where_it_is_defined():
    try:

        @register_editor(own=3)
        class Registered(Base):
            own: int = parameter(positive_int(), default=5)

        assert EDITORS["Registered"] is Registered
        assert QUICK["Registered"] == {"own": 3}
        assert Registered().own == 5
        assert clone(Registered(own=4)).own == 4
    finally:
        EDITORS.pop("Registered")
        QUICK.pop("Registered")
    assert QUICK.keys() == EDITORS.keys()
    assert QUICK["FairPruner"] == {"max_steps": 3, "gap_weight": 1.0}
