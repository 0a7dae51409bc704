"""Synthetic rows: cell generators, a sampler, hypernetworks, and audits of feedback."""

from __future__ import annotations

from .autophagy import autophagy_audit, feedback_audit
from .cells import (
    FACE_CONTEXT,
    CopulaGenerator,
    DiffusionGenerator,
    SmoothedGenerator,
    SmoteGenerator,
    contextual_prompts,
)
from .hyper import (
    GaussianGenerator,
    Generator,
    HyperGenerator,
    ImageVAE,
    MixtureGenerator,
    TableVAE,
)
from .sampler import CellSampler

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
    "SmoothedGenerator",
    "SmoteGenerator",
    "TableVAE",
    "autophagy_audit",
    "contextual_prompts",
    "feedback_audit",
]
