"""Sphinx configuration; needs no network."""

from importlib.metadata import version as installed_version

project = "svdinv"
author = "svdinv developers"
copyright = "2026, svdinv developers"
release = installed_version("svdinv")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc's parameter sections name the types
numpydoc_show_class_members = False

html_theme = "furo"
html_title = "svdinv"
