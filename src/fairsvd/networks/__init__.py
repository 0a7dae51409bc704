"""The default networks, and the adoption of any network of the user."""

from __future__ import annotations

from ._adopt import AdoptedNetwork, adopt, known_classes, probe_rows
from ._default import channel_statistics
from ._inference import all_features, all_logits, fast_logits
from ._layout import laid_out
from ._modules import MLP, ConvNet
from ._outputs import OutputKey, ShiftedNetwork, fold_offset, raw_output, to_logits
from ._share import own_weights, share_weights
from ._weights import LayerWeight, layer_weights

__all__ = [
    "MLP",
    "AdoptedNetwork",
    "ConvNet",
    "LayerWeight",
    "OutputKey",
    "ShiftedNetwork",
    "adopt",
    "all_features",
    "all_logits",
    "channel_statistics",
    "fast_logits",
    "fold_offset",
    "known_classes",
    "laid_out",
    "layer_weights",
    "own_weights",
    "probe_rows",
    "raw_output",
    "share_weights",
    "to_logits",
]
