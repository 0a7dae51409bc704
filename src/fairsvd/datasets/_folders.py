"""Shared by the loaders of image folders: finding files, leaving out rows, the Bunch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.utils import Bunch

from .._messages import did_you_mean, listed
from .._warn import warn
from ..exceptions import DatasetNotFoundError, ImageFileError, SkippedRowsWarning
from ._archives import is_archive, is_file, member_names
from ._frame import ImageFrame
from ._pixels import problem_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "as_names",
    "bunch",
    "bunch_faces",
    "find_in",
    "images_in",
    "pick",
    "read_csv",
    "usable",
    "with_images",
]

SUFFIXES = (".jpg", ".jpeg", ".png")

# Number of names in a message; the others are counted.
SHOWN = 5


def pick(argument: str, name: Any, known: Sequence[str]) -> str:
    """Return ``name`` if it is known; the error names the nearest ones."""
    if isinstance(name, str) and name in known:
        return name
    hint = did_you_mean(name, known) or f" Wanted one of [{listed(known, 20, repr)}]."
    raise ValueError(f"{argument}={name!r} is not known.{hint}")


def as_names(argument: str, value: Any, known: Sequence[str], target: str | None) -> list[str]:
    """Read the names of one or several sensitive attributes, none of them the target."""
    values = [value] if isinstance(value, str) else value
    names = [pick(argument, each, known) for each in values]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{argument} must name one attribute or several, got {value!r}")
    if target in names:
        raise ValueError(
            f"{argument}={value!r}: {target!r} is the target and cannot be sensitive too"
        )
    return names


def find_in(argument: str, root: Any, *names: str) -> Path:
    """Find a file or folder below ``root`` that has one of several names.

    Raises
    ------
    DatasetNotFoundError
        If there is none; the message says where it was searched.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DatasetNotFoundError(f"{argument}={os.fspath(root)!r} is not a folder")
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise DatasetNotFoundError(
        f"{argument}={os.fspath(root)!r} does not hold {' or '.join(names)}: pass the folder that "
        "the published files were unpacked into"
    )


def images_in(folders: Sequence[Path]) -> dict[str, str]:
    """List the image files of some folders or zip archives, without their subfolders.

    Returns
    -------
    paths : dict of file name without its last suffix to path
        Sorted by name; of two files with one name, the one in the first folder.

    Raises
    ------
    DatasetNotFoundError
        If there is none.
    """
    paths: dict[str, str] = {}
    for folder in folders:
        for name in member_names(folder) if is_archive(folder) else os.listdir(folder):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES and "/" not in name:
                paths.setdefault(stem, os.path.join(folder, name))
    if not paths:
        places = ", ".join(str(folder) for folder in folders)
        raise DatasetNotFoundError(f"no image files ({', '.join(SUFFIXES)}) in {places}")
    return dict(sorted(paths.items()))


