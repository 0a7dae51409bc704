"""The public names: there, lazy, documented and annotated."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from numpydoc.validate import validate

import fairsvd
from fairsvd import NetworkEditor
from fairsvd.base import EDITORS
from fairsvd.comparison import compare  # noqa: F401 (registers every editor)


def public_objects() -> dict[str, object]:
    """Every public class and function, and every public method that a class itself defines."""
    found: dict[str, object] = {}
    for name in fairsvd.__all__:
        value = getattr(fairsvd, name)
        if inspect.isclass(value):
            found[name] = value
            for key, method in vars(value).items():
                if not key.startswith("_") and inspect.isfunction(method):
                    found[f"{name}.{key}"] = method
        elif inspect.isfunction(value):
            found[name] = value
        elif inspect.ismodule(value):
            assert value.__doc__
            found |= {
                f"{name}.{key}": getattr(value, key)
                for key in value.__all__
                if inspect.isfunction(getattr(value, key))
            }
    return found


@pytest.mark.parametrize("name", fairsvd.__all__)
def test_public_name_resolves(name):
    value = getattr(fairsvd, name)
    assert getattr(fairsvd, name) is value
    assert name in dir(fairsvd)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'FairLRF'"):
        fairsvd.FairLRF  # noqa: B018


def test_type_checkers_see_the_names_that_users_get():
    tree = ast.parse(Path(fairsvd.__file__).read_text(encoding="utf-8"))
    branch = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {}
    for node in branch.body:
        for alias in node.names:
            names = [alias.name]
            if alias.name == "*":
                names = importlib.import_module(f"fairsvd.{node.module}").__all__
            seen |= dict.fromkeys(names, node.module)
    assert {k for k, v in seen.items() if v is None} == fairsvd._SUBMODULES
    assert {k: v for k, v in seen.items() if v is not None} == fairsvd._HOMES
    assert sorted([*seen, "__version__"]) == sorted(fairsvd.__all__)


def test_every_registered_editor_is_public():
    assert set(EDITORS) <= set(fairsvd.__all__)
    assert all(getattr(fairsvd, name) is kind for name, kind in EDITORS.items())


def test_every_editor_of_the_package_is_registered():
    families = {kind.__module__.split(".")[1] for kind in EDITORS.values()}
    editors = {
        name
        for name, home in fairsvd._HOMES.items()
        if home in families and issubclass(getattr(fairsvd, name), NetworkEditor)
    }
    # A search over another editor's settings is no method of its own.
    assert editors - set(EDITORS) == {"FairLRFTransformerCV"}


def test_public_names_are_annotated():
    bare = []
    for name, value in public_objects().items():
        callable_ = value.__init__ if inspect.isclass(value) else value
        if callable_ is object.__init__:
            continue  # an abstract class without parameters of its own
        parameters = list(inspect.signature(callable_).parameters.values())
        bare += [f"{name}({p.name})" for p in parameters if _unannotated(p)]
        if not inspect.isclass(value) and "return" not in callable_.__annotations__:
            bare.append(f"{name} ->")
    assert bare == []


def _unannotated(parameter: inspect.Parameter) -> bool:
    return parameter.name != "self" and parameter.annotation is inspect.Parameter.empty


# No docstring; parameters undocumented, unknown, out of order or without a type.
DOCSTRING_CODES = {"GL08", "PR01", "PR02", "PR03", "PR04"}


def test_public_names_are_documented():
    faults = {}
    for name in public_objects():
        # torch fixes what `forward` takes: a sentence with the shapes is enough there.
        codes = DOCSTRING_CODES - ({"PR01"} if name.endswith(".forward") else set())
        errors = [e for e in validate(f"fairsvd.{name}")["errors"] if e[0] in codes]
        if errors:
            faults[name] = errors
    assert faults == {}


def loaded_after(statement: str) -> set[str]:
    """Modules in `sys.modules` after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", code]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_the_bare_import_loads_nothing():
    assert loaded_after("import fairsvd") & {"torch", "sklearn", "numpy", "skorch"} == set()


def test_what_few_need_is_left_alone():
    loaded = loaded_after("import fairsvd.interop; from fairsvd import FairLRFTransformer, compare")
    assert {"torch", "fairsvd.comparison", "fairsvd.interop"} <= loaded
    late = {"fairlearn", "aif360", "matplotlib", "dask", "oxonfair", "fairsvd.comparison._table"}
    assert loaded & late == set()
