"""The path of an edit that removes entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..caching import Cache
from ._batches import count_step_rows
from ._edit import M
from ._path import TuningPath

__all__ = ["MaskingPath"]

# Mask variables of more bytes (256 MiB), those of large networks, are not kept for other caps.
MAX_KEPT = 2**28


@dataclass(frozen=True, kw_only=True)
class MaskingPath(TuningPath[M]):
    """A path that removes entries of the network, then tunes what is left.

    Attributes
    ----------
    whole : MaskedEdit
        The edit that keeps every entry.
    max_removed : float or None
        Cap on the removed share.
    refines : bool
        Whether more than the masks is tuned.
    module, data, constraint, gap_weight, teacher, n_steps, seed, attributes, share, extra_loss
        See :class:`TuningPath`.
    """

    whole: M
    max_removed: float | None
    refines: bool = True

    def key(self) -> dict[str, Any]:
        """Return what a training of masks depends on, besides the scope of the data's cache."""
        aim: Any = [self.gap_weight, count_step_rows(self.data)]
        if self.teacher is not None:
            # Lessons have batches of their own size, of validation rows too.
            rows = self.data.lesson_rows.index
            aim = [self.teacher.rule.weights, self.data.batch_size, rows]
        return {
            # By value: another solver has other factors of equal shape.
            "entries": self.whole.entries(),
            "edit": type(self.whole).__name__,
            "aim": aim,
            "refines": self.refines,
            "margin": self.data.margin,
            "constraint": vars(self.constraint),
            "n_steps": self.n_steps,
            "n_candidates": self.n_candidates,
            "seed": [self.seed.entropy, self.seed.spawn_key],
        }

    def cache_for(self, size: int) -> Cache:
        """Return the data's cache, or one that keeps nothing if a candidate has too many bytes."""
        return self.data.cache if self.n_candidates * size <= MAX_KEPT else Cache()
