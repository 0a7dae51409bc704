"""Every operator of torch on the device: checked as CUDA checks, then run on the host's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch.utils._pytree import tree_leaves

from . import _generators, _process
from ._counts import note, note_copy_in_flight
from ._memory import CPU, brought, is_there, relabelled, sent
from ._pinned import is_pinned

TWO_DEVICES = (
    "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
    "cpu! (when checking arguments of aten::{})"
)
INDEXING = {"index", "index_put", "_index_put_impl"}
# cuBLAS has no integers.
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot"}
# Beside pointwise operators these take a tensor of no dimensions from the CPU.
TAKE_SCALARS = {"masked_fill", "index_fill", "fill", "index_put", "_index_put_impl"}
# The host waits for the size or the values of their results.
WAITING = {
    *("nonzero", "masked_select", "equal", "_unique", "_unique2", "unique_dim", "bincount"),
    *("unique_consecutive", "histc", "multinomial", "repeat_interleave", "_linalg_svd"),
    *("_linalg_eigh", "linalg_eig", "linalg_lstsq"),
}
NO_KERNEL_STARTS = {"empty", "empty_strided", "resize"}
# Their CPU kernels change sizes, strides and storage alone, and do so for any device.
METADATA = (
    *("as_strided.default", "view.default", "_reshape_alias.default", "unfold.default"),
    *("set_.default", "set_.source_Storage", "set_.source_Tensor"),
    "set_.source_Storage_storage_offset",
)

_NOT_ON_CUDA: set[str] = set()
_LIBRARIES: list[torch.library.Library] = []


@dataclass(frozen=True)
class _Facts:
    """What is known of an operator before it is called."""

    full: str  # with its namespace and overload, as torchgen writes it
    name: str
    base: str  # without the underscore of operators in place
    takes_scalars: bool
    draws: bool
    tensor_arguments: tuple[bool, ...]


@cache
def _facts(op: Any) -> _Facts:
    schema = op._schema
    name = schema.name.removeprefix("aten::")
    base = name.rstrip("_")
    return _Facts(
        full=schema.name + ("." + schema.overload_name if schema.overload_name else ""),
        name=name,
        base=base,
        takes_scalars=torch.Tag.pointwise in op.tags
        or base in TAKE_SCALARS
        or base.startswith("_foreach"),
        draws=torch.Tag.nondeterministic_seeded in op.tags,
        tensor_arguments=tuple(str(each.type) == "Tensor" for each in schema.arguments),
    )


def run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operator that has tensors on the device or is to make one there."""
    facts = _facts(op)
    _process.use()
    if facts.full in _NOT_ON_CUDA:
        raise NotImplementedError(
            f"Could not run '{facts.full}' with arguments from the 'CUDA' backend."
        )
    given = tree_leaves((args, kwargs))
    tensors = [each for each in given if isinstance(each, Tensor)]
    args = tuple(_with_numbers_as_tensors(args, facts, tensors))
    sent_indices = _note_indices(args, facts)
    _check_devices([each for each in tensors if id(each) not in sent_indices], facts)
    _check_product(tensors, facts)
    seeds = [each for each in given if isinstance(each, torch._C.Generator)]
    _generators.check_there(seeds)
    if facts.base in WAITING:
        note("sync", facts.name)
    if facts.base not in NO_KERNEL_STARTS:
        note("launch", facts.name)
    aliases: dict[int, tuple[Tensor, Tensor]] = {}
    call = partial(op, *brought(args, aliases), **_brought_by_name(kwargs, aliases))
    from_own_stream = facts.draws and not seeds
    return sent(_generators.with_own_stream(call) if from_own_stream else call(), aliases)


def _brought_by_name(kwargs: dict[str, Any], aliases: Any) -> dict[str, Any]:
    return {name: brought(value, aliases) for name, value in kwargs.items()}


def _with_numbers_as_tensors(
    args: tuple[Any, ...], facts: _Facts, tensors: list[Tensor]
) -> Iterator[Any]:
    """Numbers that C++ passes in the place of tensors, in a dtype that promotes nothing."""
    for place, value in enumerate(args):
        is_number = isinstance(value, (int, float)) and facts.tensor_arguments[place]
        yield torch.tensor(value, dtype=_dtype_beside(value, tensors[0])) if is_number else value


