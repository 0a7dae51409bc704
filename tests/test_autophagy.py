"""The autophagy audit: its measures against references, its loops, and its plot."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import sqrtm
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture

from fairsvd import CellSampler, HyperGenerator, autophagy_audit
from fairsvd.generative import CopulaGenerator, SmoothedGenerator
from fairsvd.generative.autophagy._measures import (
    MEASURES,
    compare,
    detector_auc,
    frechet_distance,
    measure,
    share_ratio,
)
from fairsvd.generative.autophagy._rows import JointTable
from fairsvd.report import plot_autophagy
from helpers import global_state

SMALL = {"n_generations": 3, "n_seeds": 2, "detector": None, "random_state": 0}


def rows(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a table whose second group has a quarter of the rows."""
    rng = np.random.default_rng(seed)
    y, group = np.arange(n) % 2, np.where(np.arange(n) % 4 == 3, "b", "a")
    y[np.arange(n) % 8 == 3] = 0
    X = rng.normal(size=(n, 3))
    X[:, 0] += 2 * y
    return X, y, group


class Echo(BaseEstimator):
    """Conditional generator that repeats the rows of a cell; optionally stretched."""

    def __init__(self, stretch: float = 1.0, random_state: object = None) -> None:
        self.stretch = stretch
        self.random_state = random_state

    def fit(self, X, y=None, *, sensitive_features=None):
        self.seeds_ = [*getattr(self, "seeds_", []), self.random_state]
        self.n_rows_ = len(X)
        self.X_ = np.asarray(X)
        self.keys_ = list(zip(y.tolist(), sensitive_features.tolist(), strict=True))
        return self

    def sample(self, n, conditions=None):
        turn, out = {}, np.empty((n, self.X_.shape[1]))
        for k, cell in enumerate(conditions):
            own = [i for i, key in enumerate(self.keys_) if key == cell]
            out[k] = self.X_[own[turn.get(cell, 0) % len(own)]]
            turn[cell] = turn.get(cell, 0) + 1
        return out * self.stretch


class Forgetful(BaseEstimator):
    """Unconditional generator that always gives its first row."""

    def fit(self, X):
        self.first_ = np.asarray(X)[:1]
        return self

    def sample(self, n):
        return np.repeat(self.first_, n, axis=0), np.zeros(n)


def test_the_frechet_distance_agrees_with_the_matrix_root():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4))
    B = rng.normal(size=(50, 4)) + 1
    S, T = np.cov(A.T), np.cov(B.T)
    wanted = np.square(A.mean(0) - B.mean(0)).sum() + np.trace(S + T - 2 * sqrtm(S @ T).real)
    assert frechet_distance(A, B) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(B, A) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(A, A) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(A, A + np.array([1, 0, 0, 2])) == pytest.approx(5)


def test_the_share_ratio_compares_imbalances():
    ratio = share_ratio(np.array([90, 10, 0]), np.array([80, 15, 5]))
    assert ratio == pytest.approx([1, (90 / 10) / (80 / 15), np.inf])
    assert np.isnan(share_ratio(np.array([0, 0]), np.array([8, 2]))).all()


def test_a_detector_tells_what_differs():
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(300, 2)), rng.normal(size=(300, 2))
    assert detector_auc(A, B, "auto", 0) == pytest.approx(0.5, abs=0.08)
    assert detector_auc(A, B + 2, "auto", 0) > 0.9
    assert detector_auc(A, 3 * B, "auto", 0) > 0.7
    assert detector_auc(A, 3 * B, LogisticRegression(), 0) < 0.65
    assert np.isnan(detector_auc(A, B[:9], "auto", 0))


def test_features_of_mixed_tables():
    real = pd.DataFrame({"n": [1.0, 3.0, np.nan, 2.0], "c": ["x", "y", "z", "x"]})
    made = pd.DataFrame({"n": [2.0, np.nan], "c": ["x", "x"]})
    compared = compare(real, made)
    # A number, a flag of missing ones, three levels.
    assert compared.real.shape == (4, 5) and compared.synthetic.shape == (2, 5)
    assert compared.real.mean(axis=0) == pytest.approx(np.zeros(5), abs=1e-12)
    assert compared.real.std(axis=0) == pytest.approx(np.ones(5))
    assert compared.synthetic[:, 0] == pytest.approx([0, 0])
    every = np.ones(4, bool), np.ones(2, bool)
    measured = measure(compared, *every, None, 0)
    assert measured["extinct_categories"] == 2
    assert measured["variance_ratio"] < 0.6
    one = measure(compared, every[0], np.array([True, False]), None, 0)
    assert np.isnan([one["frechet_distance"], one["variance_ratio"]]).all()


