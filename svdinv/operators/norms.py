"""Norms of the singular values."""

from __future__ import annotations

import math
from collections.abc import Callable

from svdinv.core.backend import Backend
from svdinv.core.factors import Method, check_method
from svdinv.core.functions import Power
from svdinv.core.namespace import Array, cast, first
from svdinv.core.spectral_operations import Factorise, Sum
from svdinv.operators._arguments import as_integer, as_number, shorter
from svdinv.operators._maps import of_values, sum_of_largest
from svdinv.operators._registry import operator


@operator
def nuclear_norm(backend: Backend, A: Array, *, method: Method = "auto") -> Array:
    """Sum of the singular values.

    Parameters
    ----------
    {A}
    {method}

    {numbers}
    {raises}.

    Notes
    -----
    The gradient is U V^H over the singular values that are not 0; where some are 0,
    that is the subgradient of least norm.
    """
    return sum_of_largest(backend, A, None, method)


@operator
def spectral_norm(backend: Backend, A: Array, *, method: Method = "auto") -> Array:
    """Largest singular value.

    Parameters
    ----------
    {A}
    {method}

    {numbers}
    {raises}.

    Notes
    -----
    The gradient is u_1 v_1^H; where s_1 is repeated, the mean over its vectors,
    the subgradient of least norm.
    """
    return sum_of_largest(backend, A, 1, method)


@operator
def ky_fan_norm(
    backend: Backend, A: Array, k: int, *, method: Method = "auto"
) -> Array:
    """Sum of the k largest singular values.

    Parameters
    ----------
    {A}
    k : int
        From 1 to min(m, n).
    {method}

    {numbers}
    {raises}, and if k is out of range.

    Notes
    -----
    Where s_k = s_{k+1}, the gradient is the subgradient of least norm.
    """
    k = as_integer(k, "k", 1)
    short = shorter(backend.matrices(A, "A")[0].shape)
    if short is not None and k > short:
        raise ValueError(f"k must be at most min(m, n) = {short}, got {k}")
    return sum_of_largest(backend, A, k, method)


@operator
def schatten_norm(
    backend: Backend, A: Array, p: float, *, method: Method = "auto"
) -> Array:
    """p-norm of the singular values, (sum s^p)^(1/p).

    Parameters
    ----------
    {A}
    p : float
        Positive, or infinity for the spectral norm; 1 is the nuclear norm and 2
        the Frobenius norm. Below 1 it is no norm, but a common penalty, which grows as
        r^(1/p) with the rank r. At least 1/128 in single precision and 1/1024 in
        double; at these limits a norm of rank 2 overflows.
    {method}

    {numbers}
    {raises}, and if p is not positive, or so small that 2^(1/p) overflows.

    Notes
    -----
    Singular values up to 64 eps s_1 may be rounding errors of 0 and count as 0, in the
    norm and in its gradient. Such zeros contribute nothing to the gradient, where there
    is none (p <= 1, or A = 0).
    """
    p = as_number(p, "p", above=0)
    if p in (1, math.inf):
        return sum_of_largest(backend, A, 1 if p == math.inf else None, method)
    check_method(method)
    xp = backend.xp
    A, restore = backend.matrices(A, "A")
    _, bits = math.frexp(float(xp.finfo(A.dtype).max))
    if p * bits < 1:
        raise ValueError(
            f"p must be at least 1/{bits} in this precision, where 2^(1/p) overflows, "
            f"got {p}"
        )
    power = Power(p - 1)

    def norm(S: Array, differentiable: Callable[[Array, Array], Array]) -> Array:
        # Over s_1, whose derivative cancels: powers of s over- and underflow.
        top = xp.sum(first(S), axis=-1, keepdims=True)  # a number, if S is empty
        top = xp.where(top > 0, top, xp.ones_like(top))
        powers = power.value(S / top, None, xp) * (S / top)
        total = p * differentiable(xp.sum(powers, axis=-1) / p, top)
        positive = total != 0  # NaN included
        root = xp.where(positive, total, xp.ones_like(total)) ** (1 / p)
        size = xp.sum(top, axis=-1) * root  # sums, because S may be empty
        return xp.where(positive, size, xp.zeros_like(root))

    def with_derivative(A: Array) -> Array:
        factors = backend.evaluate(Factorise(power, method=method), A, None)

        def linked(total: Array, top: Array) -> Array:
            scaled = A / cast(top[..., None], A, xp)
            unit = factors._replace(S=factors.S / top)
            return backend.call(Sum(power, type(factors)), scaled, total, *unit)[0]

        return norm(factors.S, linked)

    def value(S: Array) -> Array:
        return norm(S, lambda total, top: total)

    return restore(of_values(backend, A, value, with_derivative, method))
