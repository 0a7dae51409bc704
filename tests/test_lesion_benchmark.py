"""The benchmark's lesions: all images of a lesion are in one part."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn.utils import Bunch

from benchmark_files import load

in_blocks = load("nets").in_blocks

N = 240


def source(shape=(1, 8, 8)):
    """Make lesions of one to three images, whose first number says which lesion it is."""
    lesion = np.sort(np.arange(N) % (N // 2))
    images = np.zeros((N, *shape), np.float32)
    images.reshape(N, -1)[:, 0] = lesion
    age = pd.Series(pd.Categorical(np.array(["<60", ">=60"])[np.arange(N) // 3 % 2]))
    age[:6] = None
    bunch = Bunch(
        target=pd.Series(np.arange(N) // 2 % 2),
        sensitive_features=pd.DataFrame({"age_group": age}),
        frame=pd.DataFrame({"lesion_id": lesion.astype(str)}),
    )
    return bunch, images


def lesions_of(rows):
    return set(rows.X.reshape(len(rows.y), -1)[:, 0].astype(int).tolist())


@pytest.mark.parametrize("dev", [False, True])
def test_parts_share_no_lesion(dev):
    problem = load("fairness.lesions").lesions("as-is", 0, dev, False, "age_group", source)
    parts = [problem.base, problem.train, problem.validation, problem.test]
    found = [lesions_of(part) for part in parts]
    assert sum(map(len, found)) == len(set().union(*found))
    sizes = [len(part.y) for part in parts]
    # Rows without an age are left out; development leaves the test rows out as well.
    assert sum(sizes) == N - 6 if not dev else sum(sizes) < 0.75 * N
    assert problem.groups == ("<60", ">=60")
    assert problem.network is None and problem.steps == 1500


@pytest.mark.parametrize("shape", [(12,), (3, 9, 9)])
def test_features_and_photographs_come_with_a_trained_network(shape, monkeypatch):
    tasks = load("fairness.lesions")
    monkeypatch.setattr(tasks, "train", partial(tasks.train, epochs=1))
    problem = tasks.lesions("as-is", 0, False, True, "age_group", lambda: source(shape))
    assert problem.base is None
    assert problem.train.X.shape[1:] == shape
    assert in_blocks(problem.network, problem.test.X).shape == (len(problem.test.y), 2)


def test_tasks_have_names():
    tasks = load("fairness.lesions")
    assert sorted(load("fairness.image_tasks").TASKS) == sorted(
        [
            "tinted-fashion",
            "tinted-fashion-pairs",
            "tinted-fashion-64",
            "tinted-digits",
            *tasks.LESION_TASKS,
            "faces-gender",
            "faces-gender-age",
        ]
    )
