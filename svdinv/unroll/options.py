"""Options: fields of dataclasses with the permitted range of their values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

_T = TypeVar("_T")


def option(
    default: _T,
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    rising: bool = False,
    some: bool = False,
    choices: Collection[str] = (),
    plural: str | None = None,
    of_file: bool = False,
) -> _T:
    """Declare an option of a configuration or of the command line, with help text.

    `low` and `high` are inclusive limits of a number, or of each of several; `above`
    and `below` are exclusive limits. With `rising`, several values must not decrease;
    with `some`, there must be at least one. `choices` are the permitted names.
    `plural` is the name of the option in ``svdinv evaluate``, where it has several
    values. `of_file` marks options for reading a file, not for measuring an image.
    Returns a dataclass field, typed as its default.
    """
    metadata = {
        "help": help, "plural": plural, "of_file": of_file, "rising": rising,
        "some": some, "choices": choices, "range": _Range(low, high, above, below),
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


def check_ranges(options: Any) -> None:
    """Check the values of a dataclass against the ranges and choices of its options."""
    for entry in dataclasses.fields(options):
        value, rules = getattr(options, entry.name), entry.metadata
        is_sequence = isinstance(value, tuple | list)
        if isinstance(entry.default, tuple) and not is_sequence:
            raise TypeError(f"{entry.name} must be a tuple, got {value!r}")
        if "range" not in rules:
            continue
        values = value if is_sequence else (value,)
        if rules["some"] and not values:
            raise ValueError(f"{entry.name} must have at least one value")
        for item in values:
            number = isinstance(item, int | float) and not isinstance(item, bool)
            if number and not rules["range"].holds(item):
                raise ValueError(f"{entry.name} must {rules['range']}, got {value}")
            if rules["choices"] and item not in (None, *rules["choices"]):
                allowed = " or ".join(rules["choices"])
                raise ValueError(f"{entry.name} must be {allowed}, got {item!r}")
        pairs = pairwise(values) if rules["rising"] else ()
        if not all(one <= other for one, other in pairs):
            raise ValueError(f"{entry.name} must not fall, got {value}")


class _Range(NamedTuple):
    low: float | None
    high: float | None
    above: float | None
    below: float | None

    def holds(self, number: float) -> bool:
        low, high, above, below = self
        return (
            (low is None or number >= low)
            and (high is None or number <= high)
            and (above is None or number > above)
            and (below is None or number < below)
        )

    def __str__(self) -> str:
        low, high, above, below = self
        first = low if above is None else above
        last = high if below is None else below
        if last in (None, math.inf):
            if first == 0:
                return "not be negative" if above is None else "be positive"
            return f"be {'at least' if above is None else 'above'} {first:.7g}"
        if first is None:
            return f"be {'at most' if below is None else 'below'} {last:.7g}"
        left, right = "[" if above is None else "(", "]" if below is None else ")"
        return f"lie in {left}{first:.7g}, {last:.7g}{right}"
