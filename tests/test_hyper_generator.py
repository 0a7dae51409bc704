"""HyperGenerator: what it learns, what it draws, and how it behaves as an estimator."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from fairsvd import CellSampler, HyperGenerator
from fairsvd.exceptions import GroupError, SmallCellWarning
from fairsvd.generative import Generator
from helpers import global_state

QUICK = {"n_steps": 5, "n_sets": 2, "n_draws": 2, "hidden": (8,), "random_state": 0}


@parametrize_with_checks([HyperGenerator(**QUICK)])
@pytest.mark.filterwarnings("ignore::fairsvd.exceptions.SmallCellWarning")
def test_scikit_learn_check(estimator, check):
    check(estimator)


def mixed(n: int = 300, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Draw a table with every kind of column, labels and groups; label and group move "income"."""
    rng = np.random.default_rng(seed)
    y, group = rng.choice(["no", "yes"], n), rng.choice(["a", "b"], n, p=[0.8, 0.2])
    income = rng.normal(size=n) + 3 * (y == "yes") - 2 * (group == "b")
    income[rng.random(n) < 0.1] = np.nan
    X = pd.DataFrame(
        {
            "age": rng.integers(18, 80, n),
            "income": income.astype(np.float32),
            "job": pd.Categorical(rng.choice(["x", "y", "z"], n, p=[0.7, 0.25, 0.05])),
            "grade": pd.Categorical(rng.choice(list("CBA"), n), list("CBA"), ordered=True),
            "flag": rng.random(n) < 0.2,
            "city": rng.choice(["here", "there"], n).astype(object),
        }
    )
    return X, y, group


@pytest.fixture(scope="module")
def task():
    return mixed()


@pytest.fixture(scope="module")
def fitted(task):
    X, y, group = task
    return HyperGenerator(**QUICK | {"n_steps": 20}).fit(X, y, sensitive_features=group)


def test_draws_have_the_columns_and_types_that_came(fitted, task):
    X, _, _ = task
    drawn = fitted.sample(200)
    assert list(drawn.columns) == list(X.columns)
    assert drawn.dtypes.equals(X.dtypes)
    assert len(drawn) == 200
    for name in ("job", "grade", "flag", "city"):
        assert set(drawn[name]) <= set(X[name])
    assert drawn["income"].isna().mean() == pytest.approx(0.1, abs=0.07)
    shares, wanted = (t["job"].value_counts(normalize=True) for t in (fitted.sample(3000), X))
    assert (shares - wanted).abs().max() < 0.04


def test_conditions_are_kept(fitted):
    rich, poor = (fitted.sample(conditions={cell: 400}) for cell in (("yes", "a"), ("no", "b")))
    assert rich["income"].mean() == pytest.approx(3, abs=0.4)
    assert poor["income"].mean() == pytest.approx(-2, abs=0.6)


def test_conditions_come_in_several_forms(fitted):
    as_dict = fitted.sample(conditions={("yes", "a"): 2, ("no", "b"): 1})
    pairs = [("yes", "a"), ("yes", "a"), ("no", "b")]
    for form in (pairs, np.array(pairs), [list(pair) for pair in pairs]):
        pd.testing.assert_frame_equal(fitted.sample(3, form), as_dict)
        pd.testing.assert_frame_equal(fitted.sample(conditions=form), as_dict)


def test_shares_of_fit_are_kept_by_its_counts(fitted, task):
    _, y, group = task
    assert fitted.cell_counts_[("no", "b")] == ((y == "no") & (group == "b")).sum()
    assert len(fitted.sample(conditions=fitted.cell_counts_)) == len(y)


