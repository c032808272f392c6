"""JAX: every call of an operation is one primitive.

A `custom_jvp` would transpose the tangent, and the pullback of the SVD is not the
transpose of its pushforward; a `custom_vjp` would forbid forward mode. So the
tangents are calls themselves, and the operations' cotangents are registered as the
transposes of those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from svdinv.core.backend import Backend
from svdinv.core.operation import Operation

__all__ = ["JAXBackend"]


class _Namespace:
    """`jax.numpy`, and what JAX has beyond the array API."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    class linalg:
        """`jax.numpy.linalg`, with an `eigh` that reads one triangle."""

        diagonal, det = staticmethod(jnp.linalg.diagonal), staticmethod(jnp.linalg.det)
        qr, svd = staticmethod(jnp.linalg.qr), staticmethod(jnp.linalg.svd)
        eigh = staticmethod(partial(jnp.linalg.eigh, symmetrize_input=False))

    @property
    def double_precision(self) -> bool:
        return bool(jax.config.jax_enable_x64)

    @staticmethod
    def any_on_host(mask: Any) -> bool | None:
        if isinstance(mask, jax.core.Tracer):
            return None
        if any(device.platform != "cpu" for device in mask.devices()):
            return None
        return bool(mask.any())

    @staticmethod
    def iterate_while(step: Any, running: Any, state: Any, steps: int) -> Any:
        def going(carry: Any) -> Any:
            return (carry[0] < steps) & jnp.any(running(carry[1]))

        def body(carry: Any) -> Any:
            return carry[0] + 1, step(carry[1])

        return lax.while_loop(going, body, (0, state))[1]

    @staticmethod
    def on_host(report: Callable[[Any], None], x: Any) -> None:
        @custom_vmap
        def call(x: Any) -> Any:
            jax.debug.callback(report, x)
            return x

        @call.def_vmap
        def _(size: int, batched: list[bool], x: Any) -> tuple[Any, bool]:
            return call(x), batched[0]  # once for all matrices

        call(x)


xp = _Namespace()


def _fill(x: Sequence[Any], there: Sequence[bool]) -> tuple[Any, ...]:
    """Put None where nothing is there: primitives take arrays alone."""
    rest = iter(x)
    return tuple(next(rest) if present else None for present in there)


def _present(x: Sequence[Any]) -> tuple[bool, ...]:
    return tuple(t is not None for t in x)


# Compiled as one: outside jit, JAX would compile each of its steps by itself.
@partial(jax.jit, static_argnames="operation")
def _value(*x: Any, operation: Operation) -> tuple[Any, ...]:
    return operation.value(x, xp)


_known_outputs: dict[Any, tuple[bool, ...]] = {}


def _outputs(operation: Operation, there: tuple[bool, ...], x: Any) -> tuple[bool, ...]:
    """Tell which outputs are there, which the inputs that are there decide."""
    key = operation.anonymous(), there
    if key not in _known_outputs:
        _known_outputs[key] = _present(_shapes(operation, there, x))
    return _known_outputs[key]


def _shapes(operation: Operation, there: tuple[bool, ...], x: Any) -> tuple[Any, ...]:
    shapes = (jax.ShapeDtypeStruct(t.shape, t.dtype) for t in x)
    value = partial(_value, operation=operation.anonymous())
    return jax.eval_shape(value, *_fill(tuple(shapes), there))


def _bind(operation: Operation, *x: Any) -> tuple[Any, ...]:
    there, kept = _present(x), [t for t in x if t is not None]
    y = _call_p.bind(*kept, operation=operation, there=there)
    return _fill(y, _outputs(operation, there, kept))


def _call(operation: Operation, *x: Any) -> tuple[Any, ...]:
    kind = type(operation)
    if not operation.transparent or kind.cotangent is not Operation.cotangent:
        return _bind(operation, *x)
    if kind.composed is not Operation.composed:
        return operation.composed(x, _call, xp)
    return _value(*x, operation=operation)


def _implementation(
    *x: Any, operation: Operation, there: tuple[bool, ...]
) -> list[Any]:
    y = _value(*_fill(x, there), operation=operation.anonymous())
    return [t for t in y if t is not None]


def _abstract(*avals: Any, operation: Operation, there: tuple[bool, ...]) -> list[Any]:
    shapes = _shapes(operation, there, avals)
    return [jax.core.ShapedArray(t.shape, t.dtype) for t in shapes if t is not None]