def _dtype_beside(number: float, tensor: Tensor) -> torch.dtype | None:
    is_whole = isinstance(number, int) and not isinstance(number, bool)
    if is_whole and tensor.dtype != torch.bool:
        return tensor.dtype
    if isinstance(number, float) and (tensor.is_floating_point() or tensor.is_complex()):
        return tensor.dtype
    return None


def _note_indices(args: tuple[Any, ...], facts: _Facts) -> set[int]:
    """Count the copies and waits of indexing; return the ids of indices that CUDA sends over."""
    sent_over = set()
    if facts.base not in INDEXING or not is_there(args[0]):
        return sent_over
    for index in args[1]:
        if index is None:
            continue
        if not is_there(index):
            sent_over.add(id(index))
            note("h2d", facts.name, index.nbytes)
        if id(index) in sent_over or index.dtype in (torch.bool, torch.uint8):
            note("sync", facts.name)
    return sent_over


def _check_devices(tensors: list[Tensor], facts: _Facts) -> None:
    for tensor in tensors:
        if not is_there(tensor) and (tensor.dim() or not facts.takes_scalars):
            raise RuntimeError(TWO_DEVICES.format(facts.name))


def _check_product(tensors: list[Tensor], facts: _Facts) -> None:
    if facts.base in PRODUCTS:
        last = tensors[-1]
        if not (last.is_floating_point() or last.is_complex()):
            raise RuntimeError(f'"{facts.base}_cuda" not implemented for {str(last.dtype)!r}')


def copy(self: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """Run ``copy_``: the only operator that may have tensors of both devices."""
    both = is_there(self) and is_there(source)
    kind = "launch" if both else "h2d" if is_there(self) else "d2h"
    note(kind, "copy_", source.nbytes)
    if kind == "h2d" and non_blocking:
        # From memory that is not pinned CUDA copies into a buffer of its own first.
        if is_pinned(source):
            note_copy_in_flight(source)
    elif kind != "launch":
        note("sync", "copy_")
    brought(self, {}).copy_(brought(source, {}))
    return self


def item(self: Tensor) -> Any:
    """Run ``_local_scalar_dense``, which is behind ``item``, ``float`` and ``bool``."""
    note("d2h", "item", self.element_size())
    note("sync", "item")
    return relabelled(self, CPU).item()


def register() -> None:
    """Put the operators in the place of CUDA's kernels, for the life of the process."""
    anything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    _LIBRARIES.extend([anything, aten])
    anything.fallback(run, "CUDA")
    for full in METADATA:
        aten.impl(full.removesuffix(".default"), _on_cpu_key(full), "CUDA")
    aten.impl("copy_", copy, "CUDA")
    aten.impl("_local_scalar_dense", item, "CUDA")
    # As a whole: torch would go on to cuDNN's.
    for name in ("convolution", "convolution_backward"):
        aten.impl(name, partial(run, getattr(torch.ops.aten, name).default), "CUDA")
    # Without its fused kernels.
    for key in ("CUDA", "AutogradCUDA"):
        aten.impl("scaled_dot_product_attention", _attention, key)
    _NOT_ON_CUDA.update(_only_on_cpu())


def _on_cpu_key(full: str) -> Callable[..., Any]:
    name, overload = full.split(".")
    op = getattr(getattr(torch.ops.aten, name), overload)
    return lambda *args, **kwargs: op._op_dk(DispatchKey.CPU, *args, **kwargs)


def _attention(*args: Any, **kwargs: Any) -> Tensor:
    return torch.ops.aten._scaled_dot_product_attention_math(*args, **kwargs)[0]


def _only_on_cpu() -> Iterator[str]:
    """Operators for which torch's own list has a CPU kernel and none for CUDA."""
    folder = Path(import_module("torchgen").__file__).parent
    listed = (folder / "packaged/ATen/native/native_functions.yaml").read_text(encoding="utf-8")
    for block in listed.split("\n- func: ")[1:]:
        lines = block.partition("  dispatch:\n")[2].split("\n")
        keys = {
            key
            for line in lines
            if line.startswith("    ")
            for key in line.split(":")[0].replace(",", " ").split()
        }
        if "CPU" in keys and "CUDA" not in keys and "Composite" not in str(keys):
            yield "aten::" + block.split("(")[0]
