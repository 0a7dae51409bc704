"""Parameters of an estimator, declared once: field, default, legal values and text.

The one file that uses scikit-learn's private table of legal values.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, TypeVar, dataclass_transform

from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

__all__ = [
    "HasMethods",
    "Interval",
    "Splitter",
    "StrOptions",
    "at_least_0",
    "confidence_level",
    "fraction",
    "negative_int",
    "parameter",
    "positive",
    "positive_int",
    "with_parameters",
]

C = TypeVar("C", bound=type)


class Splitter(HasMethods):
    """Accept a splitter; a text has a method ``split`` too, which does not split rows."""

    def __init__(self) -> None:
        super().__init__(["split"])

    def is_satisfied_by(self, val: Any) -> bool:
        """Tell whether a value is a splitter."""
        return not isinstance(val, (str, bytes)) and bool(super().is_satisfied_by(val))

    def __str__(self) -> str:
        return "a splitter of exactly one split"


def positive_int(least: int = 1) -> Interval:
    """Accept integers of at least ``least``."""
    return Interval(Integral, least, None, closed="left")


def negative_int() -> Interval:
    """Accept integers below 0."""
    return Interval(Integral, None, -1, closed="right")


def positive() -> Interval:
    """Accept real numbers above 0."""
    return Interval(Real, 0, None, closed="neither")


def at_least_0() -> Interval:
    """Accept real numbers of at least 0."""
    return Interval(Real, 0, None, closed="left")


def fraction(closed: str = "both") -> Interval:
    """Accept real numbers from 0 to 1; ``closed`` names the ends that are included."""
    return Interval(Real, 0, 1, closed=closed)


def confidence_level() -> Interval:
    """Accept real numbers from one half to 1, without the latter."""
    return Interval(Real, 0.5, 1, closed="left")


def parameter(*legal: Any, default: Any, kw_only: bool = True) -> Any:
    """Declare a parameter of the constructor in the body of a class.

    Parameters
    ----------
    *legal : objects
        What scikit-learn's validation accepts; without any it accepts everything.
    default : object
    kw_only : bool, default=True
        False: the parameter may be passed by position.
    """
    metadata = {"legal": list(legal) or "no_validation"}
    return field(default=default, metadata=metadata, kw_only=kw_only)


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(parameter, field))
def with_parameters(cls: C) -> C:
    """Make the fields of a class the parameters of its constructor.

    A subclass declares and documents its own parameters. Those of its base classes follow, in the
    signature and in the docstring. Only ``network`` comes first and may be passed by position. If a
    subclass documents an inherited parameter again, its text replaces the inherited one.
    """
    bases = [base for base in cls.__mro__[:0:-1] if "__dataclass_fields__" in vars(base)]
    decorated: Any = dataclass(kw_only=True, repr=False, eq=False)(cls)
    decorated._parameter_constraints = {f.name: f.metadata["legal"] for f in fields(decorated)}
    signature = inspect.signature(decorated.__init__)
    ordered = sorted(
        signature.parameters.values(), key=lambda p: (p.kind, _distance(decorated, p.name))
    )
    decorated.__init__.__signature__ = signature.replace(parameters=ordered)
    if decorated.__doc__ is not None:
        inherited = [base.__doc__ or "" for base in bases]
        decorated.__doc__ = _document(decorated.__doc__, inherited, [p.name for p in ordered[1:]])
    return cls


def _distance(cls: type, name: str) -> int:
    """Count the base classes between a class and a parameter's declaration; -1 for self."""
    if name == "self":
        return -1
    declared = (name in inspect.get_annotations(base) for base in cls.__mro__)
    return next(k for k, here in enumerate(declared) if here)


def _document(doc: str, inherited: list[str], names: list[str]) -> str:
    """Rewrite the section of the parameters: those of the class, then the inherited ones."""
    texts: dict[str, str] = {}
    for each in (*inherited, doc):
        texts |= _entries(_split(each)[1])
    before, _, after = _split(doc)
    # One entry may document several parameters.
    section = "\n".join(dict.fromkeys(texts[name] for name in names if name in texts))
    return f"{before}Parameters\n----------\n{section}\n\n{after}"


def _split(doc: str) -> tuple[str, str, str]:
    """Split a docstring into the text before the parameters, these, and the text after them."""
    doc = inspect.cleandoc(doc)
    before, title, rest = doc.partition("Parameters\n----------\n")
    if title:
        section, _, after = rest.partition("\n\n")
        return before, section, after
    next_section = re.search(r"^\w[\w ]*\n-{3,}$", doc, re.MULTILINE)
    start = next_section.start() if next_section else len(doc)
    return doc[:start].rstrip() + "\n\n", "", doc[start:]


def _entries(section: str) -> dict[str, str]:
    """Map the names of parameters to their entries; several names may share one."""
    entries = re.split(r"\n(?! )", section) if section else []
    return {name: entry for entry in entries for name in entry.partition(" : ")[0].split(", ")}
