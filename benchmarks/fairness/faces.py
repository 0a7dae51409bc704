"""Man or woman from a face, by a network that nobody here trained, in groups by race or by age.

The network is dlib's gender classifier. The faces are FairFace's (Karkkainen and Joo, 2021), which
are not known to be among its training pictures. Both are read from the folder ``FAIRSVD_DATA``:

- ``fairface/labels.csv`` with the columns path, sex, race and age, and ``fairface/images.zip``
  with the files of these paths, 64 x 64. A path begins with the folder of the split, ``train`` or
  ``val``.
- ``nets/gender_net.py``, whose ``gender_net()`` makes the network: 32 x 32 RGB in 0 to 255 ->
  logits of woman and man.
"""

from __future__ import annotations

import importlib.util
import io
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from benchmarks.fairness.image_rows import ImageProblem, halves
from benchmarks.tasks import Rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["faces_by_age", "faces_by_race", "gender_network"]

SIDE = 32
# Rows to edit and choose on, and test rows of a development run.
SIZES = (2000, 5000)
QUICK_SIZES = (240, 200)
# Age groups from FairFace's nine ranges, wide enough for some rows of each among 2,000.
AGES = {"0-2": "0-9", "3-9": "0-9", "10-19": "10-19", "20-29": "20-29", "30-39": "30-49"}
AGES |= {"40-49": "30-49", "50-59": "50+", "60-69": "50+", "more than 70": "50+"}


def located(folder: str, name: str, task: str = "faces-gender") -> Path:
    """Find a file below ``FAIRSVD_DATA``, or say what is missing."""
    from fairsvd.exceptions import DatasetNotFoundError

    root = os.environ.get("FAIRSVD_DATA")
    path = Path(root or "").expanduser() / folder / name
    if not root or not path.is_file():
        place = path if root else "FAIRSVD_DATA (not set)"
        raise DatasetNotFoundError(
            f"the task {task} needs {folder}/{name}; looked for {place}. Nothing is "
            "downloaded: let FAIRSVD_DATA name a folder that holds it, as the files of "
            "benchmarks/fairness describe, or leave the task out of --tasks."
        )
    return path


def gender_network() -> nn.Module:
    """Make the given network by the code that stands beside its weights; in eval mode."""
    path = located("nets", "gender_net.py")
    spec = importlib.util.spec_from_file_location("gender_net", path)
    assert spec is not None and spec.loader is not None  # the file exists and ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: nn.Module = module.gender_net().eval()
    return network


def decoded(paths: Sequence[str]) -> np.ndarray:
    """Read faces and halve their sides by bilinear interpolation, as Pillow does.

    Parameters
    ----------
    paths : sequence of str
        Names inside ``fairface/images.zip``.

    Returns
    -------
    X : float32 ndarray of shape (n, 3, 32, 32), in [0, 255]
    """
    from PIL import Image

    X = np.empty((len(paths), 3, SIDE, SIDE), dtype=np.float32)
    with zipfile.ZipFile(located("fairface", "images.zip")) as archive:
        for row, path in enumerate(paths):
            with Image.open(io.BytesIO(archive.read(path))) as image:
                small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            X[row] = np.asarray(small, dtype=np.float32).transpose(2, 0, 1)
    return X


def parted(
    cells: np.ndarray, folder: np.ndarray, seed: int, dev: bool, sizes: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw editing rows of the training folder, and the test rows.

    Parameters
    ----------
    cells : int ndarray of shape (n,)
        The (label, group) cell of every row; both draws are stratified by it.
    folder : str ndarray of shape (n,)
        ``train`` or ``val``.
    seed : int
    dev : bool
        Test on further rows of the training folder, and on none of the validation folder.
    sizes : (editing rows, test rows of a development run)

    Returns
    -------
    edit, test : int ndarray
        Row positions.
    """
    from sklearn.model_selection import train_test_split

    pool = np.flatnonzero(folder == "train")
    edit, further = train_test_split(
        pool, train_size=sizes[0], test_size=sizes[1], stratify=cells[pool], random_state=seed
    )
    return edit, further if dev else np.flatnonzero(folder == "val")


def faces_by_race(form: str, seed: int, dev: bool, quick: bool) -> ImageProblem:
    """Load men (1) against women (0) in seven groups; see :func:`faces`."""
    return faces(lambda table: table["race"], form, seed, dev, quick)


def faces_by_age(form: str, seed: int, dev: bool, quick: bool) -> ImageProblem:
    """Load the same in five groups of age; see :func:`faces`."""
    return faces(lambda table: table["age"].map(AGES), form, seed, dev, quick)


def faces(
    attribute: Callable[[pd.DataFrame], pd.Series], form: str, seed: int, dev: bool, quick: bool
) -> ImageProblem:
    """Load men (1) against women (0): 2,000 editing and 5,000 test rows.

    The test rows are the whole validation folder. Editing rows come from the training folder, and
    so do the 5,000 other rows that development runs test on.
    """
    import pandas as pd

    table = pd.read_csv(located("fairface", "labels.csv"))
    groups, g = np.unique(attribute(table).to_numpy(dtype=str), return_inverse=True)
    y = (table["sex"] == "Male").to_numpy(dtype=np.int64)
    folder = table["path"].str.partition("/")[0].to_numpy(dtype=str)
    sizes = QUICK_SIZES if quick else SIZES
    edit, test = parted(y * len(groups) + g, folder, seed, dev, sizes)

    def rows_at(positions: np.ndarray) -> Rows:
        return Rows(decoded(table["path"].iloc[positions].tolist()), y[positions], g[positions])

    train, validation = halves(rows_at(edit), seed)
    return ImageProblem(
        task="",
        form=form,
        seed=seed,
        groups=tuple(map(str, groups)),
        base=None,
        unbiased=None,
        train=train,
        validation=validation,
        test=rows_at(test[: QUICK_SIZES[1]] if quick else test),
        steps=0,
        network=gender_network(),
    )
