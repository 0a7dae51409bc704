"""Summary, Pareto front and plot of comparisons whose tables are made by hand."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from fairsvd import Comparison
from fairsvd.comparison._averages import HEADLINES, pareto_front
from fairsvd.comparison._select import NEEDED

VALUES = {
    # method: balanced accuracy and gap in each of three folds
    "untouched": ([0.8, 0.8, 0.8], [0.3, 0.3, 0.3]),
    "even": ([0.7, 0.72, 0.74], [0.04, 0.05, 0.06]),
    "beaten": ([0.69, 0.69, 0.69], [0.1, 0.1, 0.1]),
    "half": ([0.75, 0.77, np.nan], [0.2, 0.2, np.nan]),
    "failing": ([np.nan] * 3, [np.nan] * 3),
}


def made(constraint: str = "equalized_odds", values=VALUES, tolerance: float = 0.05):
    rows = []
    for method, (balanced, gaps) in values.items():
        for fold, (b, g) in enumerate(zip(balanced, gaps, strict=True)):
            row = dict.fromkeys(NEEDED, np.nan) | {
                "fold": fold,
                "constraint": constraint,
                "method": method,
                "balanced_accuracy": b,
                "gap": g,
                "psi": b - max(0, g - tolerance),
                "needs_group": method == "even",
                "seconds": 2.0 * fold,
            }
            rows.append(row)
    return pd.DataFrame(rows)


@pytest.fixture
def found():
    return Comparison(made())


def test_summary_averages_and_sorts(found):
    summary = found.summary()
    assert summary.index.names == ["constraint", "method"]
    flat = summary.droplevel("constraint")
    assert flat.index.tolist() == ["even", "beaten", "half", "untouched", "failing"]
    even = flat.loc["even"]
    assert even["psi"] == pytest.approx(np.mean([0.7, 0.72, 0.73]))
    assert even["balanced_accuracy"] == pytest.approx(0.72)
    assert (even["seconds"], even["folds"], even["failed"]) == (2.0, 3, 0)
    assert flat["needs_group"].to_dict() == {name: name == "even" for name in flat.index}
    assert flat[["folds", "failed"]].loc["half"].tolist() == [2, 1]
    assert flat[["folds", "failed"]].loc["failing"].tolist() == [0, 3]
    assert np.isnan(flat.loc["failing", "psi"])


def test_intervals_are_the_bootstrap_of_the_mean(found):
    """All 27 equally likely draws of three folds give the distribution of the mean."""
    flat = found.summary().droplevel("constraint")
    folds = np.array([0.7, 0.72, 0.74])
    means = sorted(folds[list(draw)].mean() for draw in np.ndindex(3, 3, 3))
    # One draw in 27 has three times the least fold: beyond 2.5 %.
    assert flat.loc["even", "balanced_accuracy_low"] == pytest.approx(means[0])
    assert flat.loc["even", "balanced_accuracy_high"] == pytest.approx(means[-1])
    for name in HEADLINES[:3]:
        shown = flat[flat[name].notna()]
        assert (shown[f"{name}_low"] <= shown[name] + 1e-12).all()
        assert (shown[name] <= shown[f"{name}_high"] + 1e-12).all()
    wide = Comparison(made(values={"a": (np.linspace(0, 1, 40), np.zeros(40))})).summary().iloc[0]
    error = np.linspace(0, 1, 40).std() / np.sqrt(40)
    for end, sign in (("low", -1), ("high", 1)):
        expected = 0.5 + sign * 1.96 * error
        assert wide[f"balanced_accuracy_{end}"] == pytest.approx(expected, abs=0.15 * error)


def test_constraints_are_apart_and_in_order():
    tables = [made("equalized_odds"), made("demographic_parity", {"a": ([0.9], [0.0])})]
    found = Comparison(pd.concat(tables))
    assert found.summary().index.get_level_values(0).unique().tolist() == [
        "equalized_odds", "demographic_parity",
    ]  # fmt: skip
    assert found.summary("demographic_parity").index.tolist() == [("demographic_parity", "a")]
    assert len(found.pareto()) == len(found.pareto("equalized_odds")) + 1
    with pytest.raises(ValueError, match="'average_odds' was not compared: choose among equalized"):
        found.summary("average_odds")
    with pytest.raises(ValueError, match="several constraints were compared: name one"):
        found.plot()


def test_pareto_of_the_table(found):
    assert found.pareto().droplevel("constraint").index.tolist() == ["even", "half", "untouched"]


points = st.lists(
    st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 1.0, np.nan])] * 2), min_size=1, max_size=12
)


@given(points)
def test_the_front_is_what_nothing_beats(pairs):
    utility, gaps = np.array(pairs).T
    front = pareto_front(utility, gaps)
    for k, (u, g) in enumerate(pairs):
        rivals = [(v, h) for v, h in pairs if v >= u and h <= g and (v > u or h < g)]
        assert front[k] == (not np.isnan(u + g) and not rivals)
    if not np.isnan(utility + gaps).all():
        assert front.any()


KEEPING = {
    "mask": lambda found: found[found["method"] != "beaten"],
    "query": lambda found: found.query("method != 'beaten'"),
    "loc": lambda found: found.loc[~found["method"].eq("beaten")],
    "iloc": lambda found: found.iloc[:6],
    "sort": lambda found: found.sort_values("psi"),
    "drop_duplicates": lambda found: found.drop_duplicates("method"),
    "part of a groupby": lambda found: dict(iter(found.groupby("method")))["even"],
    "get_group": lambda found: found.groupby("method").get_group("even"),
    "head of each": lambda found: found.groupby("method").head(1),
    "new column": lambda found: found.assign(mine=1),
    "columns": lambda found: found[["method", *NEEDED[:1], *NEEDED[3:], "constraint"]],
    "copy": lambda found: found.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda found: pickle.loads(pickle.dumps(found)),
    "concat": lambda found: pd.concat([found.iloc[3:], found.iloc[:3]]),
    "concat with plain rows": lambda found: pd.concat([found, made("demographic_parity")]),
    "itself": Comparison,
}


@pytest.mark.parametrize("way", KEEPING)
def test_class_tolerance_and_methods_stay(way):
    found = Comparison(made(), tolerance=0.2)
    expected = KEEPING[way](made())
    kept = KEEPING[way](found)
    assert type(kept) is Comparison
    assert kept.tolerance == 0.2
    pd.testing.assert_frame_equal(pd.DataFrame(kept), pd.DataFrame(expected))
    pd.testing.assert_frame_equal(kept.summary(), Comparison(expected).summary())
    assert kept.failed.equals(expected["gap"].isna())


def test_what_is_no_comparison_any_longer_is_plain(found):
    for plain in (found.summary(), found.pareto(), pd.DataFrame(found)):
        assert type(plain) is pd.DataFrame
    for column in (found["psi"], found.failed, found.iloc[0]):
        assert type(column) is pd.Series
    means = found.groupby("method")["psi"].mean()
    assert means["even"] == found.summary().loc[("equalized_odds", "even"), "psi"]


def test_the_tolerance_is_given_or_taken_over_or_the_default():
    rows = made()
    assert (Comparison(rows).tolerance, Comparison(rows, tolerance=0.0).tolerance) == (0.05, 0.0)
    assert Comparison(Comparison(rows, tolerance=0.2), tolerance=0.3).tolerance == 0.3
    differing = pd.concat([Comparison(rows, tolerance=t) for t in (0.1, 0.2)])
    assert (type(differing), differing.tolerance) == (Comparison, 0.05)


def test_the_repr_is_that_of_pandas(found):
    assert repr(found) == repr(made())


def test_a_file_and_back(found, tmp_path):
    path = tmp_path / "table.csv"
    found.to_csv(path, index=False)
    assert path.read_text() == made().to_csv(index=False)
    again = Comparison(pd.read_csv(path), tolerance=0.2)
    assert again.tolerance == 0.2
    pd.testing.assert_frame_equal(again, found)
    pd.testing.assert_frame_equal(again.summary(), found.summary())
    pd.testing.assert_frame_equal(again.pareto(), found.pareto())


ASKED = {
    "summary": Comparison.summary,
    "pareto": Comparison.pareto,
    "plot": Comparison.plot,
    "failed": lambda found: found.failed,
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_dropped_columns_are_named(found, ask):
    with pytest.raises(ValueError, match="lacks the columns psi, gap, which its methods need"):
        ask(found.drop(columns=["gap", "psi"]))


@pytest.mark.parametrize("name", ["summary", "pareto", "plot"])
def test_no_rows_are_told(found, name):
    with pytest.raises(ValueError, match="no rows: select at least one"):
        ASKED[name](found.query("fold > 9"))
    assert found.query("fold > 9").failed.empty


def test_plot_shows_every_method_with_numbers(found):
    ax = found.plot()
    drawn = {line.get_gid()[7:]: line for line in ax.lines if str(line.get_gid())[:6] == "method"}
    flat = found.summary().droplevel("constraint")
    assert set(drawn) == set(VALUES) - {"failing"}
    for name, line in drawn.items():
        assert line.get_xydata().tolist() == [
            [
                pytest.approx(flat.loc[name, "gap"]),
                pytest.approx(flat.loc[name, "balanced_accuracy"]),
            ]
        ]
        assert (line.get_markerfacecolor() == "white") == (name == "even")
    labels = {line.get_label(): line for line in ax.lines}
    front = labels["no other is better"].get_xydata()
    assert front.tolist() == found.pareto()[["gap", "balanced_accuracy"]].to_numpy().tolist()
    assert labels["tolerance, 0.05"].get_xdata() == [0.05, 0.05]
    bars = [len(container.lines[2]) for container in ax.containers]
    assert bars == [2] * 4  # of the gap and of the balanced accuracy
    assert ax.get_xlabel() == "equalized odds gap (difference of rates)"
    assert "even (needs the group)" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_plot_into_given_axes_and_onto_disk(found, tmp_path):
    ax = found.plot()
    assert found.plot("equalized_odds", ax=ax) is ax
    ax.figure.savefig(tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_the_plot_of_pandas_is_within_reach(found):
    bars = pd.DataFrame(found).plot.bar("method", "psi", ax=Figure().add_subplot())
    assert len(bars.patches) == len(found)


def test_nothing_to_plot():
    failed = Comparison(made(values={"failing": VALUES["failing"]}))
    with pytest.raises(ValueError, match="no method has numbers"):
        failed.plot()
