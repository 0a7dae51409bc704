"""Loader of Fitzpatrick17k: skin conditions on skin of every type."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sklearn.utils import Bunch

from . import _image_descriptions
from ._folders import bunch, find_in, pick, read_csv, usable, with_images

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_fitzpatrick17k"]

TARGETS = ("three_partition_label", "nine_partition_label", "label")
SCALES = ("fitzpatrick_scale", "fitzpatrick_centaur")
LIGHT, DARK = "1-3", "4-6"
UNKNOWN = -1


def load_fitzpatrick17k(
    root: str | os.PathLike[str],
    csv: Any = "fitzpatrick17k.csv",
    *,
    target: str = "three_partition_label",
    sensitive: str = "fitzpatrick_scale",
    on_error: str = "raise",
    **images: Any,
) -> Bunch:
    """Load Fitzpatrick17k from its table and a folder of images ``<md5hash>.jpg``.

    Parameters
    ----------
    root : str or os.PathLike
        Folder of the images, or of a folder ``images`` that holds them.
    csv : str, os.PathLike or DataFrame, default="fitzpatrick17k.csv"
        The published table; a relative path is searched in ``root`` first.
    target : {"three_partition_label", "nine_partition_label", "label"}, \
            default="three_partition_label"
        Benign, malignant or non-neoplastic; nine kinds; or the 114 conditions.
    sensitive : {"fitzpatrick_scale", "fitzpatrick_centaur"}, default="fitzpatrick_scale"
        Column of skin types that gives the groups: types 1 to 3 against 4 to 6.
    on_error : {"raise", "skip"}, default="raise"
        What to do with rows without a label or image; see :func:`load_celeba`. Not every image
        of the table is still published.
    **images : dict
        ``transform``, ``augment``, ``size`` and ``mode`` of :class:`ImageFrame`.

    Returns
    -------
    bunch : Bunch
        As in :func:`load_celeba`: ``target`` numbers the ``target_names`` in order,
        ``sensitive_features`` has the column skin_type: "1-3", "4-6", or missing where the table
        has -1 (see ``missing_group=`` of the editors).

    Raises
    ------
    ValueError
        If a name is unknown, or the table is not in the published form.
    DatasetNotFoundError
        If the table or the images are missing.
    ImageFileError
        If rows cannot be used, or none is left.

    References
    ----------
    .. [1] M. Groh et al., Evaluating Deep Neural Networks Trained on Clinical Images in
       Dermatology with the Fitzpatrick 17k Dataset, 2021. :arxiv:`2104.09957`.

    Examples
    --------
    >>> from fairsvd.datasets import load_fitzpatrick17k
    >>> skin = load_fitzpatrick17k("fitzpatrick17k", on_error="skip", size=64)  # doctest: +SKIP
    """
    target, sensitive = pick("target", target, TARGETS), pick("sensitive", sensitive, SCALES)
    folder = find_in("root", root, "images", ".")
    if isinstance(csv, (str, os.PathLike)) and os.path.isfile(os.path.join(root, csv)):
        csv = os.path.join(root, csv)
    table = read_csv(csv, ["md5hash", target, sensitive], texts=["md5hash"])
    table = with_images(table, "md5hash", [folder])
    table["skin_type"] = _group_types(table[sensitive])
    problems = [f"{target} is missing" if missing else None for missing in table[target].isna()]
    kept, skipped = usable(table, problems, on_error=on_error, mode=images.get("mode", "RGB"))
    label = kept[target].astype(str).astype("category")
    return bunch(
        kept,
        skipped,
        target=label.cat.codes.astype("int64").rename(f"{target}_code"),
        target_names=list(label.cat.categories),
        groups={"skin_type": ["skin_type", *(name for name in SCALES if name in table)]},
        favourable_label=None,
        description=_image_descriptions.FITZPATRICK17K,
        images=images,
    )


def _group_types(scale: pd.Series) -> pd.Series:
    """Turn types 1 to 6 into two groups; -1 and empty cells are missing."""
    odd = scale.notna() & ~scale.isin([UNKNOWN, *range(1, 7)])
    if odd.any():
        raise ValueError(
            f"{scale.name} must hold 1 to 6, or -1 where it is not known, got "
            f"{scale[odd].tolist()[0]!r} in row {int(odd.to_numpy().argmax())}"
        )
    names = {number: LIGHT if number <= 3 else DARK for number in range(1, 7)}
    return scale.map(names).astype("category")
