"""Loaders of HAM10000: images of skin lesions, and the published table of 8 x 8 pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from . import _image_descriptions
from ._draws import check_count
from ._files import users_folder
from ._folders import bunch, find_in, pick, read_csv, usable, with_images
from ._lesions import age_groups, patient_groups, sex_groups

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_ham10000", "load_ham10000_8x8", "load_ham10000_photos"]

DIAGNOSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
# Melanoma and basal cell carcinoma are cancers; akiec are actinic keratoses and Bowen's disease,
# which is a carcinoma in situ and is treated as one.
MALIGNANT = ("akiec", "bcc", "mel")

METADATA = ("HAM10000_metadata.csv", "HAM10000_metadata", "labels.csv")
PIXELS = "hmnist_8_8_L.csv"
PARTS = (
    "HAM10000_images_part_1",
    "HAM10000_images_part_2",
    "ham10000_images_part_1",
    "ham10000_images_part_2",
    "images",
)
FOLDERS = (*PARTS, *(f"{name}.zip" for name in PARTS))
SOURCE = (
    "Take the files from https://www.kaggle.com/datasets/kmader/skin-cancer-mnist-ham10000 (an "
    "account is needed)"
)
SIDE = 8
# Codes of the diagnoses in the table of pixels, found by comparing both published files.
PIXEL_LABELS = {"akiec": 0, "bcc": 1, "bkl": 2, "df": 3, "nv": 4, "vasc": 5, "mel": 6}


def load_ham10000(
    root: str | os.PathLike[str],
    *,
    target: str = "malignant",
    sensitive: str | Iterable[str] = "sex",
    age_threshold: int = 60,
    malignant: Iterable[str] = MALIGNANT,
    on_error: str = "raise",
    **images: Any,
) -> Bunch:
    """Load HAM10000, 10,015 images of pigmented skin lesions, from its published files.

    Parameters
    ----------
    root : str or os.PathLike
        Folder of ``HAM10000_metadata.csv`` (or ``labels.csv`` with its columns) and of the images,
        either directly or in ``images``, or in ``HAM10000_images_part_1`` and
        ``HAM10000_images_part_2``: folders, or zip archives of these names.
    target : {"malignant", "dx"}, default="malignant"
        Malignant against benign, or the seven diagnoses.
    sensitive : {"sex", "age"} or iterable of these, default="sex"
        Attributes whose groups are compared.
    age_threshold : int, default=60
        Age in years at which the older group begins.
    malignant : iterable of str, default=("akiec", "bcc", "mel")
        The diagnoses that count as malignant: melanoma, basal cell carcinoma, and actinic
        keratoses with Bowen's disease, which is a carcinoma in situ. The others are benign
        keratosis, dermatofibroma, nevus and vascular lesions.
    on_error : {"raise", "skip"}, default="raise"
        As in :func:`load_celeba`.
    **images : dict
        ``transform``, ``augment``, ``size``, ``mode`` and ``n_jobs`` of :class:`ImageFrame`.

    Returns
    -------
    bunch : Bunch
        As in :func:`load_celeba`: ``target`` is 1 for malignant; 0 (benign) is the
        ``favourable_label``; ``sensitive_features`` has the columns sex or age_group (">=60" or
        "<60"), missing where the metadata have "unknown" or an empty cell.

    Raises
    ------
    ValueError
        If a name is unknown, or the metadata are not in the published form.
    DatasetNotFoundError
        If the metadata or the images are missing.
    ImageFileError
        If images are missing, or none is left.

    Notes
    -----
    Several images may show one lesion (``lesion_id``): split by it, for example with scikit-learn's
    ``StratifiedGroupKFold``, or a network is tested on lesions it was trained on.

    References
    ----------
    .. [1] P. Tschandl, C. Rosendahl and H. Kittler, The HAM10000 dataset, 2018.
       :arxiv:`1803.10417`.

    Examples
    --------
    >>> from fairsvd.datasets import load_ham10000
    >>> lesions = load_ham10000("ham10000", sensitive="age", size=64)  # doctest: +SKIP
    """
    target = pick("target", target, ("malignant", "dx"))
    groups = patient_groups(sensitive, "age")
    folder = find_in("root", root, ".")
    table = _read_metadata(find_in("root", root, *METADATA), age_threshold, malignant)
    folders = [folder / name for name in FOLDERS if (folder / name).exists()] or [folder]
    table = with_images(table, "image_id", folders)
    kept, skipped = usable(
        table, [None] * len(table), on_error=on_error, mode=images.get("mode", "RGB")
    )
    codes, labels = _encode_labels(kept, target)
    return bunch(
        kept,
        skipped,
        target=codes,
        target_names=labels,
        groups=groups,
        favourable_label=0 if target == "malignant" else None,
        description=_image_descriptions.HAM10000,
        images=images,
    )


def load_ham10000_photos(root: str | os.PathLike[str] | None = None, **settings: Any) -> Bunch:
    """Load HAM10000 as small photographs, on which training takes minutes.

    Parameters
    ----------
    root : str, os.PathLike or None, default=None
        As in :func:`load_ham10000`, for example a folder of ``labels.csv`` and ``images.zip``.
        None: ``ham10000_photos`` below the folder that ``FAIRSVD_DATA`` names, else below the
        cache. Nothing is downloaded: the files may not be passed on for commercial use.
    **settings : dict
        Any other argument of :func:`load_ham10000`.

    Returns
    -------
    bunch : Bunch
        As in :func:`load_ham10000`. Split the rows by ``bunch.frame["lesion_id"]``.

    Raises
    ------
    DatasetNotFoundError, ValueError, ImageFileError
        As in :func:`load_ham10000`.

    Examples
    --------
    >>> from fairsvd.datasets import load_ham10000_photos
    >>> lesions = load_ham10000_photos(sensitive=("sex", "age"))  # doctest: +SKIP
    >>> lesions.data.shape  # doctest: +SKIP
    (10015, 3, 64, 64)
    """
    return load_ham10000(users_folder("ham10000_photos", root, METADATA, SOURCE), **settings)


def load_ham10000_8x8(
    root: str | os.PathLike[str] | None = None,
    *,
    target: str = "malignant",
    age_threshold: int = 60,
    malignant: Iterable[str] = MALIGNANT,
) -> Bunch:
    """Load HAM10000 as grey images of 8 x 8 pixels, on which training takes seconds.

    Parameters
    ----------
    root : str, os.PathLike or None, default=None
        Folder of ``hmnist_8_8_L.csv`` and ``HAM10000_metadata.csv``. None: ``ham10000`` below the
        folder that ``FAIRSVD_DATA`` names, else below the cache. Nothing is downloaded: the files
        may not be passed on for commercial use.
    target : {"malignant", "dx"}, default="malignant"
        As in :func:`load_ham10000`.
    age_threshold : int, default=60
        As in :func:`load_ham10000`.
    malignant : iterable of str, default=("akiec", "bcc", "mel")
        As in :func:`load_ham10000`.

    Returns
    -------
    bunch : Bunch
        ``images`` (float32 ndarray of shape (10015, 1, 8, 8) in [0, 1]), ``data`` (the same as (n,
        64)), ``target`` (Series of int64), ``sensitive_features`` (DataFrame: sex and age_group,
        missing where unknown), ``frame`` (the metadata), ``target_names``,
        ``favourable_label``, ``group_columns`` and ``DESCR``.

    Raises
    ------
    ValueError
        If a name is unknown, or the two files do not belong together.
    DatasetNotFoundError
        If the files are missing.

    Notes
    -----
    Row i of one file is row i of the other; the diagnoses, which both hold, are compared.

    Examples
    --------
    >>> from fairsvd.datasets import load_ham10000_8x8
    >>> lesions = load_ham10000_8x8()  # doctest: +SKIP
    >>> lesions.images.shape  # doctest: +SKIP
    (10015, 1, 8, 8)
    """
    target = pick("target", target, ("malignant", "dx"))
    folder = users_folder("ham10000", root, (PIXELS,), SOURCE)
    table = _read_metadata(find_in("root", folder, *METADATA), age_threshold, malignant)
    images = _read_pixels(find_in("root", folder, PIXELS), table)
    codes, labels = _encode_labels(table, target)
    groups = patient_groups(("sex", "age"), "age")
    return Bunch(
        images=images,
        data=images.reshape(len(images), -1),
        target=codes,
        target_names=labels,
        sensitive_features=table[list(groups)].copy(),
        frame=table,
        group_columns=groups,
        favourable_label=0 if target == "malignant" else None,
        DESCR=_image_descriptions.HAM10000_8X8,
    )


def _read_metadata(path: Path, age_threshold: int, malignant: Iterable[str]) -> pd.DataFrame:
    """Read the metadata and add the columns malignant and age_group."""
    check_count("age_threshold", age_threshold, 1)
    table = read_csv(path, ["lesion_id", "image_id", "dx", "age", "sex"], texts=["image_id"])
    unknown = ~table["dx"].isin(DIAGNOSES)
    if unknown.any():
        got = table["dx"][unknown].tolist()[0]
        raise ValueError(f"{path}: dx must be one of {', '.join(DIAGNOSES)}, got {got!r}")
    names = [malignant] if isinstance(malignant, str) else malignant
    cancers = [pick("malignant", each, DIAGNOSES) for each in names]
    return table.assign(
        sex=sex_groups(table["sex"]),
        age_group=age_groups(table["age"], age_threshold),
        malignant=table["dx"].isin(cancers).astype("int64"),
    )


def _encode_labels(table: pd.DataFrame, target: str) -> tuple[pd.Series, list[str]]:
    if target == "malignant":
        return table["malignant"], ["benign", "malignant"]
    codes = table["dx"].map({name: k for k, name in enumerate(DIAGNOSES)})
    return codes.astype("int64").rename("dx_code"), list(DIAGNOSES)


def _read_pixels(path: Path, table: pd.DataFrame) -> NDArray[np.float32]:
    """Read the pixels and check by the diagnoses that rows match the metadata."""
    names = [f"pixel{number:04d}" for number in range(SIDE**2)]
    pixels = read_csv(path, [*names, "label"])
    if len(pixels) != len(table):
        raise ValueError(f"{path} holds {len(pixels)} rows, the metadata {len(table)}")
    other = table["dx"].map(PIXEL_LABELS) != pixels["label"]
    if other.any():
        raise ValueError(
            f"{path} does not match the metadata: row {int(other.to_numpy().argmax())} has another "
            "diagnosis there. Take both files from one source, and do not sort one of them"
        )
    values: NDArray[np.float32] = pixels[names].to_numpy(dtype=np.float32)
    if not (values.min() >= 0 and values.max() <= 255):
        raise ValueError(f"{path} must hold pixels from 0 to 255")
    scaled: NDArray[np.float32] = (values / np.float32(255)).reshape(-1, 1, SIDE, SIDE)
    return scaled
