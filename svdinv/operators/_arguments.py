"""Checks of arguments, before any work is done."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from svdinv.core.backend import Backend
from svdinv.core.namespace import Array, known_shape, sizes

# More singular values than any matrix has; exact in single precision.
MOST_VALUES = 2**24


def threshold_values(
    backend: Backend, tau: Any, A: Array, weights: bool
) -> tuple[Array, bool]:
    """Return tau as (..., 1) or, given one per singular value, (..., k), and if it is.

    The latter is allowed with `weights` only.
    """
    xp, values = backend.xp, checked(backend, tau, A)
    batch = tuple(A.shape[:-2])
    each = (*batch, shorter(A.shape))
    weighted = weights and len(values.shape) == len(each)
    if not broadcasts(values.shape, each if weighted else batch):
        wanted, hint = f"or with {len(each)} axes, one for each singular value, to ", ""
        wanted = f"{wanted}{each}" if weights else "one for each matrix"
        if not weights:
            hint = "; only svt takes one for each singular value, but not by matmul"
        raise backend.shape_error(
            f"tau must broadcast to the batch shape {batch}, {wanted}, got shape "
            f"{tuple(values.shape)}{hint}"
        )
    if not weighted:
        return xp.expand_dims(_fitted(backend, values, A, batch), axis=-1), False
    *traced, m, n = sizes(A, xp)
    short = xp.minimum(m, n) if each[-1] is None else each[-1]
    return backend.placed(xp.broadcast_to(values, (*traced, short)), A), True


def per_batch(
    backend: Backend,
    tau: Any,
    A: Array,
    core: int,
    name: str = "tau",
    *,
    any_sign: bool = False,
) -> Array:
    """Tau in the batch shape of A, which has `core` further axes."""
    if any_sign:
        # Not by `math.isfinite`, which Dynamo does not trace.
        if isinstance(tau, numbers.Real) and not abs(float(tau)) < math.inf:
            raise ValueError(f"{name} must be finite, got {tau}")
        values = backend.parameter(tau, A, name)
    else:
        values = checked(backend, tau, A, name)
    batch = tuple(A.shape[: len(A.shape) - core])
    if not broadcasts(values.shape, batch):
        raise backend.shape_error(
            f"{name} must broadcast to the batch shape {batch}, got shape "
            f"{tuple(values.shape)}"
        )
    return _fitted(backend, values, A, batch)


def _fitted(backend: Backend, values: Array, A: Array, batch: tuple[Any, ...]) -> Array:
    # Numbers of axes first: torch.export would record B != 3 for (B, 3) and (3,).
    alike = len(values.shape) == len(batch) and None not in batch
    if not (alike and tuple(values.shape) == batch):
        values = backend.xp.broadcast_to(values, sizes(A, backend.xp)[: len(batch)])
    return backend.placed(values, A)


def checked(backend: Backend, tau: Any, A: Array, name: str = "tau") -> Array:
    if isinstance(tau, numbers.Real) and not float(tau) >= 0:
        raise ValueError(f"{name} must be >= 0, got {tau}")
    xp, values = backend.xp, backend.parameter(tau, A, name)
    if isinstance(tau, numbers.Real):
        return values
    # The values of an array cannot be read here; below 0 there is no threshold.
    return xp.where(values < 0, xp.zeros_like(values), values)


def lengths(backend: Backend, A: Array) -> tuple[Any, Any]:
    """Return m and n, as traced numbers in A's real dtype if one is unknown."""
    m, n = sizes(A, backend.xp)[-2:]
    if None in known_shape(A)[-2:]:
        m, n = (backend.parameter(size, A) for size in (m, n))
    return m, n


def check_compatible(backend: Backend, A: Array, B: Array, a: str, b: str) -> None:
    """Raise for matrices of different shape, and batches that do not broadcast."""
    first, second = tuple(A.shape), tuple(B.shape)
    if not (
        broadcasts(first[-2:], second[-2:])
        and broadcasts(second[-2:], first[-2:])
        and batches_broadcast(first[:-2], second[:-2])
    ):
        raise backend.shape_error(
            f"{a} and {b} must have the same shape, up to batches that broadcast, "
            f"got {first} and {second}"
        )


