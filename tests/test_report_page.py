"""The report page: its numbers, its words, its formats, and that it is safe to open."""

from __future__ import annotations

import functools
import json
import re
import warnings
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import equalized_odds_difference
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fairsvd import FairLRFTransformer, GapFineTuner, load, save
from fairsvd.exceptions import FairsvdWarning
from fairsvd.metrics import Rows, interval, measure_groups
from fairsvd.report import FairnessReport
from fairsvd.report._evaluate import evaluate
from fairsvd.report._slices import SHOWN, share_of
from helpers import mlp, table, trained

pytestmark = pytest.mark.slow

EVIL = "<script>alert(1)</script>&'\"|`"


@functools.cache
def fit(kind=GapFineTuner, **settings):
    """Fit once: an editor around a trained network, the rows, and two attributes of them."""
    rows = table(600)
    network = trained(mlp(), rows)
    settings = {"max_steps": 10, "random_state": 0, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)
        editor = kind(network, **settings).fit(rows.X, rows.y, sensitive_features=rows.group)
    return editor, rows, network


def attributes(rows) -> pd.DataFrame:
    race = np.array(["a", EVIL, "=b"], dtype=object)[np.arange(len(rows.y)) % 3]
    sex = np.array(["f", "m"], dtype=object)[rows.group]
    sex[[5, 6]] = None
    return pd.DataFrame({"sex": sex, "race": race})


@pytest.fixture(scope="module")
def report():
    editor, rows, _ = fit()
    return FairnessReport(editor, rows.X, rows.y, attributes(rows), intended_use=EVIL, owner=EVIL)


def row_of(report, group, state):
    return report.table.query("group == @group and state == @state").iloc[0]


def test_the_measures_are_those_of_scikit_learn(report):
    editor, rows, network = fit()
    with torch.no_grad():
        before = network(torch.tensor(rows.X)).softmax(dim=1).double().numpy()[:, 1]
    own = (attributes(rows)["sex"] == "m").to_numpy()
    for state, share in (("before", before), ("after", editor.predict_proba(rows.X)[:, 1])):
        row = row_of(report, "m", state)
        y, chosen = rows.y[own], share[own] > 0.5
        assert row["n"] == own.sum() and row["n_positive"] == y.sum()
        assert row["auc"] == pytest.approx(roc_auc_score(y, share[own]), abs=1e-6)
        assert row["brier"] == pytest.approx(brier_score_loss(y, share[own]), abs=1e-6)
        assert row["accuracy"] == pytest.approx((chosen == y).mean())
        assert row["selection_rate"] == pytest.approx(chosen.mean())
        assert row["tpr"] == pytest.approx(chosen[y == 1].mean())
        assert row["fpr"] == pytest.approx(chosen[y == 0].mean())
        assert row["ppv"] == pytest.approx(y[chosen].mean())


def test_the_threshold_alone_moves_the_untouched_network(report):
    editor, rows, network = fit()
    with torch.no_grad():
        logits = network(torch.tensor(rows.X)).double().numpy()
    chosen = logits[:, 1] - logits[:, 0] > editor.offset_
    row = row_of(report, "all rows", "threshold only")
    assert row["selection_rate"] == pytest.approx(chosen.mean())
    assert editor.offset_ != 0 and row["auc"] == row_of(report, "all rows", "before")["auc"]


def test_the_impact_ratio_is_that_to_the_most_selected_group(report):
    after = report.table[report.table["state"] == "after"]
    for attribute in ("sex", "race", "sex x race"):
        part = after[after["attribute"] == attribute]
        rates = part["selection_rate"]
        assert part["impact_ratio"].to_numpy() == pytest.approx((rates / rates.max()).to_numpy())
    assert len(after[after["attribute"] == "sex x race"]) == 6


def test_rows_without_a_group_count_for_all_rows_only(report):
    assert row_of(report, "all rows", "after")["n"] == 600
    sexes = report.table.query("attribute == 'sex' and state == 'after'")
    assert sexes["n"].sum() == 598
    assert "2; they count for all rows" in report.to_html()


def test_the_gaps_are_fairlearns_by_each_attribute(report):
    editor, rows, _ = fit()
    given = attributes(rows).dropna()
    known = given.index.to_numpy()
    predicted = editor.predict(rows.X)[known]
    for attribute, groups in (
        ("sex", given["sex"]),
        ("race", given["race"]),
        ("sex x race", given),
    ):
        wanted = equalized_odds_difference(rows.y[known], predicted, sensitive_features=groups)
        assert report.gaps.loc[(attribute, "equalized_odds"), "after"] == pytest.approx(wanted)


def test_the_headline_is_by_the_attribute_of_the_fit():
    editor, rows, _ = fit()
    both = pd.DataFrame({"half": np.arange(len(rows.y)) % 2 + 7, "group": rows.group})
    assert evaluate(editor, rows.X, rows.y, both).main == "group"
    one = evaluate(editor, rows.X, rows.y, both["half"])
    assert (one.main, one.attributes) == ("half", ())


