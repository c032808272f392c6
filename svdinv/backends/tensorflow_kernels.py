"""TensorFlow's small matrices on the CPU, by an operation of its graphs."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

import tensorflow as tf

from svdinv import kernels
from svdinv.core.operation import Operation, filled, padded, present
from svdinv.kernels.rules import (
    RULES,
    ArraySpec,
    Plan,
    Tall,
    has_no_user_function,
    plan,
)

# Codes of lengths in tensorflow.c.
_LENGTHS = {"m": -1, "n": -2, "k": -3, "b": -4}


def _load() -> tuple[Any, str]:
    """TensorFlow's Python function for the operation, or None and the reason."""
    if not kernels.is_loaded():
        return None, kernels.chosen()
    library = str(kernels.TENSORFLOW_LIBRARY)
    try:
        function = tf.load_op_library(library).svdinv_kernel
        ctypes.CDLL(library).svdinv_bind(kernels.run_address())
    except (AttributeError, OSError, tf.errors.OpError) as error:
        return None, f"none: {error}"
    tf.no_gradient("Svdinv>Kernel")  # the operations have rules of their own
    _map_over_batches()
    return function, ""


def _map_over_batches() -> None:
    """Let `tf.vectorized_map` and `jacobian` add an axis to the batch.

    If a version of TensorFlow lacks the module imported here, they loop.
    """
    try:
        from tensorflow.python.ops.parallel_for.pfor import RegisterPFor, wrap
    except ImportError:
        return

    @RegisterPFor("Svdinv>Kernel")
    def _(mapped: Any) -> Any:
        mapped.stack_inputs()
        operands = [mapped.stacked_input(i) for i in range(mapped.num_inputs)]
        types, numbers = mapped.get_attr("Tout"), mapped.get_attr("plan")
        y = _operation(x=operands, Tout=types, plan=numbers)
        return [wrap(t, True) for t in y]


_operation, _reason = _load()
_state = threading.local()


def chosen() -> str:
    """Describe which kernels TensorFlow's operation runs, or why none do."""
    return _reason or kernels.chosen()


@contextlib.contextmanager
def _switched_on(name: str) -> Iterator[None]:
    before = getattr(_state, name, False)
    setattr(_state, name, True)
    try:
        yield
    finally:
        setattr(_state, name, before)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Trace functions with TensorFlow's own operations alone.

    A function traced in this context has no operation of svdinv. It can be saved, and
    loaded or served where svdinv is not installed. Its values and gradients are the
    same up to rounding errors. A trace made before stays as it is: trace the function
    in this context, or make a new `tf.function`. To be called within a function with
    ``jit_compile=True``, a function has to be traced in this context, or first from
    there. If `tf.vectorized_map` is given a function that was traced here, a tape
    outside of it finds a gradient of 0, without an error. TFLite has no SVD and no
    eigendecomposition: it converts only operators with ``method="matmul"``.

    Examples
    --------
    >>> import tensorflow as tf, svdinv.tf
    >>> module = tf.Module()
    >>> module.threshold = tf.function(lambda A: svdinv.tf.svt(A, 0.5))
    >>> with svdinv.tf.portable():
    ...     concrete = module.threshold.get_concrete_function(
    ...         tf.TensorSpec((None, 4, 4)))
    >>> sorted(op.type for op in concrete.graph.get_operations() if "Sv" in op.type)
    ['Svd']
    """
    with _switched_on("portable"):
        yield


def is_portable() -> bool:
    """Whether only TensorFlow's own operations are to be used."""
    return getattr(_state, "portable", False)


def _has_gpu() -> bool:
    return bool(tf.config.get_visible_devices("GPU"))


@contextlib.contextmanager
def compiled() -> Iterator[None]:
    """Trace for XLA, where the graph does not show that XLA is to compile it."""
    with _switched_on("compiled"):
        yield


def is_compiled() -> bool:
    """Whether XLA, which lacks the operation, is to compile what is traced."""
    if getattr(_state, "compiled", False):
        return True
    try:
        from tensorflow.python.framework.ops import get_default_graph
        from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
    except ImportError:
        return True
    return bool(GraphOrParentsInXlaContext(get_default_graph()))


def _at_hand(x: Any) -> bool:
    """Whether the operation can be used for these tensors now."""
    if _operation is None or is_portable() or not kernels.is_loaded():
        return False
    if tf.executing_eagerly():
        return all(t is None or "CPU" in t.device for t in x)
    return not (_has_gpu() or is_compiled())


def _array(x: tf.Tensor) -> ArraySpec:
    return ArraySpec(tuple(x.shape), x.dtype.name)


_MOST_KEPT = 512
_MOST_AXES = 16  # as in tensorflow.c
_plans: dict[Any, tuple[Plan | None, bool | None]] = {}


