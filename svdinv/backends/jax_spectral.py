"""JAX: spectral maps as primitives that can be differentiated twice.

The map, its derivative and its second derivative are primitives that know each
other: a `custom_jvp` would be forgotten as soon as JAX linearises what contains it,
and reverse over reverse mode would differentiate the factors as constants. The
factors enter as arrays without a derivative: each primitive knows its own in A.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from svdinv.backends.jax import differentiable, pushforward_primitive
from svdinv.core.factors import factorise as core_factorise
from svdinv.core.functions import SpectralFunction
from svdinv.core.operation import SVD, Options, leading_triplets
from svdinv.core.sampled import sampled_derivative
from svdinv.core.spectral import (
    spectral_derivative,
    spectral_map,
    spectral_second_derivative,
)
from svdinv.operators import relative_spectral

__all__ = ["Toolbox"]

Arrays: TypeAlias = tuple[Any, ...]

_svd = differentiable(SVD)


# A point is (A,), or (A, tau) if the function has a parameter, and so are the
# tangents and cotangents of it. Every primitive takes one, its linear arguments and
# the factors, one after another: JAX's primitives have no nested arguments.


def _split(
    arguments: Any, function: SpectralFunction, layout: str
) -> tuple[list[Arrays], Arrays]:
    """Separate arguments laid out as points ("p") and results ("r"), and factors."""
    parts, start = [], 0
    for kind in layout:
        stop = start + (2 if kind == "p" and function.has_tau else 1)
        parts.append(tuple(arguments[start:stop]))
        start = stop
    return parts, tuple(arguments[start:])


def _tau(point: Arrays) -> Any:
    return point[1] if len(point) == 2 else None


def _thin(A: Any) -> Arrays:
    """Factors for a second derivative: those of a Gram matrix are not orthogonal."""
    return tuple(jnp.linalg.svd(A, full_matrices=False))


def _map(function: SpectralFunction, point: Arrays, factors: Arrays) -> Arrays:
    return (spectral_map(function, point[0], _tau(point), factors, xp=jnp),)


def _push(
    function: SpectralFunction, point: Arrays, dx: Arrays, factors: Arrays
) -> Arrays:
    """Tangent of the map along dx."""
    A, tau = point[0], _tau(point)
    moved, _ = spectral_derivative(
        function, A, tau, factors, dx[0], _tau(dx), xp=jnp
    )  # fmt: skip
    return (moved,)


def _pull(
    function: SpectralFunction, point: Arrays, G: Arrays, factors: Arrays
) -> Arrays:
    """Cotangent of the point from that of the result."""
    A, tau = point[0], _tau(point)
    gA, gtau = spectral_derivative(
        function, A, tau, factors, G[0], transposed=True, xp=jnp
    )
    return (gA,) if tau is None else (gA, gtau)


def _bend(
    function: SpectralFunction, point: Arrays, dx: Arrays, dy: Arrays, factors: Arrays
) -> Arrays:
    """Second derivative of the map along dx and dy, in which it is symmetric."""
    A, tau = point[0], _tau(point)
    moved, _ = spectral_second_derivative(
        function, A, tau, _thin(A), dx[0], dy[0], _tau(dy), _tau(dx), xp=jnp
    )
    return (moved,)


def _bend_pull(
    function: SpectralFunction, point: Arrays, G: Arrays, dx: Arrays, factors: Arrays
) -> Arrays:
    """Tangent of `_pull` along dx, which is its own transpose in dx."""
    A, tau = point[0], _tau(point)
    gA, gtau = spectral_second_derivative(
        function, A, tau, _thin(A), G[0], dx[0], _tau(dx), xp=jnp
    )
    return (gA,) if tau is None else (gA, gtau)


def _primitive(name: str, body: Callable[..., Arrays], layout: str) -> Primitive:
    """Make a primitive, compiled as one and batched along leading axes."""
    primitive = Primitive(f"svdinv_{name}")
    primitive.multiple_results = True

    def evaluate(*arguments: Any, function: SpectralFunction) -> Arrays:
        parts, factors = _split(arguments, function, layout)
        return body(function, *parts, factors)

    def abstract(*avals: Any, function: SpectralFunction) -> list[Any]:
        # A map, a tangent and a cotangent of A have its shape, one of tau that of tau.
        point, _ = _split(avals, function, "p")
        return list(point[0] if "pull" in name else point[0][:1])

    def batch(arguments: Arrays, axes: Any, *, function: SpectralFunction) -> Any:
        size = next(
            x.shape[axis]
            for x, axis in zip(arguments, axes, strict=True)
            if axis is not None
        )
        front = [
            jnp.broadcast_to(x, (size, *x.shape))
            if axis is None
            else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(arguments, axes, strict=True)
        ]
        results = primitive.bind(*front, function=function)
        return results, [0] * len(results)

    primitive.def_impl(partial(jax.jit, static_argnames="function")(evaluate))
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(evaluate, multiple_results=True))
    batching.primitive_batchers[primitive] = batch
    return primitive


_map_p = _primitive("map", _map, "p")
_push_p = _primitive("push", _push, "pp")
_pull_p = _primitive("pull", _pull, "pr")
_bend_p = _primitive("bend", _bend, "ppp")
_bend_pull_p = _primitive("bend_pull", _bend_pull, "prp")


def _bind(
    primitive: Primitive, function: SpectralFunction, *parts: Arrays
) -> list[Any]:
    return primitive.bind(*(x for part in parts for x in part), function=function)


def _moves(tangents: Arrays) -> bool:
    return not all(isinstance(x, ad.Zero) for x in tangents)


def _dense(tangents: Arrays) -> Arrays:
    return tuple(map(ad.instantiate_zeros, tangents))


def _sum(results: list[Any], terms: list[list[Any]]) -> list[Any]:
    if not terms:
        return [ad.Zero.from_primal_value(r) for r in results]
    return [sum(parts[1:], parts[0]) for parts in zip(*terms, strict=True)]


def _map_jvp(primals: Arrays, tangents: Arrays, *, function: SpectralFunction) -> Any:
    (point,), factors = _split(primals, function, "p")
    (d_point,), _ = _split(tangents, function, "p")
    results, terms = _map_p.bind(*primals, function=function), []
    if _moves(d_point):
        terms.append(_bind(_push_p, function, point, _dense(d_point), factors))
    return results, _sum(results, terms)


def _push_jvp(primals: Arrays, tangents: Arrays, *, function: SpectralFunction) -> Any:
    (point, dx), factors = _split(primals, function, "pp")
    (d_point, ddx), _ = _split(tangents, function, "pp")
    results, terms = _push_p.bind(*primals, function=function), []
    if _moves(ddx):
        terms.append(_bind(_push_p, function, point, _dense(ddx), factors))
    if _moves(d_point):
        terms.append(_bind(_bend_p, function, point, dx, _dense(d_point), factors))
    return results, _sum(results, terms)


def _pull_jvp(primals: Arrays, tangents: Arrays, *, function: SpectralFunction) -> Any:
    (point, G), factors = _split(primals, function, "pr")
    (d_point, dG), _ = _split(tangents, function, "pr")
    results, terms = _pull_p.bind(*primals, function=function), []
    if _moves(dG):
        terms.append(_bind(_pull_p, function, point, _dense(dG), factors))
    if _moves(d_point):
        terms.append(_bind(_bend_pull_p, function, point, G, _dense(d_point), factors))
    return results, _sum(results, terms)


def _last_jvp(
    primitive: Primitive,
    layout: str,
    primals: Arrays,
    tangents: Arrays,
    *,
    function: SpectralFunction,
) -> Any:
    """Differentiate a second derivative in what it is linear in, and in no more."""
    (point, *linear), factors = _split(primals, function, layout)
    (d_point, *moved), _ = _split(tangents, function, layout)
    if _moves(d_point):
        raise NotImplementedError("svdinv's operators have two derivatives, not three")
    results, terms = primitive.bind(*primals, function=function), []
    for i, dx in enumerate(moved):
        if _moves(dx):
            parts = [*linear[:i], _dense(dx), *linear[i + 1 :]]
            terms.append(_bind(primitive, function, point, *parts, factors))
    return results, _sum(results, terms)


ad.primitive_jvps[_map_p] = _map_jvp
ad.primitive_jvps[_push_p] = _push_jvp
ad.primitive_jvps[_pull_p] = _pull_jvp
ad.primitive_jvps[_bend_p] = partial(_last_jvp, _bend_p, "ppp")
ad.primitive_jvps[_bend_pull_p] = partial(_last_jvp, _bend_pull_p, "prp")


def _transpose(
    layout: str, adjoints: tuple[Callable[..., list[Any]], ...]
) -> Callable[..., list[Any]]:
    """Transpose a primitive in that of its linear arguments that is not known.

    `adjoints`, one for each of these, take the function, the point, the cotangents,
    the other linear argument, if there is one, and the factors. JAX's cotangents are
    the conjugates of those of the formulas.
    """

    def transpose(
        cotangents: Any, *arguments: Any, function: SpectralFunction
    ) -> list[Any]:
        (point, *linear), factors = _split(arguments, function, layout)
        unknown = [any(map(ad.is_undefined_primal, part)) for part in linear]
        wanted = unknown.index(True)
        others = [part for part in linear if part is not linear[wanted]]
        result: list[Any] = [None] * len(arguments)
        if not _moves(cotangents):
            return result
        given = tuple(jnp.conj(g) for g in _dense(cotangents))
        found = adjoints[wanted](function, point, given, *others, factors)
        start = len(point) + sum(map(len, linear[:wanted]))
        for i, (x, g) in enumerate(zip(linear[wanted], found, strict=True)):
            if ad.is_undefined_primal(x):
                result[start + i] = jnp.conj(g)
        return result

    return transpose


def _bend_transposed(
    function: SpectralFunction, point: Arrays, G: Arrays, dx: Arrays, factors: Arrays
) -> list[Any]:
    return _bind(_bend_pull_p, function, point, G, dx, factors)


ad.primitive_transposes[_push_p] = _transpose("pp", (partial(_bind, _pull_p),))
ad.primitive_transposes[_pull_p] = _transpose("pr", (partial(_bind, _push_p),))
ad.primitive_transposes[_bend_p] = _transpose("ppp", (_bend_transposed,) * 2)


def _bend_pull_in_dx(
    function: SpectralFunction, point: Arrays, C: Arrays, G: Arrays, factors: Arrays
) -> list[Any]:
    return _bind(_bend_pull_p, function, point, G, C, factors)


ad.primitive_transposes[_bend_pull_p] = _transpose(
    "prp", (partial(_bind, _bend_p), _bend_pull_in_dx)
)


def _look(mask: Any) -> bool | None:
    """Tell whether an element holds, unless traced or on a device to wait for."""
    if isinstance(mask, jax.core.Tracer):
        return None
    if any(device.platform != "cpu" for device in mask.devices()):
        return None
    return bool(mask.any())


@partial(jax.jit, static_argnames=("function", "relative", "method", "wide"))
def _factorise(
    A: Any,
    tau: Any,
    function: SpectralFunction,
    relative: bool,
    method: str,
    wide: bool,
) -> Arrays:
    return core_factorise(
        A, function, tau, relative=relative, method=method, wide=wide, xp=jnp
    )


def factorise(
    A: Any,
    function: SpectralFunction,
    tau: Any = None,
    *,
    relative: bool = False,
    method: str = "auto",
) -> Arrays:
    """Factors of A for `spectral`, without a derivative."""
    A, wide = lax.stop_gradient(A), bool(jax.config.jax_enable_x64)
    tau = None if tau is None else lax.stop_gradient(tau)
    if method == "auto" and _look(A != A) is False:
        return core_factorise(
            A, function, tau, relative=relative, wide=wide, look=_look, xp=jnp
        )
    return _factorise(A, tau, function, relative, method, wide)


def spectral(A: Any, function: SpectralFunction, tau: Any, factors: Arrays) -> Any:
    """U f(S) V^H, differentiable twice in A and tau."""
    point = (A,) if tau is None else (A, tau)
    return _bind(_map_p, function, point, factors)[0]


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _valued(A: Any, value: Any, function: SpectralFunction, *factors: Any) -> Any:
    return value


@_valued.defjvp
def _(function: SpectralFunction, primals: Arrays, tangents: Arrays) -> Any:
    A, value, *factors = primals
    gradient = spectral(A, function, None, tuple(factors))
    slope = jnp.sum(jnp.real(jnp.conj(gradient) * tangents[0]), axis=(-2, -1))
    return _valued(A, value, function, *factors), slope


def spectral_sum(
    A: Any, value: Any, function: SpectralFunction, factors: Arrays
) -> Any:
    """`value`, a function of the singular values whose gradient is U f(S) V^H."""
    return _valued(A, value, function, *factors)


def _composed(U: Any, y: Any, Vh: Any) -> Any:
    return (U * y.astype(U.dtype)[..., None, :]) @ Vh


@jax.jit
def _rotated(dA: Any, dy: Any, y: Any, minus: Any, U: Any, S: Any, Vh: Any) -> Any:
    moved, _ = sampled_derivative(U, S, Vh, y, minus, dA, xp=jnp)
    return moved + _composed(U, dy, Vh)


@jax.custom_jvp
def _rotate(A: Any, y: Any, minus: Any, U: Any, S: Any, Vh: Any) -> Any:
    return _composed(U, y, Vh)


@_rotate.defjvp
def _(primals: Arrays, tangents: Arrays) -> Any:
    dA, dy = tangents[:2]
    return _rotate(*primals), _rotated(dA, dy, *primals[1:])


def _while(step: Any, running: Any, state: Any, steps: int) -> Any:
    """Loop of an iterative solution, which ends where it may."""

    def going(carry: Any) -> Any:
        return (carry[0] < steps) & jnp.any(running(carry[1]))

    def body(carry: Any) -> Any:
        return carry[0] + 1, step(carry[1])

    return lax.while_loop(going, body, (0, state))[1]


_triplets_p = pushforward_primitive(leading_triplets(_while))


@jax.custom_jvp
def _triplets(A: Any, U: Any, S: Any, Vh: Any) -> Arrays:
    return U, S, Vh


@_triplets.defjvp
def _(primals: Arrays, tangents: Arrays) -> Any:
    outputs = _triplets(*primals)
    moved = _triplets_p.bind(*outputs, primals[0], tangents[0], options=Options())
    return outputs, tuple(moved[:3])


class Toolbox:
    """What `svdinv.operators` needs of JAX."""

    xp: Any = jnp
    shape_error: type[Exception] = ValueError
    factorise = staticmethod(factorise)
    spectral = staticmethod(spectral)
    spectral_sum = staticmethod(spectral_sum)

    def relative_spectral(
        self, A: Any, function: SpectralFunction, ratio: Any, factors: Arrays
    ) -> Any:
        """`spectral` with tau = ratio s_1."""
        return relative_spectral(self, A, function, ratio, factors)

    @staticmethod
    def matrices(A: Any, name: str, ndim: int = 2) -> tuple[Any, Callable[[Any], Any]]:
        """Check A; half precision is computed in single precision."""
        A = jnp.asarray(A)
        if not jnp.issubdtype(A.dtype, jnp.inexact):
            raise TypeError(f"{name} must be floating point or complex, got {A.dtype}")
        if A.ndim < ndim:
            raise ValueError(
                f"{name} must have at least {ndim} dimensions, got shape {A.shape}"
            )
        if jnp.finfo(A.dtype).bits >= 32:
            return A, lambda x: x
        given = A.dtype
        return A.astype(jnp.float32), lambda x: x.astype(given)

    @staticmethod
    def parameter(value: Any, like: Any, name: str = "value") -> Any:
        """`value` in the real dtype of `like`."""
        try:
            dtype = jnp.result_type(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be a number or an array") from error
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"{name} must be real, got {dtype}")
        return jnp.asarray(value, dtype=jnp.finfo(like.dtype).dtype)

    @staticmethod
    def stop_gradient(x: Any) -> Any:
        """`x` without its derivative."""
        return lax.stop_gradient(x)

    @staticmethod
    def svd(A: Any) -> Arrays:
        """Thin U, S and Vh, differentiable."""
        return _svd(A, Options(), "A")

    @staticmethod
    def sketch(A: Any, columns: int, seed: Any) -> Any:
        """Draw a normal random matrix (..., n, columns)."""
        key = seed if isinstance(seed, jax.Array) else jax.random.key(seed or 0)
        shape = (*A.shape[:-2], A.shape[-1], columns)
        return jax.random.normal(key, shape, A.dtype)

    @staticmethod
    def leading_triplets(*arrays: Any) -> Arrays:
        """U, S and Vh from A and these."""
        return _triplets(*arrays)

    @staticmethod
    def derivative(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Differentiate a function that acts element by element."""
        return lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]

    @staticmethod
    def rotate(*arrays: Any) -> Any:
        """U diag(y) V^H from A, y, the divided differences, U, S and Vh."""
        return _rotate(*arrays)
