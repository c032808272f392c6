"""The array-API functions that core uses, for TensorFlow tensors.

array-api-compat knows no TensorFlow. Shapes may be unknown while a graph is
traced; nothing here looks at one.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = [
    "abs",
    "any",
    "astype",
    "concat",
    "conj",
    "dynamic_shape",
    "eye",
    "finfo",
    "imag",
    "isdtype",
    "linalg",
    "matrix_transpose",
    "max",
    "maximum",
    "minimum",
    "ones_like",
    "real",
    "sqrt",
    "sum",
    "tril",
    "triu",
    "where",
    "zeros_like",
]

abs = tf.abs
concat = tf.concat
conj = tf.math.conj
dynamic_shape = tf.shape
imag = tf.math.imag
matrix_transpose = tf.linalg.matrix_transpose
maximum = tf.maximum
minimum = tf.minimum
ones_like = tf.ones_like
real = tf.math.real
sqrt = tf.sqrt
where = tf.where
zeros_like = tf.zeros_like


def any(x: tf.Tensor, *, axis: Any = None) -> tf.Tensor:
    """Tell whether an element holds along an axis."""
    return tf.reduce_any(x, axis=axis)


def astype(x: tf.Tensor, dtype: tf.DType, *, copy: bool = True) -> tf.Tensor:
    """Cast; tensors are immutable, so `copy` does not matter."""
    return tf.cast(x, dtype)


def eye(n: int, *, dtype: tf.DType, device: Any) -> tf.Tensor:
    """Identity matrix; TensorFlow chooses the device itself."""
    return tf.eye(n, dtype=dtype)


def finfo(dtype: tf.DType) -> Any:
    """Machine limits of a floating point or complex dtype."""
    return np.finfo(dtype.as_numpy_dtype)


def isdtype(dtype: tf.DType, kind: str | tuple[str, ...]) -> bool:
    """Tell whether a dtype is of the kind "real floating" or "complex floating"."""
    kinds = (kind,) if isinstance(kind, str) else kind
    return ("real floating" in kinds and dtype.is_floating) or (
        "complex floating" in kinds and dtype.is_complex
    )


def max(x: tf.Tensor, *, axis: Any = None, keepdims: bool = False) -> tf.Tensor:
    """Maximum over an axis or several."""
    return tf.reduce_max(x, axis=axis, keepdims=keepdims)


def sum(x: tf.Tensor, *, axis: Any = None, keepdims: bool = False) -> tf.Tensor:
    """Sum over an axis or several."""
    return tf.reduce_sum(x, axis=axis, keepdims=keepdims)


def tril(x: tf.Tensor, *, k: int = 0) -> tf.Tensor:
    """Lower triangle of each matrix, with (k = 0) or without (k = -1) diagonal."""
    return x - triu(x) if k else tf.linalg.band_part(x, -1, 0)


def triu(x: tf.Tensor) -> tf.Tensor:
    """Upper triangle of each matrix, with its diagonal."""
    return tf.linalg.band_part(x, 0, -1)


def _svd(A: tf.Tensor, *, full_matrices: bool) -> tuple[tf.Tensor, ...]:
    s, u, v = tf.linalg.svd(A, full_matrices=full_matrices)
    return u, s, tf.linalg.adjoint(v)


linalg = SimpleNamespace(svd=_svd, diagonal=tf.linalg.diag_part)