@pytest.mark.parametrize(
    ("n", "conditions", "error", "message"),
    [
        (None, None, ValueError, "n and conditions are None"),
        (3, {("yes", "a"): 2}, ValueError, "conditions has 2 entries"),
        (1, [("maybe", "a")], GroupError, "maybe"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(fitted, n, conditions, error, message):
    with pytest.raises(error, match=message):
        fitted.sample(n, conditions)


def test_equal_seeds_give_equal_rows_and_move_nothing(task):
    X, y, group = task
    before = global_state()
    first, second = (
        HyperGenerator(**QUICK).fit(X, y, sensitive_features=group).sample(20) for _ in range(2)
    )
    other = clone(HyperGenerator(**QUICK | {"random_state": 1}))
    assert global_state() == before
    pd.testing.assert_frame_equal(first, second)
    assert not other.fit(X, y, sensitive_features=group).sample(20).equals(first)


def test_pickles_draw_the_same(fitted):
    again = pickle.loads(pickle.dumps(fitted))
    pd.testing.assert_frame_equal(again.sample(9), fitted.sample(9))


def test_before_fit_nothing_is_drawn():
    for call in (lambda h: h.sample(3), lambda h: h.estimate([[1.0]])):
        with pytest.raises(NotFittedError):
            call(HyperGenerator())


@pytest.mark.parametrize("kind", ["gaussian", "mixture", "vae"])
@pytest.mark.parametrize("normalize", ["whiten", "scale", "table"])
def test_every_generator_draws_finite_rows(kind, normalize):
    X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    generator = HyperGenerator(kind, normalize=normalize, **QUICK).fit(X)
    drawn = generator.sample(30)
    assert drawn.dtype == X.dtype and drawn.shape == (30, 3) and np.isfinite(drawn).all()
    assert generator.loss_curve_.shape == (5,)
    assert generator.cells_ == [0]


def test_images_keep_shape_dtype_and_cell():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = (rng.random((60, 2, 6, 5)) * 50 + 150 * y[:, None, None, None]).astype(np.uint8)
    settings = QUICK | {"n_steps": 60, "learning_rate": 0.01, "set_size": 16}
    generator = HyperGenerator("vae", **settings).fit(X, y)
    dark, light = (generator.sample(conditions={k: 20}) for k in (0, 1))
    assert dark.dtype == np.uint8 and dark.shape == (20, 2, 6, 5)
    assert light.mean() - dark.mean() > 60
    with pytest.raises(ValueError, match="holds images: use 'vae'"):
        HyperGenerator(**QUICK).fit(X, y)


def test_natural_parameters_follow_the_data_in_their_units():
    X = np.random.default_rng(0).normal(size=(200, 2)) * [1, 30] + [5, -100]
    generator = HyperGenerator(**QUICK).fit(X)
    here, there = generator.estimate(X), generator.estimate(X + np.array([1, 10]))
    assert here["mean"] == pytest.approx(X.mean(axis=0), abs=1.0)
    assert there["mean"] - here["mean"] == pytest.approx([1, 10], rel=0.1)
    assert here["covariance"] == pytest.approx(np.cov(X.T, ddof=0), rel=0.2, abs=3)
    part = generator.estimate(X[X[:, 0] > 5])
    assert part["mean"][0] > here["mean"][0] + 0.5
    assert part["covariance"][0, 0] < 0.6 * here["covariance"][0, 0]


def test_densities_are_those_of_the_natural_parameters():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    X = rng.normal(size=(200, 2)) * [1, 30] + 4 * y[:, None]
    generator = HyperGenerator(**QUICK).fit(X, y)
    each = []
    for label in (0, 1):
        named = generator.estimate(X[y == label])
        each.append(multivariate_normal(named["mean"], named["covariance"]).logpdf(X))
        scored = generator.score_samples(X, conditions=np.full(200, label))
        assert scored == pytest.approx(each[-1], abs=0.02)
    mixture = np.logaddexp(*each) - np.log(2)
    assert generator.score_samples(X) == pytest.approx(mixture, abs=0.02)


def test_where_there_is_no_density_none_is_given(fitted, task):
    assert not hasattr(HyperGenerator("vae"), "score_samples")
    with pytest.raises(ValueError, match="categories have no density"):
        fitted.score_samples(task[0])
    X = np.random.default_rng(0).normal(size=(30, 2))
    generator = HyperGenerator(**QUICK).fit(X)
    with pytest.raises(ValueError, match="missing values"):
        generator.score_samples(np.where(X > 2, np.nan, [[np.nan, 1.0]]))
    with pytest.raises(ValueError, match="one cell for each of the 30 rows"):
        generator.score_samples(X, conditions=[0])


def random_gaussians(rng, n_sets, n):
    spread = np.exp(rng.uniform(np.log(0.5), np.log(2), size=(n_sets, 1, 1)))
    return rng.normal(size=(n_sets, 1, 1)) + spread * rng.normal(size=(n_sets, n, 1))


def mean_ratio(generator: HyperGenerator, n: int = 10) -> float:
    """Average the emitted variance of data sets of n rows whose true variance is 1."""
    sets = torch.randn(4000, n, 1, generator=torch.Generator().manual_seed(1))
    scores = generator._emitted.scores
    rows = torch.stack([scores.encode_numbers(s.numpy()) for s in sets])
    with torch.no_grad():
        emission = generator.hypernetwork_(rows)
    scale = emission.weights["raw_scale"]
    sd = emission.factor[:, 0, 0] * torch.nn.functional.softplus(scale[:, 0]) * scores.scale[0]
    return sd.square().mean().item()


@pytest.mark.parametrize(
    ("weight", "penalty", "low", "high"),
    [(0.0, "pairs", 0.87, 0.92), (10.0, "pairs", 0.96, 1.02), (10.0, "detached", 0.945, 0.985)],
)
def test_the_penalty_takes_the_bias_out_of_small_samples(weight, penalty, low, high):
    """Maximum likelihood gives (n - 1) / n of the variance; n = 10."""
    settings = QUICK | {"n_steps": 150, "n_sets": 64, "n_draws": 8, "learning_rate": 0.01}
    generator = HyperGenerator(
        **settings,
        simulator=random_gaussians,
        set_size=10,
        autophagy_weight=weight,
        penalty=penalty,
    ).fit(np.random.default_rng(0).normal(size=(200, 1)))
    assert low < mean_ratio(generator) < high


@pytest.mark.slow
def test_without_normalisation_dependence_on_the_data_is_learned():
    X = np.random.default_rng(0).normal(size=(300, 1))
    generator = HyperGenerator(
        n_steps=300,
        n_sets=32,
        simulator=random_gaussians,
        set_size=20,
        normalize="table",
        outer=True,
        autophagy_weight=1.0,
        random_state=0,
    ).fit(X)
    shifts = [generator.estimate(X + by)["mean"] - generator.estimate(X)["mean"] for by in (1, -1)]
    assert shifts[0] >= 0.9 and shifts[1] <= -0.9
    spreads = [generator.estimate(X * by)["covariance"].item() for by in (0.7, 1.4)]
    assert spreads[1] > 2 * spreads[0]


def test_numbers_end_at_those_of_the_table_unless_told_not_to():
    X = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    kept, free = (HyperGenerator(**QUICK, clip=clip).fit(X).sample(2000) for clip in (True, False))
    assert kept.min() == X.min() and kept.max() == X.max()
    assert free.min() < X.min() and free.max() > X.max()
    assert np.array_equal(kept, free.clip(X.min(axis=0), X.max(axis=0)))


def test_a_second_fit_can_keep_the_network():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 2))
    generator = HyperGenerator(**QUICK, warm_start=True).fit(X)
    network, curve = generator.hypernetwork_, generator.loss_curve_
    generator.fit(X + 7, np.arange(80) % 2)
    assert generator.hypernetwork_ is network and generator.loss_curve_ is curve
    assert generator.sample(200).mean() == pytest.approx(7, abs=0.4)
    assert generator.cells_ == [0, 1]
    with pytest.raises(ValueError, match="other kinds than in fit"):
        generator.fit(np.column_stack([X[:, 0], X[:, 1] > 0]))
    assert generator.set_params(warm_start=False).fit(X).hypernetwork_ is not network


def test_a_cell_of_one_row_is_named_and_drawn_around():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 2)), np.array([1] + 39 * [0])
    X[0] = 50
    with pytest.warns(SmallCellWarning, match=r"The cells \[1\] have one row"):
        generator = HyperGenerator(**QUICK, normalize="whiten").fit(X, y)
    drawn = generator.sample(conditions={1: 50})
    assert drawn.mean() == pytest.approx(45, abs=6)


