"""Image files as an array whose rows are read from disk when they are needed."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..containers import as_known
from ..exceptions import ImageFileError
from ._archives import file_stamp
from ._decoding import decoded
from ._frame_arguments import as_row_indices, check_arguments, height_and_width, rows_alone
from ._pixels import as_array, check_same, name_file_in_errors, open_image, problem_of, scale_pixels

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ImageFrame"]


class ImageFrame:
    """Image files of a DataFrame as an array of shape (n, C, H, W) that is read in parts.

    It can be the X of every editor and of scikit-learn's searches, splitters and Pipelines.
    Selecting rows gives another ImageFrame and reads nothing; the files of a batch are read when
    the batch is needed, and freed with it. Reading needs Pillow: ``pip install 'fairsvd[images]'``.

    Parameters
    ----------
    data : DataFrame
        One row per image: its path and any other columns. ``sensitive_columns=`` of an editor, a
        scorer or ``JointStratifiedKFold`` finds columns by name; the network gets none of them.
    path : str, default="path"
        Name of the column of paths (strings or ``os.PathLike``). A path may lead through a zip
        archive, as in ``faces.zip/train/1.jpg``.
    root : str or os.PathLike, default=None
        Folder or zip archive that relative paths start from; None: the working directory.
    transform : callable, default=None
        Takes a PIL image, in ``mode`` and of ``size``, and returns a tensor or array of shape (C,
        H, W), as torchvision's transforms do if they end with ``ToTensor()``. None: float32 in
        [0, 1]. It must be deterministic; random steps belong into ``augment``.
    augment : callable, default=None
        Takes a PIL image and returns another, before ``transform``. It is called for training
        batches only (see Notes) and may draw from the global generators of torch, numpy and
        Python.
    size : int or (height, width), default=None
        Number of pixels to resize to before anything else. None: no resizing; all images must
        then have one size after the transform.
    mode : {"RGB", "L"}, default="RGB"
        Colour, or grey with one channel.
    n_jobs : int or None, default=None
        Processes that decode the files of a batch, as joblib counts them: for large pictures.
        Results do not depend on it.

    Attributes
    ----------
    data : DataFrame
        Rows of this frame, in order.
    shape : tuple (n, C, H, W)
        Taken from the first readable file, which is read when this is first needed.
    dtype : numpy.dtype
        Type of the images after the transform.
    ndim : int
        4.

    Raises
    ------
    ValueError
        If an argument is not as above.
    ImageFileError
        When rows are read: if a file is missing or cannot be decoded, its size after the
        transform differs from the others', or the transform returns anything else. The message
        names the file. :meth:`readable` tells beforehand which files can be read.

    See Also
    --------
    fairsvd.datasets.load_celeba : Loaders of published folders return ImageFrames.

    Notes
    -----
    ``frame[3]`` is one image as the transform returns it; slices, boolean masks and integer arrays
    give ImageFrames. ``numpy.asarray(frame)`` is refused, because it would read all files by
    accident; call :meth:`read` for that.

    *Memory.* ``fit`` holds at most ``batch_size`` images at a time, predictions hold 64, and skorch
    keeps a training batch until it has the next. A fitted editor keeps the first 32 images. No
    other image is kept, so every candidate that is judged reads the files again; pass small
    pictures as an array, ``frame.read()``. A pass over the rows or a step reads a file once.

    *Augmentation.* It applies to the batches that train the default network (``network=None``) and
    those of editors' steps. Equal seeds give equal bits, since the global generators are seeded
    while a batch is read and restored afterwards. Statistics, curvature, judging, prediction and
    the training of a user's skorch net see no augmentation; for such a net put a layer that is
    random in training mode into its module.

    *Cache.* ``memory=`` of an editor identifies rows by path, size and modification time of the
    files and by the code of the transforms, and reads no file for that.

    Orientation tags (EXIF) are not applied.

    Examples
    --------
    >>> import pandas as pd
    >>> from fairsvd import ImageFrame
    >>> table = pd.DataFrame({"path": ["a.jpg", "b.jpg"], "sex": ["f", "m"]})
    >>> frame = ImageFrame(table, root="faces", size=64)
    >>> frame[[1]].data["sex"].tolist()
    ['m']
    """

    ndim = 4

    def __init__(
        self,
        data: pd.DataFrame,
        path: str = "path",
        *,
        root: str | os.PathLike[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        augment: Callable[[Any], Any] | None = None,
        size: int | tuple[int, int] | None = None,
        mode: str = "RGB",
        n_jobs: int | None = None,
    ) -> None:
        data = as_known(data, "data")
        check_arguments(data, path, mode, n_jobs, transform=transform, augment=augment)
        self.data = data
        self.path = path
        self.root = None if root is None else os.fspath(root)
        self.transform = transform
        self.augment = augment
        self.size = height_and_width(size)
        self.mode = mode
        self.n_jobs = n_jobs
        # Shape and type of an image, and the file that they come from.
        self._first: tuple[tuple[int, ...], np.dtype[Any], str] | None = None

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.data)

    def __repr__(self) -> str:
        """Describe the frame without reading anything."""
        shape = "not read yet" if self._first is None else f"shape {self._first[0]}"
        return f"ImageFrame({len(self)} images, {shape}, columns {list(self.data.columns)})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, channels, height and width after the transform."""
        return (len(self), *self._item()[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers after the transform."""
        return self._item()[1]

    @property
    def paths(self) -> list[str]:
        """Paths of all rows, including the root."""
        return self._paths(slice(None))

    def __getitem__(self, key: Any) -> Any:
        """Return one image for an integer, and an ImageFrame of the rows for anything else."""
        if isinstance(key, tuple):
            key = rows_alone(key)
        if isinstance(key, Integral) and not isinstance(key, bool):
            return self._image(int(np.arange(len(self))[key]))
        rows = np.arange(len(self))[key if isinstance(key, slice) else as_row_indices(key)]
        if rows.ndim != 1:
            raise IndexError(f"rows of an ImageFrame are chosen by one axis, got {rows.ndim}")
        part = copy.copy(self)
        part.data = self.data.iloc[rows]
        return part

    def __iter__(self) -> Iterator[Any]:
        """Read one image after the other."""
        return (self._image(row) for row in range(len(self)))

    def __array__(self, *_: Any, **__: Any) -> NDArray[Any]:
        """Refuse, since this would read every file at once."""
        raise TypeError(
            "an ImageFrame does not become an array, since that would read every file at once: "
            "pass the frame itself to editors, searches and splitters, or frame[rows].read()."
        )

    def read(self, rows: ArrayLike | None = None, *, augmented: bool = False) -> NDArray[Any]:
        """Read rows into one array.

        Parameters
        ----------
        rows : array-like of int, default=None
            In any order and with repeats (each file is opened once). None: all rows.
        augmented : bool, default=False
            Apply ``augment``, separately to every repeat.

        Returns
        -------
        images : ndarray of shape (n_rows, C, H, W), of ``dtype``
        """
        indices = np.arange(len(self))[slice(None) if rows is None else as_row_indices(rows)]
        if not len(indices):
            return np.empty((0, *self._item()[0]), self._item()[1])
        read = self._read_files(indices, augmented)
        place, image = next(read)
        images = np.empty((len(indices), *image.shape), image.dtype)
        images[place] = image
        for place, image in read:
            images[place] = image
        return images

    def readable(self) -> NDArray[np.bool_]:
        """Try to decode every file; False where it is missing, truncated or not an image.

        Returns
        -------
        mask : ndarray of shape (n,), bool
            ``frame[mask]`` and ``y[mask]`` have the same rows.
        """
        return np.array([problem_of(path, self.mode) is None for path in self.paths], dtype=bool)

    def stamp(self, rows: ArrayLike) -> list[Any]:
        """Identify rows without reading them, as part of a cache key.

        Parameters
        ----------
        rows : array-like of int

        Returns
        -------
        stamp : list
            Paths, sizes, modification times (in an archive checksums), and the other settings.

        Raises
        ------
        ImageFileError
            If a file is missing.
        """
        paths = self._paths(np.asarray(rows))
        try:
            stamps = [file_stamp(path) for path in paths]
        except OSError as error:
            raise ImageFileError(f"{error.filename} cannot be read: {error.strerror}.") from error
        files = np.array(stamps, dtype=np.int64)
        return [paths, files, self.transform, self.augment, self.size, self.mode]

    def _paths(self, rows: Any) -> list[str]:
        paths = [os.fspath(each) for each in self.data[self.path].iloc[rows]]
        return paths if self.root is None else [os.path.join(self.root, each) for each in paths]

    def _read_files(
        self, rows: NDArray[np.int64], augmented: bool
    ) -> Iterator[tuple[Any, NDArray[Any]]]:
        """Yield images and their places in ``rows``; repeats of a file share one decoding."""
        places_of: dict[str, list[int]] = {}
        for place, path in enumerate(self._paths(rows)):
            places_of.setdefault(path, []).append(place)
        for path, picture in decoded(list(places_of), self.mode, self.size, self.n_jobs):
            places = places_of[path]
            for each in places if augmented and self.augment is not None else [places]:
                yield each, self._check(self._process(picture, path, augmented), path)

    def _process(self, picture: Any, path: str, augmented: bool) -> Any:
        with name_file_in_errors(path):
            if augmented and self.augment is not None:
                picture = self.augment(picture.copy())
            return scale_pixels(picture) if self.transform is None else self.transform(picture)

    def _image(self, row: int) -> Any:
        path = self._paths([row])[0]
        image = self._process(open_image(path, self.mode, self.size), path, False)
        self._check(image, path)
        return image

    def _check(self, image: Any, path: str) -> NDArray[Any]:
        array = as_array(image, path)
        if self._first is None:
            self._first = (array.shape, array.dtype, path)
        check_same(array, path, *self._first)
        return array

    def _item(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return the shape and type of an image, from the first readable file."""
        problem = ImageFileError("an ImageFrame without rows has no shape.")
        for row, path in enumerate(self.paths if self._first is None else ()):
            try:
                picture = open_image(path, self.mode, self.size)
            except ImageFileError as error:
                problem = error if row == 0 else problem
                continue
            self._check(self._process(picture, path, False), path)
            break
        if self._first is None:
            raise problem
        return self._first[:2]