def _plan(operation: Operation, x: Any) -> tuple[Plan | None, bool | None]:
    """Plan a call; also return whether to use it, None if unknown lengths decide."""
    if type(operation) not in RULES or not _at_hand(x):
        return None, False
    ranks = [t.shape.rank for t in x if t is not None]
    if any(rank is None or rank > _MOST_AXES for rank in ranks):
        return None, False
    arrays = tuple(None if t is None else _array(t) for t in x)
    key = (operation, arrays) if has_no_user_function(operation) else None
    known = _plans.get(key)
    if known is None:
        found = plan(operation, arrays)
        known = found, found is not None and found.supports
        if key:
            if len(_plans) >= _MOST_KEPT:
                _plans.clear()
            _plans[key] = known
    return known


def by_kernel(operation: Operation, x: Any, xp: Any, otherwise: Any) -> Any:
    """Compute an operation by a kernel, or by `otherwise` where none is suitable.

    If that depends on lengths that are unknown while a graph is traced, the graph
    decides when it runs.
    """
    plan, suits = _plan(operation, x)
    if plan is None:
        return otherwise()
    if suits:
        return plan.outputs(_called(plan, x, xp))
    there = present(plan.results)

    def kept(y: Any) -> list[Any]:
        return [t for t, is_there in zip(y, there, strict=True) if is_there]

    y = tf.cond(
        _suits(plan, x),
        lambda: kept(_called(plan, x, xp)),
        lambda: kept(padded(otherwise(), len(there))),
    )
    return plan.outputs(list(filled(y, there)))


def suits(operation: Operation, x: Any) -> bool | None:
    """Whether a kernel computes an operation; None if that depends on lengths."""
    return _plan(operation, x)[1]


def _suits(plan: Plan, x: Any) -> tf.Tensor:
    """Whether to use a kernel, as a tensor of a graph with unknown lengths."""
    rows, columns = (x[source] for source in plan.lengths_from)
    shape = tf.shape(rows, out_type=tf.int64)
    batch = tf.reduce_prod(shape[: len(plan.batch)])
    m, n = shape[-2], tf.shape(columns, out_type=tf.int64)[-1]
    return kernels.supports(plan.kind, plan.dtype, batch, m, n, tf.minimum, tf.maximum)


def _transposed_axes(rank: int) -> list[int]:
    return [*range(rank - 2), rank - 1, rank - 2]


@cache
def _eager_transposed_axes(rank: int) -> tf.Tensor:
    with tf.device("CPU"):
        return tf.constant(_transposed_axes(rank))


def matrix_transpose(x: tf.Tensor) -> tf.Tensor:
    """Transpose the last two axes, eagerly in a fifth of the time of TensorFlow's.

    Most of that is to make a tensor of the order of the axes, which a graph would take
    for an input if it were an eager one.
    """
    rank = x.shape.rank
    if rank is None:
        return tf.linalg.matrix_transpose(x)
    axes = _eager_transposed_axes if tf.executing_eagerly() else _transposed_axes
    return tf.raw_ops.Transpose(x=x, perm=axes(rank))


def _attributes(plan: Plan, real: tuple[bool, ...]) -> dict[str, list[Any]]:
    """Attributes of the operation for a plan, whose operands are real or not."""
    # Without what they do not depend on, which may hold data of a user.
    plan = plan._replace(batch=(), m=0, n=0, further=None, outputs=tuple)
    return _encoded(plan, real)


@lru_cache(_MOST_KEPT)
def _encoded(plan: Plan, real: tuple[bool, ...]) -> dict[str, list[Any]]:
    numbers = plan.encoded(real)
    for result in plan.written:
        letters = result.shape[::-1] if result.transposed else result.shape
        lengths = [_LENGTHS.get(letter, 1) for letter in letters]
        numbers += [len(letters), *lengths, *[0] * (3 - len(letters))]
    # TensorFlow takes twice as long to call an operation with names of dtypes.
    types = [tf.as_dtype(plan.result_dtype(result)) for result in plan.written]
    return {"Tout": types, "plan": numbers}


def _called(plan: Plan, x: Any, xp: Any) -> list[Any]:
    """Results of a kernel, None for those that it does not compute."""
    if plan.further is not None:
        x = (*x, plan.further(x, xp))
    operands = [x[operand.source] for operand in plan.operands]
    real = tuple(not t.dtype.is_complex for t in operands)
    results = []
    found = _operation(x=operands, **_attributes(plan, real))
    for t, expected in zip(found, plan.written, strict=True):
        t = matrix_transpose(t) if expected.transposed else t
        t.set_shape(plan.shape(expected))
        results.append(t)
    return list(filled(results, present(plan.results)))


def tall_values(A: tf.Tensor) -> Any:
    sums = _computed(Tall("gram"), A)
    return sums and _computed(Tall("eigen"), A, *sums)


def tall_vectors(A: tf.Tensor, W: tf.Tensor) -> tf.Tensor:
    """Compute A W, or (A^H W)^H of a wide A, for W of `tall_values`."""
    return _computed(Tall("product"), A, W)[0]


def _computed(operation: Operation, *x: tf.Tensor) -> Any:
    plan, _ = _plan(operation, x)
    return plan and plan.outputs(_called(plan, x, None))
