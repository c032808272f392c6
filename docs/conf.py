"""Sphinx configuration; needs no network."""

import inspect
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

from svdinv import __version__

sys.path.insert(0, str(Path(__file__).parent))  # of the extension `tutorials`

project = "svdinv"
author = "svdinv developers"
copyright = "2026, svdinv developers"
release = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax itself, so that no page asks the network for it
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "tutorials",
]
exclude_patterns = ["_build", "examples"]

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "image_scrapers": ("matplotlib",),
    "matplotlib_animations": False,
    "abort_on_example_error": True,
    "capture_repr": (),
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "remove_config_comments": True,
}
default_role = "py:obj"  # a `name` links where it can

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_mock_imports = ["autoray", "deepinv", "mrpro", "pyproximal", "scico", "sigpy"]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # numpydoc's parameter sections name the types
numpydoc_show_class_members = False

html_theme = "furo"
html_title = "svdinv"
html_static_path = ["static"]
html_css_files = ["svdinv.css"]


def skip_field_alias(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out the fields of named tuples, which the class docstring describes."""
    doc = getattr(obj, "__doc__", None) or ""
    return True if doc.startswith("Alias for field number") else None


def own_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, given: Any, result: Any
) -> tuple[str, None] | None:
    """Show the arguments of `__init__` where a class is made by a foreign one."""
    if what != "class" or given != "(*args, **kwargs)":
        return None
    signature = inspect.signature(obj.__init__)
    _, *parameters = signature.parameters.values()
    signature = signature.replace(parameters=parameters)
    return stringify_signature(signature, show_annotation=False), None


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    # It adds files to the pages, and does not say that these may be read in parallel.
    app.extensions["sphinx-mathjax-offline"].parallel_read_safe = True
    app.connect("autodoc-skip-member", skip_field_alias)
    app.connect("autodoc-process-signature", own_signature)
