"""The error that a face raises where its framework is not installed."""

from __future__ import annotations


def explain_missing(module: str, extra: str) -> ImportError:
    """Make the ImportError of a module that names the extra of svdinv to install."""
    return ImportError(
        f"svdinv needs {module} for this: pip install 'svdinv[{extra}]'", name=module
    )
