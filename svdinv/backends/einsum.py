"""NumPy's sums of products of arrays, made of products of matrices.

Each function takes the namespace whose functions it is made of, then NumPy's arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from numbers import Number
from operator import index
from string import ascii_letters
from typing import Any

import numpy as np

from svdinv.core.namespace import Array, Namespace


def einsum(
    xp: Namespace, subscripts: str, *operands: Array, optimize: object = None
) -> Array:
    """Sum of products by the names of axes, operand by operand from the left."""
    return or_number(_contracted(xp, subscripts, *operands))


def or_number(x: Array) -> Array:
    """Return an array, or a number for one without axes, as NumPy does."""
    return x if x.shape else x[()]


def _contracted(xp: Namespace, subscripts: str, *operands: Array) -> Array:
    if not isinstance(subscripts, str):
        raise TypeError("no derivative of numpy.einsum of lists of axes is known here")
    arrays = as_arrays(xp, operands)
    named, result = _terms(subscripts, *(tuple(x.shape) for x in arrays))
    factors = [_diagonal(xp, *one) for one in zip(named, arrays, strict=True)]
    sizes: dict[str, int] = {}
    for names, x in factors:
        for name, n in zip(names, x.shape, strict=True):
            sizes[name] = sizes.get(name, 1) if n == 1 else n  # 1 is broadcast
    (names, x), *others = (_without_broadcast(xp, *one, sizes) for one in factors)
    for i, other in enumerate(others, 1):
        later = set(result).union(*named[i + 1 :])
        names, x = _product(xp, (names, x), other, later, sizes)
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
        if a.shape[i] != b.shape[j]:
            raise ValueError(
                f"axis {i} of a of shape {tuple(a.shape)} and axis {j} of b of shape "
                f"{tuple(b.shape)} must have one length"
            )
        right[int(j)] = left[int(i)]
    kept = [name for name in (*left, *right) if (name in left) != (name in right)]
    return _contracted(xp, f"{''.join(left)},{''.join(right)}->{''.join(kept)}", a, b)


def as_arrays(xp: Namespace, operands: Iterable[Any]) -> list[Array]:
    """Turn numbers and lists into arrays."""
    arrays = xp.arrays(*operands)
    return [xp.asarray(x) if isinstance(x, Number) else x for x in arrays]


@lru_cache
def _terms(subscripts: str, *shapes: tuple[int, ...]) -> tuple[tuple[str, ...], str]:
    """Return a letter for each axis of each operand, and of the result."""
    arrays = (np.broadcast_to(0.0, shape) for shape in shapes)
    np.einsum_path(subscripts, *arrays, optimize=False)  # NumPy's errors
    inputs, arrow, result = subscripts.replace(" ", "").partition("->")
    if not arrow:  # what occurs once, in the order of the alphabet
        once = (x for x in inputs if x.isalpha() and inputs.count(x) == 1)
        result = "..." * ("..." in inputs) + "".join(sorted(once))
    terms = inputs.split(",")
    hidden = [
        len(shape) - len(term.replace("...", ""))
        for term, shape in zip(terms, shapes, strict=True)
    ]
    shared = "".join(x for x in ascii_letters if x not in inputs)[: max(hidden)]
    if shared and "..." not in result:
        raise ValueError(f"subscripts {subscripts!r} have no ellipsis in the result")
    named = (
        term.replace("...", shared[len(shared) - n :])
        for term, n in zip(terms, hidden, strict=True)
    )
    return tuple(named), result.replace("...", shared)


def _diagonal(xp: Namespace, names: str, x: Array) -> tuple[str, Array]:
    """Take the diagonal of the axes that have the same name."""
    for name in dict.fromkeys(names):
        while names.count(name) > 1:
            i, j = names.index(name), names.rindex(name)
            if x.shape[i] != x.shape[j]:
                raise ValueError(f"axes {name!r} of one operand must have one length")
            others = [k for k in range(len(names)) if k not in (i, j)]
            x = xp.linalg.diagonal(xp.permute_dims(x, (*others, i, j)))
            names = "".join(names[k] for k in others) + name
    return names, x


def _without_broadcast(
    xp: Namespace, names: str, x: Array, sizes: dict[str, int]
) -> tuple[str, Array]:
    """Leave out the axes of length 1 that are longer in other operands."""
    pairs = zip(names, x.shape, strict=True)
    kept = "".join(name for name, n in pairs if n == sizes[name])
    if kept == names:
        return names, x
    return kept, xp.reshape(x, tuple(sizes[name] for name in kept))


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
