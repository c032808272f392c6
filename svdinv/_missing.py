"""The error that a face raises where its framework is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def explain_missing(module: str, extra: str) -> ImportError:
    """Make the ImportError of a module that names the extra of svdinv to install."""
    return ImportError(
        f"svdinv needs {module} for this: pip install 'svdinv[{extra}]'", name=module
    )


@contextmanager
def needing(module: str, extra: str) -> Iterator[None]:
    """Name the extra to install, where an import within finds that there is none."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise explain_missing(module, extra) from error
