"""The registry of all editors; a class enters it where it is defined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any, TypeVar, dataclass_transform

from ._parameters import parameter, with_parameters

__all__ = ["EDITORS", "QUICK", "register_editor"]

E = TypeVar("E", bound=type)

# Editors by class name, and parameters under which a fit of each takes a moment.
EDITORS: dict[str, Any] = {}
QUICK: dict[str, dict[str, Any]] = {}


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(parameter, field))
def register_editor(**quick: Any) -> Callable[[E], E]:
    """Declare a class to be one of the package's editors; see :func:`with_parameters`.

    ``compare``, the command line, the tests, the docs and the benchmarks take their editors from
    here.

    Parameters
    ----------
    **quick
        Parameters under which a fit takes a moment, for examples and checks.
    """

    def register(cls: E) -> E:
        editor = with_parameters(cls)
        EDITORS[editor.__name__], QUICK[editor.__name__] = editor, quick
        return editor

    return register
