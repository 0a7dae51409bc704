"""Loader of images of the ISIC archive and its challenges."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sklearn.utils import Bunch

from .._messages import listed
from . import _image_descriptions
from ._draws import check_count
from ._folders import bunch, find_in, read_csv, usable, with_images
from ._lesions import age_groups, patient_groups, sex_groups

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_isic"]

# Names that the archive and its challenges have for one column.
IMAGE = ("isic_id", "image_name", "image", "name")
DIAGNOSIS = ("benign_malignant", "diagnosis_1", "target")
AGE = ("age_approx", "age_approximate")
CODES = {"benign": 0, "malignant": 1, "0": 0, "1": 1, "0.0": 0, "1.0": 1}


def load_isic(
    root: str | os.PathLike[str],
    metadata: Any = "metadata.csv",
    *,
    sensitive: str | Iterable[str] = "sex",
    age_threshold: int = 60,
    on_error: str = "raise",
    **images: Any,
) -> Bunch:
    """Load images of the ISIC archive: malignant against benign lesions.

    Parameters
    ----------
    root : str or os.PathLike
        Folder of the images ``ISIC_0000000.jpg``, or of a folder ``images`` that holds them.
    metadata : str, os.PathLike or DataFrame, default="metadata.csv"
        Table of the archive or of a challenge; a relative path is searched in ``root`` first.
        Its columns: the name of the image (isic_id, image_name, image or name), the
        diagnosis (benign_malignant or diagnosis_1 with "benign" and "malignant", or target with
        0 and 1), sex, and age_approx or age_approximate. If a challenge has the diagnoses in a
        separate file, join the two and pass the DataFrame.
    sensitive : {"sex", "age"} or iterable of these, default="sex"
        Attributes whose groups are compared.
    age_threshold : int, default=60
        Age in years at which the older group begins.
    on_error : {"raise", "skip"}, default="raise"
        What to do with rows that are neither benign nor malignant ("indeterminate", or empty)
        or lack an image; see :func:`load_celeba`.
    **images : dict
        ``transform``, ``augment``, ``size`` and ``mode`` of :class:`ImageFrame`.

    Returns
    -------
    bunch : Bunch
        As in :func:`load_celeba`: ``target`` is 1 for malignant; 0 (benign) is the
        ``favourable_label``; ``sensitive_features`` has the columns sex or age_group (">=60" or
        "<60"), missing where they are unknown.

    Raises
    ------
    ValueError
        If a name is unknown, or the metadata lack a column.
    DatasetNotFoundError
        If the metadata or the images are missing.
    ImageFileError
        If rows cannot be used, or none is left.

    Notes
    -----
    Several images may show one lesion or one patient: split by ``lesion_id`` or ``patient_id`` if
    the metadata have it.

    Examples
    --------
    >>> from fairsvd.datasets import load_isic
    >>> lesions = load_isic("isic", on_error="skip", size=128)  # doctest: +SKIP
    """
    check_count("age_threshold", age_threshold, 1)
    folder = find_in("root", root, "images", ".")
    if isinstance(metadata, (str, os.PathLike)) and os.path.isfile(os.path.join(root, metadata)):
        metadata = os.path.join(root, metadata)
    table = read_csv(metadata, ["sex"], texts=IMAGE)
    image, diagnosis, age = (
        _find_column(table, *names)
        for names in ((IMAGE, "the image"), (DIAGNOSIS, "the diagnosis"), (AGE, "the age"))
    )
    table = with_images(table, image, [folder])
    codes = table[diagnosis].astype(str).str.lower().map(CODES)
    table = table.assign(
        sex=sex_groups(table["sex"]),
        age_group=age_groups(table[age], age_threshold),
        malignant=codes,
    )
    problems = [
        f"{diagnosis} is {value!r}, not benign or malignant" if missing else None
        for value, missing in zip(table[diagnosis], codes.isna(), strict=True)
    ]
    kept, skipped = usable(table, problems, on_error=on_error, mode=images.get("mode", "RGB"))
    kept = kept.astype({"malignant": "int64"})
    return bunch(
        kept,
        skipped,
        target=kept["malignant"],
        target_names=["benign", "malignant"],
        groups=patient_groups(sensitive, age),
        favourable_label=0,
        description=_image_descriptions.ISIC,
        images=images,
    )


def _find_column(table: pd.DataFrame, names: Sequence[str], what: str) -> str:
    for name in names:
        if name in table:
            return name
    raise ValueError(
        f"the metadata have no column for {what}: wanted {' or '.join(names)}, got "
        f"[{listed(table.columns, 20, repr)}]"
    )
