"""Inputs and output gradients of chosen weights, for one forward pass."""

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

# What runs a layer's weight once for each call of the layer.
RUNS = (F.linear, F.conv2d)


class Use(NamedTuple):
    """One use of a weight: its input and the input's version then, its output's shape and place.

    The first dimension of both is the rows'. ``block`` says which of several matrices of the
    weight was used.
    """

    x: Tensor
    version: int
    shape: torch.Size
    edge: GradientEdge
    block: int = 0

    def keeps_rows(self, n_rows: int) -> bool:
        """Tell whether the first dimension is the rows'."""
        return self.x.dim() > 1 and len(self.x) == n_rows


@dataclass(frozen=True)
class Watched:
    """A weight whose uses are recorded.

    Attributes
    ----------
    value : Tensor
        The parameter; another tensor where the weight is computed anew in every pass.
    layers : sequence of nn.Module
        Layers that run it, alike, each once in a call.
    """

    value: Tensor
    layers: Sequence[nn.Module] = ()


@dataclass
class Record:
    """What was met in a forward pass.

    Attributes
    ----------
    uses : dict of str to list of Use
        By the name of the weight.
    other : set of str
        Weights that were also used in ways that are not recorded.
    """

    uses: dict[str, list[Use]]
    other: set[str] = field(default_factory=set)

    def add(self, name: str, x: Tensor, output: Tensor, block: int = 0) -> Tensor:
        """Note a use and return the output that goes on."""
        begins_graph = not output.requires_grad
        if begins_graph:
            output.requires_grad_()
        # An edge, not the tensor: a following in-place ReLU changes what the tensor stands for.
        edge = get_gradient_edge(output)
        self.uses[name].append(Use(x.detach(), x._version, output.shape, edge, block))
        # Nor may a leaf of the graph be changed in place, so its copy goes on.
        return output.clone() if begins_graph else output


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for a block, then each part back into its own mode."""
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

    Layers are seen by hooks; attention reads weights without running a layer, so that its
    function is followed too. Any other use of a weight that is a parameter, such as a transposed
    product, is noted.

    Parameters
    ----------
    weights : mapping of str to Watched

    Yields
    ------
    record : Record
        Filled as the network runs; ``other`` is complete when the block ends. The hooks are gone
        then, however it ends.
    """
    record = Record({name: [] for name in weights})
    parameters = {n: each.value for n, each in weights.items() if isinstance(each.value, Parameter)}
    functions = _Functions(record, {id(value): name for name, value in parameters.items()})
    handles = []
    try:
        for name, watched in weights.items():
            hook = _Hook(record, name)
            for layer in watched.layers:
                # First in the row: hooks of the user's may change the output afterwards.
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
    """Follows the functions of torch that weights are given to, in this thread only.

    While it is active, torch's own transformer layers do not take their fast path, which runs
    several layers as one function.
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
        """Run a function, noting which weights are among its arguments."""
        kwargs = kwargs or {}
        found = self._among((*args, *kwargs.values()))
        if found and func is F.multi_head_attention_forward:
            return self._attention(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in RUNS:
            for name in found:
                self.runs[name] += 1
        elif found and _makes_tensors(result):
            self.record.other.update(found)
        return result

    def compare(self) -> None:
        """Note the weights that were run more or less often than their layers were."""
        for name, n_runs in self.runs.items():
            if n_runs != len(self.record.uses[name]) - self.projections[name]:
                self.record.other.add(name)

    def _among(self, values: Sequence[Any]) -> list[str]:
        found = [self.names[id(value)] for value in values if id(value) in self.names]
        for value in values:
            if isinstance(value, (list, tuple)):
                found += [self.names[id(each)] for each in value if id(each) in self.names]
        return found

    def _attention(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Run attention with its projections outside of it, where they can be recorded.

        Its own projections become products with the identity, which change no digit.
        """
        call = SIGNATURE.bind(*args, **kwargs)
        call.apply_defaults()
        given = call.arguments
        inputs = [given[name] for name in ("query", "key", "value")]
        projected = [
            self._project(x, weight, bias, of, block)
            for x, (weight, bias, of, block) in zip(inputs, _in_projections(given), strict=True)
        ]
        weight, bias = given["out_proj_weight"], given["out_proj_bias"]
        same = torch.eye(given["embed_dim_to_check"], dtype=weight.dtype, device=weight.device)
        given.update(zip(("query", "key", "value"), projected, strict=True))
        given.update(in_proj_weight=None, in_proj_bias=None, use_separate_proj_weight=True)
        given.update(q_proj_weight=same, k_proj_weight=same, v_proj_weight=same)
        given.update(out_proj_weight=same, out_proj_bias=None)
        output, shares = F.multi_head_attention_forward(**given)
        return self._project(output, weight, bias, weight, 0), shares

    def _project(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, of: Tensor, block: int
    ) -> Tensor:
        """Multiply (length, n, width) by a weight and record it rows first.

        What has no dimension of rows, one sequence alone, is recorded as a single row.
        """
        rows = x.transpose(0, 1) if x.dim() == 3 else x[None]
        output = F.linear(rows, weight, bias)
        name = self.names.get(id(of))
        if name is not None:
            self.projections[name] += 1
            output = self.record.add(name, rows, output, block)
        return output.transpose(0, 1) if x.dim() == 3 else output[0]


SIGNATURE = signature(F.multi_head_attention_forward)


def _in_projections(
    given: Mapping[str, Any],
) -> Iterator[tuple[Tensor, Tensor | None, Tensor, int]]:
    """Yield weight and bias of the three projections, the parameter they are of, and the block."""
    bias = given["in_proj_bias"]
    biases = [None] * 3 if bias is None else bias.chunk(3)
    packed = given["in_proj_weight"]
    if given["use_separate_proj_weight"]:
        whole = [given[f"{name}_proj_weight"] for name in "qkv"]
        for weight, own in zip(whole, biases, strict=True):
            yield weight, own, weight, 0
        return
    for block, (weight, own) in enumerate(zip(packed.chunk(3), biases, strict=True)):
        yield weight, own, packed, block


def _makes_tensors(result: Any) -> bool:
    if isinstance(result, (list, tuple)):
        return any(isinstance(each, Tensor) for each in result)
    return isinstance(result, Tensor)
