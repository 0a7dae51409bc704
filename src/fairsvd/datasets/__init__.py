"""Data sets with groups: real tables and images, and generators whose bias is known exactly.

Files are taken from the folder that the environment variable ``FAIRSVD_DATA`` names, else from
the cache (``FAIRSVD_CACHE``, else ``~/.cache/fairsvd``), else downloaded and checked.
"""

from __future__ import annotations

from ._bars import make_biased_images
from ._fashion import load_fashion_mnist
from ._frame import ImageFrame
from ._images import load_biased_digits, make_tinted
from ._synthetic import make_biased_classification
from ._tables import load_adult, load_bank, load_compas, load_german

__all__ = [
    "ImageFrame",
    "load_adult",
    "load_bank",
    "load_biased_digits",
    "load_compas",
    "load_fashion_mnist",
    "load_german",
    "make_biased_classification",
    "make_biased_images",
    "make_tinted",
]
