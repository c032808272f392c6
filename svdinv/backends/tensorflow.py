"""TensorFlow: an operation becomes a `tf.custom_gradient`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import tensorflow as tf

from svdinv.backends import tensorflow_namespace as xp
from svdinv.core.gauge import report_gauge
from svdinv.core.operation import Operation, Options

__all__ = ["HALF_EPSILON", "differentiable", "look"]

Tensors = tuple[tf.Tensor, ...]


# NumPy does not know that of bfloat16.
HALF_EPSILON = {tf.float16: 2.0**-10, tf.bfloat16: 2.0**-7}


def look(mask: tf.Tensor) -> bool | None:
    """Tell that no element holds, if that means no waiting for a device."""
    on_host = tf.executing_eagerly() and "GPU" not in mask.device
    # Tensors cannot be assigned to: matrices are all treated alike or none is.
    return None if not on_host or bool(tf.reduce_any(mask)) else False


def _report(dependence: tf.Tensor, options: Options, epsilon: float) -> None:
    report = partial(report_gauge, gauge=options.gauge, epsilon=epsilon)
    if tf.executing_eagerly():
        report(dependence.numpy())
    else:
        # tf.function runs stateful ops, wanted or not.
        tf.py_function(lambda d: report(d.numpy()), [dependence], [])


def _connected(operation: Operation, options: Options) -> Callable[..., Tensors]:
    """Make the function (A, outputs) -> outputs that links the outputs to A."""

    @tf.custom_gradient
    def connect(A: tf.Tensor, *outputs: tf.Tensor) -> tuple[Tensors, Any]:
        def gradient(*cotangents: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
            if options.gauge != "ignore":
                dependence = operation.dependence(outputs, cotangents, options, xp)
                _report(dependence, options, float(xp.finfo(A.dtype).eps))
            # Linked anew, so that a second derivative comes through here again
            # and not through TensorFlow's own gradient of the SVD.
            linked = connect(A, *outputs)
            gA = operation.pullback(linked, cotangents, options, xp, look)
            return gA, *(None for _ in outputs)

        return tuple(tf.identity(x) for x in outputs), gradient

    return connect


def differentiable(operation: Operation) -> Callable[[Any, Options], Tensors]:
    """Turn an operation into a function of a tensor with a gradient of any order."""

    def apply(A: Any, options: Options) -> Tensors:
        A = tf.convert_to_tensor(A, name="tensor")
        if not (A.dtype.is_floating or A.dtype.is_complex):
            raise TypeError(
                f"tensor must be floating point or complex, got {A.dtype.name}"
            )
        if A.shape.rank is not None and A.shape.rank < 2:
            raise ValueError(
                f"tensor must have at least two dimensions, got shape {A.shape}"
            )
        half = A.dtype.size == 2
        inner = tf.cast(A, tf.float32) if half else A
        if half:  # the cotangents come back with the rounding errors of the outputs
            options = replace(options, epsilon=HALF_EPSILON[A.dtype])
        outputs = operation.forward(tf.stop_gradient(inner), options, xp)
        outputs = _connected(operation, options)(inner, *outputs)
        return tuple(tf.cast(x, A.dtype) if half else x for x in outputs)

    return apply
