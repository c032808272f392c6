"""JAX's small matrices on the CPU, by a custom call of XLA."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from svdinv import kernels
from svdinv.core.alignment_operations import AlignPull, FindMotion, Motion
from svdinv.core.hermitian_operations import Eigh
from svdinv.core.namespace import adjoint as adjoint_of
from svdinv.core.operation import Operation, filled, in_front, present
from svdinv.core.spectral import SVDFactors
from svdinv.core.spectral_operations import Map, Pull, Push
from svdinv.core.svd_operations import SVD, Pullback
from svdinv.kernels import operations

__all__ = [
    "decomposes_quickly",
    "eigh",
    "has_pull",
    "pullback",
    "svd",
    "tall_svd",
    "value",
]

_TARGET = "svdinv_kernels"
# Elements from which XLA is faster with the product U diag(y) V^H.
_MOST_MAPPED = 256
_handler = kernels.xla_handler()
if _handler is not None:
    jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(_handler), platform="cpu")


def decomposes_quickly(A: Any) -> bool:
    """See `svdinv.core.namespace`."""
    return A.ndim > 1 and _fits(kernels.suits, A)


def _fits(suits: Any, A: Any) -> bool:
    return (
        _handler is not None
        and jax.default_backend() == "cpu"
        and suits(A.dtype.name, prod(A.shape[:-2]), *A.shape[-2:])
    )


def _call(
    kind: str,
    like: Any,
    arrays: Any,
    results: Any,
    *,
    adjoint: bool = False,
    numbers: tuple[float, float] = (0.0, 0.0),
    doubles: tuple[int, ...] = (),
) -> list[Any]:
    """Run a kernel.

    `like` has the shape of the matrices, which turned are tall with `adjoint`, or of
    points. Arrays are given and `results`, shapes without batch axes and dtypes,
    follow; None is absent. Those counted in `doubles` are in double precision, as pairs
    of numbers, which JAX may not have; then that is what the kernel computes in.
    """
    *batch, m, n = like.shape
    points = kind in kernels.OF_POINTS
    tall, short = (m, n) if points else (max(m, n), min(m, n))
    operands = [x for x in arrays if x is not None]
    shapes = [
        *(None if x is None else (x.shape[len(batch) :], x.dtype) for x in arrays),
        *results,
    ]
    dtype = operations.DOUBLE[like.dtype.name] if doubles else like.dtype.name
    plan = kernels.plan(kind, dtype, prod(batch), tall, short, adjoint, numbers)
    count = 0
    for index, shape in enumerate(shapes):
        if shape is None:
            plan += [-1, 0, 0, 0]
            continue
        (*rows, last), dtype = shape
        last //= 2 if index in doubles else 1
        parts = 2 if jnp.issubdtype(dtype, jnp.complexfloating) else 1
        row, column = (last * parts if rows else 0), parts
        if adjoint and rows and index not in doubles:
            row, column = column, row
        plan += [count, prod((*rows[-1:], last)) * parts, row, column]
        count += 1
    plan += [-1, 0, 0, 0] * (12 - len(shapes))
    structs = [
        jax.ShapeDtypeStruct((*batch, *size), dtype)
        for size, dtype in (result for result in results if result is not None)
    ]
    if kind in kernels.DECOMPOSITIONS:
        structs.append(jax.ShapeDtypeStruct((prod(batch),), jnp.int32))
        plan[8] = count
    call = jax.ffi.ffi_call(_TARGET, structs)
    found = call(*operands, plan=np.asarray(plan, np.int64))
    return list(filled(found, present(results)))


def _on_cpu(kernel: Any, other: Any, *x: Any) -> Any:
    return lax.platform_dependent(*x, cpu=kernel, default=other)


def svd(A: Any, *, full_matrices: bool = True) -> Any:
    """Singular value decomposition, as `jax.numpy.linalg.svd`."""
    m, n = A.shape[-2:]
    own = partial(jnp.linalg.svd, full_matrices=full_matrices)
    if (full_matrices and m != n) or not decomposes_quickly(A):
        return own(A)

    def kernel(A: Any) -> Any:
        wide = m < n
        k, real = min(m, n), jnp.finfo(A.dtype).dtype
        source = jnp.matrix_transpose(A) if wide else A
        sizes = [((k,), real), ((k, max(m, n)), A.dtype), ((k, k), A.dtype)]
        S, left, right = _call("svd", source, [source], sizes)
        Uh, Vh = (right, left) if wide else (left, right)
        return jnp.matrix_transpose(Uh), S, Vh

    return _on_cpu(partial(_in_batch, kernel), lambda A: tuple(own(A)), A)


def tall_svd(A: Any, tau: Any, safe: Any, otherwise: Any) -> Any:
    """SVD of tall or wide matrices in single precision; None where kernels do not suit.

    By the Gram matrix if `safe` says so of all singular values and tau, else as
    `otherwise` decomposes A. That is decided where there are values.
    """
    if not _fits(kernels.suits_tall, A):
        return None
    m, n = A.shape[-2:]
    wide, k = m < n, min(m, n)
    there = present((tau,))

    def own(A: Any, *_: Any) -> Any:
        return tuple(otherwise(A))

    def by_gram(A: Any, S: Any, V: Any, W: Any) -> Any:
        size = [(A.shape[-2:], A.dtype)]
        (image,) = _call("tall_product", A, [A, W], size, adjoint=wide, doubles=(1,))
        return (V, S, image) if wide else (image, S, adjoint_of(V, jnp))

    def kernel(A: Any, *tau: Any) -> Any:
        blocks, square = kernels.tall_blocks(max(m, n)), ((k, 2 * k), A.dtype)
        sums = [((blocks, k, 2 * k), A.dtype)]
        (N,) = _call("tall_gram", A, [A], sums, adjoint=wide, doubles=(1,))
        sizes = [((k,), jnp.finfo(A.dtype).dtype), ((k, k), A.dtype), square]
        S, V, W = _call("tall_eigen", A, [N], sizes, doubles=(0, 3))
        good = jnp.all(safe(S, *filled(tau, there)))
        return lax.cond(good, by_gram, own, A, S, V, W)

    return _on_cpu(partial(_in_batch, kernel), own, A, *_there((tau,)))


def eigh(A: Any) -> Any:
    """Eigendecomposition from the lower triangles."""
    own = partial(jnp.linalg.eigh, symmetrize_input=False)
    if not decomposes_quickly(A):
        return own(A)

    def kernel(A: Any) -> Any:
        n = A.shape[-1]
        sizes = [((n,), jnp.finfo(A.dtype).dtype), ((n, n), A.dtype)]
        w, Vt = _call("eigh", A, [A], sizes)
        return w, jnp.matrix_transpose(Vt)

    return _on_cpu(partial(_in_batch, kernel), lambda A: tuple(own(A)), A)


def value(operation: Operation, x: Any, xp: Any) -> Any:
    """Compute an operation by a kernel, or else by its own array functions."""
    if isinstance(operation, Map | Push | Pull):
        function, A = operation.function, x[0]
        quick = operation.kind is SVDFactors and _fits(kernels.derives, A)
        if isinstance(operation, Map):
            if not quick or prod(A.shape[-2:]) > _MOST_MAPPED:
                return operation.value(x, xp)
            return _on_cpu(partial(_map, function, xp), _plain(operation, xp), *x)
        known = isinstance(operation, Pull) or x[2] is not None
        numbers = operations.derives(function, A, x[1]) if quick and known else None
        if numbers is not None:
            kernel = partial(_derivative, operation, numbers)
            return _on_cpu(kernel, _plain(operation, xp), *x)
    if isinstance(operation, FindMotion) and _aligns(*x):
        kernel = partial(_in_batch, _find_motion)
        return Motion(*_on_cpu(kernel, _plain(operation, xp), *x))
    if isinstance(operation, Pullback | AlignPull) and has_pull(operation, x):
        return pullback(operation, x, lambda x: operation.value(x, xp), xp)
    return operation.value(x, xp)


def has_pull(operation: Operation, x: Any) -> bool:
    """Tell whether a kernel knows the cotangents of a decomposition or of a motion."""
    if isinstance(operation, AlignPull):
        return x[-1] is None and _aligns(*x[:3])
    return (
        isinstance(operation, Pullback)
        and _handler is not None
        and jax.default_backend() == "cpu"
        and operations.pulls(operation.rule, x, lambda t: t.dtype.name)
    )


def _aligns(P: Any, Q: Any, w: Any) -> bool:
    """Tell whether the kernels suit points and their weights."""
    n = P.shape[-1]
    return (
        P.dtype.name in ("float32", "float64")
        and P.shape[-2] > 0
        and P.dtype == Q.dtype == w.dtype
        and _fits(kernels.handles, P)
        and _fits(kernels.suits, jax.ShapeDtypeStruct((*P.shape[:-2], n, n), P.dtype))
    )


def _find_motion(P: Any, Q: Any, w: Any) -> Any:
    n, real = P.shape[-1], P.dtype
    sizes: Any = [(n, n), (n, n), (n,), (n, n), (n, n), (n,), (1,), (n,)]
    results = [(size, real) for size in sizes]
    C, Uh, S, Vh, R, t, rmsd, signs = _call("align", P, [P, Q, w], results)
    U = jnp.matrix_transpose(Uh)
    return tuple(Motion(R, t, rmsd[..., 0], C, U, S, Vh, signs))


def _align_pull(operation: AlignPull, *x: Any) -> Any:
    P, Q, w, *motion, gR, gt, grmsd, _ = x
    *_, U, S, Vh, _ = motion
    grmsd = None if grmsd is None else grmsd[..., None]
    given = [P, Q, w, jnp.matrix_transpose(U), S, Vh, gR, gt, grmsd]
    points = P.shape[-2:], P.dtype
    weights = (w.shape[-1:], w.dtype) if operation.weighted else None
    return tuple(_call("align_pull", P, given, [points, points, weights]))


def _plain(operation: Operation, xp: Any) -> Any:
    return lambda *x: tuple(operation.value(x, xp))


def pullback(operation: Any, x: Any, composed: Any, xp: Any) -> Any:
    """Pull by a kernel; its derivatives are those of `composed`, array functions."""
    there = present(x)
    wanted: tuple[bool, ...]
    if isinstance(operation, AlignPull):
        kernel, wanted = (
            partial(_align_pull, operation),
            (True, True, operation.weighted),
        )
    else:
        wanted = (True,)
        rule = operation.rule
        kernel = partial(_svd_pull if isinstance(rule, SVD) else _eigh_pull, rule, xp)

    def plain(*t: Any) -> Any:
        return _there(composed(filled(t, there)))

    def by_kernel(*t: Any) -> Any:
        return _there(kernel(*filled(t, there)))

    @jax.custom_jvp
    def pull(*t: Any) -> Any:
        return _on_cpu(partial(_in_batch, by_kernel), plain, *t)

    @pull.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return jax.jvp(plain, primals, tangents)

    return filled(pull(*_there(x)), wanted)


def _there(x: Any) -> tuple[Any, ...]:
    return tuple(t for t in x if t is not None)


def _in_batch(function: Any, *x: Any) -> Any:
    """Call a function of the CPU, with further batch axes under vmap."""
    call = custom_vmap(function)

    @call.def_vmap
    def _(size: int, batched: list[bool], *x: Any) -> Any:
        axes = [0 if moved else None for moved in batched]
        y = _in_batch(function, *in_front(x, axes, jnp))
        return y, tuple(True for _ in y)

    return call(*x)


def _svd_pull(rule: SVD, xp: Any, *x: Any) -> Any:
    U, S, Vh, gU, gS, gVh = x
    like = jax.ShapeDtypeStruct((*S.shape[:-1], U.shape[-2], Vh.shape[-1]), U.dtype)
    wide, left, right = _sides(like, U, Vh)
    _, gleft, gright = _sides(like, gU, gVh)
    return tuple(
        _call(
            "svd_pull",
            like,
            [left, S, right, gleft, gS, gright],
            [(like.shape[-2:], U.dtype)],
            adjoint=wide,
            numbers=operations.precision(rule, S, xp),
        )
    )


def _eigh_pull(rule: Eigh, xp: Any, *x: Any) -> Any:
    w, V, gw, gV = x
    size = [(V.shape[-2:], V.dtype)]
    numbers = operations.precision(rule, w, xp)
    return tuple(_call("eigh_pull", V, [V, w, gw, gV], size, numbers=numbers))


def _sides(A: Any, U: Any, Vh: Any) -> tuple[bool, Any, Any]:
    wide = A.shape[-2] < A.shape[-1]
    return (True, Vh, U) if wide else (False, U, Vh)


def _map(function: Any, xp: Any, A: Any, tau: Any, U: Any, S: Any, Vh: Any) -> Any:
    wide, left, right = _sides(A, U, Vh)
    known = operations.knows(function, A, tau)
    y = S if known else function.value(S, tau, xp)
    arrays = [left, y, right, tau if known else None]
    return tuple(_call("map", A, arrays, [(A.shape[-2:], A.dtype)], adjoint=wide))


def _derivative(operation: Any, numbers: tuple[float, float], *x: Any) -> Any:
    A, tau, X, *dtau, U, S, Vh = x
    wide, left, right = _sides(A, U, Vh)
    given = [left, right, X, S, tau, dtau[0] if dtau else None]
    sizes = [(A.shape[-2:], A.dtype)]
    if not (steps := not operations.knows(operation.function, A, tau)):
        sizes.append(((1,), S.dtype))
    found = _call("derivative", A, given, sizes, adjoint=wide, numbers=numbers)
    if isinstance(operation, Push):
        return tuple(found[:1])
    if steps:  # which have no derivative in tau
        found.append(None if tau is None else jnp.zeros_like(tau))
    return tuple(found)
