"""Open an image file, decode it, and turn it into an array."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import ImageFileError
from ._archives import opened

__all__ = [
    "MODES",
    "as_array",
    "check_same",
    "from_pixels",
    "name_file_in_errors",
    "open_image",
    "problem_of",
    "scale_pixels",
]

# Modes that the default transform reads, and their numbers of channels.
MODES = {"RGB": 3, "L": 1}

# Errors that Pillow raises for files that are missing, truncated or not images.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error)


def _import_pillow() -> Any:
    """Import Pillow's Image module.

    Raises
    ------
    ImportError
        If Pillow is not installed; the message says how to install it.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "reading image files needs Pillow: pip install 'fairsvd[images]'"
        ) from error
    return Image


def open_image(path: str, mode: str, size: tuple[int, int] | None) -> Any:
    """Read and decode one file.

    Parameters
    ----------
    path : str
        May lead through a zip archive.
    mode : {"RGB", "L"}
        Mode of the result.
    size : (height, width) in pixels, or None
        Size of the result; resizing is bilinear, with antialiasing.

    Returns
    -------
    image : PIL.Image.Image
        The decoded image; the file is closed.

    Raises
    ------
    ImageFileError
        If the file is missing, truncated or not an image; the message names it.
    """
    Image = _import_pillow()
    try:
        with Image.open(opened(path)) as file:
            image = file.convert(mode)
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise ImageFileError(f"{path} cannot be read: {_reason(error)}") from error
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    return image


def from_pixels(pixels: NDArray[np.uint8]) -> Any:
    """Make the image again whose array this is."""
    return _import_pillow().fromarray(pixels)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file."
    text = str(error) or type(error).__name__
    return f"{text.splitlines()[0].rstrip('.')}."


def problem_of(path: str, mode: str) -> str | None:
    """Decode a file; return why that fails, or None if it works."""
    try:
        open_image(path, mode, None)
    except ImageFileError as error:
        return str(error).removeprefix(f"{path} ")
    return None


def scale_pixels(image: Any) -> NDArray[np.float32]:
    """Turn an image of unsigned bytes into float32 of shape (C, H, W) in [0, 1]."""
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def as_array(value: Any, path: str) -> NDArray[Any]:
    """Check the value that a transform returned, and view it as an array of shape (C, H, W).

    Raises
    ------
    ImageFileError
        If it is not a real tensor or array of three axes, or holds NaN or infinite values.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            raise ImageFileError(f"{path}: transform returned bfloat16: let it return float32.")
        value = value.numpy()
    shape = getattr(value, "shape", None)
    if not isinstance(value, np.ndarray) or value.ndim != 3 or value.dtype.kind not in "biuf":
        described = f"{type(value).__name__}" + (f" of shape {tuple(shape)}" if shape else "")
        raise ImageFileError(
            f"{path}: transform must return a tensor or array of numbers of shape (C, H, W), got "
            f"{described}. Let it end with a conversion such as torchvision's ToTensor()."
        )
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ImageFileError(f"{path} holds NaN or infinite values after the transform.")
    return value


def check_same(
    array: NDArray[Any], path: str, shape: tuple[int, ...], dtype: np.dtype[Any], first: str
) -> None:
    """Check that an image has the shape and type of the first one.

    Raises
    ------
    ImageFileError
        If they differ; the message names both files.
    """
    if array.shape != shape:
        raise ImageFileError(
            f"{path} has the shape {array.shape} after the transform, but {first} has {shape}: "
            "pass size=, or resize in the transform."
        )
    if array.dtype != dtype:
        raise ImageFileError(
            f"{path} is of {array.dtype} after the transform, but {first} of {dtype}: let the "
            "transform return one type."
        )


@contextmanager
def name_file_in_errors(path: str) -> Iterator[None]:
    """Add the file's name to any error that the user's code raises inside."""
    try:
        yield
    except Exception as error:
        error.add_note(f"while transforming {path}")
        raise
