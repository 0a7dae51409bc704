"""The shape of the package: floors, cycles, lengths and imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache, wraps
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fairsvd
from fairsvd.base import EDITORS
from fairsvd.comparison import compare  # noqa: F401 (registers every editor)

pytestmark = pytest.mark.slow

PACKAGE = Path(fairsvd.__file__).parent
PROJECT = Path(__file__).parents[1]

# Low to high. A unit is a file or a folder of the package; it imports only from floors below its
# own. A new file or folder has to be given its place here.
FLOORS = (
    {"exceptions", "_files", "_messages", "_parallel", "_rng", "_signature"},
    {"_warn"},
    {"containers"},
    {"groups", "datasets"},
    {"arrays"},
    {"caching"},
    {"networks"},
    {"training"},
    {"masks", "layers", "curvature"},
    {"objective"},
    {"model_selection", "metrics"},
    {"base"},
    {"phases", "generative"},
    {"intraprocessing", "low_rank", "masking", "postprocessing", "selective"},
    {"interop", "monitor", "persistence", "report", "testing"},
    {"conformance"},
    {"comparison"},
    {"cli"},
)
LEVEL = {unit: level for level, units in enumerate(FLOORS) for unit in units}

MAX_LINES = 300
# A method is one file.
MAX_METHOD_LINES = 450
# "folder/file.py": the reason why it may not be split.
LONGER_FILES = {
    "generative/hyper/_generator.py": "one class, most of it the documentation of its parameters",
    "phases/_masking.py": "both ways to masks, imitated or under the soft gap, and what follows",
    "phases/_path.py": "the whole way of an edit to its loss, which a reader follows in one file",
}
MAX_BODY = 50

# Slow to import and needed by few users: only inside the function that needs them.
LATE_LIBRARIES = {
    *("aif360", "dask", "diffusers", "distributed", "fairlearn", "matplotlib", "narwhals"),
    *("onnx", "onnxruntime", "onnxscript", "pandas", "polars", "skops", "tqdm", "transformers"),
}
# Files imported only when a class of theirs is asked for, which derives from one of the library's.
LATE_FILES = {
    "comparison._table": {"pandas"},
    "interop._aif360_mitigator": {"aif360", "pandas"},
}
# Their files run code when they are read.
UNSAFE_LIBRARIES = {"cloudpickle", "dill", "marshal", "pickle", "shelve"}
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}


def module_name(path: Path) -> str:
    """Dotted name below the package; the package itself is the empty string."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(sources()[name].read_text(encoding="utf-8"))


def unit(name: str) -> str:
    return name.split(".")[0]


UNITS = sorted({unit(name) for name in sources()} - {""})
FILES = sorted(name for name in sources() if name)


def over_files(check: Callable[[str], None]) -> Callable[[], None]:
    """Make one test of a check of every file, which tells what is wrong in which."""

    @wraps(check)
    def test() -> None:
        wrong = {}
        for name in FILES:
            try:
                check(name)
            except AssertionError as error:
                wrong[name] = str(error)
        assert wrong == {}

    # pytest asks for a fixture for each parameter that it sees.
    del test.__wrapped__  # type: ignore[attr-defined]
    return test


def anchor(name: str, level: int) -> str:
    """Return the module that `level` leading dots mean inside the file of that name."""
    parts = name.split(".") if name else []
    up = level - 1 if sources()[name].name == "__init__.py" else level
    return ".".join(parts[: len(parts) - up])


def from_targets(name: str, node: ast.ImportFrom) -> Iterator[str]:
    """Modules of this package that one `from ... import ...` reaches."""
    module = node.module or ""
    if node.level:
        base = ".".join(filter(None, [anchor(name, node.level), module]))
    elif module == "fairsvd" or module.startswith("fairsvd."):
        base = module.removeprefix("fairsvd").removeprefix(".")
    else:
        return
    for alias in node.names:
        below = ".".join(filter(None, [base, alias.name]))
        if below in sources():
            yield below
        elif below != "__version__":  # a constant of the root, there before anything else
            yield base


@cache
def own_imports(name: str) -> set[str]:
    """Modules of this package that a file imports, at any depth and under TYPE_CHECKING too."""
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom):
            found.update(from_targets(name, node))
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            found.update(n[8:] for n in names if n == "fairsvd" or n.startswith("fairsvd."))
    return found


