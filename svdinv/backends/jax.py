"""JAX: an operation becomes a `custom_jvp` whose tangent is a primitive.

A `custom_jvp` alone would transpose the pushforward, which the consistent rule is
not the transpose of; a `custom_vjp` would forbid forward mode. The pushforward is
therefore a primitive of its own, linear in the tangent of A, and the pullback is
registered as its transpose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from svdinv.core.gauge import Gauge, report_gauge
from svdinv.core.operation import Operation, Options
from svdinv.core.repeated import never_look

__all__ = ["differentiable", "pushforward_primitive"]

Arrays = tuple[Any, ...]


def _silent(options: Options) -> Options:
    """Drop the callable, which a cache of compiled functions would keep alive."""
    return replace(options, gauge="ignore")


def _report(dependence: Any, gauge: Gauge, epsilon: float) -> None:
    """Report from the host, under vmap once for all matrices."""

    @custom_vmap
    def report(dependence: Any) -> Any:
        report_all = partial(report_gauge, gauge=gauge, epsilon=epsilon)
        jax.debug.callback(report_all, dependence)
        return dependence

    @report.def_vmap
    def _(size: int, batched: list[bool], dependence: Any) -> tuple[Any, bool]:
        return report(dependence), batched[0]

    report(dependence)


def pushforward_primitive(operation: Operation) -> Primitive:
    """Make the primitive (outputs, dA) -> tangents of the outputs."""
    primitive = Primitive(f"svdinv_{operation.name}_pushforward")
    primitive.multiple_results = True

    @partial(jax.jit, static_argnames="options")
    def pushforward(*arguments: Any, options: Options) -> Arrays:
        *outputs, dA = arguments
        return tuple(operation.pushforward(tuple(outputs), dA, options, jnp))

    # Compiled as one: outside jit, JAX would compile each of its steps by itself.
    @partial(jax.jit, static_argnames="options")
    def pullback(outputs: Arrays, cotangents: Arrays, options: Options) -> Any:
        return operation.pullback(outputs, cotangents, options, jnp, never_look)

    def bind(outputs: Arrays, dA: Any, options: Options) -> list[Any]:
        return primitive.bind(*outputs, dA, options=options)

    def evaluate(*arguments: Any, options: Options) -> Arrays:
        return pushforward(*arguments, options=_silent(options))

    def jvp(primals: Arrays, tangents: Arrays, *, options: Options) -> Any:
        *outputs, dA = primals
        *d_outputs, ddA = tangents
        result = bind(tuple(outputs), dA, options)
        terms = []
        if not isinstance(ddA, ad.Zero):
            terms.append(bind(tuple(outputs), ddA, options))
        if not all(isinstance(d, ad.Zero) for d in d_outputs):
            instantiated = tuple(map(ad.instantiate_zeros, d_outputs))
            _, moved = jax.jvp(
                lambda *x: evaluate(*x, dA, options=options),
                tuple(outputs),
                instantiated,
            )
            terms.append(moved)
        if not terms:
            return result, [ad.Zero.from_primal_value(r) for r in result]
        return result, [sum(parts[1:], parts[0]) for parts in zip(*terms, strict=True)]

    def transpose(cotangents: Any, *arguments: Any, options: Options) -> list[Any]:
        *outputs, dA = arguments
        if all(isinstance(g, ad.Zero) for g in cotangents):
            return [None] * len(outputs) + [ad.Zero(dA.aval)]
        # JAX's cotangents are the conjugates of those of the formulas.
        given = tuple(None if isinstance(g, ad.Zero) else g.conj() for g in cotangents)
        if options.gauge != "ignore":
            dependence = operation.dependence(tuple(outputs), given, options, jnp)
            epsilon = float(jnp.finfo(outputs[0].dtype).eps)
            _report(dependence, options.gauge, epsilon)
        gA = pullback(tuple(outputs), given, _silent(options))
        return [None] * len(outputs) + [gA.conj()]

    def batch(arguments: Arrays, axes: Any, *, options: Options) -> Any:
        size = next(
            x.shape[axis]
            for x, axis in zip(arguments, axes, strict=True)
            if axis is not None
        )
        # Core takes leading batch axes; an operand without one gets one.
        front = [
            jnp.broadcast_to(x, (size, *x.shape))
            if axis is None
            else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(arguments, axes, strict=True)
        ]
        results = primitive.bind(*front, options=options)
        return results, [0] * len(results)

    primitive.def_impl(evaluate)
    primitive.def_abstract_eval(lambda *avals, options: list(avals[:-1]))
    mlir.register_lowering(primitive, mlir.lower_fun(evaluate, multiple_results=True))
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batch
    return primitive


def differentiable(operation: Operation) -> Callable[[Any, Options, str], Arrays]:
    """Turn an operation into a function of an array that JAX differentiates."""
    primitive = pushforward_primitive(operation)

    @partial(jax.custom_jvp, nondiff_argnums=(1,))
    def function(A: Any, options: Options) -> Arrays:
        return tuple(operation.forward(A, options, jnp))

    @function.defjvp
    def _(options: Options, primals: Arrays, tangents: Arrays) -> tuple[Any, Any]:
        outputs = function(primals[0], options)
        return outputs, tuple(primitive.bind(*outputs, tangents[0], options=options))

    def apply(A: Any, options: Options, name: str) -> Arrays:
        A = jnp.asarray(A)
        if not jnp.issubdtype(A.dtype, jnp.inexact):
            raise TypeError(f"{name} must be floating point or complex, got {A.dtype}")
        if A.ndim < 2:
            raise ValueError(
                f"{name} must have at least two dimensions, got shape {A.shape}"
            )
        if jnp.finfo(A.dtype).bits >= 32:
            return function(A, options)
        # The cotangents come back with the rounding errors of the outputs.
        options = replace(options, epsilon=float(jnp.finfo(A.dtype).eps))
        outputs = function(A.astype(jnp.float32), options)
        return tuple(x.astype(A.dtype) for x in outputs)

    return apply
