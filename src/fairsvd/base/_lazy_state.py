"""Entries of a state dict that are computed when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["LazyState"]


class LazyState(Mapping[str, Tensor]):
    """A candidate's state whose weights are computed one at a time, and only if it is chosen.

    Parameters
    ----------
    entries : mapping of name to Tensor or callable
        What nothing changes any more, or a function that returns it.
    """

    def __init__(self, entries: Mapping[str, Tensor | Callable[[], Tensor]]) -> None:
        self.entries = entries

    def __getitem__(self, name: str) -> Tensor:
        """Return one entry, without gradients."""
        value = self.entries[name]
        if isinstance(value, Tensor):
            return value
        with torch.no_grad():
            return value()

    def __iter__(self) -> Iterator[str]:
        """List the names."""
        return iter(self.entries)

    def __len__(self) -> int:
        """Count the entries."""
        return len(self.entries)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as plain tensors."""
        return dict, (dict(self),)
