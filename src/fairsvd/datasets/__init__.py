"""Data sets with groups: real tables and images, and generators with an exactly known bias.

Users supply the folders of images, which are read file by file (``ImageFrame``). Other files come
from the folder that the environment variable ``FAIRSVD_DATA`` names, else from the cache
(``FAIRSVD_CACHE``, else ``~/.cache/fairsvd``), else they are downloaded and checked.
"""

from __future__ import annotations

from ._bars import make_biased_images
from ._celeba import load_celeba
from ._fairface import load_fairface
from ._fashion import load_fashion_mnist
from ._fitzpatrick import load_fitzpatrick17k
from ._frame import ImageFrame
from ._ham10000 import load_ham10000, load_ham10000_8x8, load_ham10000_photos
from ._images import load_biased_digits, make_tinted
from ._isic import load_isic
from ._synthetic import make_biased_classification
from ._tables import load_adult, load_bank, load_compas, load_german
from ._text_frame import TextFrame
from ._utkface import load_utkface

__all__ = [
    "ImageFrame",
    "TextFrame",
    "load_adult",
    "load_bank",
    "load_biased_digits",
    "load_celeba",
    "load_compas",
    "load_fairface",
    "load_fashion_mnist",
    "load_fitzpatrick17k",
    "load_german",
    "load_ham10000",
    "load_ham10000_8x8",
    "load_ham10000_photos",
    "load_isic",
    "load_utkface",
    "make_biased_classification",
    "make_biased_images",
    "make_tinted",
]