def test_wide_rows_are_compared_in_few_directions():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(50, 1, 8, 8))
    compared = compare(images, images[:20] * 2)
    assert compared.real.shape == (50, 32) and compared.synthetic.shape == (20, 32)
    assert compared.real.mean(axis=0) == pytest.approx(np.zeros(32), abs=1e-9)


@pytest.mark.parametrize(
    "keys",
    [
        [(0, "a"), (0, "b"), (1, "a"), (1, "b")],
        [(0, "a"), (0, "b"), (0, "c")],
        [("p", 1), ("q", 1), ("r", 2)],
        [(0, "a")],
    ],
)
@pytest.mark.parametrize("frame", [False, True])
def test_joint_tables_come_apart_again(keys, frame):
    cells = np.arange(9) % len(keys)
    X = np.random.default_rng(0).normal(size=(9, 2))
    X = pd.DataFrame(X, columns=["u", "v"]) if frame else X
    table = JointTable.of(keys, pairs=True)
    again, found = table.split(table.join(X, cells))
    assert np.array_equal(found, cells)
    assert np.array_equal(np.asarray(again), np.asarray(X))
    assert type(again) is type(X)


def test_a_pair_that_never_was_is_no_cell():
    table = JointTable.of([("p", 1), ("q", 1), ("q", 2)], pairs=True)
    joint = table.join(np.zeros((3, 1)), np.arange(3))
    # Label p and group 2.
    never = np.concatenate([[[0.0]], joint[[0], 1:2], joint[[2], 2:]], axis=1)
    assert table.split(np.concatenate([joint, never]))[1].tolist() == [0, 1, 2, -1]


def test_what_repeats_its_rows_loses_nothing():
    X, y, group = rows()
    audit = autophagy_audit(Echo(), X, y, sensitive_features=group, **SMALL)
    assert audit.conditions == "fixed"
    runs = audit.runs
    assert (runs["variance_ratio"] - 1).abs().max() < 1e-9
    assert runs["frechet_distance"].max() < 1e-6
    assert (runs["share_ratio"] == 1).all() and not runs["extinct"].any()
    shares = runs[runs["generation"] == 3].groupby("cell")["share"].first()
    assert shares["0, a"] == pytest.approx(((y == 0) & (group == "a")).mean())


def test_changes_add_up_over_generations():
    X, y, group = rows()
    audit = autophagy_audit(Echo(0.5), X - X.mean(0), y, sensitive_features=group, **SMALL)
    whole = audit.summary.query("cell == 'all' and measure == 'variance_ratio'")
    assert whole["median"].to_numpy() == pytest.approx([0.25, 0.25**2, 0.25**3])


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("synthetic", [0.25, 0.0625, 0.015625]),
        ("mixed", [0.25, 0.156, 0.13]),
        ("fresh", [0.25, 0.156, 0.13]),
    ],
)
def test_real_rows_hold_a_loop_up(mode, wanted):
    X, y, group = rows(400)
    X[:, 0] -= 2 * y
    settings = SMALL | {"mode": mode}
    audit = autophagy_audit(Echo(0.5), X, y, sensitive_features=group, **settings)
    whole = audit.summary.query("cell == 'all' and measure == 'variance_ratio'")
    assert whole["median"].to_numpy() == pytest.approx(wanted, rel=0.25)


def test_each_generation_gets_a_seed_of_its_own_and_as_many_rows():
    seen = []

    class Spy(Echo):
        def fit(self, X, y=None, *, sensitive_features=None):
            seen.append((self.random_state, len(X)))
            return super().fit(X, y, sensitive_features=sensitive_features)

    X, y, group = rows()
    for mode in ("synthetic", "mixed", "fresh"):
        settings = SMALL | {"mode": mode, "n_samples": 80, "real_share": 0.3}
        autophagy_audit(Spy(random_state=7), X, y, sensitive_features=group, **settings)
    seeds, sizes = zip(*seen, strict=True)
    assert len(set(seeds[:6])) == 6
    assert set(sizes) == {80}


