"""Synthetic rows: samplers, generators, fine-tuning on them, and an audit of self-consumption."""

from __future__ import annotations

from ._autophagy import autophagy_audit
from ._copula import CopulaGenerator
from ._diffusion import DiffusionGenerator
from ._generators import Generator
from ._generators_gaussian import GaussianGenerator, MixtureGenerator
from ._generators_vae import ImageVAE, TableVAE
from ._hyper import HyperGenerator
from ._prompts import FACE_CONTEXT, contextual_prompts
from ._sampler import CellSampler
from ._selective import SelectiveFineTuner
from ._smoothed import SmoothedGenerator
from ._smote import SmoteGenerator

__all__ = [
    "FACE_CONTEXT",
    "CellSampler",
    "CopulaGenerator",
    "DiffusionGenerator",
    "GaussianGenerator",
    "Generator",
    "HyperGenerator",
    "ImageVAE",
    "MixtureGenerator",
    "SelectiveFineTuner",
    "SmoothedGenerator",
    "SmoteGenerator",
    "TableVAE",
    "autophagy_audit",
    "contextual_prompts",
]
