"""Loader of FairFace: faces balanced over seven races."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.utils import Bunch

from . import _image_descriptions
from ._files import users_folder
from ._folders import as_names, bunch_faces, find_in, pick, read_csv, usable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_fairface"]

GENDERS = ("Male", "Female")
RACES = (
    *("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian"),
    "Middle Eastern",
)
AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
# First year of each class of ages.
FIRST_YEARS = (0, 3, 10, 20, 30, 40, 50, 60, 70)
ATTRIBUTES = {"gender": GENDERS, "race": RACES, "age": AGES}

TABLE = "labels.csv"
TABLES = {"train": "fairface_label_train.csv", "val": "fairface_label_val.csv"}
# Other names of the published columns.
NAMES = {"file": "path", "sex": "gender"}
# What the images were unpacked into, or the archive itself; "." for the folder of the tables.
IMAGES = (
    *("images.zip", "images"),
    *("fairface-img-margin025-trainval.zip", "fairface-img-margin025-trainval"),
    *("fairface-img-margin125-trainval.zip", "fairface-img-margin125-trainval"),
    ".",
)
SOURCE = "Take the labels and the images from https://github.com/joojs/fairface"


def load_fairface(
    root: str | os.PathLike[str] | None = None,
    *,
    target: str = "gender",
    sensitive: str | Iterable[str] = "race",
    split: str | None = "train",
    age_threshold: int = 40,
    on_error: str = "raise",
    **images: Any,
) -> Bunch:
    """Load FairFace, faces with gender, one of seven races and one of nine classes of ages.

    Parameters
    ----------
    root : str, os.PathLike or None, default=None
        Folder of ``fairface_label_train.csv``, ``fairface_label_val.csv`` and the folders
        ``train`` and ``val`` of the images, which may also be in a folder or zip archive
        ``images`` or of the published archive's name; or of one table ``labels.csv`` for both.
        None: ``fairface`` below the folder that ``FAIRSVD_DATA`` names, else below the cache.
        Nothing is downloaded.
    target : {"gender", "race", "age"}, default="gender"
        Label to predict: two genders, seven races, or whether ``age_threshold`` is reached.
    sensitive : str or iterable of str, default="race"
        One or several of the other two.
    split : {"train", "val"} or None, default="train"
        The published partition; None: all rows.
    age_threshold : {3, 10, 20, 30, 40, 50, 60, 70}, default=40
        Age in years at which the older group begins, the first year of a class.
    on_error : {"raise", "skip"}, default="raise"
        As in :func:`load_celeba`.
    **images : dict
        ``transform``, ``augment``, ``size``, ``mode`` and ``n_jobs`` of :class:`ImageFrame`.

    Returns
    -------
    bunch : Bunch
        As in :func:`load_celeba`: ``target`` numbers the ``target_names`` in order (of gender 1 is
        Female), ``sensitive_features`` has the columns race, gender or age_group (">=40" or "<40").

    Raises
    ------
    ValueError
        If a name is unknown, or a table is not in the published form.
    DatasetNotFoundError
        If the tables are missing.
    ImageFileError
        If images are missing, or none is left.

    References
    ----------
    .. [1] K. Karkkainen and J. Joo, FairFace: Face Attribute Dataset for Balanced Race, Gender, and
       Age, 2021. :arxiv:`1908.04913`.

    Examples
    --------
    >>> from fairsvd.datasets import load_fairface
    >>> faces = load_fairface(split="val", target="age", size=32)  # doctest: +SKIP
    """
    target = pick("target", target, list(ATTRIBUTES))
    names = as_names("sensitive", sensitive, list(ATTRIBUTES), target)
    if age_threshold not in FIRST_YEARS[1:]:
        raise ValueError(
            f"age_threshold must be the first year of a class of ages, one of {FIRST_YEARS[1:]}, "
            f"got {age_threshold!r}"
        )
    folder = users_folder("fairface", root, (TABLE, *TABLES.values()), SOURCE)
    table = _coded(_read_tables(folder, split), age_threshold)
    below = find_in("root", folder, *IMAGES)
    table["path"] = [str(below / path) for path in table["path"]]
    kept, skipped = usable(
        table, [None] * len(table), on_error=on_error, mode=images.get("mode", "RGB")
    )
    return bunch_faces(
        kept,
        skipped,
        target=target,
        sensitive=names,
        description=_image_descriptions.FAIRFACE,
        images=images,
    )


def _read_tables(folder: Path, split: str | None) -> pd.DataFrame:
    """Read the rows of a split: from its own table, or by the folders in the common one."""
    import pandas as pd

    wanted = list(TABLES) if split is None else [pick("split", split, list(TABLES))]
    if (folder / TABLE).is_file():
        table = _read(folder / TABLE)
        rows = table[table["path"].str.partition("/")[0].isin(wanted)]
    else:
        rows = pd.concat([_read(find_in("root", folder, TABLES[each])) for each in wanted])
    if rows.empty:
        raise ValueError(f"split={split!r} has no rows in {folder}")
    return rows.reset_index(drop=True)


def _read(path: Path) -> pd.DataFrame:
    table = read_csv(path, [])
    table = table.rename(columns={old: new for old, new in NAMES.items() if old in table})
    missing = [name for name in ("path", *ATTRIBUTES) if name not in table]
    if missing:
        raise ValueError(f"{path} has no column {missing}: it has {list(table.columns)}")
    return table


def _coded(table: pd.DataFrame, threshold: int) -> pd.DataFrame:
    """Make categories of the attributes and add the column age_group."""
    import pandas as pd

    for name, known in ATTRIBUTES.items():
        odd = ~table[name].isin(known)
        if odd.any():
            got = table[name][odd].tolist()[0]
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {got!r}")
        table[name] = pd.Categorical(table[name], categories=list(known))
    older = table["age"].cat.codes.to_numpy() >= FIRST_YEARS.index(threshold)
    groups = [f"<{threshold}", f">={threshold}"]
    table["age_group"] = pd.Categorical.from_codes(older.astype(int), categories=pd.Index(groups))
    return table
