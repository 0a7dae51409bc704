"""The registry of editors: what a new one gets by registering, without a line anywhere else."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
import torch
from sklearn.base import clone

import editors
from fairsvd import NetworkEditor, compare
from fairsvd.base import EDITORS, QUICK, Candidate, parameter, positive, register_editor
from helpers import IGNORE_SMALL_DATA, mlp, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

ROWS = table(240)


@pytest.fixture
def kind():
    """A small editor that stays in the registry for one test."""

    @register_editor(factor=0.5)
    class HeadScaler(NetworkEditor):
        """Scale the output layer's weight.

        Parameters
        ----------
        factor : float, default=0.9
            What the weight is multiplied by.
        tolerance : float in [0, 1], default=0.05
            A text of its own.

        Attributes
        ----------
        scaled_by_ : float
            1 where the untouched network was chosen.
        """

        factor: float = parameter(positive(), default=0.9)

        def _edit(self, task, rng):
            yield Candidate({}, {"factor": 1.0}, {"scaled_by_": 1.0})
            name = f"{task.data.output_layer}.weight"
            state = {name: self.factor * task.module.state_dict()[name]}
            yield Candidate(state, {"factor": self.factor}, {"scaled_by_": self.factor})

    yield HeadScaler
    del EDITORS["HeadScaler"], QUICK["HeadScaler"]


def test_it_is_listed_with_its_quick_parameters_and_tested_like_all_others(kind):
    assert EDITORS["HeadScaler"] is kind
    assert QUICK["HeadScaler"] == {"factor": 0.5}
    assert editors.registered()["HeadScaler"] == (kind, {"factor": 0.5}, editors.ANY_GRID)
    assert set(editors.registered()) == set(EDITORS)
    assert "HeadScaler" not in editors.CONFIGURATIONS


def test_every_configuration_is_of_a_registered_editor_and_names_parameters_that_it_has():
    assert set(EDITORS) <= set(editors.CONFIGURATIONS)
    assert list(editors.CONFIGURATIONS) == sorted(editors.CONFIGURATIONS)
    for name, (_, quick, grid) in editors.CONFIGURATIONS.items():
        editor = editors.make(name)
        assert type(editor) in EDITORS.values()
        assert set(quick) | set(grid) <= set(editor.get_params())
        assert {key: editor.get_params()[key] for key in quick} == quick


def test_compare_knows_it_by_name_and_as_an_instance(kind):
    network = trained(mlp(), ROWS)
    settings = {"base": network, "cv": 2, "random_state": 0}
    found = compare(["HeadScaler"], ROWS.X, ROWS.y, ROWS.group, **settings)
    assert found["method"].tolist() == ["untouched", "HeadScaler"] * 2
    assert (found["error"] == "").all()
    # The default factor: half the logits' size would make the same predictions at another offset.
    mine = compare({"mine": kind(factor=0.9)}, ROWS.X, ROWS.y, ROWS.group, **settings)
    columns = ["balanced_accuracy", "equalized_odds_difference"]
    for column in columns:
        one, other = (
            t[t["method"] == n][column] for t, n in ((found, "HeadScaler"), (mine, "mine"))
        )
        assert one.tolist() == other.tolist()
    with pytest.raises(ValueError, match=r"'HeadScale'.*Did you mean 'HeadScaler'"):
        compare(["HeadScale"], ROWS.X, ROWS.y, ROWS.group, **settings)


def test_once_it_is_gone_compare_does_not_know_it():
    with pytest.raises(ValueError, match="Unknown method 'HeadScaler'"):
        compare(["HeadScaler"], ROWS.X, ROWS.y, ROWS.group)


def test_its_parameters_come_first_and_the_shared_ones_after(kind):
    names = list(inspect.signature(kind).parameters)
    assert names[:2] == ["network", "factor"]
    assert names[2:] == [n for n in inspect.signature(NetworkEditor).parameters if n != "network"]
    kinds = {name: p.kind for name, p in inspect.signature(kind).parameters.items()}
    assert kinds.pop("network") is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert set(kinds.values()) == {inspect.Parameter.KEYWORD_ONLY}
    assert inspect.signature(kind).parameters["factor"].default == 0.9
    with pytest.raises(TypeError):
        kind(None, 0.5)


def test_it_is_an_estimator_like_all_others(kind):
    network = mlp()
    editor = kind(network, factor=0.5, tolerance=0.3)
    given = {"network": network, "factor": 0.5, "tolerance": 0.3}
    assert editor.get_params() == {**kind().get_params(), **given}
    assert set(editor.get_params()) == set(inspect.signature(kind).parameters)
    assert repr(kind(factor=0.5, tolerance=0.3)) == "HeadScaler(factor=0.5, tolerance=0.3)"
    assert repr(kind()) == "HeadScaler()"
    copied = clone(editor)
    assert copied is not editor
    assert (copied.factor, copied.tolerance, copied.batch_size) == (0.5, 0.3, 256)
    assert editor.set_params(factor=2.0) is editor
    assert editor.factor == 2.0


def test_its_docstring_has_its_own_texts_and_the_shared_ones(kind):
    doc = inspect.getdoc(kind)
    sections = re.findall(r"^(\w+)\n-+$", doc, re.MULTILINE)
    assert sections == ["Parameters", "Attributes"]
    assert doc.startswith("Scale the output layer's weight.\n\nParameters\n")
    parameters = doc.split("----------\n")[1].split("\n\n")[0].split("\n")
    entries = [n for line in parameters if line[0] != " " for n in line.split(" : ")[0].split(", ")]
    assert entries == list(inspect.signature(kind).parameters)
    assert doc.count("A text of its own.") == 1
    assert "The accepted gap, a " not in doc
    assert "The accepted gap, a " in inspect.getdoc(NetworkEditor)


def test_its_fit_takes_what_it_declares_and_nothing_else(kind):
    network = trained(mlp(), ROWS)
    with pytest.raises(ValueError, match=r"'factor' parameter of HeadScaler.*-1"):
        kind(network, factor=-1).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    with pytest.raises(ValueError, match=r"'tolerance' parameter of HeadScaler"):
        kind(network, tolerance=2.0).fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    editor = kind(network, factor=0.5, threshold=0.3, random_state=0)
    editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)
    assert editor.history_["factor"].tolist() == [1.0, 0.5]
    assert editor.scaled_by_ in (1.0, 0.5)
    weight = editor.scaled_by_ * network.state_dict()["4.weight"]
    assert torch.equal(editor.module_.state_dict()["4.weight"], weight)
    assert np.isfinite(editor.predict_proba(ROWS.X)).all()
