"""Loader of UTKFace: faces whose file names say age, gender and race."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.utils import Bunch

from . import _image_descriptions
from ._draws import check_count
from ._folders import as_names, bunch, find_in, images_in, pick, usable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_utkface"]

GENDERS = ("male", "female")
RACES = ("White", "Black", "Asian", "Indian", "Others")
ATTRIBUTES = ("gender", "race", "age")

# Where the published archives put the images below the folder they are unpacked into.
FOLDERS = ("UTKFace",), ("part1", "part2", "part3")

# What is left of "25_1_2_20170116174525125.jpg.chip.jpg" without its last suffix.
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
        the one that holds ``UTKFace``, or ``part1`` to ``part3``.
    target : {"gender", "race", "age"}, default="gender"
        What to predict: two genders, five races, or whether ``age_threshold`` is reached.
    sensitive : str or iterable of str, default="race"
        One or several of the others.
    age_threshold : int, default=35
        Age in years from which on a person belongs to the older group.
    on_error : {"raise", "skip"}, default="raise"
        A few of the published names lack a label. Those, and images that are missing or cannot
        be decoded, as of :func:`load_celeba`.
    **images : dict
        ``transform``, ``augment``, ``size`` and ``mode`` of :class:`ImageFrame`.

    Returns
    -------
    bunch : Bunch
        As of :func:`load_celeba`: ``target`` counts in the order of ``target_names``,
        ``sensitive_features`` has the columns race, gender or age_group (">=35" or "<35").

    Raises
    ------
    ValueError
        An attribute is unknown.
    DatasetNotFoundError
        There are no images.
    ImageFileError
        Names or images cannot be used, or none is left.

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
    table, problems = _parsed(_folders_of(root), check_count("age_threshold", age_threshold, 1))
    kept, skipped = usable(table, problems, on_error=on_error, mode=images.get("mode", "RGB"))
    kept = kept.astype({"age": "int64"})
    label = kept["age_group" if target == "age" else target]
    columns = {"age": ("age_group", ["age_group", "age"])}
    return bunch(
        kept,
        skipped,
        target=label.cat.codes.astype("int64").rename(f"{target}_code"),
        target_names=list(label.cat.categories),
        groups=dict(columns.get(name, (name, [name])) for name in names),
        favourable_label=None,
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


def _parsed(folders: list[Path], threshold: int) -> tuple[pd.DataFrame, list[str | None]]:
    """Read the labels off the names; what is wrong with a name beside it."""
    import pandas as pd

    paths = images_in(folders)
    found = [NAME.fullmatch(name) for name in paths]
    labels = [[int(text) for text in each.groups()[:3]] if each else [-1] * 3 for each in found]
    ages, genders, races = zip(*labels, strict=True)
    groups = [-1 if age < 0 else int(age >= threshold) for age in ages]
    table = pd.DataFrame(
        {
            "path": list(paths.values()),
            "age": ages,
            "age_group": _named(groups, (f"<{threshold}", f">={threshold}")),
            "gender": _named(genders, GENDERS),
            "race": _named(races, RACES),
        }
    )
    return table, [None if each else FORM for each in found]


def _named(codes: Any, names: tuple[str, ...]) -> Any:
    import pandas as pd

    return pd.Categorical.from_codes(codes, categories=pd.Index(names))
