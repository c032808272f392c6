"""The functions that fit an array: its namespace and svdinv's operators for it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import array_api_compat as compat
import numpy as np

from svdinv.backends.arrays import for_namespace
from svdinv.backends.tape import untraced
from svdinv.core.namespace import (
    Array,
    Namespace,
    array_namespace,
    cast,
    conj,
    is_complex,
    real,
    sizes,
)
from svdinv.core.tensors import along, zero_padded

__all__ = [
    "Array",
    "Namespace",
    "along",
    "as_complex",
    "as_float",
    "backend",
    "casorati",
    "cast_like",
    "check_broadcast",
    "check_count",
    "conj",
    "count_up",
    "from_casorati",
    "inner",
    "is_bool",
    "is_complex",
    "is_tensorflow",
    "like",
    "namespace",
    "norm",
    "on_device",
    "operators",
    "real",
    "real_dtype",
    "root",
    "short_repr",
    "sizes",
    "stacked",
    "times",
    "to_numpy",
    "zero_padded",
]


def namespace(x: Array) -> Namespace:
    """Return the array functions for `x`, in the array API.

    `x` is of NumPy, CuPy, PyTorch, JAX, TensorFlow, or any array-API library. They are
    differentiable where the framework differentiates.
    """
    if is_tensorflow(x):
        return import_module("svdinv.backends.tensorflow_namespace")
    return array_namespace(x)


def operators(x: Array) -> Any:
    """Return the low-rank operators for `x`: the module of its framework.

    `svdinv.torch`, `svdinv.tf`, `svdinv.jax`, `svdinv.numpy` or `svdinv.cupy`; for
    another array-API library the same functions without derivatives. `x` may be on a
    tape of `svdinv.numpy.vjp`.
    """
    x = untraced(x)
    if is_tensorflow(x):
        return import_module("svdinv.tf")
    for known, face in _FACES:
        if known(x):
            return import_module(face)
    return for_namespace(array_namespace(x))


def backend(x: Array) -> Any:
    """Return the backend that makes calls of operations differentiable for `x`."""
    return operators(x)._backend


def like(x: Any, other: Array, xp: Namespace) -> Array:
    """`x` in the dtype of `other`: not every framework mixes real and complex."""
    if isinstance(x, np.generic):  # what NumPy makes of 0-d arrays
        x = np.asarray(x)
    return cast(x, other, xp)


def real_dtype(x: Array, xp: Namespace) -> Any:
    """Return the real dtype of the precision of `x`."""
    return xp.real(x).dtype if is_complex(x, xp) else x.dtype


def count_up(size: Any, like: Array, xp: Namespace) -> Array:
    """Count 0, 1, ..., size - 1 in the dtype and on the device of `like`."""
    whole = xp.arange(size, dtype=xp.int32, **on_device(like))
    return xp.astype(whole, like.dtype)


def as_complex(x: Array, xp: Namespace) -> Array:
    """`x` in the complex dtype of its precision."""
    return x if is_complex(x, xp) else xp.astype(x, _complex_dtype(x, xp))


def on_device(x: Array) -> dict[str, Any]:
    """Options for a new array on the device of `x`, where that is not automatic."""
    return {"device": x.device} if compat.is_torch_array(x) else {}


def cast_like(value: Array, x: Array, xp: Namespace) -> Array:
    """Convert a parameter of an operator to the precision and device of `x`.

    Of the framework and the precision of `x`, complex if one of the two is; bool
    remains bool. A NumPy array moves to the device of `x`.
    """
    if compat.is_numpy_array(value) and not compat.is_numpy_array(x):
        value = xp.asarray(value, **on_device(x))
    if is_bool(value):
        return value
    if not is_complex(value, xp):
        return like(value, x, xp)
    dtype = _complex_dtype(x, xp)
    return value if value.dtype == dtype else xp.astype(value, dtype)


def stacked(arrays: Sequence[Array], axes: int) -> Array:
    """Stack arrays, with axes of length 1 in front of those that have fewer."""
    xp = namespace(arrays[0])
    shapes = [(*[1] * (axes - len(x.shape)), *x.shape) for x in arrays]
    return xp.stack([xp.reshape(x, s) for x, s in zip(arrays, shapes, strict=True)])


def check_broadcast(name: str, shape: Sequence[Any], data: Sequence[Any]) -> None:
    """Refuse a shape that does not broadcast to that of the data."""
    shape, data = tuple(shape), tuple(data)
    fits = len(shape) <= len(data) and all(
        a in (1, b) or a is None or b is None
        for a, b in zip(shape[::-1], data[::-1], strict=False)
    )
    if not fits:
        raise ValueError(f"{name} {shape} does not broadcast to data of shape {data}")


def check_count(name: str, count: Any, least: int) -> None:
    """Raise ValueError for what is no integer of at least `least`."""
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise ValueError(
            f"{name} must be an integer of at least {least}, got {count!r}"
        )


def is_bool(x: Array) -> bool:
    """Return whether `x`, of any framework, is a bool array."""
    return "bool" in str(getattr(x, "dtype", ""))


def is_tensorflow(x: Any) -> bool:
    """Return whether `x` is a tensor or a variable of TensorFlow."""
    # Whoever holds a tensor has imported TensorFlow: nobody else should.
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(
        x, tensorflow.Tensor | tensorflow.Variable
    )


def times(factor: Any, x: Array, xp: Namespace) -> Array:
    """`x` times a number, or a real array that broadcasts, in the dtype of `x`."""
    return (like(factor, x, xp) if hasattr(factor, "dtype") else factor) * x


def root(x: Array, xp: Namespace) -> Array:
    """Square root, with slope 0 at 0."""
    one = xp.ones_like(x)
    return xp.where(x > 0, xp.sqrt(xp.where(x > 0, x, one)), xp.zeros_like(x))


def inner(x: Array, y: Array, axis: Any = None, *, keepdims: bool = False) -> Array:
    """Re <x, y> of arrays of one shape, summed over all axes or over `axis`.

    With `keepdims` these remain, of length 1.
    """
    xp = namespace(x)
    return xp.sum(real(conj(x, xp) * y, xp), axis=axis, keepdims=keepdims)


def norm(x: Array) -> Array:
    """Root of the sum of squared magnitudes, over all axes."""
    return namespace(x).sqrt(inner(x, x))


def as_float(x: Any) -> float:
    """Return a number, or a 0-d array, as a Python float, without its derivative."""
    return float(x.detach() if hasattr(x, "detach") else x)


def to_numpy(x: Any) -> np.ndarray[Any, Any]:
    """Return an array of any framework as one of NumPy, without its derivative."""
    # Of PyTorch, where a conjugate may be a mark alone, and of CuPy.
    for move in ("detach", "resolve_conj", "resolve_neg", "cpu", "get"):
        x = getattr(x, move)() if hasattr(x, move) else x
    return np.asarray(x)


def short_repr(fields: Any) -> str:
    """Describe a dataclass as its ``repr``, but of arrays the dtype and the shape."""
    told = []
    for field in dataclasses.fields(fields):
        value = getattr(fields, field.name)
        shape = getattr(value, "shape", ())
        said = f"{value.dtype} {tuple(shape)}" if shape else repr(value)
        told += [f"{field.name}={said}"] if field.repr else []
    return f"{type(fields).__name__}({', '.join(told)})"


def casorati(series: Array, xp: Namespace) -> Array:
    """Casorati matrices of a series: shape (..., T, H, W) to (..., T, H * W)."""
    *batch, T, H, W = sizes(series, xp)
    return xp.reshape(series, (*batch, T, H * W))


def from_casorati(matrices: Array, series: Array, xp: Namespace) -> Array:
    """Matrices (..., T, H * W) in the shape of `series`."""
    return xp.reshape(matrices, tuple(sizes(series, xp)))


_FACES = (
    (compat.is_torch_array, "svdinv.torch"),
    (compat.is_jax_array, "svdinv.jax"),
    (compat.is_numpy_array, "svdinv.numpy"),
    (compat.is_cupy_array, "svdinv.cupy"),
)


def _complex_dtype(x: Array, xp: Namespace) -> Any:
    if is_complex(x, xp):
        return x.dtype
    return xp.complex128 if x.dtype == xp.float64 else xp.complex64
