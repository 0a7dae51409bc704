"""Warnings name the user's line: of a fit by itself, in a Pipeline, in a search."""

from __future__ import annotations

import warnings

import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from fairsvd._warn import warn
from fairsvd.exceptions import MissingSensitiveFeaturesWarning, SmallCellWarning
from helpers import IGNORE_SMALL_DATA, mlp, quick, table, trained

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]


def places(call):
    """File and line of every warning about missing groups."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    category = MissingSensitiveFeaturesWarning
    return [(w.filename, w.lineno) for w in caught if issubclass(w.category, category)]


def test_a_fit_warns_at_the_line_that_calls_it():
    rows, editor = table(), quick(trained(mlp(), table()))
    line = test_a_fit_warns_at_the_line_that_calls_it.__code__.co_firstlineno + 3
    assert places(lambda: editor.fit(rows.X, rows.y)) == [(__file__, line)]


@pytest.mark.parametrize("searched", [False, True], ids=["pipeline", "search"])
def test_what_calls_the_fit_is_passed_over(searched):
    rows = table()
    pipe = Pipeline([("scale", StandardScaler()), ("editor", quick())])
    search = GridSearchCV(pipe, {"editor__sparsity": [0.0]}, cv=2) if searched else pipe
    found = places(lambda: search.fit(rows.X, rows.y))
    assert len(found) == (3 if searched else 1)
    assert {name for name, _ in found} == {__file__}


def test_a_warning_of_the_outermost_code_names_it():
    with pytest.warns(SmallCellWarning, match="few rows") as caught:
        warn("few rows", SmallCellWarning)
    assert caught[0].filename == __file__


def test_the_report_warns_at_the_fit_too():
    rows = table(60)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quick(trained(mlp(), rows)).fit(rows.X, rows.y, sensitive_features=rows.group)
    names = {w.filename for w in caught if issubclass(w.category, SmallCellWarning)}
    assert names == {__file__}
