"""What notebooks show: parameters in groups, reports and comparisons, with every text escaped."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

from fairsvd import Comparison, FairLRFTransformer, GapFineTuner
from fairsvd.base import EDITORS
from fairsvd.exceptions import FairsvdWarning
from helpers import mlp, table, trained

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def fitted():
    rows = table(300)
    groups = np.array(["f", EVIL], dtype=object)[rows.group]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)
        editor = GapFineTuner(trained(mlp(), rows), max_steps=5, random_state=0)
        return editor.fit(rows.X, rows.y, sensitive_features=groups)


def shown(html: str, title: str) -> dict[str, str]:
    part = html.split(f"<summary>{title} parameters</summary>")[1].split("</details>")[0]
    return dict(re.findall(r"<tr><td>(\w+)</td><td>(.*?)</td></tr>", part))


def test_common_parameters_come_first_and_changed_ones_are_bold():
    editor = FairLRFTransformer(tolerance=0.1)
    for html in (editor._repr_html_(), editor._repr_mimebundle_()["text/html"]):
        common, expert = shown(html, "Common"), shown(html, "Expert")
        assert {*common, *expert} == set(editor.get_params())
        assert not set(common) & set(expert)
        assert list(common)[:3] == ["network", "constraint", "tolerance"]
        assert "max_steps" in expert
        assert common["tolerance"] == "<b>0.1</b>" and common["threshold"] == "&#x27;tune&#x27;"


@pytest.mark.parametrize("name", sorted(EDITORS))
def test_every_editor_is_shown(name):
    html = EDITORS[name]()._repr_html_()
    assert "<b>" not in html.split("<summary>Common")[1]


def test_values_are_escaped_and_short():
    html = GapFineTuner(memory=EVIL, sensitive_columns=[EVIL] * 9)._repr_html_()
    assert EVIL not in html.split("<summary>Common")[1]
    assert "&lt;script&gt;" in html and "..." in shown(html, "Common")["sensitive_columns"]


def test_a_fitted_editor_says_what_it_did(fitted):
    html = fitted._repr_html_()
    assert "The gap in equalized odds was" in html and EVIL not in html


def test_a_report_shows_its_tables_and_notes(fitted):
    html = fitted.report_._repr_html_()
    assert EVIL not in html and "&lt;script&gt;" in html
    for text in (
        "<h4>Groups</h4>",
        "<h4>Gaps</h4>",
        "<h4>Losses</h4>",
        "noise_floor",
        "came trained",
    ):
        assert text in html


def test_a_comparison_shows_what_was_compared():
    html = Comparison({"method": [EVIL]}, about=f"data {EVIL}")._repr_html_()
    assert EVIL not in html and html.count("&lt;script&gt;") == 2
