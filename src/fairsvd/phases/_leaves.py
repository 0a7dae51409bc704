"""Parameters of a tuning, copied as leaves, and its learning rate."""

from __future__ import annotations

from collections.abc import Container

from torch import Tensor, nn

from ..layers import layer_parameters

__all__ = ["copy_biases", "copy_head_and_biases", "float_parameters", "rate_for_depth"]

TUNING_RATE = 1e-2

# Networks with up to four edited layers train stably at this rate; in deeper ones the changes of
# the layers compound: a residual network of 20 layers later lost what 60 steps had gained.
FEW_LAYERS = 4


def rate_for_depth(n_layers: int) -> float:
    """Return the learning rate of factors that scale successive layers: lower for many layers."""
    return TUNING_RATE * (FEW_LAYERS / max(FEW_LAYERS, n_layers))


def float_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return the floating-point parameters by name, shared ones once, without copying."""
    named = module.named_parameters()
    return {name: value.detach() for name, value in named if value.is_floating_point()}


def copy_head_and_biases(
    module: nn.Module, output_layer: str, edited: Container[str]
) -> dict[str, Tensor]:
    """Copy the output layer and all layers' biases as leaves, without edited weights."""
    leaves = copy_biases(module)
    for name, parameter in layer_parameters(module, output_layer).items():
        if name not in leaves and name not in edited:
            leaves[name] = parameter.detach().clone().requires_grad_()
    return leaves


def copy_biases(module: nn.Module) -> dict[str, Tensor]:
    """Copy the biases of the layers that have weights as leaves (not those of normalisations)."""
    kinds = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
    return {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in module.named_parameters()
        if name.endswith("bias")
        and isinstance(module.get_submodule(name.rpartition(".")[0]), kinds)
    }
