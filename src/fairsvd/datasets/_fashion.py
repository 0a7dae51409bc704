"""Loader of Fashion-MNIST's idx files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from . import _descriptions
from ._draws import rows_of_classes
from ._files import RemoteFile, find_file
from ._sources import FASHION_FILES

__all__ = ["load_fashion_mnist"]

CLASS_NAMES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]


def load_fashion_mnist(*, subset: str = "train", classes: Sequence[int] | None = None) -> Bunch:
    """Load Zalando's Fashion-MNIST: grey images of ten classes of clothing.

    Parameters
    ----------
    subset : {"train", "test"}, default="train"
        60,000 or 10,000 images.
    classes : sequence of int in [0, 9], default=None
        Keep only the images of these classes, for example ``(0, 6)``, T-shirts and shirts. None
        keeps all ten. The labels are not renumbered.

    Returns
    -------
    bunch : Bunch
        ``images`` (uint8 ndarray of shape (n, 28, 28)), ``target`` (int64 ndarray of shape (n,)),
        ``target_names`` (ten strings: the name of label k is ``target_names[k]``) and ``DESCR``.

    Raises
    ------
    ValueError
        If ``subset`` or ``classes`` is not as above, or a file is not in the expected form.
    DatasetNotFoundError
        If the files are not found and cannot be downloaded.

    References
    ----------
    .. [1] H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking
       Machine Learning Algorithms, 2017. :arxiv:`1708.07747`.

    Examples
    --------
    >>> from fairsvd.datasets import load_fashion_mnist
    >>> shirts = load_fashion_mnist(subset="test", classes=(0, 6))  # doctest: +SKIP
    >>> shirts.images.shape  # doctest: +SKIP
    (2000, 28, 28)
    """
    if subset not in FASHION_FILES:
        raise ValueError(f'subset must be "train" or "test", got {subset!r}')
    image_file, label_file = FASHION_FILES[subset]
    images = _read_idx(image_file, n_axes=3)
    target = _read_idx(label_file, n_axes=1).astype(np.int64)
    if len(images) != len(target):
        raise ValueError(
            f"{image_file.name} holds {len(images)} images and {label_file.name} {len(target)} "
            f"labels: take both from {image_file.url.rpartition('/')[0]}"
        )
    if classes is not None:
        rows = rows_of_classes(target, classes)
        images, target = images[rows], target[rows]
    return Bunch(
        images=images,
        target=target,
        target_names=list(CLASS_NAMES),
        DESCR=_descriptions.FASHION_MNIST,
    )


def _read_idx(remote: RemoteFile, n_axes: int) -> NDArray[np.uint8]:
    """Read a gzipped idx file of unsigned bytes with ``n_axes`` axes."""
    path = find_file(remote)
    try:
        return _parse_idx(gzip.decompress(path.read_bytes()), n_axes)
    except (ValueError, EOFError, gzip.BadGzipFile, struct.error, zlib.error) as error:
        raise ValueError(
            f"{path} is not a gzipped idx file of unsigned bytes with {n_axes} axes ({error}). "
            f"Take the unchanged file from {remote.url}"
        ) from error


def _parse_idx(content: bytes, n_axes: int) -> NDArray[np.uint8]:
    magic, *shape = struct.unpack_from(f">{1 + n_axes}I", content)
    if magic != 0x0800 + n_axes:  # 0x08: unsigned bytes; the last byte is the number of axes
        raise ValueError(f"it begins with {magic:#010x}")
    values = np.frombuffer(content, dtype=np.uint8, offset=4 * (1 + n_axes))
    if values.size != math.prod(shape):
        raise ValueError(f"it announces the shape {tuple(shape)} but holds {values.size} values")
    return values.reshape(shape).copy()  # a view of bytes is read-only
