"""The error that a face raises where its framework is not installed."""

from __future__ import annotations


def explain_missing(module: str, extra: str) -> ImportError:
    """Make the ImportError that names the extra to install.

    Parameters
    ----------
    module : str
        Module that could not be imported.
    extra : str
        Extra of svdinv that brings it.

    Returns
    -------
    ImportError
        To be raised from the original error.
    """
    return ImportError(
        f"svdinv needs {module} for this: pip install 'svdinv[{extra}]'", name=module
    )
