"""What the project's own documents say about it holds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import fairsvd

PROJECT = Path(__file__).parents[1]
SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def text(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def test_one_version_everywhere():
    version = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    cited = re.search(r"^version: (\S+)$", text("CITATION.cff"), re.MULTILINE)
    assert version == fairsvd.__version__ == cited[1]


def test_the_changelog_keeps_its_form():
    lines = text("CHANGELOG.md").splitlines()
    releases = [line for line in lines if line.startswith("## ")]
    assert releases[0] == "## [Unreleased]"
    dated = re.compile(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}")
    assert [line for line in releases[1:] if not dated.fullmatch(line)] == []
    assert {line[4:] for line in lines if line.startswith("### ")} <= SECTIONS


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_relative_links_lead_somewhere(name):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text(name))
    assert [target for target in targets if not (PROJECT / target).exists()] == []


TARGETS = ["demo", "test", "test-fast", "lint", "docs", "bench", "examples", "fuzz", "torture"]


@pytest.mark.parametrize("target", [*TARGETS, "test-lowest"])
def test_contributing_names_the_commands_of_the_makefile(target):
    assert re.search(rf"^{target}:", text("Makefile"), re.MULTILINE)
    assert f"`make {target}`" in text("CONTRIBUTING.md")


def test_the_architecture_lists_every_folder_of_the_package():
    package = Path(fairsvd.__file__).parent
    folders = [path.parent.name for path in package.glob("*/__init__.py")]
    assert [name for name in folders if f"{name}/" not in text("docs/architecture.rst")] == []


def test_every_editor_has_its_place_in_the_reference_and_among_the_methods():
    from fairsvd.base import EDITORS

    pages = "".join(page.read_text() for page in (PROJECT / "docs" / "methods").glob("*.rst"))
    for name in EDITORS:
        assert f"   fairsvd.{name}\n" in text("docs/api.rst")
        assert f":class:`fairsvd.{name}`" in pages, name


def test_every_page_of_results_is_in_the_table_of_contents():
    listed = text("docs/results/index.rst").split()
    pages = [page.stem for page in (PROJECT / "docs" / "results").glob("*.md")]
    assert [page for page in pages if page not in listed] == []


def test_the_method_is_never_claimed_as_the_paper_s():
    claim = re.compile(r"(implements|reproduces|implementation of|results of) (the )?FairLRF", re.I)
    pages = [
        *PROJECT.glob("*.md"),
        *(PROJECT / "docs").rglob("*.rst"),
        *PROJECT.rglob("src/**/*.py"),
    ]
    assert [page.name for page in pages if claim.search(page.read_text(encoding="utf-8"))] == []


def test_constraints_pin_every_requirement_exactly():
    project = tomllib.loads(text("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *extras["test"], *extras["docs"], *extras["bench"]]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in required}
    pins = [line for line in text("constraints.txt").splitlines() if not line.startswith("#")]
    pinned = {re.fullmatch(r"([\w.-]+)==[\w.]+", pin)[1].lower().replace("_", "-") for pin in pins}
    assert names <= pinned
