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

# The published folders, and where many copies have their files: in the root.
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
    """Load CelebA from its published files: any attribute as the label, others as groups.

    Parameters
    ----------
    root : str or os.PathLike
        Folder of ``list_attr_celeba.txt``, ``list_eval_partition.txt`` and ``img_align_celeba``,
        or of the published ``Anno``, ``Eval`` and ``Img`` that hold them.
    target : str, default="Smiling"
        The attribute to predict, one of the forty.
    sensitive : str or iterable of str, default="Male"
        One or several other attributes.
    split : {"train", "valid", "test"} or None, default="train"
        The published partition; None: all rows.
    on_error : {"raise", "skip"}, default="raise"
        Images that are missing: "raise" an error that names them (one that is there but cannot be
        decoded is named when it is read), or "skip": decode every image once, leave out the rows
        of those that cannot be used, and warn with their names.
    **images : dict
        ``transform``, ``augment``, ``size`` and ``mode`` of :class:`ImageFrame`.

    Returns
    -------
    bunch : Bunch
        ``data`` (ImageFrame; its ``data`` holds the forty attributes as 0 and 1, the sensitive ones
        by name), ``target`` (Series of int64: 1 = the attribute is there), ``target_names``,
        ``sensitive_features`` (DataFrame: ``"Male"`` or ``"not Male"``), ``frame`` (the DataFrame
        of ``data``), ``group_columns`` (for each sensitive feature the columns that state it),
        ``favourable_label`` (None: no value is better for a person), ``skipped`` (DataFrame: path
        and reason of each row left out) and ``DESCR``.

    Raises
    ------
    ValueError
        An attribute or a split is unknown (the nearest names are given), or a file is not in the
        published form.
    DatasetNotFoundError
        A file or the folder of images is not there. Nothing is downloaded.
    ImageFileError
        Images are missing, or none is left.

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
    table = _of_split(table, find_in("root", root, *PARTITION), split)
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
    """Read the number of rows, the names, and a row an image of -1 and 1."""
    with path.open(encoding="utf-8") as file:
        announced, names = file.readline().strip(), file.readline().split()
    if not announced.isdigit():
        raise ValueError(f"{path} must begin with the number of its rows, got {announced[:40]!r}")
    table = _read_columns(path, skip=2)
    if table.shape != (int(announced), 1 + len(names)):
        raise ValueError(
            f"{path} announces {announced} rows of a file name and {len(names)} attributes, and "
            f"holds {len(table)} rows of {table.shape[1]} columns: it is not whole, or was changed"
        )
    table.columns = ["path", *names]
    odd = ~table[names].isin([-1, 1]).all(axis=1)
    if odd.any():
        raise ValueError(f"{path} must hold -1 and 1, not so for {table['path'][odd].iloc[0]}")
    table[names] = (table[names] == 1).astype("int8")
    return table


def _read_columns(path: Path, skip: int) -> pd.DataFrame:
    import pandas as pd

    try:
        # Without names: with them, columns too many would pass for an index.
        return pd.read_csv(path, sep=r"\s+", header=None, skiprows=skip)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error


def _of_split(table: pd.DataFrame, path: Path, split: str | None) -> pd.DataFrame:
    if split is None:
        return table
    number = SPLITS[pick("split", split, list(SPLITS))]
    partition = _read_columns(path, skip=0)
    if partition.shape[1] != 2 or not partition[1].isin(list(SPLITS.values())).all():
        raise ValueError(f"{path} must hold a file name and 0, 1 or 2 in each row")
    of_image = table["path"].map(dict(zip(partition[0], partition[1], strict=True)))
    if of_image.isna().any():
        missing = table["path"][of_image.isna()]
        raise ValueError(f"{path} does not have {len(missing)} images, {missing.iloc[0]} first")
    chosen = table[of_image == number].reset_index(drop=True)
    if chosen.empty:
        raise ValueError(f"split={split!r} has no rows in {path}")
    return chosen