class Blob(Generator):
    """A user's own generator: unit variance around a location that is emitted."""

    noise_size = 2
    has_density = True

    def __init__(self) -> None:
        super().__init__()
        self.at = torch.nn.Parameter(torch.zeros(2))

    def nll(self, X, noise):
        return 0.5 * (X - self.at).square().sum(1) + np.log(2 * np.pi)

    def draw(self, noise):
        return self.at + noise


def test_a_module_of_the_user_is_copied_and_used():
    module = Blob()
    X = np.random.default_rng(0).normal(size=(60, 2)) + 9
    generator = HyperGenerator(module, **QUICK).fit(X)
    assert generator.generator_ is not module and module.at.requires_grad
    assert generator.sample(100).mean() == pytest.approx(9, abs=0.4)
    assert generator.score_samples(X).shape == (60,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generator": "gan"}, "generator"),
        ({"penalty": "none"}, "penalty"),
        ({"autophagy_weight": -1.0}, "autophagy_weight"),
        ({"n_draws": 1}, "n_draws=1"),
        ({"set_size": (9, 3)}, "set_size"),
        ({"set_size": (1, 2, 3)}, "set_size"),
        ({"simulator": lambda rng, n_sets, n: np.zeros((n, 2))}, r"simulator returned .* \(4, 2\)"),
        ({"learning_rate": 1e20}, "lower learning_rate"),
        ({"generator": torch.nn.Linear(2, 2)}, "Linear without nll"),
    ],
)
def test_arguments_that_cannot_be_used(settings, message):
    X = np.random.default_rng(0).normal(size=(30, 2))
    generator = HyperGenerator(**QUICK | {"set_size": 4} | settings)
    with pytest.raises(ValueError, match=message):
        generator.fit(X)
    assert not hasattr(generator, "hypernetwork_")