def _jvp(
    primals: Any, tangents: Any, *, operation: Operation, there: tuple[bool, ...]
) -> Any:
    moved = [None if isinstance(t, ad.Zero) else t for t in tangents]
    x, dx = _fill(primals, there), _fill(moved, there)
    y = _call_p.bind(*primals, operation=operation, there=there)
    outputs = _outputs(operation, there, primals)
    if operation.transparent:
        dy = _transparent_tangent(operation, x, dx)
    else:
        dy = operation.tangent(x, _fill(y, outputs), dx, _call, xp)
    kept = [t for t, present in zip(dy, outputs, strict=True) if present]
    return y, [
        ad.Zero.from_primal_value(t) if dt is None else dt
        for t, dt in zip(y, kept, strict=True)
    ]


def _transparent_tangent(operation: Operation, x: Any, dx: Any) -> tuple[Any, ...]:
    """Differentiate what is linear in its last argument, by its value in the others."""
    (*fixed, last), (*moved, dlast) = x, dx
    terms = []
    if dlast is not None:
        terms.append(_bind(operation, *fixed, dlast))
    if any(t is not None for t in moved):
        moved = [
            jnp.zeros_like(t) if dt is None else dt
            for t, dt in zip(fixed, moved, strict=True)
        ]
        value = partial(_value, operation=operation.anonymous())
        terms.append(jax.jvp(lambda *t: value(*t, last), tuple(fixed), tuple(moved))[1])
    return tuple(sum(parts[1:], parts[0]) for parts in zip(*terms, strict=True))


def _transpose(
    cotangents: Any, *x: Any, operation: Operation, there: tuple[bool, ...]
) -> list[Any]:
    unknown = [ad.is_undefined_primal(t) for t in x]
    avals = [t.aval if u else t for t, u in zip(x, unknown, strict=True)]
    # JAX's cotangents are the conjugates of those of the formulas.
    given = [None if isinstance(g, ad.Zero) else jnp.conj(g) for g in cotangents]
    if all(g is None for g in given):
        return [None] * len(x)
    g = _fill(given, _outputs(operation, there, avals))
    known = [None if u else t for t, u in zip(x, unknown, strict=True)]
    wanted = tuple(bool(u) for u in _fill(unknown, there))
    found = operation.cotangent(_fill(known, there), (), g, wanted, _call, xp)
    found = (*found, *(None for _ in there[len(found) :]))
    return [
        None if f is None or not want else jnp.conj(f)
        for f, want, present in zip(found, wanted, there, strict=True)
        if present
    ]


def _batch(x: Any, axes: Any, *, operation: Operation, there: tuple[bool, ...]) -> Any:
    pairs = list(zip(x, axes, strict=True))
    size = next(t.shape[axis] for t, axis in pairs if axis is not None)
    # Operations take leading batch axes; an array without one gets one.
    front = [
        jnp.broadcast_to(t, (size, *t.shape))
        if axis is None
        else jnp.moveaxis(t, axis, 0)
        for t, axis in pairs
    ]
    y = _call_p.bind(*front, operation=operation, there=there)
    return y, [0] * len(y)


_call_p = Primitive("svdinv_call")
_call_p.multiple_results = True
_call_p.def_impl(_implementation)
_call_p.def_abstract_eval(_abstract)
mlir.register_lowering(_call_p, mlir.lower_fun(_implementation, multiple_results=True))
ad.primitive_jvps[_call_p] = _jvp
ad.primitive_transposes[_call_p] = _transpose
batching.primitive_batchers[_call_p] = _batch


class JAXBackend(Backend):
    """JAX arrays."""

    xp = xp
    triangle = None
    call = staticmethod(_call)

    def evaluate(self, operation: Operation, *x: Any) -> Any:
        x = tuple(None if t is None else lax.stop_gradient(t) for t in x)
        if operation.host and not any(isinstance(t, jax.core.Tracer) for t in x):
            return operation.value(x, xp)
        return _value(*x, operation=operation)

    def asarray(self, x: Any, name: str) -> Any:
        try:
            return jnp.asarray(x)
        except TypeError as error:
            raise TypeError(f"{name} must be an array, got {x!r}") from error

    def parameter(self, value: Any, like: Any, name: str = "value") -> Any:
        try:
            dtype = jnp.result_type(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be a number or an array") from error
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"{name} must be real, got {dtype}")
        return jnp.asarray(value, dtype=jnp.finfo(like.dtype).dtype)

    def stop_gradient(self, x: Any) -> Any:
        return lax.stop_gradient(x)

    def normal(self, shape: tuple[int, ...], like: Any, seed: Any) -> Any:
        """See `Backend`; JAX has no global source, and None is always the same."""
        key = seed if isinstance(seed, jax.Array) else jax.random.key(seed or 0)
        return jax.random.normal(key, shape, like.dtype)

    def slope(self, f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]
