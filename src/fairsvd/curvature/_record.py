"""Record the inputs and outputs of chosen weights in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

__all__ = ["Record", "Use", "Watched", "evaluating", "recording"]

# Functions that run a layer's weight once per call of the layer.
RUNS = (F.linear, F.conv2d)


class Use(NamedTuple):
    """One use of a weight: its input with its version, and its output's shape and graph edge.

    The rows are the first dimension of both. ``block`` is the matrix of the weight that was used.
    """

    x: Tensor
    version: int
    shape: torch.Size
    edge: GradientEdge
    block: int = 0

    def keeps_rows(self, n_rows: int) -> bool:
        """Tell whether the rows are the first dimension."""
        return self.x.dim() > 1 and len(self.x) == n_rows


@dataclass(frozen=True)
class Watched:
    """A weight whose uses are recorded.

    Attributes
    ----------
    value : Tensor
        The parameter; another tensor if the weight is computed anew in every pass.
    layers : sequence of nn.Module
        Layers that run the weight in the same way, once per call.
    """

    value: Tensor
    layers: Sequence[nn.Module] = ()


@dataclass
class Record:
    """The uses of weights in a forward pass.

    Attributes
    ----------
    uses : dict of str to list of Use
        Uses by the name of the weight.
    other : set of str
        Weights that were also used in ways that are not recorded.
    """

    uses: dict[str, list[Use]]
    other: set[str] = field(default_factory=set)

    def add(self, name: str, x: Tensor, output: Tensor, block: int = 0) -> Tensor:
        """Record a use and return the output to pass on."""
        begins_graph = not output.requires_grad
        if begins_graph:
            output.requires_grad_()
        # The edge, not the tensor, since a following in-place ReLU changes the tensor.
        edge = get_gradient_edge(output)
        self.uses[name].append(Use(x.detach(), x._version, output.shape, edge, block))
        # A leaf of the graph may not be changed in place, so pass on a copy.
        return output.clone() if begins_graph else output


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for a block, then restore the mode of each part."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def recording(weights: Mapping[str, Watched]) -> Iterator[Record]:
    """Record every use of some weights inside the block.

    Hooks record layers. Attention reads weights without running a layer, so its function is
    intercepted. Any other use of a parameter, such as a transposed product, is marked as other.

    Parameters
    ----------
    weights : mapping of str to Watched

    Yields
    ------
    record : Record
        Filled while the network runs; ``other`` is complete when the block ends. The hooks are
        always removed.
    """
    record = Record({name: [] for name in weights})
    parameters = {n: each.value for n, each in weights.items() if isinstance(each.value, Parameter)}
    functions = _Functions(record, {id(value): name for name, value in parameters.items()})
    handles = []
    try:
        for name, watched in weights.items():
            hook = _Hook(record, name)
            for layer in watched.layers:
                # First, since hooks of the user may change the output.
                handle = layer.register_forward_hook(hook, prepend=True, with_kwargs=True)
                handles.append(handle)
        with functions:
            yield record
        functions.compare()
    finally:
        for handle in handles:
            handle.remove()


class _Hook:
    def __init__(self, record: Record, name: str) -> None:
        self.record, self.name = record, name

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        return self.record.add(self.name, args[0] if args else kwargs["input"], output)


class _Functions(TorchFunctionMode):
    """Intercepts the torch functions that use weights, in this thread only.

    While it is active, torch's transformer layers do not take their fast path, which runs several
    layers as one function.
    """

    def __init__(self, record: Record, names: Mapping[int, str]) -> None:
        super().__init__()
        self.record, self.names = record, names
        self.runs = dict.fromkeys(names.values(), 0)
        self.projections = dict.fromkeys(names.values(), 0)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function, and record which weights are among its arguments."""
        kwargs = kwargs or {}
        weights = self._find_weights((*args, *kwargs.values()))
        if weights and func is F.multi_head_attention_forward:
            return self._attention(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in RUNS:
            for name in weights:
                self.runs[name] += 1
        elif weights and _has_tensors(result):
            self.record.other.update(weights)
        return result

    def compare(self) -> None:
        """Mark the weights that were run more or less often than their layers."""
        for name, n_runs in self.runs.items():
            if n_runs != len(self.record.uses[name]) - self.projections[name]:
                self.record.other.add(name)

    def _find_weights(self, values: Sequence[Any]) -> list[str]:
        names = [self.names[id(value)] for value in values if id(value) in self.names]
        for value in values:
            if isinstance(value, (list, tuple)):
                names += [self.names[id(each)] for each in value if id(each) in self.names]
        return names

    def _attention(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Run attention with its projections outside, where they can be recorded.

        The inner projections become products with the identity, which change no digit.
        """
        call = SIGNATURE.bind(*args, **kwargs)
        call.apply_defaults()
        arguments = call.arguments
        inputs = [arguments[name] for name in ("query", "key", "value")]
        projected = [
            self._project(x, weight, bias, of, block)
            for x, (weight, bias, of, block) in zip(
                inputs, _input_projections(arguments), strict=True
            )
        ]
        weight, bias = arguments["out_proj_weight"], arguments["out_proj_bias"]
        same = torch.eye(arguments["embed_dim_to_check"], dtype=weight.dtype, device=weight.device)
        arguments.update(zip(("query", "key", "value"), projected, strict=True))
        arguments.update(in_proj_weight=None, in_proj_bias=None, use_separate_proj_weight=True)
        arguments.update(q_proj_weight=same, k_proj_weight=same, v_proj_weight=same)
        arguments.update(out_proj_weight=same, out_proj_bias=None)
        output, shares = F.multi_head_attention_forward(**arguments)
        return self._project(output, weight, bias, weight, 0), shares

    def _project(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, of: Tensor, block: int
    ) -> Tensor:
        """Multiply (length, n, width) by a weight and record it with rows first.

        A single sequence without a dimension of rows is recorded as one row.
        """
        rows = x.transpose(0, 1) if x.dim() == 3 else x[None]
        output = F.linear(rows, weight, bias)
        name = self.names.get(id(of))
        if name is not None:
            self.projections[name] += 1
            output = self.record.add(name, rows, output, block)
        return output.transpose(0, 1) if x.dim() == 3 else output[0]


SIGNATURE = signature(F.multi_head_attention_forward)


def _input_projections(
    arguments: Mapping[str, Any],
) -> Iterator[tuple[Tensor, Tensor | None, Tensor, int]]:
    """Yield weight, bias, parameter and block of each of the three projections."""
    packed_bias = arguments["in_proj_bias"]
    biases = [None] * 3 if packed_bias is None else packed_bias.chunk(3)
    packed = arguments["in_proj_weight"]
    if arguments["use_separate_proj_weight"]:
        weights = [arguments[f"{name}_proj_weight"] for name in "qkv"]
        for weight, bias in zip(weights, biases, strict=True):
            yield weight, bias, weight, 0
        return
    for block, (weight, bias) in enumerate(zip(packed.chunk(3), biases, strict=True)):
        yield weight, bias, packed, block


def _has_tensors(result: Any) -> bool:
    if isinstance(result, (list, tuple)):
        return any(isinstance(each, Tensor) for each in result)
    return isinstance(result, Tensor)
