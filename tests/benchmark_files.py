"""Modules of the folder ``benchmarks``, which is no part of the installed package."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

PROJECT = str(Path(__file__).parents[1])


def load(name: str) -> ModuleType:
    """Import a module of ``benchmarks`` by its name there, such as ``fairness.protocol``."""
    if PROJECT not in sys.path:
        sys.path.insert(0, PROJECT)
    return importlib.import_module(f"benchmarks.{name}")
