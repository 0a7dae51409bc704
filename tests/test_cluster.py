"""Searches give the same numbers in one process, in two, on a Dask and on a Ray cluster."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
import torch
from sklearn.model_selection import GridSearchCV

from fairsvd import FairLRFTransformer, JointStratifiedKFold, best_under_gap, fairness_scorer
from helpers import IGNORE_SMALL_DATA, fingerprint, mlp, quick, skorch_net, table

pytestmark = [
    # Many short fits: together they take long.
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
]

# Trained in every fit and fold, but fast.
NET = skorch_net(mlp(), optimizer=torch.optim.Adam, lr=0.02, max_epochs=8)
# Under the default tolerance so few steps leave the untouched network in every cell of the grid.
small = partial(quick, NET, tolerance=0.1)
GRID = {"rank": [0.5, None], "sparsity": [0.0, 0.3]}
SCORES = ("mean_test_utility", "mean_test_gap", "split0_test_gap", "split1_test_utility")
ROWS = table(160)

Spread = Callable[[], AbstractContextManager[Any]]


@contextmanager
def dask_workers(folder: Path) -> Iterator[Spread]:
    """Two processes of one thread each; Dask starts them with OMP_NUM_THREADS=1 itself."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=str(folder),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield partial(joblib.parallel_config, backend="dask", client=client)


@contextmanager
def ray_workers(folder: Path) -> Iterator[Spread]:
    """Two actors of one processor each; nothing is reported and nothing written at home."""
    ray = pytest.importorskip("ray")
    joblib_backend = pytest.importorskip("ray.util.joblib")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Ray locks a new cluster, and would keep the key in the home folder; it sets the mode.
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.delenv("RAY_AUTH_MODE")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            joblib_backend.register_ray()
            yield partial(joblib.parallel_config, backend="ray", n_jobs=2)
        finally:
            ray.shutdown()


@contextmanager
def two_processes(folder: Path) -> Iterator[Spread]:
    yield partial(joblib.parallel_config, backend="loky", n_jobs=2, inner_max_num_threads=1)


STARTERS = {"loky": two_processes, "dask": dask_workers, "ray": ray_workers}
# Ray's backend starts processes anew for every parallel loop, which takes seconds each time.
RAY = pytest.param("ray", marks=pytest.mark.slow)
all_backends = pytest.mark.parametrize("spread", ["loky", "dask", RAY], indirect=True)
most_backends = pytest.mark.parametrize("spread", ["loky", "dask"], indirect=True)


@pytest.fixture(scope="module")
def spread(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give the context manager under which joblib spreads its tasks."""
    with STARTERS[request.param](tmp_path_factory.mktemp(request.param)) as context:
        yield context


def search(editor: FairLRFTransformer, grid: dict[str, Any] = GRID) -> GridSearchCV:
    """Search the grid with both metrics; metadata routing is on while it runs."""
    found = GridSearchCV(
        editor,
        grid,
        scoring={
            "utility": "balanced_accuracy",
            "gap": fairness_scorer("equalized_odds_difference"),
        },
        cv=JointStratifiedKFold(2),
        refit=best_under_gap("utility", "gap", limit=0.3),
        error_score="raise",
    )
    with sklearn.config_context(enable_metadata_routing=True):
        return found.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


def check_equal(found: Any, wanted: Any) -> None:
    for score in SCORES:
        assert np.array_equal(found.cv_results_[score], wanted.cv_results_[score]), score
    assert found.best_params_ == wanted.best_params_
    assert np.array_equal(found.predict_proba(ROWS.X), wanted.predict_proba(ROWS.X))


@pytest.fixture(scope="module")
def wanted() -> GridSearchCV:
    return search(small())


@all_backends
def test_every_worker_runs_torch_with_one_thread(spread: Spread) -> None:
    with spread():
        threads = joblib.Parallel()(joblib.delayed(torch.get_num_threads)() for _ in range(4))
    assert threads == [1, 1, 1, 1]


def test_the_grid_is_not_all_alike(wanted: GridSearchCV) -> None:
    """Else equal results would say little."""
    assert len(set(wanted.cv_results_["mean_test_gap"])) > 1
    assert (wanted.cv_results_["mean_test_gap"] < 0).any()


@most_backends
def test_a_search_finds_the_same(spread: Spread, wanted: GridSearchCV) -> None:
    """Metadata routing, which belongs to a thread, reaches scorers and splitter in the workers."""
    with spread():
        found = search(small())
    check_equal(found, wanted)


@all_backends
def test_the_weights_of_one_edit_are_the_same(spread: Spread) -> None:
    """The editor's own parallel loop, without a search around it."""

    def edit(n_jobs: int | None) -> FairLRFTransformer:
        editor = small(gap_weight=None, objective="soft_gap", n_jobs=n_jobs)
        return editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)

    alone = edit(1)
    with spread():
        found = edit(2)
    assert fingerprint(found.module_) == fingerprint(alone.module_)
    assert found.history_.equals(alone.history_)
    assert alone.history_["gap_weight"].nunique() == 3


@most_backends
def test_a_search_over_parallel_edits_finds_the_same(spread: Spread) -> None:
    """Loops inside loops: the inner one is spread, too, or runs where it is; equal either way."""
    grid = {"sparsity": [0.3]}
    alone = search(small(gap_weight=None), grid)
    with spread():
        found = search(small(gap_weight=None, n_jobs=2), grid)
    check_equal(found, alone)


def written(folder: Path) -> dict[Path, int]:
    """When every entry below a folder was written last."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@most_backends
def test_workers_share_a_cache(spread: Spread, wanted: GridSearchCV, tmp_path: Path) -> None:
    """A search in this process then trains nothing, so it writes nothing: equal keys."""
    with spread():
        first = search(small(memory=str(tmp_path)))
    files = written(tmp_path)
    second = search(small(memory=str(tmp_path)))
    check_equal(first, wanted)
    check_equal(second, wanted)
    assert files
    assert written(tmp_path) == files


@most_backends
def test_the_cache_of_one_process_serves_the_workers(
    spread: Spread, wanted: GridSearchCV, tmp_path: Path
) -> None:
    search(small(memory=str(tmp_path)))
    files = written(tmp_path)
    with spread():
        found = search(small(memory=str(tmp_path)))
    check_equal(found, wanted)
    assert written(tmp_path) == files


@most_backends
def test_the_editor_with_its_own_search_finds_the_same(spread: Spread) -> None:
    from fairsvd import FairLRFTransformerCV

    def fit() -> Any:
        editor = FairLRFTransformerCV(
            NET,
            ranks=GRID["rank"],
            sparsities=GRID["sparsity"],
            gap_weights=(1.0,),
            cv=JointStratifiedKFold(2),
            max_steps=4,
            random_state=0,
        )
        return editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)

    alone = fit()
    with spread():
        found = fit()
    for score, values in alone.cv_results_.items():
        if "time" not in score:
            assert np.array_equal(found.cv_results_[score], values), score
    assert found.best_params_ == alone.best_params_
    assert fingerprint(found.module_) == fingerprint(alone.module_)
