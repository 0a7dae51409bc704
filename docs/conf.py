"""Sphinx configuration: prose, a gallery of examples, and a page for every public name."""

import os
import sys
import warnings

import fairsvd
import fairsvd.comparison
import fairsvd.datasets

project = "fairsvd"
author = "fairsvd developers"
copyright = "2026, fairsvd developers"
version = release = fairsvd.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.extlinks",
    "sphinx.ext.mathjax",
    "myst_parser",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
# Links into the pages of other projects need their inventories, which are on the network: a build
# makes none unless it is asked to, so that it works and looks the same everywhere.
if os.environ.get("FAIRSVD_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "python": ("https://docs.python.org/3", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }
extlinks = {"arxiv": ("https://arxiv.org/abs/%s", "arXiv:%s")}
exclude_patterns = ["_build"]
templates_path = ["_templates"]

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_show_sourcelink = False
html_theme_options = {
    "show_nav_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
}
html_context = {"default_mode": "light"}

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings name types, shapes and units already
autodoc_member_order = "bysource"
# Made by scikit-learn, whose text refers to pages of its own documentation.
autodoc_default_options = {
    "exclude-members": "set_fit_request, set_score_request, set_split_request"
}
numpydoc_show_class_members = False
# Result pages go from their title to tables of the third level.
suppress_warnings = ["myst.header", "myst.xref_missing"]

# The package's own warnings are advice about data, which examples need not be perfect in.
warnings.filterwarnings("ignore", category=fairsvd.exceptions.FairsvdWarning)

# Each needs a published data set: below FAIRSVD_DATA, in the cache, or to be downloaded.
PUBLISHED = {
    "compare_mitigators": fairsvd.datasets.load_compas,
    "skin_lesions": fairsvd.datasets.load_ham10000_8x8,
    "tinted_fashion": fairsvd.datasets.load_fashion_mnist,
}


def without_data():
    """Name the examples whose data is not to be had here; the gallery shows their code alone."""
    missing = []
    for example, load in PUBLISHED.items():
        try:
            load()
        except fairsvd.exceptions.DatasetNotFoundError as reason:
            print(f"examples/plot_{example}.py is shown and not run: {reason}", file=sys.stderr)
            missing.append(example)
    return missing


NOT_RUN = "|".join(without_data()) or "none"

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": rf"plot_(?!{NOT_RUN})\w+\.py",
    "abort_on_example_error": True,
    "only_warn_on_example_error": False,
    "within_subsection_order": "FileNameSortKey",
    "copyfile_regex": r"^$",
    "plot_gallery": "True",
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "min_reported_time": 0,
}