def test_the_attribute_of_the_fit_is_known_where_a_group_has_no_row():
    rows = table(600, n_groups=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)
        editor = GapFineTuner(trained(mlp(), rows), max_steps=2, n_teachers=1, random_state=0)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    here = rows.group < 2
    given = pd.DataFrame({"half": np.arange(here.sum()) % 2 + 7, "group": rows.group[here]})
    assert evaluate(editor, rows.X[here], rows.y[here], given).main == "group"


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (7, 20), (20, 20)])
def test_intervals_of_shares_are_wilsons(hits, n):
    wanted = binomtest(hits, n).proportion_ci(method="wilson")
    assert share_of(hits, n) == pytest.approx((hits / n, wanted.low, wanted.high), abs=1e-12)
    assert np.isnan(share_of(0, 0)).all()


def test_every_measure_has_the_interval_of_the_table_of_measures(report):
    editor, rows, _ = fit()
    own = (attributes(rows)["sex"] == "f").to_numpy()
    y, share = rows.y[own], editor.predict_proba(rows.X)[own]
    data = Rows(y, np.zeros_like(y), 2, 1, 1, share.argmax(axis=1), share)
    row = row_of(report, "f", "after")
    for name in SHOWN:
        found = measure_groups(name, data)
        low, high = interval(name, found, 0.95)
        assert [row[name], row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx(
            [found.values[0], low[0], high[0]]
        )


# Formats


class Outline(HTMLParser):
    """Collects the elements of a page, and checks that they are closed in order."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open, self.found, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def outline(report):
    outline = Outline()
    outline.feed(report.to_html())
    return outline


def test_the_page_is_whole_and_small_and_asks_for_nothing(report, outline):
    assert outline.open == []
    assert len(report.to_html().encode()) < 2_000_000
    tags = {tag for tag, _ in outline.found}
    assert not tags & {"script", "img", "iframe", "object", "embed"}
    for tag, attributes in outline.found:
        targets = [attributes.get(name) for name in ("href", "src", "xlink:href")]
        assert all(t is None or t.startswith(("#", "data:")) for t in targets), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert "url(http" not in report.to_html() and "@import" not in report.to_html()


def test_what_users_and_data_say_is_escaped(report, outline):
    assert "<script" not in report.to_html().lower()
    text = "".join(outline.text)
    assert text.count(EVIL) > 5  # in headings, tables and charts, as text
    assert "<script" not in report._repr_html_().lower()


def test_the_page_is_accessible(outline):
    elements = outline.found
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    charts = [a for tag, a in elements if tag == "svg"]
    assert len(charts) >= 5 and all(a["role"] == "img" and a["aria-label"] for a in charts)
    headings = [a.get("scope") for tag, a in elements if tag == "th"]
    assert set(headings) == {"col", "row"}
    links = {a["href"][1:] for tag, a in elements if tag == "a"}
    assert links <= set(ids) and len(links) == 9
    assert [tag for tag, _ in elements if re.fullmatch("h[1-6]", tag)][:2] == ["h1", "h2"]
    assert ("html", {"lang": "en"}) in elements


def test_the_page_has_the_fields_of_the_agreement(report):
    editor, rows, _ = fit()
    html = report.to_html()
    for text in (
        "SHA-256 of the network", "SHA-256 of the data", "versions", "seed", "GapFineTuner",
        "attributes used to fit", "attributes used to predict", "can the group be guessed",
        "empty cells", "noise floor", "upper bound", "four-fifths", "not legal advice",
        "Look again after every retraining", "Approved by", "threshold", "Who lost what",
        "Calibration by group", "ROC by group", "Scores by group", "The trade-off",
    ):  # fmt: skip
        assert text in html, text
    assert str(editor.random_state) in html
    changed = FairnessReport(editor, rows.X + 1e-3, rows.y, rows.group)
    hashes = [re.search("SHA-256 of the data</dt><dd>([0-9a-f]{64})", page)[1]
              for page in (html, changed.to_html())]  # fmt: skip
    assert hashes[0] != hashes[1]


def test_json_holds_every_measure(report):
    content = json.loads(report.to_json())
    keys = {"metric", "attribute", "slice", "state", "value", "threshold", "interval", "n"}
    assert {frozenset(m) for m in content["measures"]} == {frozenset(keys)}
    (found,) = [
        m for m in content["measures"]
        if (m["metric"], m["attribute"], m["slice"], m["state"]) == ("tpr", "sex", "f", "after")
    ]  # fmt: skip
    row = row_of(report, "f", "after")
    assert found["value"] == row["tpr"] and found["interval"] == [row["tpr_low"], row["tpr_high"]]
    limits = {m["threshold"] for m in content["measures"] if m["metric"] == "impact_ratio"}
    assert limits == {0.8}
    gap = [m for m in content["measures"] if m["metric"] == "equalized_odds_difference"]
    assert {m["threshold"] for m in gap} == {0.05} and len(gap) == 9
    assert content["about"]["intended_use"] == EVIL


def test_the_table_of_local_law_144_counts_selections(report):
    frame = pd.read_csv(StringIO(report.to_ll144_csv()), keep_default_na=False)
    assert frame["category"].unique().tolist() == ["sex", "race", "sex x race"]
    women = frame.query("group == 'f'").iloc[0]
    row = row_of(report, "f", "after")
    assert women["applicants"] == row["n"]
    assert women["selected"] == round(row["n"] * row["selection_rate"])
    assert women["impact_ratio"] == pytest.approx(row["impact_ratio"], abs=1e-4)
    assert "'=b" in frame["group"].tolist()  # no formula for a spreadsheet


def test_local_law_144_where_nobody_is_selected():
    rows = table(120)
    never = mlp()
    never[-1].weight.data *= 0.0
    never[-1].bias.data = torch.tensor([5.0, 0.0])
    editor = FairLRFTransformer(never, sparsity=0, refine=None, threshold=0.5, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)
        editor.fit(rows.X, rows.y, sensitive_features=rows.group)
    report = FairnessReport(editor, rows.X, rows.y, rows.group)
    frame = pd.read_csv(StringIO(report.to_ll144_csv()))
    assert frame["selected"].tolist() == [0, 0] and frame["impact_ratio"].isna().all()


def test_markdown_has_the_sections_of_skops_cards(report):
    from skops.card import Card

    editor, _, _ = fit()
    card = Card(editor, template="skops")
    titles = [line for line in card.render().splitlines() if line.startswith("#")]
    card.add(**report.to_sections())
    rendered = card.render()
    assert [line for line in rendered.splitlines() if line.startswith("#")] == titles
    assert "not legal advice" in rendered
    text = report.to_markdown()
    assert "<script" not in text and "<script>alert" not in rendered
    assert "# Model description\n" in text and "## Evaluation Results\n" in text
    assert "equalized\\_odds" in text


def test_save_writes_by_the_ending(report, tmp_path):
    for name in ("r.html", "r.md", "r.json", "r.csv"):
        report.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 100
    with pytest.raises(ValueError, match=r"must end in one of \.html, \.md, \.json, \.csv"):
        report.save(tmp_path / "r.pdf")


# What may be reported on


def test_a_network_trained_in_fit_is_compared_with_itself_before(tmp_path):
    """It is kept, also in a file, since it exists nowhere else."""
    rows = table(300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)
        settings = {"sparsity": 0, "refine": None, "random_state": 0}
        plain = FairLRFTransformer(threshold=0.5, **settings)
        plain.fit(rows.X, rows.y, sensitive_features=rows.group)
        pipe = make_pipeline(StandardScaler(), FairLRFTransformer(max_steps=20, random_state=0))
        pipe[0].fit(rows.X)
        pipe[0].mean_, pipe[0].scale_ = np.zeros(6), np.ones(6)
        pipe[-1].fit(rows.X, rows.y, sensitive_features=rows.group)
    report = FairnessReport(pipe, rows.X, rows.y, rows.group)
    wanted = plain.predict(rows.X).mean()
    assert row_of(report, "all rows", "before")["selection_rate"] == pytest.approx(wanted)
    assert row_of(report, "all rows", "after")["selection_rate"] == pipe.predict(rows.X).mean()
    save(pipe, tmp_path / "m.safetensors")
    again = FairnessReport(load(tmp_path / "m.safetensors"), rows.X, rows.y, rows.group)
    pd.testing.assert_frame_equal(again.table, report.table)


def test_several_classes_have_means_and_no_selection():
    rows = table(600)
    y = np.where(rows.X[:, 2] > 0.7, 2, rows.y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)
        editor = GapFineTuner(mlp(n_outputs=3), max_steps=5, random_state=0)
        editor.fit(rows.X, y, sensitive_features=rows.group)
    report = FairnessReport(editor, rows.X, y, rows.group)
    row = row_of(report, "all rows", "after")
    predicted = editor.predict(rows.X)
    rates = [(predicted[y == k] == k).mean() for k in range(3)]
    assert row["tpr"] == pytest.approx(np.mean(rates))
    assert row["accuracy"] == pytest.approx((predicted == y).mean())
    assert np.isnan(row["impact_ratio"]) and "impact ratio</th>" not in report.to_html()
    with pytest.raises(ValueError, match="two classes"):
        report.to_ll144_csv()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda e, r: (StandardScaler(), r.X, r.y, r.group), "wanted a fitted editor of fairsvd"),
        (lambda e, r: (e, r.X, r.y[:-1], r.group), "y has 599 labels, and X has 600 rows"),
        (lambda e, r: (e, r.X, r.y + 1, r.group), "y holds the label 2"),
        (lambda e, r: (e, r.X, r.y, r.group * 0), "single group"),
    ],
)
def test_what_cannot_be_reported_is_said(change, complaint):
    editor, rows, _ = fit()
    with pytest.raises(ValueError, match=complaint):
        FairnessReport(*change(editor, rows))
