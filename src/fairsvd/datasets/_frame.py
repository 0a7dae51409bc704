"""Images of a folder as an array that is read file by file, when rows are asked for."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..exceptions import ImageFileError
from ._frame_arguments import check_arguments, height_and_width, rows_alone, whole_numbers
from ._pixels import as_array, check_same, naming, open_image, problem_of, scaled

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ImageFrame"]


class ImageFrame:
    """Image files listed in a DataFrame, as an array of shape (n, C, H, W) that is never whole.

    It is an X for every editor and for scikit-learn's searches, splitters and Pipelines: selecting
    rows gives another ImageFrame and reads nothing; the files of a batch are read when the batch
    is needed, and let go with it. Reading needs Pillow: ``pip install 'fairsvd[images]'``.

    Parameters
    ----------
    data : DataFrame
        A row an image: the path, and whatever else is known of it. ``sensitive_columns=`` of an
        editor, a scorer or ``JointStratifiedKFold`` finds its columns by name; the network gets
        none of them.
    path : str, default="path"
        The column of paths (strings or ``os.PathLike``).
    root : str or os.PathLike, default=None
        Folder that relative paths start from; None: the current one.
    transform : callable, default=None
        Takes a PIL image, in ``mode`` and of ``size``, and returns a tensor or array of shape (C,
        H, W), as torchvision's transforms do that end with ``ToTensor()``. None: float32 in
        [0, 1]. It must return the same for the same image each time: what is random belongs into
        ``augment``.
    augment : callable, default=None
        Takes a PIL image and returns another one, before ``transform``. It is called on the rows
        of training batches only (see Notes) and may draw from the global random generators of
        torch, numpy and Python.
    size : int or (height, width), default=None
        Resize to so many pixels before anything else. None: as the files are, which then must all
        be of one size after the transform.
    mode : {"RGB", "L"}, default="RGB"
        Colour, or grey of one channel.

    Attributes
    ----------
    data : DataFrame
        Of this frame's rows, in order.
    shape : tuple (n, C, H, W)
        Known from the first readable file, which is read when this is first asked for.
    dtype : numpy.dtype
        Of the images after the transform.
    ndim : int
        4.

    Raises
    ------
    ValueError
        An argument is not as above.
    ImageFileError
        When rows are read: a file is missing or cannot be decoded, is of another size than the
        others after the transform, or the transform returns something else than asked. It names
        the file. :meth:`readable` tells beforehand which files can be read.

    See Also
    --------
    fairsvd.datasets.load_celeba : Loaders of published folders return ImageFrames.

    Notes
    -----
    ``frame[3]`` is one image as the transform returns it; slices, boolean masks and integer arrays
    give ImageFrames. ``numpy.asarray(frame)`` is refused, since it would read all files by
    accident: :meth:`read` does it on purpose.

    *Memory.* ``fit`` holds at most ``batch_size`` images at a time, and predictions 64; skorch, as
    it trains, keeps the batch in use until the next is there. A fitted editor keeps the first 32.
    No other image is kept for a second pass, so that every judgement of a candidate reads the
    judged files again: methods that judge hundreds of candidates are slow on large folders. Each
    file is read at most once in a pass over the rows and in a step of training.

    *Augmentation.* Training batches are those of the default network (``network=None``) and those
    that editors take their steps on. Equal seeds give equal bits, since the global generators are
    seeded for the time of the reading and then put back. Statistics, curvature, judging and
    prediction see the images as they are. A skorch net of the user's is trained on them as they
    are too: put a layer that is random in training mode into its module.

    *Cache.* ``memory=`` of an editor tells the rows apart by path, size and time of change of the
    files and by the code of the transforms: no file is read for that.

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
    ) -> None:
        check_arguments(data, path, mode, transform=transform, augment=augment)
        self.data = data
        self.path = path
        self.root = None if root is None else os.fspath(root)
        self.transform = transform
        self.augment = augment
        self.size = height_and_width(size)
        self.mode = mode
        # Shape and type of an image, and the file that they were learnt from.
        self._known: tuple[tuple[int, ...], np.dtype[Any], str] | None = None

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.data)

    def __repr__(self) -> str:
        """Describe the frame without reading anything."""
        shape = "not read yet" if self._known is None else f"shape {self._known[0]}"
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
        """Paths of all rows, the root before them."""
        return self._paths(slice(None))

    def __getitem__(self, key: Any) -> Any:
        """Give one image for an integer, an ImageFrame of the rows for anything else."""
        if isinstance(key, tuple):
            key = rows_alone(key)
        if isinstance(key, Integral) and not isinstance(key, bool):
            return self._image(int(np.arange(len(self))[key]))
        rows = np.arange(len(self))[key if isinstance(key, slice) else whole_numbers(key)]
        if rows.ndim != 1:
            raise IndexError(f"rows of an ImageFrame are chosen by one axis, got {rows.ndim}")
        part = copy.copy(self)
        part.data = self.data.iloc[rows]
        return part

    def __iter__(self) -> Iterator[Any]:
        """Read one image after the other."""
        return (self._image(row) for row in range(len(self)))

    def __array__(self, *_: Any, **__: Any) -> NDArray[Any]:
        """Refuse: whoever asks would read every file at once."""
        raise TypeError(
            "an ImageFrame is not in memory, and what asked for an array wants all of it. Editors, "
            "searches and splitters take the frame itself; frame[rows].read() reads some rows."
        )

    def read(self, rows: ArrayLike | None = None, *, augmented: bool = False) -> NDArray[Any]:
        """Read rows into one array.

        Parameters
        ----------
        rows : array-like of int, default=None
            In any order and with repeats, for which a file is opened once. None: all rows.
        augmented : bool, default=False
            Apply ``augment``, anew to every repeat.

        Returns
        -------
        images : ndarray of shape (n_rows, C, H, W), of ``dtype``
        """
        wanted = np.arange(len(self)) if rows is None else np.arange(len(self))[whole_numbers(rows)]
        if not len(wanted):
            return np.empty((0, *self._item()[0]), self._item()[1])
        made = self._file_by_file(wanted, augmented)
        place, image = next(made)
        images = np.empty((len(wanted), *image.shape), image.dtype)
        images[place] = image
        for place, image in made:
            images[place] = image
        return images

    def readable(self) -> NDArray[np.bool_]:
        """Try to decode every file, one after the other.

        Returns
        -------
        mask : ndarray of shape (n,), bool
            False where the file is missing, no image or cut off. ``frame[mask]`` and ``y[mask]``
            stay in step.
        """
        return np.array([problem_of(path, self.mode) is None for path in self.paths], dtype=bool)

    def stamp(self, rows: ArrayLike) -> list[Any]:
        """Say what rows are without reading them, for a key under which results are kept.

        Parameters
        ----------
        rows : array-like of int

        Returns
        -------
        stamp : list
            Paths, sizes in bytes, times of change in nanoseconds, and what is done to the images.

        Raises
        ------
        ImageFileError
            A file is missing.
        """
        paths = self._paths(np.asarray(rows))
        try:
            found = [os.stat(path) for path in paths]
        except OSError as error:
            raise ImageFileError(f"{error.filename} cannot be read: {error.strerror}.") from error
        files = np.array([(each.st_size, each.st_mtime_ns) for each in found], dtype=np.int64)
        return [paths, files, self.transform, self.augment, self.size, self.mode]

    def _paths(self, rows: Any) -> list[str]:
        found = [os.fspath(each) for each in self.data[self.path].iloc[rows]]
        return found if self.root is None else [os.path.join(self.root, each) for each in found]

    def _file_by_file(
        self, wanted: NDArray[np.int64], augmented: bool
    ) -> Iterator[tuple[Any, NDArray[Any]]]:
        """Yield images and their places in ``wanted``; repeats of a file share one decoding."""
        of_file: dict[str, list[int]] = {}
        for place, path in enumerate(self._paths(wanted)):
            of_file.setdefault(path, []).append(place)
        for path, places in of_file.items():
            picture = open_image(path, self.mode, self.size)
            for each in places if augmented and self.augment is not None else [places]:
                yield each, self._checked(self._made(picture, path, augmented), path)

    def _made(self, picture: Any, path: str, augmented: bool) -> Any:
        with naming(path):
            if augmented and self.augment is not None:
                picture = self.augment(picture.copy())
            return scaled(picture) if self.transform is None else self.transform(picture)

    def _image(self, row: int) -> Any:
        path = self._paths([row])[0]
        image = self._made(open_image(path, self.mode, self.size), path, False)
        self._checked(image, path)
        return image

    def _checked(self, image: Any, path: str) -> NDArray[Any]:
        array = as_array(image, path)
        if self._known is None:
            self._known = (array.shape, array.dtype, path)
        check_same(array, path, *self._known)
        return array

    def _item(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Learn the shape and type of an image from the first file that can be read."""
        problem = ImageFileError("an ImageFrame without rows has no shape.")
        for row, path in enumerate(self.paths if self._known is None else ()):
            try:
                picture = open_image(path, self.mode, self.size)
            except ImageFileError as error:
                problem = error if row == 0 else problem
                continue
            self._checked(self._made(picture, path, False), path)
            break
        if self._known is None:
            raise problem
        return self._known[:2]
