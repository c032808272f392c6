"""The list of operators, and the public functions that a framework makes of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial, wraps
from typing import Any, TypeVar

from svdinv.core.backend import Backend

F = TypeVar("F", bound=Callable[..., Any])

OPERATORS: dict[str, Callable[..., Any]] = {}

# Paragraphs that many docstrings share, by the names that stand for them in braces.
_COMMON = {
    "A": """\
A : array
    Matrices, shape (..., m, n), real or complex.""",
    "products": """\
Or what multiplies a vector: a pair of functions, of v to A v and of u to A^H u;
    an object with such methods ``forward`` and ``adjoint`` of a whole batch of
    vectors, the new axis in front, as a `svdinv.unroll.operators.Operator` has; or
    a `LinearOperator` or a sparse matrix of SciPy or CuPy. Vectors may have any
    shape.""",
    "like": """\
like : array, optional
    For products, an array of the shape, dtype and device of v; its values do not
    matter. Not needed for what SciPy or CuPy makes.""",
    "hermitian": """\
A : array
    Shape (..., n, n), real or complex; the lower triangle is read.""",
    "tau": """\
tau : float or array
    Threshold >= 0 in units of A, broadcasting to the batch shape (...).""",
    "relative": """\
relative : bool, optional
    Whether tau is a multiple of the largest singular value of each matrix, as for
    `svt`.""",
    "method": """\
method : {"auto", "svd", "gram"}, optional
    As for `svt`.""",
    "method_or_products": """\
method : {"auto", "svd", "gram", "matmul"}, optional
    As for `svt`.""",
    "multiplets": """\
multiplets : bool, float or "keep", optional
    Whether to keep multiplets whole, that is repeated singular values: one that
    the rank would cut in two is left out, so that the rank may be lower, and the
    result and its derivative do not depend on the basis of the multiplet. True:
    multiplets are values equal up to rounding. A number: the largest gap within a
    multiplet, relative to the larger value. ``"keep"``: as True, but a cut multiplet
    is kept whole, so that the rank may be higher.""",
    "max_rank": """\
max_rank : int, optional
    With `multiplets`, highest rank: a multiplet that the rank would cut is kept if
    it ends there or before, and left out otherwise. Default: the rank, and with
    ``"keep"`` min(m, n).""",
    "like_A": """\
Returns
-------
array
    Shape and dtype of A.
""",
    "numbers": """\
Returns
-------
array
    Real, shape (...).
""",
    "raises": """\
Raises
------
TypeError, ValueError
    As `svt`""",
    "raises_hermitian": """\
Raises
------
TypeError, ValueError
    As `hermitian_map`""",
    "jacobian_svd": """\
rank : int
    Number r of triplets, from 1 to min(m, n).
oversampling : int, optional
    Further columns of the random matrix.
power : int, optional
    Number of iterations: 2 power + 2 products with each of l = rank + oversampling
    vectors leave an error of s_j of (s_(l+1) / s_j)^(4 power + 2), relative to it.
seed : optional
    As for `svd_lowrank`.
chunk : int, optional
    Products to be computed at once, all by default: a bound on the memory.

Returns
-------
SVDResult
    Named tuple ``(U, S, Vh)`` of J = df / dtheta with shapes (m, r), (r,), (r, n),
    for the m elements of ``f(theta)`` and the n of `theta`, one behind the other.

Raises
------
TypeError
    If `theta` or ``f(theta)`` is not real floating point of one dtype.
ValueError
    If `rank` is out of range, `chunk` below 1, or `oversampling` or `power` negative.

See Also
--------
Jacobian : The products, for `svd_residual`, which bounds the error.

Notes
-----
The Jacobian is never formed. `svd_lowrank` takes products with it and its
transpose, by forward and reverse mode: exact, unlike differences. Nothing is
differentiated through the result: JAX raises NotImplementedError if `theta` is.""",
    # Of the functions `svd` of the frameworks.
    "full_matrices": """\
full_matrices : bool, optional
    Return square U and Vh. Their null-space columns get the gradient that is
    independent of their arbitrary basis.""",
    "compute_uv": """\
compute_uv : bool, optional
    If false, return S alone.""",
    "rtol": """\
rtol : float, optional
    Gap, relative to the largest singular value, up to which the rule acts; for
    ``"consistent"`` relative to a power of two near it. Default: sqrt(eps) for
    ``"consistent"``; 64 eps for ``"minimum-norm"``, ``"drop"`` and ``"clip"``. The
    other rules do not use it.""",
    "repeated": """\
repeated : str, optional
    Rule where singular values (nearly) coincide: ``"consistent"`` (exact for
    losses in U f(S) Vh with one smooth f that is not 0 there, and any penalty on
    S), ``"minimum-norm"`` (Zhang and Hu, arXiv:2411.14141), or for comparison
    ``"drop"``, ``"clip"``, ``"taylor"``, ``"lorentz"`` and ``"none"``.""",
    "gauge": """\
gauge : {"ignore", "warn", "error"} or callable, optional
    What to do in the backward pass if the loss depends on the arbitrary phase
    or basis of the singular vectors. A callable, such as a
    `svdinv.GaugeMonitor`, gets an array of one number per matrix.""",
    "factors": """\
    Named tuple ``(U, S, Vh)`` with shapes (..., m, k), (..., k) and
    (..., k, n), k = min(m, n), S real and sorted downwards; with
    `full_matrices`, U (..., m, m) and Vh (..., n, n).""",
    "svd_formulas": """\
See Also
--------
svdinv.core.svd_pullback : The formulas, with references.""",
}


def documented(function: F) -> F:
    """Replace ``{A}`` and the like in the docstring by the shared paragraphs above."""
    text = inspect.cleandoc(function.__doc__ or "")
    for name, common in _COMMON.items():
        text = text.replace(f"{{{name}}}", common)
    function.__doc__ = text
    return function


def operator(function: F) -> F:
    """Make a function whose first argument is a backend public on every framework."""
    OPERATORS[function.__name__] = documented(function)
    return function


def bind(
    backend: Backend | Callable[..., Backend],
    module: str,
    functions: dict[str, Callable[..., Any]] = OPERATORS,
    context: Callable[..., AbstractContextManager[Any] | None] | None = None,
) -> dict[str, Callable[..., Any]]:
    """Bind all operators to the backend of one framework, for its module `module`.

    `backend` is a `Backend`, or a function that returns one for the arguments of a
    call. The functions keep their signatures, without the backend, and docstrings.
    They run inside the context, if any, that `context` returns for their arguments.
    """
    return {
        name: _bound(name, function, backend, module, context)
        for name, function in functions.items()
    }


def _bound(
    name: str,
    function: Callable[..., Any],
    backend: Backend | Callable[..., Backend],
    module: str,
    context: Callable[..., AbstractContextManager[Any] | None] | None,
) -> Callable[..., Any]:
    def of_arguments(*args: Any, **options: Any) -> Any:
        return function(backend(*args, *options.values()), *args, **options)  # type: ignore[operator]

    run = partial(function, backend) if isinstance(backend, Backend) else of_arguments

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        inside = context and context(*args, *options.values())
        if inside is None:
            return run(*args, **options)
        with inside:
            return run(*args, **options)

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
