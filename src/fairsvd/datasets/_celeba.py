"""Loader of CelebA: faces with forty attributes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.utils import Bunch

from . import _image_descriptions
from ._folders import as_names, bunch, find_in, pick, usable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_celeba"]

# Many copies have the files in the root instead of the published folders.
ATTRIBUTES = ("list_attr_celeba.txt", "Anno/list_attr_celeba.txt")
PARTITION = ("list_eval_partition.txt", "Eval/list_eval_partition.txt")
IMAGES = ("img_align_celeba", "Img/img_align_celeba")

SPLITS = {"train": 0, "valid": 1, "test": 2}


def load_celeba(
    root: str | os.PathLike[str],
    *,
    target: str = "Smiling",
    sensitive: str | Iterable[str] = "Male",
    split: str | None = "train",
    on_error: str = "raise",
    **images: Any,
) -> Bunch:
    """Load CelebA from its published files, with any attribute as label and others as groups.

    Parameters
    ----------
    root : str or os.PathLike
        Folder of ``list_attr_celeba.txt``, ``list_eval_partition.txt`` and ``img_align_celeba``,
        or of the published folders ``Anno``, ``Eval`` and ``Img`` with these.
    target : str, default="Smiling"
        The attribute to predict, one of the forty.
    sensitive : str or iterable of str, default="Male"
        One or several other attributes.
    split : {"train", "valid", "test"} or None, default="train"
        The published partition; None: all rows.
    on_error : {"raise", "skip"}, default="raise"
        "raise": missing images are an error that names them; one that cannot be decoded is an
        error when it is read. "skip": decode every image once, leave out the rows of unusable
        images and warn with their names.
    **images : dict
        ``transform``, ``augment``, ``size`` and ``mode`` of :class:`ImageFrame`.

    Returns
    -------
    bunch : Bunch
        ``data`` (ImageFrame; its ``data`` holds the forty attributes as 0 and 1, the sensitive ones
        as names), ``target`` (Series of int64: 1 = has the attribute), ``target_names``,
        ``sensitive_features`` (DataFrame: ``"Male"`` or ``"not Male"``), ``frame`` (the DataFrame
        of ``data``), ``group_columns`` (for each sensitive feature the columns that reveal it),
        ``favourable_label`` (None: no value is better for a person), ``skipped`` (DataFrame: path
        and reason of each row left out) and ``DESCR``.

    Raises
    ------
    ValueError
        If an attribute or a split is unknown (the message names the nearest), or a file is not in
        the published form.
    DatasetNotFoundError
        If a file or the folder of images is missing. Nothing is downloaded.
    ImageFileError
        If images are missing, or none is left.

    References
    ----------
    .. [1] Z. Liu, P. Luo, X. Wang and X. Tang, Deep Learning Face Attributes in the Wild, 2015.
       :arxiv:`1411.7766`.

    Examples
    --------
    >>> from fairsvd.datasets import load_celeba
    >>> celeba = load_celeba("celeba", sensitive=("Male", "Young"), size=64)  # doctest: +SKIP
    """
    table = _read_attributes(find_in("root", root, *ATTRIBUTES))
    known = list(table.columns[1:])
    target = pick("target", target, known)
    names = as_names("sensitive", sensitive, known, target)
    table = _take_split(table, find_in("root", root, *PARTITION), split)
    folder = find_in("root", root, *IMAGES)
    table["path"] = [str(folder / name) for name in table["path"]]
    for name in names:
        table[name] = table[name].map({0: f"not {name}", 1: name}).astype("category")
    kept, skipped = usable(
        table, [None] * len(table), on_error=on_error, mode=images.get("mode", "RGB")
    )
    return bunch(
        kept,
        skipped,
        target=kept[target].astype("int64"),
        target_names=[f"not {target}", target],
        groups={name: [name] for name in names},
        favourable_label=None,
        description=_image_descriptions.CELEBA,
        images=images,
    )


def _read_attributes(path: Path) -> pd.DataFrame:
    """Read the file: its number of rows, the names, then one row of -1 and 1 per image."""
    with path.open(encoding="utf-8") as file:
        announced, names = file.readline().strip(), file.readline().split()
    if not announced.isdigit():
        raise ValueError(f"{path} must begin with the number of its rows, got {announced[:40]!r}")
    table = _read_columns(path, skip=2)
    if table.shape != (int(announced), 1 + len(names)):
        raise ValueError(
            f"{path} announces {announced} rows of a file name and {len(names)} attributes, but "
            f"holds {len(table)} rows of {table.shape[1]} columns: it is incomplete or was changed"
        )
    table.columns = ["path", *names]
    odd = ~table[names].isin([-1, 1]).all(axis=1)
    if odd.any():
        raise ValueError(f"{path} must hold -1 and 1, but not for {table['path'][odd].iloc[0]}")
    table[names] = (table[names] == 1).astype("int8")
    return table


def _read_columns(path: Path, skip: int) -> pd.DataFrame:
    import pandas as pd

    try:
        # Without names, since pandas would take surplus columns for an index.
        return pd.read_csv(path, sep=r"\s+", header=None, skiprows=skip)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error


def _take_split(table: pd.DataFrame, path: Path, split: str | None) -> pd.DataFrame:
    if split is None:
        return table
    number = SPLITS[pick("split", split, list(SPLITS))]
    partition = _read_columns(path, skip=0)
    if partition.shape[1] != 2 or not partition[1].isin(list(SPLITS.values())).all():
        raise ValueError(f"{path} must hold a file name and 0, 1 or 2 in each row")
    numbers = table["path"].map(dict(zip(partition[0], partition[1], strict=True)))
    if numbers.isna().any():
        missing = table["path"][numbers.isna()]
        raise ValueError(f"{path} lacks {len(missing)} images, the first is {missing.iloc[0]}")
    rows = table[numbers == number].reset_index(drop=True)
    if rows.empty:
        raise ValueError(f"split={split!r} has no rows in {path}")
    return rows
