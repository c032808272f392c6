"""Objects by name: those of svdinv, and ``package.module:name`` of others."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def naming(what: Any, *also: type[Exception]) -> Iterator[None]:
    """Put a path, an argument or an option before the message of a ValueError within.

    A FileNotFoundError, and those of `also`, become such a ValueError.
    """
    kinds: tuple[type[Exception], ...] = (ValueError, FileNotFoundError, *also)
    try:
        yield
    except kinds as error:
        raise ValueError(f"{what}: {error}") from error


def near(name: str, known: Iterable[str]) -> str:
    """Suggest, for a message, the name among those known that may be meant."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def load(name: str) -> Any:
    """Import ``package.module:name`` of an installed package."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def late_attributes(package: str) -> tuple[Callable[[str], Any], list[str]]:
    """Make the ``__getattr__`` of a package, which imports a name at its first use.

    What there is, the ``__all__`` returned with it, are the names that the package's
    own ``__init__`` imports for type checkers from its modules.
    """
    loader: Any = sys.modules[package].__loader__  # of files, of a zip archive
    tree = ast.parse(loader.get_source(package))
    modules = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and str(node.module).startswith(f"{package}.")
        for alias in node.names
    }

    def attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return load(f"{modules[name]}:{name}")

    return attribute, list(modules)


def imported(name: str) -> Any:
    """Import ``package.module:name``; modules in the current folder are found, too."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{name!r} is not of the form package.module:name")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        return load(name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:  # the module is anybody's
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{name}: importing {module} ended in {what}") from error


def class_named(name: str, base: type, known: Mapping[str, type]) -> type:
    """Find a class by its name in `known`, or import it as ``package.module:Class``."""
    if name in known:
        return known[name]
    if ":" not in name:
        raise ValueError(
            f"must be one of {sorted(known)}, or package.module:Class, got {name!r}"
        )
    found = imported(name)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{name} is no {base.__name__}")
    return found
