"""Sphinx configuration: API pages from the docstrings, prose from the pages beside this file."""

import fairsvd
import fairsvd.comparison  # registers every editor
from fairsvd.base import EDITORS

project = "fairsvd"
author = "fairsvd developers"
copyright = "2026, fairsvd developers"
version = release = fairsvd.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.extlinks", "numpydoc"]
extlinks = {"arxiv": ("https://arxiv.org/abs/%s", "arXiv:%s")}
exclude_patterns = ["_build", "results"]
html_theme = "alabaster"
html_theme_options = {"description": fairsvd.__doc__.splitlines()[0], "page_width": "1080px"}

autodoc_typehints = "none"  # the docstrings name types, shapes and units already
autodoc_member_order = "bysource"
# Made by scikit-learn, whose text refers to pages of its own documentation.
autodoc_default_options = {
    "exclude-members": "set_fit_request, set_score_request, set_split_request"
}
numpydoc_show_class_members = False

EDITOR = """.. autoclass:: fairsvd.{}
   :members:
"""


def list_editors(app: object, page: str, source: list[str]) -> None:
    """Write an entry for every registered editor in the place of ``.. editors::``."""
    source[0] = source[0].replace(".. editors::", "\n".join(map(EDITOR.format, sorted(EDITORS))))


def setup(app: object) -> None:
    """Tell Sphinx about it."""
    app.connect("source-read", list_editors)