def two_matrices(
    backend: Backend,
    A: Any,
    B: Any,
    a: str,
    b: str,
    check: Callable[[Any, str], tuple[Array, Any]] | None = None,
) -> tuple[Array, Array, Callable[[Array], Array]]:
    """Check two matrices of one dtype, by default as `Backend.matrices` does.

    Half precision may be combined with single, as for a network's output under autocast
    and its target: the result is in single. Returns both in the dtype to compute in,
    and a cast of results back.
    """
    if check is None:  # not `or`: Dynamo of PyTorch 2.9 has no truth of a partial
        check = backend.matrices
    (first, restore), (second, of_second) = check(A, a), check(B, b)
    # Half precision is in single now.
    kinds = [backend.asarray(x, name).dtype for x, name in ((A, a), (B, b))]
    if kinds[0] == kinds[1]:
        return first, second, restore
    if first.dtype != second.dtype or second.dtype not in kinds:
        raise TypeError(
            f"{a} and {b} must have the same dtype, got {kinds[0]} and {kinds[1]}"
        )
    to_single = of_second if kinds[1] == second.dtype else restore
    return first, second, to_single


def negative_axis(backend: Backend, axis: int, X: Array) -> int:
    ndim = len(X.shape)
    negative = as_integer(axis, "axis", -ndim)
    negative = negative - ndim if negative >= 0 else negative
    if not -3 <= negative < 0:
        raise ValueError(f"axis must be one of the last three, got {axis}")
    return negative


def in_precision(
    backend: Backend, operation: Any, given: Array, A: Array, inside: bool = True
) -> Any:
    """Set the precision that an operation assumes for its cotangents.

    They have the rounding errors of outputs in the half precision of `given`, if it has
    one, or of products that the framework rounds.
    """
    epsilon = half_eps(backend, given, A)
    if epsilon is not None:
        return replace(operation, epsilon=epsilon)
    epsilon = backend.eps_of_products(A, inside)
    if epsilon is None:
        return operation
    # For values further apart than that, the loss may depend on single vectors without
    # products, and its cotangents are not rounded.
    usual = getattr(operation, "repeated", "consistent") == "consistent"
    rtol = epsilon if usual and operation.rtol is None else operation.rtol
    return replace(operation, epsilon=epsilon, rtol=rtol)


def half_eps(backend: Backend, given: Array, A: Array) -> float | None:
    """Return the eps of the half precision in which A was given, if it was."""
    if A.dtype == given.dtype:
        return None
    half = backend.half_precision(given.dtype)
    return None if half is None else half[1]


def shorter(shape: Any) -> int | None:
    """min(m, n), or None where one of them is a traced symbol or unknown."""
    m, n = shape[-2], shape[-1]
    return min(m, n) if isinstance(m, int) and isinstance(n, int) else None


def broadcasts(shape: Any, to: Any) -> bool:
    """Whether a shape can broadcast to another; unknown lengths can."""
    given, wanted = tuple(shape), tuple(to)
    return len(given) <= len(wanted) and all(
        a is None or b is None or a == 1 or a == b for a, b in _last(given, wanted)
    )


def batches_broadcast(first: Any, second: Any) -> bool:
    """Whether batch shapes can broadcast with each other; unknown lengths can."""
    pairs = _last(tuple(first), tuple(second))
    # Compared, because a symbolic length cannot be hashed.
    return all(None in (x, y) or 1 in (x, y) or x == y for x, y in pairs)


def _last(first: tuple[Any, ...], second: tuple[Any, ...]) -> Any:
    """Pairs of the last lengths of two shapes, as many as both have."""
    # Dynamo of PyTorch 2.9 takes strict=False for True.
    n = min(len(first), len(second))
    return zip(first[len(first) - n :], second[len(second) - n :], strict=True)


def as_number(value: Any, name: str, above: int | None = None) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if above is not None and not number > above:
        least = f"above {above}" if above else "positive"
        raise ValueError(f"{name} must be {least}, got {number}")
    return number


def as_multiplets(value: Any, rank: int, most: Any) -> tuple[float | None, int]:
    """Return the largest gap within a multiplet, and the highest rank.

    The gap is None where a multiplet may be cut. The highest rank is `rank` itself
    where a multiplet that it cuts is left out.
    """
    keep = isinstance(value, str) and value == "keep"
    if most is None:
        most = MOST_VALUES if keep else rank
    elif value is False:
        raise ValueError("max_rank needs multiplets, True or a gap")
    most = min(as_integer(most, "max_rank", rank), MOST_VALUES)
    most = most if rank else 0  # rank 0 cuts no multiplet
    if keep or isinstance(value, bool):
        return (0.0 if value else None), most
    if isinstance(value, numbers.Real) and 0 <= float(value) < 1:
        return float(value), most
    kind = ValueError if isinstance(value, numbers.Real) else TypeError
    raise kind(f'multiplets must be a bool, "keep" or in [0, 1), got {value!r}')


def as_flag(value: Any, name: str) -> bool:
    """Check that an argument is one number that equals True or False."""
    if getattr(value, "shape", ()) != () or value not in (True, False):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def as_integer(value: Any, name: str, least: float) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def as_shape(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence of integers, got {value!r}")
    return tuple(as_integer(n, name, 1) for n in value)
