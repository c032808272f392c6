"""Sphinx configuration; needs no network."""

import inspect
from typing import Any

from sphinx.application import Sphinx

from svdinv import __version__

project = "svdinv"
author = "svdinv developers"
copyright = "2026, svdinv developers"
release = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["_build"]
default_role = "py:obj"  # a `name` links where it can

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # numpydoc's parameter sections name the types
numpydoc_show_class_members = False

html_theme = "furo"
html_title = "svdinv"


def skip_field_alias(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out the fields of named tuples, which the class docstring describes."""
    doc = getattr(obj, "__doc__", None) or ""
    return True if doc.startswith("Alias for field number") else None


def own_signature(app: Sphinx, obj: Any, bound_method: bool) -> None:
    """Take back the signature without `self` that autodoc stores with a method.

    The faces' operators are methods of one class: the next face's would lose another
    argument.
    """
    if inspect.ismethod(obj):
        obj.__func__.__dict__.pop("__signature__", None)


def setup(app: Sphinx) -> None:
    """Connect the filters above."""
    app.connect("autodoc-skip-member", skip_field_alias)
    app.connect("autodoc-before-process-signature", own_signature, priority=900)