def test_extinct_cells_are_seen():
    X, y, group = rows()
    audit = autophagy_audit(Forgetful(), X, y, sensitive_features=group, **SMALL)
    assert audit.conditions == "joint"
    last = audit.runs[audit.runs["generation"] == 3].set_index(["seed", "cell"])
    assert last.loc[(0, "0, a"), "share"] == 1
    assert last.loc[(0, "1, b"), "extinct"] and last.loc[(0, "1, b"), "n_rows"] == 0
    assert last.loc[(0, "1, b"), "share_ratio"] == np.inf
    assert last.loc[(0, "all"), "variance_ratio"] == pytest.approx(0, abs=1e-12)
    summary = audit.summary.set_index(["generation", "cell", "measure"])
    assert summary.loc[(3, "1, b", "share_ratio"), "median"] == np.inf
    assert summary.loc[(3, "1, b", "frechet_distance"), "n_seeds"] == 0


@pytest.mark.parametrize(
    ("generator", "conditions", "wanted"),
    [
        (GaussianMixture(2), "auto", "joint"),
        (GaussianMixture(1), "fixed", "fixed"),
        (GaussianMixture(1), "drawn", "drawn"),
        (CopulaGenerator(), "auto", "fixed"),
        (CopulaGenerator(), "joint", "joint"),
        (SmoothedGenerator(), "drawn", "drawn"),
        (CellSampler(sampling_strategy="match", mode="replace"), "auto", "sampler"),
        (CellSampler(sampling_strategy="joint", mode="replace"), "auto", "sampler"),
        (HyperGenerator(n_steps=2, n_sets=2, n_draws=2), "auto", "fixed"),
        (HyperGenerator(n_steps=2, n_sets=2, warm_start=True), "joint", "joint"),
    ],
)
def test_every_kind_of_generator(generator, conditions, wanted):
    X, y, group = rows(200)
    before = global_state()
    settings = SMALL | {"n_generations": 2, "conditions": conditions}
    audits = [
        autophagy_audit(generator, X, y, sensitive_features=group, **settings) for _ in range(2)
    ]
    assert global_state() == before
    audit = audits[0]
    assert audit.conditions == wanted
    pd.testing.assert_frame_equal(audit.runs, audits[1].runs)
    assert audit.runs.shape == (2 * 2 * 5, 13)
    assert list(audit.summary["measure"].unique()) == list(MEASURES)
    if wanted == "sampler" and generator.sampling_strategy == "joint":
        assert set(audit.runs["share"]) == {0.25, 1.0}
    elif wanted in ("fixed", "sampler"):
        real = {f"{k}, {g}": ((y == k) & (group == g)).mean() for k in (0, 1) for g in "ab"}
        cells = audit.runs[audit.runs["cell"] != "all"]
        assert cells["share"].to_numpy() == pytest.approx(cells["cell"].map(real).to_numpy())


