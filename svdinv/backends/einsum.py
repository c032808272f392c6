"""NumPy's sums of products of arrays, made of products of matrices.

Each function takes the namespace whose functions it is made of, then NumPy's arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Number
from operator import index
from typing import Any

import numpy as np

from svdinv.core.namespace import Array, Namespace


def einsum(
    xp: Namespace, subscripts: str, *operands: Array, optimize: object = None
) -> Array:
    """Sum of products by the names of axes, operand by operand from the left."""
    terms, result = _terms(subscripts, len(operands))
    arrays = as_arrays(xp, operands)
    sizes: dict[str, int] = {}
    for term, x in zip(terms, arrays, strict=True):
        if len(term) != x.ndim or any(
            sizes.setdefault(name, n) != n
            for name, n in zip(term, x.shape, strict=True)
        ):
            raise ValueError(
                f"subscripts {subscripts!r} do not name the axes of operands of shapes "
                f"{', '.join(str(tuple(x.shape)) for x in arrays)}"
            )
    names, x = terms[0], arrays[0]
    for i, y in enumerate(arrays[1:], 1):
        later = set(result).union(*terms[i + 1 :])
        names, x = _product(xp, (names, x), (terms[i], y), later, sizes)
    names, x = _summed(xp, names, x, set(result))
    return xp.permute_dims(x, tuple(map(names.index, result)))


def tensordot(xp: Namespace, a: Array, b: Array, axes: Any = 2) -> Array:
    """Sum over pairs of axes: the last and first `axes`, or two lists of them."""
    a, b = xp.arrays(a, b)
    try:
        first, second = axes
    except TypeError:  # a number
        count = index(axes)
        first, second = range(a.ndim - count, a.ndim), range(count)
    left = [chr(ord("A") + i) for i in range(a.ndim)]
    right = [chr(ord("a") + i) for i in range(b.ndim)]
    for i, j in zip(np.atleast_1d(first), np.atleast_1d(second), strict=True):
        right[int(j)] = left[int(i)]
    kept = [name for name in (*left, *right) if (name in left) != (name in right)]
    return einsum(xp, f"{''.join(left)},{''.join(right)}->{''.join(kept)}", a, b)


def as_arrays(xp: Namespace, operands: Iterable[Any]) -> list[Array]:
    """Turn numbers and lists into arrays."""
    arrays = xp.arrays(*operands)
    return [xp.asarray(x) if isinstance(x, Number) else x for x in arrays]


def _terms(subscripts: Any, count: int) -> tuple[list[str], str]:
    if isinstance(subscripts, str):
        inputs, arrow, result = subscripts.replace(" ", "").partition("->")
        terms = inputs.split(",")
        if not arrow:  # what occurs once, in the order of the alphabet
            once = (x for x in inputs if x != "," and inputs.count(x) == 1)
            result = "".join(sorted(once))
        plain = all(term.isalpha() or not term for term in (*terms, result))
        distinct = all(len(set(term)) == len(term) for term in (*terms, result))
        if plain and distinct and len(terms) == count and set(result) <= set(inputs):
            return terms, result
    what = repr(subscripts) if isinstance(subscripts, str) else "lists of axes"
    raise TypeError(
        f"no derivative of numpy.einsum of {what} is known here, but of one "
        "term for each operand, with letters that no term has twice"
    )


def _summed(xp: Namespace, names: str, x: Array, kept: set[str]) -> tuple[str, Array]:
    axes = tuple(i for i, name in enumerate(names) if name not in kept)
    x = xp.sum(x, axis=axes) if axes else x
    return "".join(name for name in names if name in kept), x


def _product(
    xp: Namespace,
    first: tuple[str, Array],
    second: tuple[str, Array],
    later: set[str],
    sizes: dict[str, int],
) -> tuple[str, Array]:
    """Multiply two arrays with named axes, and sum over all that are not in `later`."""
    (a, x), (b, y) = (
        _summed(xp, *one, later | set(other[0]))
        for one, other in ((first, second), (second, first))
    )
    batch = "".join(name for name in a if name in b and name in later)
    inner = "".join(name for name in a if name in b and name not in later)
    left = "".join(name for name in a if name not in b)
    right = "".join(name for name in b if name not in a)

    def matrices(x: Array, names: str, *parts: str) -> Array:
        x = xp.permute_dims(x, tuple(map(names.index, "".join(parts))))
        lengths = (math.prod(sizes[name] for name in part) for part in parts)
        return xp.reshape(x, tuple(lengths))

    z = xp.matmul(
        matrices(x, a, batch, left, inner), matrices(y, b, batch, inner, right)
    )
    names = batch + left + right
    return names, xp.reshape(z, tuple(sizes[name] for name in names))