def test_a_failed_fit_loses_nothing():
    X = np.random.default_rng(0).normal(size=(30, 2))
    generator = HyperGenerator(**QUICK).fit(X)
    before = generator.sample(5)
    with pytest.raises(ValueError, match="infinite"):
        generator.fit(np.full((30, 3), np.inf))
    with pytest.raises(ValueError, match="lower learning_rate"):
        generator.set_params(learning_rate=1e20).fit(X[:, :1])
    assert generator.n_features_in_ == 2
    assert np.array_equal(generator.sample(5), before)


def test_the_simulator_wants_numbers(task):
    generator = HyperGenerator(**QUICK, simulator=random_gaussians)
    with pytest.raises(ValueError, match="an X of numbers only"):
        generator.fit(task[0])


def test_progress_is_shown_where_it_is_asked_for(capsys):
    X = np.random.default_rng(0).normal(size=(30, 2))
    HyperGenerator(**QUICK).fit(X)
    assert capsys.readouterr().err == ""
    HyperGenerator(**QUICK, verbose=1).fit(X)
    assert "HyperGenerator: 100%" in capsys.readouterr().err


def test_the_paper_s_form():
    generator = HyperGenerator.ple("mixture", n_components=2)
    wanted = {"autophagy_weight": 0.1, "n_draws": 1, "penalty": "through", "normalize": "table"}
    assert wanted.items() <= generator.get_params().items()
    X = np.random.default_rng(0).normal(size=(30, 2))
    assert HyperGenerator.ple(**QUICK | {"n_draws": 1}).fit(X).sample(3).shape == (3, 2)


def test_the_sampler_takes_it(task):
    X, y, group = task
    sampler = CellSampler(generator=HyperGenerator(**QUICK), random_state=0)
    X_res, y_res = sampler.fit_resample(X, y, sensitive_features=pd.Series(group, name="g"))
    assert y_res.groupby([y_res, y_res.index]).size().nunique() == 1
    assert X_res.dtypes.equals(X.dtypes)
