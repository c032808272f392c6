"""TensorFlow: every call of an operation is one `tf.custom_gradient`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from svdinv.backends import tensorflow_namespace as xp
from svdinv.core.backend import Backend
from svdinv.core.operation import Operation, filled, padded, present, rebuilt

__all__ = ["TensorFlowBackend"]

# NumPy does not know that of bfloat16.
_HALF_EPSILON = {tf.float16: 2.0**-10, tf.bfloat16: 2.0**-7}

# There is no control flow over tensors to convert, and converting takes long.
_plain = tf.autograph.experimental.do_not_convert


@_plain
def _evaluate(operation: Operation, *x: Any) -> Any:
    x = tuple(None if t is None else tf.stop_gradient(t) for t in x)
    y: Any = xp.by_kernel(operation, x)
    y = operation.value(x, xp) if y is None else y
    stopped = (None if t is None else tf.stop_gradient(t) for t in y)
    return rebuilt(y, stopped)


@_plain
def _call(operation: Operation, *x: Any) -> tuple[Any, ...]:
    if operation.transparent:
        y = xp.by_kernel(operation, x)
        return (
            operation.composed(x, _call, xp) if y is None else _linked(operation, x, y)
        )
    values = _evaluate(operation, *x)
    there, outputs = present(x), present(values)
    count = sum(there)

    # All tensors are arguments, because a gradient may be built in another graph than
    # the one that closed over them.
    @tf.custom_gradient
    def link(*tensors: tf.Tensor) -> tuple[Any, Any]:
        def gradient(*g: tf.Tensor) -> list[tf.Tensor | None]:
            inputs, y = filled(tensors, there), ()
            if operation.saves_outputs:
                # Linked anew, so that a second derivative comes through here again.
                y = filled(link(*tensors), outputs)
            found = operation.cotangent(inputs, y, filled(g, outputs), there, _call, xp)
            pairs = zip(padded(found, len(there)), there, strict=True)
            kept = [t for t, is_there in pairs if is_there]
            return [*kept, *(None for _ in tensors[count:])]

        return tuple(map(tf.identity, tensors[count:])), gradient

    kept = (t for t in (*x, *values) if t is not None)
    return filled(link(*map(tf.identity, kept)), outputs)


@_plain
def _linked(operation: Operation, x: Any, y: Any) -> tuple[Any, ...]:
    """Link what a kernel computed to its arguments, by the array functions for it."""
    there, outputs = present(x), present(y)

    @tf.custom_gradient
    def link(*tensors: tf.Tensor) -> tuple[Any, Any]:
        def gradient(*g: tf.Tensor) -> list[tf.Tensor | None]:
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                found = operation.composed(filled(tensors, there), _call, xp)
            values = [t for t in found if t is not None]
            return tape.gradient(values, tensors, output_gradients=g)

        return tuple(t for t in y if t is not None), gradient

    return filled(link(*(t for t in x if t is not None)), outputs)


class TensorFlowBackend(Backend):
    """TensorFlow tensors."""

    xp = xp
    gradient_in_triangle = True
    call = staticmethod(_call)
    evaluate = staticmethod(_evaluate)

    def asarray(self, x: Any, name: str) -> tf.Tensor:
        return tf.convert_to_tensor(x, name=name)

    def parameter(self, value: Any, like: tf.Tensor, name: str = "value") -> tf.Tensor:
        if not tf.is_tensor(value):
            try:
                value = np.asarray(value)  # in double precision, unlike TensorFlow's
            except (TypeError, ValueError, NotImplementedError) as error:
                raise TypeError(f"{name} must be a number or a tensor") from error
            if value.dtype.kind not in "biufc":
                raise TypeError(f"{name} must be a number or a tensor, got {value!r}")
            value = tf.convert_to_tensor(value)
        if value.dtype.is_complex:
            raise TypeError(f"{name} must be real, got {value.dtype.name}")
        return tf.cast(value, like.dtype.real_dtype)

    def stop_gradient(self, x: tf.Tensor) -> tf.Tensor:
        return tf.stop_gradient(x)

    def normal(self, shape: tuple[Any, ...], like: tf.Tensor, seed: Any) -> tf.Tensor:
        dtype = like.dtype.real_dtype

        def part(index: int) -> tf.Tensor:
            if seed is None:
                return tf.random.normal(shape, dtype=dtype)
            return tf.random.stateless_normal(shape, (seed, index), dtype=dtype)

        return tf.complex(part(0), part(1)) if like.dtype.is_complex else part(0)

    def slope(self, f: Callable[[tf.Tensor], tf.Tensor]) -> Callable[..., tf.Tensor]:

        def slope(x: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = f(x)
            return tape.gradient(y, x, unconnected_gradients="zero")

        return slope

    def half_precision(self, dtype: tf.DType) -> tuple[tf.DType, float] | None:
        epsilon = _HALF_EPSILON.get(dtype)
        return None if epsilon is None else (tf.float32, epsilon)

    def rank(self, A: tf.Tensor) -> int | None:
        return A.shape.rank
