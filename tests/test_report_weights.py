"""A report page of weighted rows: weight 2 is a row twice, and weight 0 is none."""

from __future__ import annotations

import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from fairsvd import GapFineTuner
from fairsvd.exceptions import FairsvdWarning
from fairsvd.report import FairnessReport, plot_errors
from helpers import mlp, table, trained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fitted():
    rows = table(600)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)
        editor = GapFineTuner(trained(mlp(), rows), max_steps=5, random_state=0)
        return editor.fit(rows.X, rows.y, sensitive_features=rows.group), rows


@pytest.fixture(scope="module")
def reports(fitted):
    """One report of weighted rows, and one of rows that are repeated and left out."""
    editor, rows = fitted
    weights = np.random.default_rng(0).integers(0, 4, size=len(rows.y))
    weights[rows.group == 1] += 1
    again = np.repeat(np.arange(len(rows.y)), weights)
    groups = pd.DataFrame({"sex": np.array(["f", "m"])[rows.group]})
    groups["half"] = np.arange(len(rows.y)) % 2
    weighted = FairnessReport(editor, rows.X, rows.y, groups, sample_weight=weights)
    repeated = FairnessReport(
        editor, rows.X[again], rows.y[again], groups.iloc[again].reset_index(drop=True)
    )
    return weighted, repeated, weights


def test_measures_are_those_of_repeated_rows(reports):
    weighted, repeated, weights = reports
    names = ("selection_rate", "tpr", "fpr", "ppv", "accuracy", "auc", "brier", "impact_ratio")
    for name in names:
        np.testing.assert_allclose(weighted.table[name], repeated.table[name], atol=1e-12)
    assert (weighted.table["n"] < repeated.table["n"]).all()
    assert weighted.table["n"].iloc[0] == (weights > 0).sum()
    gaps = ["before", "threshold_only", "after"]
    np.testing.assert_allclose(weighted.gaps[gaps], repeated.gaps[gaps], atol=1e-12)
    np.testing.assert_allclose(weighted.harm["change"], repeated.harm["change"], atol=1e-12)
    slopes = weighted.calibration["calibration_slope"], repeated.calibration["calibration_slope"]
    np.testing.assert_allclose(*slopes, atol=1e-6)


def test_copies_do_not_make_intervals_narrower(reports):
    weighted, repeated, _ = reports
    widths = [
        (report.table["accuracy_high"] - report.table["accuracy_low"])
        for report in (weighted, repeated)
    ]
    assert (widths[0] > 1.2 * widths[1]).all()
    floors = weighted.gaps["noise_floor"] / repeated.gaps["noise_floor"]
    assert (floors > 1.2).all()


def test_the_page_says_what_the_rows_weigh(reports):
    weighted, repeated, weights = reports
    known = weights[weights > 0]
    effective = known.sum() ** 2 / (known**2).sum()
    text = weighted.to_html()
    assert "Rows are weighted" in weighted.summary()
    assert f"as much as {effective:,.0f} rows of equal weight" in text
    assert f"{(weights == 0).sum()} rows of weight 0 were left out" in text
    assert "Rows are weighted" not in repeated.summary()
    assert "every row counts once" in repeated.to_markdown()
    assert "Rows are weighted" in weighted.to_text()
    with pytest.raises(ValueError, match="counts applicants, and these rows are weighted"):
        weighted.to_ll144_csv()


def test_charts_show_weighted_rows(reports):
    weighted, repeated, _ = reports
    with mpl.rc_context({"backend": "agg"}):
        bars = [
            [patch.get_width() for patch in report.plot_errors().patches]
            for report in (weighted, repeated)
        ]
        heights = [
            report.plot_scores()[1].patches[0].get_data().values for report in (weighted, repeated)
        ]
        mpl.pyplot.close("all")
    np.testing.assert_allclose(*bars, atol=1e-12)
    np.testing.assert_allclose(*heights, atol=1e-12)


def test_errors_of_a_weighted_fit_have_the_intervals_of_its_effective_rows(fitted):
    _, rows = fitted
    arms = []
    for weights in (np.full(len(rows.y), 1.0), np.where(np.arange(len(rows.y)) % 4 == 0, 9.0, 1.0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FairsvdWarning)
            editor = GapFineTuner(trained(mlp(), rows), max_steps=1, random_state=0)
            editor.fit(rows.X, rows.y, sensitive_features=rows.group, sample_weight=weights)
        with mpl.rc_context({"backend": "agg"}):
            ax = plot_errors(editor)
            ends = [np.array(line.get_segments())[:, :, 0] for line in ax.collections]
            arms.append(np.mean([np.diff(each, axis=1).mean() for each in ends]))
            mpl.pyplot.close("all")
    # Kish: (3 * 1 + 9)**2 / (3 * 1 + 81) = 1.71 rows of every four tell as much.
    assert arms[1] / arms[0] == pytest.approx((4 / 1.714) ** 0.5, rel=0.25)


def test_weights_of_any_scale_and_their_checks(fitted, reports):
    editor, rows = fitted
    weights = reports[2]
    call = editor, rows.X, rows.y, rows.group
    one, other = (FairnessReport(*call, sample_weight=each) for each in (weights, 0.3 * weights))
    for name in ("tpr", "auc", "tpr_low", "auc_high"):
        np.testing.assert_allclose(one.table[name], other.table[name], atol=1e-12)
    with pytest.raises(ValueError, match="sample_weight has shape"):
        FairnessReport(*call, sample_weight=weights[1:])
    assert roc_auc_score(
        rows.y, editor.predict_proba(rows.X)[:, 1], sample_weight=weights
    ) == pytest.approx(one.table["auc"].iloc[2])
