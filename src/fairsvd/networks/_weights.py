"""Find the weights of a network's layers and read them as matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["LayerWeight", "layer_weights"]


@dataclass(frozen=True)
class LayerWeight:
    """A parameter of a network, read as c independent matrices.

    Attributes
    ----------
    parameter : str
        Its name in the network; the first one if it has several.
    value : nn.Parameter
        The parameter itself.
    blocks : int
        c: 1 for a linear layer, the number of groups for a convolution, and 3 (query, key, value)
        for the packed projection of an attention layer.
    bias : tuple of str and slice, or None
        The parameter of the biases of the output units, and their place in it: one bias per row
        of the matrices, one matrix after the other.
    """

    parameter: str
    value: nn.Parameter
    blocks: int = 1
    bias: tuple[str, slice] | None = None

    def matrices(self) -> Tensor:
        """Read the weight as (c, m, n); detached, not copied."""
        weight = self.value.detach()
        return weight.reshape(self.blocks, weight.shape[0] // self.blocks, -1)


@dataclass(frozen=True)
class _Place:
    """Place of a weight in a module: suffix of the layer's name, attributes, blocks."""

    suffix: str
    weight: str
    blocks: int
    bias: str
    rows: slice


def _places(part: nn.Module) -> Iterator[_Place]:
    if isinstance(part, (nn.Linear, nn.Conv2d)):
        yield _Place("", "weight", getattr(part, "groups", 1), "bias", slice(None))
    elif isinstance(part, nn.MultiheadAttention):
        yield _Place("in_proj", "in_proj_weight", 3, "in_proj_bias", slice(None))
        # If keys or values have another width than queries: three weights, one vector of biases.
        size = part.embed_dim
        for k, each in enumerate(("q_proj", "k_proj", "v_proj")):
            rows = slice(k * size, (k + 1) * size)
            yield _Place(each, f"{each}_weight", 1, "in_proj_bias", rows)


def layer_weights(module: nn.Module) -> dict[str, LayerWeight]:
    """Find the weights of all linear, convolution and attention layers, in the network's order.

    A ``Linear`` or ``Conv2d`` has its own name. An ``nn.MultiheadAttention`` called ``attn`` has
    ``attn.in_proj`` (or ``attn.q_proj``, ``attn.k_proj`` and ``attn.v_proj``) and
    ``attn.out_proj``. All layers that share a weight are included; a layer whose weight is
    computed from other tensors (a parametrisation) is not, nor is an empty one.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    weights = {}
    for name, part in module.named_modules():
        for place in _places(part):
            weight = part._parameters.get(place.weight)
            if weight is None or weight.numel() == 0:
                continue
            bias = part._parameters.get(place.bias)
            weights[".".join(filter(None, [name, place.suffix]))] = LayerWeight(
                names[id(weight)],
                weight,
                place.blocks,
                None if bias is None else (names[id(bias)], place.rows),
            )
    return weights
