"""The array-API functions that core uses, for TensorFlow tensors.

array-api-compat does not support TensorFlow. Lengths may be unknown while a graph is
traced; no function here requires them. More functions, which only operators and priors
of users need, are found by `__getattr__`.
"""

from __future__ import annotations

import math
import sys
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf

from svdinv.backends.tensorflow_kernels import by_kernel, is_compiled, suits
from svdinv.backends.tensorflow_kernels import matrix_transpose as matrix_transpose
from svdinv.backends.tensorflow_kernels import tall_values as tall_values
from svdinv.backends.tensorflow_kernels import tall_vectors as tall_vectors
from svdinv.core import householder
from svdinv.core.factors import repaired
from svdinv.core.namespace import (
    abs_max,
    adjoint,
    known_equal,
    nan_unless,
    scaled,
)
from svdinv.kernels.rules import Decompose

_this = sys.modules[__name__]

abs = tf.abs
all = tf.reduce_all
any = tf.reduce_any
arange = tf.range
asarray = tf.convert_to_tensor
complex = tf.complex
complex64 = tf.complex64
complex128 = tf.complex128
concat = tf.concat
conj = tf.math.conj
cumulative_sum = tf.cumsum
exp = tf.exp
expm1 = tf.math.expm1
float32 = tf.float32
float64 = tf.float64
imag = tf.math.imag
int32 = tf.int32
log = tf.math.log
log1p = tf.math.log1p
max = tf.reduce_max
maximum = tf.maximum
mean = tf.reduce_mean
minimum = tf.minimum
ones_like = tf.ones_like
permute_dims = tf.transpose
real = tf.math.real
sqrt = tf.sqrt
stack = tf.stack
stop_gradient = tf.stop_gradient
sum = tf.reduce_sum
take = tf.gather
where = tf.where
choose = tf.cond
constants_are_searched = True  # by `tf.debugging.enable_check_numerics`
zeros = tf.zeros
zeros_like = tf.zeros_like


def dynamic_shape(x: tf.Tensor) -> Any:
    """Shape of `x` as traced numbers."""
    shape = tf.shape(x)
    # Each index into it takes five operations of a graph: only for an unknown rank.
    return shape if x.shape.rank is None else tf.unstack(shape)


def any_on_host(mask: tf.Tensor) -> bool | None:
    if not tf.executing_eagerly() or "GPU" in mask.device:
        return None
    return bool(tf.reduce_any(mask))


def numbers(x: tf.Tensor) -> list[float] | None:
    if not tf.executing_eagerly() or "GPU" in x.device:
        return None
    return x.numpy().ravel().tolist()


