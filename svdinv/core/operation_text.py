"""Operations as text, for graphs that are saved and run by another process.

An operation is a frozen dataclass of numbers, names, functions that are dataclasses,
and classes of factors. Its text is the JSON of its module, its name and its fields, but
for floating point numbers, which stand beside it: a graph may hold them as symbols.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from typing import Any

from svdinv.core.functions import SpectralFunction
from svdinv.core.hermitian import HermitianFunction
from svdinv.core.operation import Operation

__all__ = ["from_text", "to_text"]

_MADE = Operation, SpectralFunction, HermitianFunction


def to_text(x: Any, numbers: list[Any]) -> str | None:
    """Text of an operation, or a field of one; its numbers are added to `numbers`.

    None where a field is an object of another kind, such as a callable. It calls
    nothing that PyTorch's Dynamo could not trace.
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
    name = f'"{kind.__module__}","{kind.__qualname__}"'
    if isinstance(x, type):
        return None if "<" in name else f"[{name}]"
    fields = getattr(kind, "__match_args__", None)  # of a dataclass, and traceable
    if fields is None or "<" in name:
        return None
    texts = []
    for field in fields:
        text = to_text(getattr(x, field), numbers)
        if text is None:
            return None
        texts.append(text)
    return f"[{name},[{','.join(texts)}]]"


@lru_cache(maxsize=512)
def from_text(text: str, numbers: tuple[float, ...]) -> Any:
    """Operation of a text.

    Raises
    ------
    RuntimeError
        If it names a class that is not loaded, or not one of the kinds that operations
        are made of.
    """
    rest = iter(numbers)
    return _decoded(json.loads(text), rest)


def _decoded(x: Any, numbers: Any) -> Any:
    if isinstance(x, dict):
        return next(numbers)
    if not isinstance(x, list):
        return x
    module, name, *fields = x
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    known = isinstance(found, type)
    if known and not fields:  # a class of factors
        return found
    if not known or not issubclass(found, _MADE):
        raise RuntimeError(
            f"this graph was traced with {module}.{name}, which is not to be found: "
            "import its module, in the version of svdinv that traced the graph"
        )
    return found(*(_decoded(field, numbers) for field in fields[0]))
