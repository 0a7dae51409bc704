"""The warnings of a fit are one, which is of all their categories and heeds every filter."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings

import pytest

from fairsvd._warn import categories_of, merged_warnings, warn
from fairsvd.exceptions import (
    CacheWarning,
    ConstraintNotMetWarning,
    FairsvdWarning,
    SmallCellWarning,
)
from helpers import mlp, quick, table, told, trained

pytestmark = pytest.mark.slow


def complain(*more):
    with merged_warnings("A.fit"):
        warn("gap too large", ConstraintNotMetWarning)
        warn("few rows", SmallCellWarning)
        for message, category in more:
            warn(message, category)


def recorded(call, *filters):
    """What a call warns of under filters, the last one first as in Python."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        for action, options in filters:
            warnings.filterwarnings(action, **options)
        call()
    return caught


def test_several_warnings_are_one_of_all_their_categories():
    (caught,) = recorded(complain)
    assert str(caught.message).splitlines() == [
        "A.fit has 2 warnings.",
        "- ConstraintNotMetWarning: gap too large",
        "- SmallCellWarning: few rows",
    ]
    assert issubclass(caught.category, (ConstraintNotMetWarning,))
    assert issubclass(caught.category, (SmallCellWarning,))
    assert not issubclass(caught.category, CacheWarning)
    assert categories_of(caught.category) == (ConstraintNotMetWarning, SmallCellWarning)
    assert caught.filename == __file__


def test_what_looks_the_category_up_finds_one():
    """As pytest-xdist does, which sends a category by its module and name."""
    (caught,) = recorded(complain)
    module = sys.modules[caught.category.__module__]
    assert getattr(module, caught.category.__name__) is FairsvdWarning
    again = pickle.loads(pickle.dumps(caught.message))
    assert type(again) is caught.category and again.args == caught.message.args


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ([("ignore", {"category": SmallCellWarning})], ConstraintNotMetWarning),
        ([("ignore", {"message": "gap"})], SmallCellWarning),
        ([("ignore", {"category": FairsvdWarning})], None),
        ([("ignore", {"module": __name__})], None),
        (
            [
                ("ignore", {"category": UserWarning}),
                ("always", {"category": SmallCellWarning}),
            ],
            SmallCellWarning,
        ),
    ],
)
def test_an_ignored_part_leaves_the_message(filters, left):
    caught = recorded(complain, *filters)
    assert [w.category for w in caught] == ([] if left is None else [left])
    if left is not None:  # alone it is as it always was
        assert str(caught[0].message) in ("gap too large", "few rows")


@pytest.mark.parametrize("how", [{"category": SmallCellWarning}, {"message": "few"}])
def test_a_part_that_is_an_error_is_raised_alone(how):
    with pytest.raises(SmallCellWarning) as raised:
        recorded(complain, ("error", how))
    assert str(raised.value) == "few rows"


def test_equal_warnings_are_said_once():
    (caught,) = recorded(lambda: complain(("few rows", SmallCellWarning)))
    assert told([caught], SmallCellWarning) == ["few rows"]


def test_an_error_is_not_hidden_by_what_it_warned_of():
    def fail():
        with merged_warnings("A.fit"):
            warn("few rows", SmallCellWarning)
            raise KeyError("why")

    with pytest.raises(KeyError, match="why"):
        recorded(fail, ("error", {"category": FairsvdWarning}))
    with pytest.raises(KeyError), pytest.warns(SmallCellWarning, match="few rows"):
        fail()


def test_blocks_within_a_block_warn_at_the_end_of_the_outer_one():
    def nested():
        with merged_warnings("outer"):
            complain()
            warn("entry", CacheWarning)

    (caught,) = recorded(nested)
    assert str(caught.message).startswith("outer has 3 warnings.")


def test_a_fit_warns_once_and_keeps_each_part_in_its_notes():
    rows = table(60)
    editor = quick(trained(mlp(), rows), tolerance=0.001)
    caught = recorded(lambda: editor.fit(rows.X, rows.y, sensitive_features=rows.group))
    (ours,) = [w for w in caught if issubclass(w.category, FairsvdWarning)]
    assert ours.filename == __file__
    assert len(categories_of(ours.category)) > 1
    for category in categories_of(ours.category):
        (text,) = told([ours], category)
        assert text in editor.report_.notes


def test_aif360s_messages_about_its_extras_stay_out_of_sight():
    """In a fresh process, since a module says them only when it is first imported."""
    code = (
        "import logging; from fairsvd.comparison._aif360 import _algorithms;"
        "before = list(logging.root.handlers), list(logging.root.filters);"
        "print(_algorithms('preprocessing').Reweighing.__name__);"
        "assert before == (logging.root.handlers, logging.root.filters);"
        "logging.warning('other messages are seen')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Reweighing"]
    assert done.stderr == "WARNING:root:other messages are seen\n"
