"""Spectral maps of checked arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from svdinv.core.backend import Backend
from svdinv.core.factors import check_method
from svdinv.core.functions import SpectralFunction, TopSubgradient
from svdinv.core.namespace import Array, abs_max, cast, sizes
from svdinv.core.spectral_operations import (
    Apply,
    Factorise,
    Map,
    RelativeMap,
    leading_sum,
)
from svdinv.core.svd_operations import SingularValues
from svdinv.core.thresholds import Firm, Hard, Soft
from svdinv.operators._arguments import as_flag, threshold_values

# f(c s, c tau) = c f(s, tau) for c > 0.
_HOMOGENEOUS = Soft, Hard, Firm
_VALUES = {method: SingularValues(method) for method in ("auto", "svd")}


def threshold(
    backend: Backend,
    A: Any,
    function: SpectralFunction,
    tau: Any,
    relative: bool,
    method: str,
    weights: bool = False,
) -> Array:
    """Apply a function with the user's tau; `weights` if that may be one per value."""
    check_method(method)
    relative = as_flag(relative, "relative")
    A, restore = backend.matrices(A, "A")
    weights = function.weighted or (weights and method != "matmul")
    tau, weighted = threshold_values(backend, tau, A, weights)
    if weighted and not function.weighted:
        function = Soft(weighted=True)
    return restore(with_tau(backend, A, function, tau, relative, method))


def with_tau(
    backend: Backend,
    A: Array,
    function: SpectralFunction,
    tau: Array | None,
    relative: bool,
    method: str,
) -> Array:
    """Apply a function with tau of shape (..., 1) or (..., k), or without."""
    if relative and isinstance(function, _HOMOGENEOUS) and 1 in A.shape[-2:]:
        # For vectors it is linear in A, also at A = 0; NaN fails as usual.
        xp = backend.xp
        nothing = 0 * abs_max(backend.stop_gradient(A), xp)
        one = xp.ones_like(A[..., :1, :1]) + cast(nothing, A, xp)
        return A * with_tau(backend, one, function, tau, False, "auto")
    found = backend.by_kernel(Apply(function, relative, method), A, tau)
    if found is not None:
        return found[0]
    factors = backend.evaluate(Factorise(function, relative, method), A, tau)
    operation = RelativeMap if relative else Map
    return backend.call(operation(function, type(factors)), A, tau, *factors)[0]


def soft_threshold(
    backend: Backend, A: Array, tau: Array, relative: bool, method: str
) -> Array:
    """Soft threshold with tau broadcasting to the batch shape."""
    xp = backend.xp
    tau = xp.broadcast_to(tau, sizes(A, xp)[:-2])
    return with_tau(backend, A, Soft(), tau[..., None], relative, method)


def without_tau(
    backend: Backend, A: Any, function: SpectralFunction, method: str
) -> Array:
    """Apply a function without a parameter."""
    check_method(method)
    A, restore = backend.matrices(A, "A")
    return restore(with_tau(backend, A, function, None, False, method))


def of_values(
    backend: Backend,
    A: Array,
    f: Callable[[Array], Array],
    otherwise: Callable[[Array], Array],
    method: str = "svd",
) -> Array:
    """f(S) of singular values alone, or ``otherwise(A)`` that has a derivative."""
    operation = _VALUES.get(method)
    if operation is None:
        return otherwise(A)
    return backend.unless_differentiated(operation, f, otherwise, A)


def sum_of_largest(backend: Backend, A: Any, count: int | None, method: str) -> Array:
    """Sum of the `count` largest singular values, or of all."""
    check_method(method)
    A, restore = backend.matrices(A, "A")

    def total(S: Array) -> Array:
        return backend.xp.sum(S if count is None else S[..., :count], axis=-1)

    def differentiable(A: Array) -> Array:
        function = TopSubgradient(count)
        factors = backend.evaluate(Factorise(function, method=method), A, None)
        return leading_sum(A, count, factors, backend.call, backend.xp)

    return restore(of_values(backend, A, total, differentiable, method))
