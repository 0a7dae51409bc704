"""Folders of small images for tests, and transforms that tell what was read."""

from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image

from fairsvd import ImageFrame

SHAPE = (12, 10)  # height and width


def number_of(image):
    """Read the number that :func:`picture` wrote into the first pixel."""
    high, middle, low = image.getpixel((0, 0))
    return high << 16 | middle << 8 | low


def picture(number, *, shade=0, blue=0, shape=SHAPE):
    """Draw noise whose first pixel says a number."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 100, size=(*shape, 3)) + shade
    pixels[..., 2] += blue
    pixels[0, 0] = number >> 16, number >> 8 & 255, number & 255
    return Image.fromarray(pixels.astype(np.uint8))


class Folder:
    """Image files, their labels and their groups: 0.png, 1.png, ..."""

    def __init__(self, path, n_rows):
        self.path, self.n_rows = path, n_rows
        self.y = np.arange(n_rows) % 2
        self.group = np.array(["f", "m"])[np.arange(n_rows) // 2 % 2]
        for i, (label, group) in enumerate(zip(self.y, self.group, strict=True)):
            picture(i, shade=60 * label, blue=40 * (group == "m")).save(path / f"{i}.png")

    def table(self):
        names = [f"{i}.png" for i in range(self.n_rows)]
        return pd.DataFrame({"path": names, "sex": self.group, "row": np.arange(self.n_rows)})

    def frame(self, **settings):
        return ImageFrame(self.table(), **{"root": self.path, **settings})


class Noting:
    """The default transform, but it lists which files it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, image):
        self.seen.append(number_of(image))
        return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
