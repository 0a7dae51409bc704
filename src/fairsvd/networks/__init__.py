"""The default networks, and the adoption of any network of the user."""

from __future__ import annotations

from ._adopt import AdoptedNetwork, adopt, known_classes
from ._attention_net import AttentionNet
from ._calibrated import CalibratedNetwork
from ._copy import copied
from ._default import channel_statistics
from ._explain import explaining
from ._fields import Inputs, called_by_fields, fields_of, take_packed
from ._finite import check_finite
from ._inference import all_features, all_logits, entering, fast_logits
from ._layout import laid_out
from ._look import probe_rows
from ._modules import MLP, ConvNet
from ._plain import first_parameter, plain_copy
from ._portable import Portable, is_usable
from ._room import fewer_rows
from ._scores import PROBABILITIES, OutputKey, check_rows, checked_logits, raw_output, to_logits
from ._settled import MANY_ROWS, STEPS_A_LOOK, LeastLoss, mean_loss
from ._share import own_weights, share_weights
from ._shift import ShiftedNetwork, fold_offset
from ._tokens import wants_integers
from ._weights import LayerWeight, layer_weights

__all__ = [
    "MANY_ROWS",
    "MLP",
    "PROBABILITIES",
    "STEPS_A_LOOK",
    "AdoptedNetwork",
    "AttentionNet",
    "CalibratedNetwork",
    "ConvNet",
    "Inputs",
    "LayerWeight",
    "LeastLoss",
    "OutputKey",
    "Portable",
    "ShiftedNetwork",
    "adopt",
    "all_features",
    "all_logits",
    "called_by_fields",
    "channel_statistics",
    "check_finite",
    "check_rows",
    "checked_logits",
    "copied",
    "entering",
    "explaining",
    "fast_logits",
    "fewer_rows",
    "fields_of",
    "first_parameter",
    "fold_offset",
    "is_usable",
    "known_classes",
    "laid_out",
    "layer_weights",
    "mean_loss",
    "own_weights",
    "plain_copy",
    "probe_rows",
    "raw_output",
    "share_weights",
    "take_packed",
    "to_logits",
    "wants_integers",
]