def iterate_while(step: Any, running: Any, state: Any, steps: int) -> Any:
    """Apply `step` while `running` holds anywhere, at most `steps` times."""

    def going(count: tf.Tensor, *state: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(running(state))

    def body(count: tf.Tensor, *state: tf.Tensor) -> tuple[Any, ...]:
        return count + 1, *step(state)

    return tuple(tf.while_loop(going, body, (0, *state), maximum_iterations=steps)[1:])


def on_host(report: Any, x: tf.Tensor) -> None:
    if tf.executing_eagerly():
        report(x.numpy())
    else:
        # tf.function runs stateful ops, wanted or not.
        tf.py_function(lambda x: report(x.numpy()), [x], [])


def astype(x: tf.Tensor, dtype: tf.DType, *, copy: bool = True) -> tf.Tensor:
    """Cast; tensors are immutable, so `copy` does not matter."""
    if dtype.is_complex and not x.dtype.is_complex:
        # The gradient of tf.cast casts back, with a warning about what that drops.
        part = tf.cast(x, dtype.real_dtype)
        return tf.complex(part, tf.zeros_like(part))
    return tf.cast(x, dtype)


def matmul(A: tf.Tensor, B: tf.Tensor) -> tf.Tensor:
    """Multiply matrices whose batches may broadcast.

    They are broadcast before: with several batch axes, TensorFlow 2.21 with oneDNN
    writes out of bounds (tensorflow/tensorflow#117700).
    """
    shapes: list[Any] = [
        x.shape[:-2].as_list() if x.shape.rank else None for x in (A, B)
    ]
    if None in shapes:  # of unknown rank
        return tf.matmul(A, B)
    a, b = shapes
    if (len(a) > 1 or len(b) > 1) and (a != b or None in a):
        (a, m), (b, n) = ((tf.shape(x)[:-2], tf.shape(x)[-2:]) for x in (A, B))
        batch = tf.broadcast_dynamic_shape(a, b)
        A = tf.broadcast_to(A, tf.concat([batch, m], 0))
        B = tf.broadcast_to(B, tf.concat([batch, n], 0))
    return tf.matmul(A, B)


def broadcast_to(x: tf.Tensor, shape: tuple[Any, ...]) -> tf.Tensor:
    """Broadcast to a shape, of ints and traced numbers."""
    return tf.broadcast_to(x, tf.stack(shape) if shape else ())


def eye(n: int, *, dtype: tf.DType, device: Any) -> tf.Tensor:
    """Identity matrix; TensorFlow chooses the device itself."""
    return tf.eye(n, dtype=dtype)


def finfo(dtype: tf.DType) -> Any:
    """Machine limits of a floating point or complex dtype."""
    return np.finfo(dtype.as_numpy_dtype)


def flip(x: tf.Tensor, *, axis: int) -> tf.Tensor:
    """Reverse the order along an axis."""
    return tf.reverse(x, [axis])


def isdtype(dtype: tf.DType, kind: str | tuple[str, ...]) -> bool:
    """Whether a dtype is of the kind "real floating" or "complex floating"."""
    kinds = (kind,) if isinstance(kind, str) else kind
    return ("real floating" in kinds and dtype.is_floating) or (
        "complex floating" in kinds and dtype.is_complex
    )


def reshape(x: tf.Tensor, shape: tuple[Any, ...]) -> tf.Tensor:
    """Reshape to a shape, of ints and traced numbers."""
    return tf.reshape(x, tf.stack(shape))


def roll(x: tf.Tensor, shift: Any, *, axis: Any) -> tf.Tensor:
    """Roll along axes; for negative ones, `tf.vectorized_map` would roll others."""
    axes = (axis,) if isinstance(axis, int) else axis
    positive = [a % len(x.shape) for a in axes]
    return tf.roll(x, shift, positive[0] if isinstance(axis, int) else positive)


def tril(x: tf.Tensor, *, k: int = 0) -> tf.Tensor:
    """Lower triangle of each matrix, with (k = 0) or without (k = -1) diagonal."""
    lower = tf.linalg.band_part(x, -1, 0)
    # Not x - triu(x), which is NaN where the upper triangle is.
    return lower - tf.linalg.band_part(lower, 0, 0) if k else lower


def triu(x: tf.Tensor) -> tf.Tensor:
    """Upper triangle of each matrix, with its diagonal."""
    return tf.linalg.band_part(x, 0, -1)


# Error of u^H u, in eps, from which on an SVD counts as wrong.
_NOT_ORTHONORMAL = 1000

_DOUBLE = {tf.float32: tf.float64, tf.complex64: tf.complex128}


def decomposes_quickly(A: tf.Tensor) -> bool:
    """Whether kernels decompose A; true where a graph decides that when it runs."""
    return suits(Decompose("svd"), (A,)) is not False


def _svd(A: tf.Tensor, *, full_matrices: bool) -> tuple[tf.Tensor, ...]:
    square = known_equal(A.shape[-2], A.shape[-1])
    if full_matrices and not square:
        return _own_svd(A, True)
    decompose = Decompose("svd")

    def own() -> tuple[tf.Tensor, ...]:
        U, S, Vh = _own_svd(A, False)
        undecided = suits(decompose, (A,)) is None
        return repaired(A, U, S, Vh, _this) if undecided else (U, S, Vh)

    return by_kernel(decompose, (A,), _this, own)


def _own_svd(A: tf.Tensor, full_matrices: bool) -> tuple[tf.Tensor, ...]:
    if not is_compiled():
        return _sound_svd(A, full_matrices)
    # XLA's SVD has an absolute tolerance.
    unit = scaled(abs_max(A, _this), _this)[1]
    u, s, vh = _sound_svd(A / tf.cast(unit, A.dtype), full_matrices)
    return u, s * unit[..., 0], vh


def _sound_svd(A: tf.Tensor, full_matrices: bool) -> tuple[tf.Tensor, ...]:
    s, u, v = tf.linalg.svd(A, full_matrices=full_matrices)
    if A.dtype in _DOUBLE and "GPU" not in A.device:
        # On CPUs, vectors of zero singular values are at times far from orthonormal
        # in single precision; in double precision they have always been.
        sound = _orthonormal(u) & _orthonormal(v)
        s, u, v = tf.cond(
            sound, lambda: (s, u, v), lambda: _double_svd(A, full_matrices)
        )
    if "CPU" not in A.device:  # as `svdinv.core.guarded.marked`
        finite = _finite(A)
        s, u, v = (
            nan_unless(known, x, _this)
            for known, x in ((finite[..., 0], s), (finite, u), (finite, v))
        )
    return u, s, adjoint(v, _this)


def _svdvals(A: tf.Tensor) -> tf.Tensor:
    s = tf.linalg.svd(A, compute_uv=False)
    return s if "CPU" in A.device else nan_unless(_finite(A)[..., 0], s, _this)


def _finite(A: tf.Tensor) -> tf.Tensor:
    return tf.reduce_all(tf.math.is_finite(tf.abs(A)), (-2, -1), keepdims=True)


@lru_cache(maxsize=64)
def _signs(size: int) -> np.ndarray[Any, Any]:
    return 2.0 * np.random.default_rng(size).integers(2, size=(size, 4)) - 1


def _orthonormal(Q: tf.Tensor) -> tf.Tensor:
    """Whether the columns are orthonormal, by random combinations; NaN passes."""
    size = Q.shape[-1]
    if size is None:
        shape = tf.concat([tf.shape(Q)[-1:], [4]], 0)
        signs = tf.random.stateless_uniform(shape, (1, 2), maxval=2, dtype=tf.int32)
        x = tf.cast(2 * signs - 1, Q.dtype)
    else:
        x = tf.constant(_signs(size), Q.dtype)
    excess = tf.matmul(Q, tf.matmul(Q, x), adjoint_a=True) - x
    return ~tf.reduce_any(tf.abs(excess) > _NOT_ORTHONORMAL * finfo(Q.dtype).eps)


def _double_svd(A: tf.Tensor, full_matrices: bool) -> tuple[tf.Tensor, ...]:
    s, u, v = tf.linalg.svd(tf.cast(A, _DOUBLE[A.dtype]), full_matrices=full_matrices)
    return tf.cast(s, A.dtype.real_dtype), tf.cast(u, A.dtype), tf.cast(v, A.dtype)


def _eigh(A: tf.Tensor) -> tuple[tf.Tensor, ...]:
    return by_kernel(Decompose("eigh"), (A,), _this, lambda: _own_eigh(A))


def _own_eigh(A: tf.Tensor) -> tuple[tf.Tensor, ...]:
    # For NaN and infinity, TensorFlow raises, for the whole batch.
    A = tril(A)
    finite = _finite(A)
    eigenvalues, V = tf.linalg.eigh(tf.where(finite, A, tf.zeros_like(A)))
    w = tf.math.real(eigenvalues)
    return nan_unless(finite[..., 0], w, _this), nan_unless(finite, V, _this)


def _qr(A: tf.Tensor) -> tuple[tf.Tensor, ...]:
    # TensorFlow's QR squares the elements, which may over- or underflow.
    unit = tf.cast(scaled(abs_max(A, _this), _this)[1], A.dtype)
    Q, R = tf.linalg.qr(A / unit)
    return Q, R * unit


def _det(A: tf.Tensor) -> tf.Tensor:
    # XLA compiles no determinant: those up to 3 x 3 are written out.
    size = A.shape[-1]
    if size == 1:
        return A[..., 0, 0]
    if size == 2:
        return A[..., 0, 0] * A[..., 1, 1] - A[..., 0, 1] * A[..., 1, 0]
    if size == 3:
        a, b, c = tf.unstack(A, axis=-2)
        return tf.reduce_sum(a * tf.linalg.cross(b, c), axis=-1)
    if size is None or not is_compiled():
        return tf.linalg.det(A)
    return householder.det(A, _this)


def _irfft(x: tf.Tensor, *, n: Any, axis: int = -1) -> tf.Tensor:
    return tf.signal.irfft(x, tf.stack([n]))


def _plane(transform: Any, power: float) -> Any:
    """Transform the last two axes, the only pair that is used."""

    def orthonormal(x: tf.Tensor, *, axes: tuple[int, int], norm: str) -> tf.Tensor:
        pixels = tf.reduce_prod(tf.cast(tf.shape(x)[-2:], x.dtype.real_dtype))
        return transform(x) * tf.cast(pixels**power, x.dtype)

    return orthonormal


def _along(transform: Any, power: float) -> Any:
    """Transform one axis: TensorFlow itself transforms the last."""

    def transformed(x: tf.Tensor, *, axis: int = -1, norm: str = "backward") -> Any:
        order = list(range(len(x.shape)))
        order[axis], order[-1] = order[-1], order[axis]
        last = x if order[-1] == len(order) - 1 else tf.transpose(x, order)
        result = transform(last)
        if norm == "ortho":
            length = tf.cast(tf.shape(last)[-1], x.dtype.real_dtype)
            result = result * tf.cast(length**power, x.dtype)
        return result if last is x else tf.transpose(result, order)

    return transformed


fft = SimpleNamespace(
    fftn=_plane(tf.signal.fft2d, -0.5),
    ifftn=_plane(tf.signal.ifft2d, 0.5),
    fftshift=tf.signal.fftshift,
    ifftshift=tf.signal.ifftshift,
    fft=_along(tf.signal.fft, -0.5),
    ifft=_along(tf.signal.ifft, 0.5),
    rfft=lambda x, *, axis=-1: tf.signal.rfft(x),
    irfft=_irfft,
)
linalg = SimpleNamespace(
    det=_det,
    diagonal=tf.linalg.diag_part,
    inv=tf.linalg.inv,
    eigh=_eigh,
    qr=_qr,
    svd=_svd,
    svdvals=_svdvals,
)


def _clip(x: tf.Tensor, min: Any = None, max: Any = None) -> tf.Tensor:
    x = x if min is None else tf.maximum(x, min)
    return x if max is None else tf.minimum(x, max)


def _full(shape: Any, value: Any, *, dtype: Any = None, device: Any = None) -> Any:
    return tf.fill(shape, value) if dtype is None else tf.zeros(shape, dtype) + value


def _place(find: Any) -> Any:
    """Search all elements where no axis is given, as the array API does."""

    def place(x: tf.Tensor, *, axis: int | None = None) -> tf.Tensor:
        return find(tf.reshape(x, [-1]), 0) if axis is None else find(x, axis)

    return place


# By the same name in `tf.math`.
_OF_MATH = frozenset([
    "acos", "acosh", "add", "asin", "asinh", "atan", "atan2", "atanh", "ceil", "cos",
    "cosh", "divide", "equal", "floor", "greater", "greater_equal", "less",
    "less_equal", "logical_and", "logical_not", "logical_or", "logical_xor", "multiply",
    "negative", "not_equal", "pow", "reciprocal", "round", "sign", "sin", "sinh",
    "square", "subtract", "tan", "tanh",
])  # fmt: skip
_OTHERS: dict[str, Any] = {
    "argmax": _place(tf.argmax),
    "argmin": _place(tf.argmin),
    "argsort": tf.argsort,
    "bool": tf.bool,
    "clip": _clip,
    "cumulative_prod": tf.math.cumprod,
    "diff": tf.experimental.numpy.diff,
    "e": math.e,
    "expand_dims": tf.expand_dims,
    "full": _full,
    "full_like": lambda x, value: tf.zeros_like(x) + value,
    "hypot": lambda a, b: tf.abs(tf.complex(a, b)),
    "inf": math.inf,
    "int64": tf.int64,
    "isfinite": tf.math.is_finite,
    "isinf": tf.math.is_inf,
    "isnan": tf.math.is_nan,
    "log2": lambda x: tf.math.log(x) / math.log(2),
    "log10": lambda x: tf.math.log(x) / math.log(10),
    "min": tf.reduce_min,
    "moveaxis": tf.experimental.numpy.moveaxis,
    "nan": math.nan,
    "newaxis": None,
    "ones": tf.ones,
    "pi": math.pi,
    "prod": tf.reduce_prod,
    "repeat": tf.repeat,
    "sort": tf.sort,
    "squeeze": tf.squeeze,
    "std": tf.math.reduce_std,
    "take_along_axis": tf.experimental.numpy.take_along_axis,
    "tensordot": lambda a, b, *, axes=2: tf.tensordot(a, b, axes),
    "tile": tf.tile,
    "var": tf.math.reduce_variance,
}


def __getattr__(name: str) -> Any:
    if name in _OF_MATH:
        return getattr(tf.math, name)
    if name in _OTHERS:
        return _OTHERS[name]
    raise AttributeError(f"no {name!r} of the array API is known here for TensorFlow")