def imported_libraries(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and not node.level:
        return {(node.module or "").split(".")[0]}
    return set()


def run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what executes when a file is imported: no function bodies, nothing for types only."""
    for child in ast.iter_child_nodes(node):
        function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not function and not typing_only:
            yield child
            yield from run_on_import(child)


def upward_imports(name: str) -> set[str]:
    """Imports from the file's own floor or above, its own folder excepted."""
    here = unit(name)
    others = {target for target in own_imports(name) if unit(target) != here}
    return {target for target in others if LEVEL.get(unit(target), len(FLOORS)) >= LEVEL[here]}


def test_every_file_has_its_floor_and_every_floor_its_files():
    assert sorted(LEVEL) == UNITS


def test_no_unit_stands_on_two_floors():
    assert sum(map(len, FLOORS)) == len(LEVEL)


@over_files
def test_imports_only_from_lower_floors(name):
    assert upward_imports(name) == set()


@pytest.mark.parametrize("unit_name", UNITS)
def test_no_cycle_inside_a_folder(unit_name):
    members = [name for name in FILES if unit(name) == unit_name]
    graph = {name: {t for t in own_imports(name) if unit(t) == unit_name} for name in members}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_the_reader_of_imports_sees_every_form(monkeypatch):
    code = """
import fairsvd.metrics
from . import masks
from ..groups import encode_groups
from fairsvd import FairLRFTransformer
from fairsvd.objective import gap
from .. import __version__
def f():
    from .deeper import g
if TYPE_CHECKING:
    from ..base import NetworkEditor
"""
    files = dict.fromkeys(
        ["metrics", "folder.masks", "groups", "objective", "folder.deeper", "base", ""], PACKAGE
    )
    monkeypatch.setattr(
        f"{__name__}.sources", lambda: {**files, "folder.file": PACKAGE / "folder" / "file.py"}
    )
    monkeypatch.setattr(f"{__name__}.tree", lambda name: ast.parse(code))
    assert own_imports("folder.file") == set(files)


def test_an_import_from_above_would_be_seen(monkeypatch):
    monkeypatch.setattr(f"{__name__}.own_imports", lambda name: {"base", "groups", "low_rank.x"})
    assert upward_imports("base.file") == {"low_rank.x"}
    assert upward_imports("metrics") == {"base", "low_rank.x"}


@over_files
def test_no_import_by_name_goes_round_the_floors(name):
    calls = [node for node in ast.walk(tree(name)) if isinstance(node, ast.Call)]
    dynamic = [
        ast.unparse(call)
        for call in calls
        if ast.unparse(call.func).split(".")[-1] in {"import_module", "__import__"}
        and re.search(r"fairsvd|__name__|__package__|['\"]\.", ast.unparse(call))
    ]
    assert dynamic == []


METHODS = {kind.__module__.removeprefix("fairsvd.") for kind in EDITORS.values()}


@over_files
def test_no_file_is_too_long(name):
    path = sources()[name]
    longer = name in METHODS or path.relative_to(PACKAGE).as_posix() in LONGER_FILES
    most = MAX_METHOD_LINES if longer else MAX_LINES
    assert len(path.read_text(encoding="utf-8").splitlines()) <= most


@over_files
def test_private_files_are_imported_inside_their_folder_only(name):
    here = name.rpartition(".")[0] if sources()[name].name != "__init__.py" else name
    private = {
        target
        for target in own_imports(name)
        if "." in target
        and target.rpartition(".")[2].startswith("_")
        and target.rpartition(".")[0] != here
    }
    assert private == set()


@over_files
def test_private_names_are_imported_inside_their_folder_only(name):
    here = name.rpartition(".")[0] if sources()[name].name != "__init__.py" else name
    private = [
        alias.name
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ImportFrom)
        and any(target.rpartition(".")[0] != here for target in from_targets(name, node))
        for alias in node.names
        if alias.name.startswith("_") and alias.name != "__version__"
    ]
    assert private == []


def test_longer_files_exist_and_have_a_reason():
    for path, reason in LONGER_FILES.items():
        assert (PACKAGE / path).is_file()
        assert len(reason.split()) >= 5


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function after its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


@over_files
def test_no_function_is_too_long(name):
    functions = [
        node
        for node in ast.walk(tree(name))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert {f.name: body_lines(f) for f in functions if body_lines(f) > MAX_BODY} == {}


@over_files
def test_slow_libraries_are_imported_late(name):
    loaded = set().union(*(imported_libraries(node) for node in run_on_import(tree(name))))
    assert loaded & LATE_LIBRARIES <= LATE_FILES.get(name, set())


@over_files
def test_nothing_is_read_that_could_hold_code(name):
    libraries = set().union(*(imported_libraries(node) for node in ast.walk(tree(name))))
    calls = [ast.unparse(n.func) for n in ast.walk(tree(name)) if isinstance(n, ast.Call)]
    unsafe = {"eval", "exec", "joblib.load", "np.load", "pd.read_pickle", "torch.load"}
    # This error is all that is taken from pickle.
    allowed = (
        {"pickle"} if "from pickle import PicklingError\n" in sources()[name].read_text() else set()
    )
    assert libraries & UNSAFE_LIBRARIES <= allowed
    assert set(calls) & unsafe == set()


def early_imports(late: str) -> set[str]:
    """Files that load a late one when they are imported: by its name or by that of its class."""
    classes = {node.name for node in tree(late).body if isinstance(node, ast.ClassDef)}
    return {
        name
        for name in sources()
        for node in run_on_import(tree(name))
        if isinstance(node, ast.ImportFrom)
        and (late in from_targets(name, node) or classes & {alias.name for alias in node.names})
    }


@pytest.mark.parametrize("late", LATE_FILES)
def test_late_files_are_imported_late(late):
    assert early_imports(late) == set()


@pytest.mark.parametrize(
    "line",
    [
        "from ._table import NEEDED",
        "from . import _table",
        "from . import Comparison",
        "from fairsvd import Comparison",
    ],
)
def test_an_early_import_of_a_late_file_would_be_seen(monkeypatch, line):
    trees = {name: tree(name) for name in sources()} | {"comparison._compare": ast.parse(line)}
    monkeypatch.setattr(f"{__name__}.tree", trees.__getitem__)
    assert early_imports("comparison._table") == {"comparison._compare"}


def declared_requirements() -> set[str]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    optional = ("images", "scale", "diffusion", "onnx", "tables")
    required = [*project["dependencies"], *(r for name in optional for r in extras[name])]
    return {re.split(r"[^\w-]", requirement)[0] for requirement in required}


@over_files
def test_every_library_is_a_declared_requirement(name):
    libraries = set().union(*(imported_libraries(node) for node in ast.walk(tree(name))))
    foreign = libraries - sys.stdlib_module_names - {"fairsvd"}
    assert {DISTRIBUTIONS.get(library, library) for library in foreign} <= declared_requirements()
