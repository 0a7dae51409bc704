"""Entries of a cache, and their bytes: a checksum, then a safetensors file."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from .._files import digest

__all__ = ["Entry", "seal", "unseal"]

# Name, among an entry's tensors, of the JSON text that holds the key and the facts. No parameter
# can have this name.
TEXT = "<text>"
DIGITS = 64


@dataclass(frozen=True)
class Entry:
    """A result: named tensors, and facts as JSON values."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)


def seal(entry: Entry, key: str, secret: bytes | None = None) -> bytes:
    """Encode an entry and its key, behind the checksum of both.

    Parameters
    ----------
    entry : Entry
    key : str
    secret : bytes, optional
        Makes the checksum one that nobody else can compute.
    """
    # Cloned, because tied weights share memory, which the format refuses.
    tensors = {n: t.detach().cpu().contiguous().clone() for n, t in entry.tensors.items()}
    text = json.dumps({"key": key, "facts": entry.facts}).encode()
    body: bytes = save({**tensors, TEXT: torch.frombuffer(bytearray(text), dtype=torch.uint8)})
    return digest(body, secret).encode() + body


def unseal(data: bytes, key: str, secret: bytes | None = None) -> Entry | None:
    """Decode what :func:`seal` wrote for that key; None if anything in it is not so.

    Nothing behind the checksum is read unless the checksum is right.
    """
    body = data[DIGITS:]
    if not hmac.compare_digest(data[:DIGITS], digest(body, secret).encode()):
        return None
    # Without a secret anybody can put the right checksum in front of anything. The two formats
    # hold no code, but their readers raise errors of many classes.
    try:
        tensors = load(body)
        text = json.loads(tensors.pop(TEXT).numpy().tobytes())
        # An entry that was moved to another key's place is whole, but no answer to that key.
        return Entry(tensors, text["facts"]) if text["key"] == key else None
    except Exception:
        return None