def test_mixed_tables_and_intersections():
    rng = np.random.default_rng(0)
    n = 160
    X = pd.DataFrame({"n": rng.integers(0, 9, n), "c": pd.Categorical(rng.choice(list("xyz"), n))})
    groups = pd.DataFrame({"g": np.arange(n) % 2, "h": np.arange(n) // 2 % 2})
    for conditions in ("fixed", "joint"):
        audit = autophagy_audit(
            SmoothedGenerator(), X, sensitive_features=groups, conditions=conditions, **SMALL
        )
        assert set(audit.runs["cell"]) == {"all", "(0, 0)", "(0, 1)", "(1, 0)", "(1, 1)"}
        assert audit.runs["label"].isna().all()
        assert (0, 1) in audit.runs["group"].tolist()


def test_labels_alone_and_nothing_at_all():
    X, y, _ = rows()
    labelled = autophagy_audit(CopulaGenerator(), X, np.where(y, "yes", "no"), **SMALL)
    assert set(labelled.runs["cell"]) == {"all", "yes", "no"}
    assert labelled.runs["group"].isna().all()
    plain = autophagy_audit(GaussianMixture(1), X, **SMALL)
    assert set(plain.runs["cell"]) == {"all", "all rows"}


def test_images():
    X = np.random.default_rng(0).random((60, 1, 4, 4)).astype(np.float32)
    y = np.arange(60) % 2
    audit = autophagy_audit(SmoothedGenerator(), X, y, **SMALL)
    assert audit.runs["frechet_distance"].notna().all()
    with pytest.raises(ValueError, match="X holds images"):
        autophagy_audit(SmoothedGenerator(), X, y, conditions="joint", **SMALL)


@pytest.mark.slow
def test_loops_at_the_same_time_give_the_same():
    X, y, group = rows()
    audits = [
        autophagy_audit(CopulaGenerator(), X, y, sensitive_features=group, n_jobs=jobs, **SMALL)
        for jobs in (1, 2)
    ]
    pd.testing.assert_frame_equal(audits[0].runs, audits[1].runs)


def test_the_generator_that_came_in_stays_as_it_is():
    generator = GaussianMixture(1, random_state=3)
    autophagy_audit(generator, rows()[0], **SMALL)
    assert generator.random_state == 3 and not hasattr(generator, "means_")


def test_the_median_of_small_loops_collapses_and_the_mean_does_not():
    """Method notes: mean variance 1 with n - 1, median .1 after 20 generations, n = 10."""

    class Unbiased(BaseEstimator):
        def __init__(self, random_state=None):
            self.random_state = random_state

        def fit(self, X):
            self.mean_, self.sd_ = X.mean(), X.std(ddof=1)
            return self

        def sample(self, n):
            rng = np.random.default_rng(self.random_state)
            return rng.normal(self.mean_, self.sd_, size=(n, 1))

    X = np.random.default_rng(0).normal(size=(300, 1))
    audit = autophagy_audit(
        Unbiased(), X, n_generations=15, n_seeds=30, n_samples=10, detector=None, random_state=0
    )
    last = audit.summary.query("generation == 15 and cell == 'all' and measure == 'variance_ratio'")
    assert last["median"].item() < 0.35
    assert last["mean"].item() > 2 * last["median"].item()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "real"}, "mode='real': wanted one of synthetic"),
        ({"conditions": "all"}, "conditions='all'"),
        ({"n_generations": 0}, "n_generations=0"),
        ({"n_seeds": 1.5}, "n_seeds=1.5"),
        ({"n_samples": 0}, "n_samples=0"),
        ({"real_share": 2}, "real_share=2"),
        ({"quantiles": (0.9, 0.1)}, "quantiles"),
        ({"generator": object()}, "object without fit and sample"),
        ({"generator": CellSampler(), "conditions": "fixed"}, "sampling_strategy"),
        ({"generator": CellSampler(sampling_strategy="match")}, "no synthetic rows"),
    ],
)
def test_arguments_that_cannot_be_used(settings, message):
    X, y, group = rows()
    settings = {"generator": GaussianMixture(1)} | settings
    with pytest.raises(ValueError, match=message):
        autophagy_audit(X=X, y=y, sensitive_features=group, **settings)


def test_the_plot_shows_medians_and_where_they_should_be():
    X, y, group = rows()
    audit = autophagy_audit(Forgetful(), X, y, sensitive_features=group, **SMALL)
    axes = plot_autophagy(audit, measures=["share", "variance_ratio", "share_ratio"])
    assert axes.shape == (3,)
    summary = audit.summary.set_index(["cell", "measure"])
    lines = {line.get_label(): line for line in axes[0].get_lines()}
    wanted = summary.loc[("0, a", "share"), "median"].to_numpy()
    assert lines["0, a"].get_ydata() == pytest.approx(wanted)
    assert any(np.allclose(line.get_ydata(), 1) for line in axes[1].get_lines())
    assert "all rows" not in lines
    labels = [text.get_text() for text in axes[-1].get_legend().get_texts()]
    assert labels == ["all rows", "0, a", "0, b", "1, a", "1, b"]
    axes[0].figure.canvas.draw()


def test_the_plot_refuses_what_it_cannot_draw():
    audit = autophagy_audit(GaussianMixture(1), rows()[0], **SMALL)
    with pytest.raises(ValueError, match="wanted some of share"):
        plot_autophagy(audit, measures=["beauty"])
    axes = plot_autophagy(audit)
    with pytest.raises(ValueError, match="pass as many"):
        plot_autophagy(audit, measures=["share"], axes=axes)
    again = plot_autophagy(audit, axes=axes)
    assert again[0] is axes[0]
