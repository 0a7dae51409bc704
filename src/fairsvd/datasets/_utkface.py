"""Loader of UTKFace: faces with age, gender and race in the file names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.utils import Bunch

from . import _image_descriptions
from ._draws import check_count
from ._folders import as_names, bunch_faces, find_in, images_in, pick, usable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_utkface"]

GENDERS = ("male", "female")
RACES = ("White", "Black", "Asian", "Indian", "Others")
ATTRIBUTES = ("gender", "race", "age")

# Folders of the images in the published archives.
FOLDERS = ("UTKFace",), ("part1", "part2", "part3")

# Matches "25_1_2_20170116174525125.jpg.chip.jpg" without its last suffix.
NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_(\d+)(\.jpg\.chip|\.chip)?", re.IGNORECASE)
FORM = "its name is not [age]_[gender]_[race]_[date&time].jpg"


def load_utkface(
    root: str | os.PathLike[str],
    *,
    target: str = "gender",
    sensitive: str | Iterable[str] = "race",
    age_threshold: int = 35,
    on_error: str = "raise",
    **images: Any,
) -> Bunch:
    """Load UTKFace from its published files, whose names hold the labels.

    Parameters
    ----------
    root : str or os.PathLike
        Folder of the images, ``[age]_[gender]_[race]_[date&time].jpg`` or ``.jpg.chip.jpg``; or
        of their published folders ``UTKFace``, or ``part1`` to ``part3``.
    target : {"gender", "race", "age"}, default="gender"
        Label to predict: two genders, five races, or whether ``age_threshold`` is reached.
    sensitive : str or iterable of str, default="race"
        One or several of the other two.
    age_threshold : int, default=35
        Age in years at which the older group begins.
    on_error : {"raise", "skip"}, default="raise"
        What to do with the few published names that lack a label, and with images that are
        missing or cannot be decoded; see :func:`load_celeba`.
    **images : dict
        ``transform``, ``augment``, ``size`` and ``mode`` of :class:`ImageFrame`.

    Returns
    -------
    bunch : Bunch
        As in :func:`load_celeba`: ``target`` numbers the ``target_names`` in order,
        ``sensitive_features`` has the columns race, gender or age_group (">=35" or "<35").

    Raises
    ------
    ValueError
        If an attribute is unknown.
    DatasetNotFoundError
        If there are no images.
    ImageFileError
        If names or images cannot be used, or none is left.

    References
    ----------
    .. [1] Z. Zhang, Y. Song and H. Qi, Age Progression/Regression by Conditional Adversarial
       Autoencoder, 2017. :arxiv:`1702.08423`.

    Examples
    --------
    >>> from fairsvd.datasets import load_utkface
    >>> faces = load_utkface("UTKFace", on_error="skip", size=64)  # doctest: +SKIP
    """
    target = pick("target", target, ATTRIBUTES)
    names = as_names("sensitive", sensitive, ATTRIBUTES, target)
    table, problems = _parse_names(
        _folders_of(root), check_count("age_threshold", age_threshold, 1)
    )
    kept, skipped = usable(table, problems, on_error=on_error, mode=images.get("mode", "RGB"))
    kept = kept.astype({"age": "int64"})
    return bunch_faces(
        kept,
        skipped,
        target=target,
        sensitive=names,
        description=_image_descriptions.UTKFACE,
        images=images,
    )


def _folders_of(root: Any) -> list[Path]:
    folder = find_in("root", root, ".")
    for names in FOLDERS:
        below = [folder / name for name in names if (folder / name).is_dir()]
        if below:
            return below
    return [folder]


def _parse_names(folders: list[Path], threshold: int) -> tuple[pd.DataFrame, list[str | None]]:
    """Read the labels from the file names; return a table and the problem of each name."""
    import pandas as pd

    paths = images_in(folders)
    matches = [NAME.fullmatch(name) for name in paths]
    labels = [[int(text) for text in each.groups()[:3]] if each else [-1] * 3 for each in matches]
    ages, genders, races = zip(*labels, strict=True)
    groups = [-1 if age < 0 else int(age >= threshold) for age in ages]
    table = pd.DataFrame(
        {
            "path": list(paths.values()),
            "age": ages,
            "age_group": _as_categories(groups, (f"<{threshold}", f">={threshold}")),
            "gender": _as_categories(genders, GENDERS),
            "race": _as_categories(races, RACES),
        }
    )
    return table, [None if each else FORM for each in matches]


def _as_categories(codes: Any, names: tuple[str, ...]) -> Any:
    import pandas as pd

    return pd.Categorical.from_codes(codes, categories=pd.Index(names))
