"""Hypernetworks, and the small generators whose weights they can emit."""

from __future__ import annotations

from ._emittable import Generator
from ._gaussian import GaussianGenerator, MixtureGenerator
from ._generator import HyperGenerator
from ._vae import ImageVAE, TableVAE

__all__ = [
    "GaussianGenerator",
    "Generator",
    "HyperGenerator",
    "ImageVAE",
    "MixtureGenerator",
    "TableVAE",
]
