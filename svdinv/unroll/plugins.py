"""Lookup of objects by name: svdinv's own, or ``package.module:name`` of others."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any


class MethodMissing(NotImplementedError):
    """A class of a user lacks a method that is needed; the message names it."""


@contextlib.contextmanager
def naming(what: Any, *also: type[Exception]) -> Iterator[None]:
    """Put `what`, for instance a path, before the message of a ValueError.

    A FileNotFoundError, and exceptions in `also`, are converted to such a ValueError.
    """
    exceptions: tuple[type[Exception], ...] = (ValueError, FileNotFoundError, *also)
    try:
        yield
    except exceptions as error:
        raise ValueError(f"{what}: {error}") from error


def near(name: str, known: Iterable[str]) -> str:
    """Return a hint "did you mean ..." with the most similar known name, or nothing."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def load(name: str) -> Any:
    """Import ``package.module:name`` of an installed package."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def late_attributes(package: str) -> tuple[Callable[[str], Any], list[str]]:
    """Return the ``__getattr__`` and ``__all__`` of a package with lazy imports.

    The names are those that the package's ``__init__`` imports from its own modules for
    type checkers; each is imported at its first use.
    """
    loader: Any = sys.modules[package].__loader__  # of files or a zip archive
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
    """Import ``package.module:name``, also from modules in the current folder."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{name!r} must have the form package.module:name")
    found = imported_module(module)
    try:
        return getattr(found, attribute)
    except AttributeError as error:
        raise ValueError(f"{name}: {error}") from error


def imported_module(name: str) -> Any:
    """Import a module, also from the current folder; ValueError if it cannot be."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:  # the module may raise anything
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(f"importing {name} raised {problem}") from error


def class_named(name: str, base: type, known: Mapping[str, type]) -> type:
    """Return the class `name` in `known`, or import it as ``package.module:Class``."""
    if name in known:
        return known[name]
    same = known.get(name.rpartition(":")[2])
    if same is not None and name == f"{same.__module__}:{same.__qualname__}":
        return same
    if ":" not in name:
        raise ValueError(
            f"must be one of {sorted(known)}, or package.module:Class, got {name!r}"
        )
    found = imported(name)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{name} is not a subclass of {base.__name__}")
    return found
