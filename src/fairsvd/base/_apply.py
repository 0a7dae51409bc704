"""The chosen network: a module with the state and the structure of a candidate."""

from __future__ import annotations

import torch
from torch import nn

from ..networks import copied, own_weights
from ._candidate import Candidate

__all__ = ["apply_candidate", "apply_to_copy"]


def apply_to_copy(module: nn.Module, candidate: Candidate) -> nn.Module:
    """Build the chosen network: a copy with the candidate's state, in evaluation mode."""
    return apply_candidate(copied(module), candidate)


def apply_candidate(module: nn.Module, candidate: Candidate) -> nn.Module:
    """Give the module its own weights and the candidate's state and structure; evaluation mode."""
    own_weights(module)
    with torch.no_grad():
        current = module.state_dict()
        for name, value in candidate.state.items():
            current[name].copy_(value)
    if candidate.finish is not None:
        module = candidate.finish(module)
    return module.eval()
