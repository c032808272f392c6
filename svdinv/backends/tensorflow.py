"""TensorFlow: every call of an operation is one `tf.custom_gradient`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

from svdinv.backends import tensorflow_namespace as xp
from svdinv.backends.tensorflow_kernels import (
    by_kernel,
    compiled,
    is_compiled,
    is_portable,
    suits,
)
from svdinv.core.backend import Backend, kind_of, number_within
from svdinv.core.operation import Operation, filled, padded, present, rebuilt
from svdinv.core.svd_operations import SingularValues
from svdinv.kernels.rules import has_no_user_function

try:  # private, so that a later version may lack them
    from tensorflow.python.eager import record
    from tensorflow.python.eager.forwardprop_util import pack_tangents
except ImportError:
    record = pack_tangents = None

# NumPy has no eps of bfloat16.
_HALF_EPSILON = {tf.float16: 2.0**-10, tf.bfloat16: 2.0**-7}

# There is no control flow over tensors to convert, and converting takes long.
_plain = tf.autograph.experimental.do_not_convert


_DROPPED = (
    "TensorFlow drops custom gradients where it vectorizes a loop. Put the tape inside "
    "the function of tf.vectorized_map, or use tf.map_fn; of a Jacobian that is "
    "differentiated, set experimental_use_pfor=False"
)


@_plain
def _evaluate(operation: Operation, *x: Any) -> Any:
    eager = record and tf.executing_eagerly() and not _has_tangents(x)
    if eager and has_no_user_function(operation):  # whose own tapes would stop, too
        with record.stop_recording():
            return by_kernel(operation, x, xp, lambda: operation.value(x, xp))
    x = tuple(None if t is None else tf.stop_gradient(t) for t in x)
    y = by_kernel(operation, x, xp, lambda: operation.value(x, xp))
    stopped = (None if t is None else tf.stop_gradient(t) for t in y)
    return rebuilt(y, stopped)


def _refuse_lost_gradients() -> None:
    """Let a vectorized loop raise where it drops a custom gradient.

    It replaces that by an identity, whose gradient would be 0. So outputs with a custom
    gradient pass through Snapshot, an operation that TensorFlow does not use in graphs
    of users, and which raises when a tape comes to it after vectorization.
    """
    try:
        from tensorflow.python.ops.parallel_for.pfor import RegisterPFor, wrap
    except ImportError:
        return
    tf.RegisterGradient("Snapshot")(lambda _, g: g)

    @RegisterPFor("Snapshot")
    def _(mapped: Any) -> Any:
        mapped.stack_inputs()
        t = mapped.stacked_input(0)
        return wrap(tf.raw_ops.PreventGradient(input=t, message=_DROPPED), True)


_refuse_lost_gradients()


@cache
def _has_short_products() -> bool:
    """Whether a GPU supports products in TensorFloat-32."""
    details = map(
        tf.config.experimental.get_device_details,
        tf.config.get_visible_devices("GPU"),
    )
    return any(found.get("compute_capability", (0, 0)) >= (8, 0) for found in details)


def _rounds_products() -> bool:
    is_set = tf.config.experimental.tensor_float_32_execution_enabled
    return _has_short_products() and is_set()


@cache
def _warn_of_rounded_products() -> None:
    """Warn once where TensorFlow multiplies single precision in fewer digits.

    TensorFlow cannot turn that off for single operations.
    """
    if _rounds_products():
        warnings.warn(
            "TensorFlow rounds single precision to TensorFloat-32 in products on GPUs, "
            "which leaves svdinv's derivatives with 3 digits, and fewer where singular "
            "values are close: call "
            "tf.config.experimental.enable_tensor_float_32_execution(False)",
            stacklevel=4,
        )


def _marked(y: tuple[Any, ...]) -> tuple[Any, ...]:
    """Mark outputs that a custom gradient links to the inputs."""
    if tf.executing_eagerly() or (is_portable() and not _is_vectorized()):
        return y
    return tuple(None if t is None else tf.raw_ops.Snapshot(input=t) for t in y)


def _is_vectorized() -> bool:
    """Whether the body of a vectorized loop is traced, which is never saved."""
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        if "loop_body" in graph.get_name_scope():
            return True
        graph = getattr(graph, "outer_graph", None)
    return False


@_plain
def _call(operation: Operation, *x: Any) -> tuple[Any, ...]:
    tangents = _has_tangents(x)
    if operation.transparent:
        eager = tf.config.functions_run_eagerly()  # `_pulled` needs a graph
        if tangents or eager or suits(operation, x) is False:
            return operation.composed(x, _call, xp)
        y = _evaluate(operation, *x)
        return _linked(operation, x, y) if _is_recorded(x) else y
    if tangents and not tf.executing_eagerly():
        return _with_tangents(operation, *x)
    return _differentiable(operation, *x)


def _differentiable(operation: Operation, *x: Any) -> tuple[Any, ...]:
    """Compute the value, and link it to the arguments by a custom gradient."""
    values = tuple(_evaluate(operation, *x))
    if not _is_recorded(x):
        return values
    there, outputs = present(x), present(values)
    count = sum(there)
    # TensorFlow traces the gradient of what XLA compiles in a graph of its own.
    context = nullcontext if tf.executing_eagerly() or not is_compiled() else compiled
    linking = False

    def linked(*tensors: tf.Tensor) -> Any:
        nonlocal linking
        before, linking = linking, True
        try:
            return link(*tensors)
        finally:
            linking = before

    # All tensors are arguments, because a gradient may be built in another graph than
    # the one that closed over them.
    @tf.custom_gradient
    def link(*tensors: tf.Tensor) -> tuple[Any, Any]:
        def gradient(*g: tf.Tensor) -> list[tf.Tensor | None]:
            # While linking, a forward accumulator calls this, to transpose it.
            pull = _transposed_tangents if linking else _cotangents
            here = tuple(map(tf.identity, tensors))  # in the graph of the gradient
            inputs, y = filled(here, there), ()
            if operation.saves_outputs:
                # Linked again, so that a second derivative comes through here, too.
                again = linked(*here) if _is_recorded(here) else here[count:]
                y = filled(again, outputs)
            with context():
                found = pull(operation, inputs, y, filled(g, outputs))
            return [*found, *(None for _ in tensors[count:])]

        return tuple(map(tf.identity, tensors[count:])), gradient

    kept = (t for t in (*x, *values) if t is not None)
    return _marked(filled(linked(*map(tf.identity, kept)), outputs))


def _cotangents(operation: Operation, x: Any, y: Any, g: Any) -> list[Any]:
    """Pull cotangents back to the arguments that are not None."""
    there = present(x)
    found = operation.cotangent(x, y, g, there, _call, xp)
    pairs = zip(padded(found, len(there)), there, strict=True)
    return [t for t, is_there in pairs if is_there]


def _transposed_tangents(operation: Operation, x: Any, y: Any, g: Any) -> list[Any]:
    """Return zeros like `x`, linked to `g` so that their gradient is the tangent.

    A forward accumulator takes tangents from the transpose of a gradient, and the
    pullback of a decomposition, which is not linear, has no transpose.
    """
    there, outputs = present(x), present(g)

    @tf.custom_gradient
    def link(*kept: tf.Tensor) -> tuple[Any, Any]:
        def push(*dx: tf.Tensor) -> list[tf.Tensor]:
            dy = operation.tangent(x, y, filled(dx, there), _call, xp)
            pairs = zip(dy, g, outputs, strict=True)
            return [
                tf.zeros_like(t) if d is None else d for d, t, there in pairs if there
            ]

        return [tf.zeros_like(t) for t in x if t is not None], push

    return list(link(*(t for t in g if t is not None)))


def _has_tangents(x: Any) -> bool:
    """Whether a forward accumulator watches an argument."""
    if pack_tangents is None:
        return False
    return bool(pack_tangents([t for t in x if t is not None]).tangents)


def _is_recorded(x: Any) -> bool:
    """Whether a tape or an accumulator may watch an argument; true in graphs."""
    if record is None or not tf.executing_eagerly() or _has_tangents(x):
        return True
    return bool(record.should_record_backprop([t for t in x if t is not None]))


def _with_tangents(operation: Operation, *x: Any) -> tuple[Any, ...]:
    """Call an operation in a graph, and record its tangents as in eager mode.

    In a graph, TensorFlow would take them from the identity that stands for a custom
    gradient, and they would be 0.
    """
    there = present(x)
    outputs: list[bool] = []

    # A tf.function, because a custom gradient has no tangents in a branch of tf.cond.
    @tf.function(autograph=False)
    def called(*kept: tf.Tensor) -> list[tf.Tensor]:
        y = _differentiable(operation, *filled(kept, there))
        outputs[:] = present(y)
        return [t for t in y if t is not None]

    y = filled(called(*(t for t in x if t is not None)), outputs)
    linked = [t for t in y if t is not None]
    with record.stop_recording():  # accumulators have found that identity
        found = list(map(tf.identity, linked))

    def pull(*g: tf.Tensor) -> list[tf.Tensor]:
        known = y if operation.saves_outputs else ()
        return _transposed_tangents(operation, x, known, filled(g, outputs))

    inputs = [t for t in x if t is not None]
    record.record_operation_backprop_only("Identity", found, linked, lambda *g: g)
    record.record_operation_forwardprop_only("svdinv", found, inputs, pull, None)
    return filled(found, outputs)


@_plain
def _linked(operation: Operation, x: Any, y: Any) -> tuple[Any, ...]:
    """Link the outputs of a kernel to its arguments, with gradients by `composed`."""
    there, outputs = present(x), present(y)
    pulled = _pulled(operation, there, is_portable())

    @tf.custom_gradient
    def link(*tensors: tf.Tensor) -> tuple[Any, Any]:
        values = tuple(t for t in y if t is not None)
        return values, lambda *g: pulled(tuple(map(tf.identity, tensors)), g)

    kept = (tf.identity(t) for t in x if t is not None)
    return _marked(filled(link(*kept), outputs))


@lru_cache(maxsize=256)
def _pulled(operation: Operation, there: tuple[bool, ...], portable: bool) -> Any:
    """Make the pullback through `composed`.

    It is a tf.function: inside a custom gradient, a tape would hide the operations from
    forward accumulators.
    """

    @tf.function(autograph=False)
    def pulled(x: Any, g: Any) -> Any:
        y = operation.composed(filled(x, there), _call, xp)
        values = [t for t in y if t is not None]
        return tf.gradients(values, x, grad_ys=g, unconnected_gradients="zero")

    return pulled


class TensorFlowBackend(Backend):
    """TensorFlow tensors."""

    xp = xp
    gradient_in_triangle = True
    call = staticmethod(_call)
    evaluate = staticmethod(_evaluate)

    def is_constant(self, *x: tf.Tensor | None) -> bool:
        return not _is_recorded(x)

    def by_kernel(self, operation: Operation, *x: tf.Tensor | None) -> Any:
        if not self.is_constant(*x):
            return None
        return by_kernel(operation, x, xp, lambda: None)

    def unless_differentiated(
        self,
        operation: SingularValues,
        f: Callable[[tf.Tensor], Any],
        otherwise: Callable[[tf.Tensor], Any],
        A: tf.Tensor,
    ) -> Any:
        # TensorFlow's own SVD takes subnormal elements for 0; kernels do not.
        alone = operation.method == "svd" and not xp.decomposes_quickly(A)
        if alone and self.is_constant(A):
            return f(*_evaluate(operation, A))
        return super().unless_differentiated(operation, f, otherwise, A)

    def eps_of_products(self, A: tf.Tensor, inside: bool) -> float | None:
        # Whatever the device of A, TensorFlow multiplies on a GPU, if there is one.
        single = A.dtype in (tf.float32, tf.complex64)
        return 2.0**-10 if single and _rounds_products() else None

    def asarray(self, x: Any, name: str) -> tf.Tensor:
        try:
            x = tf.convert_to_tensor(x, name=name)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be a tensor, got {kind_of(x)}") from error
        if x.dtype in (tf.float32, tf.complex64):
            _warn_of_rounded_products()
        return x

    def parameter(self, value: Any, like: tf.Tensor, name: str = "value") -> tf.Tensor:
        if not tf.is_tensor(value):
            value = number_within(value, float(like.dtype.real_dtype.max))
            try:
                value = np.asarray(value)  # in double precision, unlike TensorFlow's
            except (TypeError, ValueError, NotImplementedError) as error:
                raise TypeError(f"{name} must be a number or a tensor") from error
            if value.dtype.kind not in "biufc":
                raise TypeError(f"{name} must be a number or a tensor, got {value!r}")
        value = tf.convert_to_tensor(value)  # a variable, too, of Keras or TensorFlow
        if value.dtype.is_complex:
            raise TypeError(f"{name} must be real, got {value.dtype.name}")
        if value.shape.rank is None:
            raise ValueError(f"{name} must have a known number of dimensions")
        return tf.cast(value, like.dtype.real_dtype)

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
