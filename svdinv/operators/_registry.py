"""The list of operators, and the public functions of a framework made of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from svdinv.core.backend import Backend

__all__ = ["OPERATORS", "bind", "operator"]

F = TypeVar("F", bound=Callable[..., Any])

OPERATORS: dict[str, Callable[..., Any]] = {}


def operator(function: F) -> F:
    """Make a function whose first argument is a backend public on every framework."""
    OPERATORS[function.__name__] = function
    return function


def bind(
    backend: Callable[..., Backend],
    module: str,
    functions: dict[str, Callable[..., Any]] = OPERATORS,
) -> dict[str, Callable[..., Any]]:
    """Make the operators of one framework.

    Parameters
    ----------
    backend : callable
        Gives the backend for the arguments of a call.
    module : str
        Name of the module that they are to be found in.
    functions : dict, optional
        Functions of a backend, by their public names. Default: all operators.

    Returns
    -------
    dict
        Functions by their names, with the signatures and docstrings that they are
        defined with, but for the backend.
    """
    return {
        name: _bound(name, function, backend, module)
        for name, function in functions.items()
    }


def _bound(
    name: str,
    function: Callable[..., Any],
    backend: Callable[..., Backend],
    module: str,
) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        return function(backend(*args, *options.values()), *args, **options)

    signature = inspect.signature(function)
    first, *parameters = signature.parameters.values()
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {
        argument: kind
        for argument, kind in function.__annotations__.items()
        if argument != first.name
    }
    del call.__wrapped__
    call.__module__, call.__name__, call.__qualname__ = module, name, name
    return call
