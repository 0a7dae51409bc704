"""torch's tensors, types, devices and generators; everything is read to the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..exceptions import DamagedModelError
from ._kind import Kind, Node, Reader, Writer, unsavable

__all__ = ["TENSORS"]


def _write_tensor(value: Tensor, writer: Writer) -> dict[str, Node]:
    if type(value) not in (Tensor, nn.Parameter, nn.Buffer) or value.layout != torch.strided:
        raise unsavable(writer, value, f"a {type(value).__name__} of layout {value.layout}")
    if value.device.type == "meta":
        raise unsavable(writer, value, "a tensor on the device 'meta' has no numbers")
    if value.is_quantized or value.is_conj() or value.is_neg():
        raise unsavable(writer, value, "a quantised tensor or a lazy view has no plain numbers")
    plain = torch.view_as_real(value) if value.is_complex() else value
    return {
        "part": writer.part(plain),
        "parameter": isinstance(value, nn.Parameter),
        "grad": value.requires_grad,
        "complex": value.is_complex(),
        # The order in memory, which may decide the last bits of a product.
        "order": sorted(range(value.ndim), key=value.stride, reverse=True),
    }


def _read_tensor(node: dict[str, Node], reader: Reader) -> Tensor:
    value = reader.part(node["part"]).clone()
    value = torch.view_as_complex(value) if node["complex"] else value
    order = node["order"]
    if sorted(order) != list(range(value.ndim)):
        raise DamagedModelError("a tensor has another number of axes than its order")
    if order != sorted(order):
        back = sorted(range(value.ndim), key=order.__getitem__)
        value = value.permute(order).contiguous().permute(back)
    if node["parameter"]:
        return nn.Parameter(value, requires_grad=node["grad"])
    return value.requires_grad_(node["grad"])


def _write_generator(value: torch.Generator, writer: Writer) -> dict[str, Node]:
    return {"state": writer.part(value.get_state()), "seed": value.initial_seed()}


def _read_generator(node: dict[str, Node], reader: Reader) -> torch.Generator:
    generator = torch.Generator().manual_seed(node["seed"])
    state = reader.part(node["state"])
    # That of another device has another form, so only its seed remains.
    return generator.set_state(state) if len(state) == len(generator.get_state()) else generator


def _read_dtype(node: dict[str, Node], reader: Reader) -> torch.dtype:
    dtype = getattr(torch, str(node["text"]), None)
    if not isinstance(dtype, torch.dtype):
        raise DamagedModelError(f"{node['text']!r} is no type of tensors")
    return dtype


TENSORS = (
    Kind("tensor", lambda v: isinstance(v, Tensor), _write_tensor, _read_tensor, shared=True),
    Kind(
        "generator",
        lambda v: isinstance(v, torch.Generator),
        _write_generator,
        _read_generator,
        shared=True,
    ),
    Kind(
        "torch dtype",
        lambda v: isinstance(v, torch.dtype),
        lambda v, w: {"text": str(v).removeprefix("torch.")},
        _read_dtype,
    ),
    Kind(
        "device",
        lambda v: isinstance(v, torch.device),
        lambda v, w: {"text": str(v)},
        lambda n, r: torch.device(str(n["text"])),
    ),
    Kind(
        "size",
        lambda v: type(v) is torch.Size,
        lambda v, w: {"items": list(v)},
        lambda n, r: torch.Size(n["items"]),
    ),
)