def read_csv(source: Any, needed: Sequence[str], texts: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table of labels, or take a DataFrame, and check that it has the needed columns.

    Columns of ``texts`` stay strings, since a name such as 12e4 is not a number.
    """
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        table, name = source.reset_index(drop=True), "the DataFrame of labels"
    else:
        name = os.fspath(source)
        if not os.path.isfile(name):
            raise DatasetNotFoundError(f"the table of labels {name} was not found")
        try:
            table = pd.read_csv(name, dtype=dict.fromkeys(texts, str))
        except ValueError as error:  # pandas' parser errors are ValueErrors
            raise ValueError(f"{name} cannot be read as a table: {error}") from error
    missing = [column for column in needed if column not in table]
    if missing:
        raise ValueError(
            f"{name} has no column {missing}: it has [{listed(table.columns, 20, repr)}]"
        )
    if table.empty:
        raise ValueError(f"{name} has no rows")
    return table


def with_images(table: pd.DataFrame, column: str, folders: Sequence[Path]) -> pd.DataFrame:
    """Insert a first column "path", found by the names without suffix in ``column``.

    If there is no such file, it is the path that a .jpg of that name would have.
    """
    paths = images_in(folders)
    names = [str(name) for name in table[column]]
    table = table.drop(columns="path", errors="ignore")
    table.insert(0, "path", [paths.get(n, str(folders[0] / f"{n}.jpg")) for n in names])
    return table


def usable(
    table: pd.DataFrame,
    problems: Sequence[str | None],
    *,
    on_error: str,
    mode: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Leave out unusable rows, or refuse a table that has any.

    Parameters
    ----------
    table : DataFrame
        With a column "path".
    problems : sequence of str or None
        Known problem of each row, or None.
    on_error : {"raise", "skip"}
        "raise": an error names such rows; images are not opened. "skip": every image is decoded
        as a check, such rows are left out, and a warning names them.
    mode : str
        As in ImageFrame.

    Returns
    -------
    kept, skipped : DataFrame
        The usable rows, numbered anew; path and reason of the others.

    Raises
    ------
    ImageFileError
        If rows cannot be used under "raise", or no row can be used.
    """
    import pandas as pd

    pick("on_error", on_error, ("raise", "skip"))
    reasons = [
        reason or (_unreadable(path, mode) if on_error == "skip" else _missing(path))
        for path, reason in zip(table["path"], problems, strict=True)
    ]
    unusable = pd.Series([reason is not None for reason in reasons], index=table.index, dtype=bool)
    skipped = pd.DataFrame({"path": table["path"], "reason": reasons}, dtype=object)[unusable]
    skipped = skipped.reset_index(drop=True)
    if on_error == "raise" and len(skipped):
        raise ImageFileError(f'{_list_names(skipped)}. on_error="skip" leaves such rows out.')
    if len(skipped) == len(table):
        raise ImageFileError(f"no row can be used: {_list_names(skipped)}")
    if len(skipped):
        warn(f"left out: {_list_names(skipped)}", SkippedRowsWarning)
    return table[~unusable].reset_index(drop=True), skipped


def _missing(path: str) -> str | None:
    return None if is_file(path) else "there is no such file"


def _unreadable(path: str, mode: str) -> str | None:
    return _missing(path) or problem_of(path, mode)


def _list_names(skipped: pd.DataFrame) -> str:
    rows = skipped.head(SHOWN).itertuples()
    names = "; ".join(f"{row.path}: {str(row.reason).rstrip('.')}" for row in rows)
    more = len(skipped) - SHOWN
    return f"{len(skipped)} of the images ({names}{f'; and {more} more' if more > 0 else ''})"


def bunch(
    table: pd.DataFrame,
    skipped: pd.DataFrame,
    *,
    target: pd.Series,
    target_names: Sequence[str],
    groups: dict[str, list[str]],
    favourable_label: int | None,
    description: str,
    images: Mapping[str, Any],
) -> Bunch:
    """Gather what a loader of images returns."""
    name = str(target.name)
    return Bunch(
        data=ImageFrame(table, **images),
        target=target,
        sensitive_features=table[list(groups)].copy(),
        frame=table if name in table else table.assign(**{name: target}),
        target_names=list(target_names),
        favourable_label=favourable_label,
        group_columns=groups,
        skipped=skipped,
        DESCR=description,
    )


def bunch_faces(
    table: pd.DataFrame,
    skipped: pd.DataFrame,
    *,
    target: str,
    sensitive: Sequence[str],
    description: str,
    images: Mapping[str, Any],
) -> Bunch:
    """Gather what a loader of faces returns; of ages the two groups are target and groups."""
    label = table["age_group" if target == "age" else target]
    columns = {"age": ("age_group", ["age_group", "age"])}
    return bunch(
        table,
        skipped,
        target=label.cat.codes.astype("int64").rename(f"{target}_code"),
        target_names=list(label.cat.categories),
        groups=dict(columns.get(name, (name, [name])) for name in sensitive),
        favourable_label=None,
        description=description,
        images=images,
    )
