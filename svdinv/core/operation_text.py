"""Operations as text, for graphs that are saved and run by another process.

An operation of svdinv is a frozen dataclass of numbers, names, functions that are such
dataclasses, and classes of factors. Its text is the JSON of its module, its name and
its fields, except for floating point numbers, which are listed beside it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from svdinv.core.operation import Operation

_PACKAGE = "svdinv.core."


def to_text(x: Any, numbers: list[Any]) -> str | None:
    """Text of an operation, or a field of one; its numbers are added to `numbers`.

    None if a field cannot be restored from text: a callable, or a class outside svdinv.
    PyTorch's Dynamo can trace this function.
    """
    if x is None:
        return "null"
    if isinstance(x, bool):
        return "true" if x else "false"
    if isinstance(x, int):
        return f"{x}"
    if isinstance(x, float):
        numbers.append(x)
        return "{}"
    if isinstance(x, str):
        return f'"{x}"'
    kind = x if isinstance(x, type) else type(x)
    if not kind.__module__.startswith(_PACKAGE):
        return None
    name = f'"{kind.__module__}","{kind.__qualname__}"'
    if isinstance(x, type):
        return f"[{name}]"
    texts = []
    for field in kind.__match_args__:  # type: ignore[attr-defined]
        text = to_text(getattr(x, field), numbers)
        if text is None:
            return None
        texts.append(text)
    return f"[{name},[{','.join(texts)}]]"


@lru_cache(maxsize=512)
def from_text(text: str, numbers: tuple[float, ...]) -> Operation:
    """Restore an operation from its text.

    Raises
    ------
    RuntimeError
        If this version of svdinv has no such operation.
    """
    try:
        operation = _decoded(json.loads(text), iter(numbers))
        if isinstance(operation, Operation):
            return operation
    except (LookupError, TypeError, ValueError, StopIteration):
        pass
    raise RuntimeError(
        "this graph has an operation that is unknown here; it was traced by another "
        f"version of svdinv: {text}"
    )


def _decoded(x: Any, numbers: Iterator[float]) -> Any:
    if isinstance(x, dict):
        return next(numbers)
    if not isinstance(x, list):
        return x
    module, name, *fields = x
    if not module.startswith(_PACKAGE):
        raise LookupError(module)
    found = vars(sys.modules[module])[name]
    if not isinstance(found, type) or found.__module__ != module:
        raise LookupError(name)
    if not fields:  # a class of factors
        return found
    return found(*[_decoded(field, numbers) for field in fields[0]])
