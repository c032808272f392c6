"""Array functions: the namespace of an array, its operators, and conversions."""

from __future__ import annotations

import dataclasses
import numbers
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, TypeVar

import array_api_compat as compat
import numpy as np

from svdinv.backends.arrays import for_namespace
from svdinv.backends.tape import check_plain, untraced
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
from svdinv.operators._arguments import broadcasts

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
    "check_floating",
    "conj",
    "count_up",
    "from_casorati",
    "inner",
    "inverse",
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
    "rounds_products",
    "short_repr",
    "sizes",
    "stacked",
    "times",
    "to_numpy",
    "zero_padded",
]

T = TypeVar("T")


def _module(name: str) -> Any:
    # AutoGraph warns that it cannot transform an import.
    return sys.modules.get(name) or import_module(name)


def namespace(x: Array) -> Namespace:
    """Return the array API namespace of `x`.

    `x` is of NumPy, CuPy, PyTorch, JAX, TensorFlow, or any array API library. The
    functions are differentiable if the framework supports it.
    """
    if is_tensorflow(x):
        return _module("svdinv.backends.tensorflow_namespace")
    return array_namespace(x)


def operators(x: Array) -> Any:
    """Return the low-rank operators for `x`, the module of its framework.

    `svdinv.torch`, `svdinv.tf`, `svdinv.jax`, `svdinv.numpy` or `svdinv.cupy`; for
    other array API libraries the same functions without derivatives. `x` may be on a
    tape of `svdinv.numpy.vjp`.
    """
    x = untraced(x)
    if is_tensorflow(x):
        return _module("svdinv.tf")
    for is_of, module in _MODULES:
        if is_of(x):
            return _module(module)
    return for_namespace(array_namespace(x))


def backend(x: Array) -> Any:
    """Return the backend that makes operations differentiable for `x`."""
    return operators(x)._backend


def like(x: Any, other: Array, xp: Namespace) -> Array:
    """Cast `x`, an array or a NumPy scalar, to the dtype and framework of `other`."""
    if isinstance(x, np.generic):  # the result of NumPy functions of 0-d arrays
        x = np.asarray(x)
    if compat.is_numpy_array(x) and not compat.is_numpy_array(other):
        x = xp.asarray(x, **on_device(other))
    try:
        return cast(x, other, xp)
    except AttributeError:
        raise TypeError(f"{type(x)} cannot be combined with {type(other)}") from None


def real_dtype(x: Array, xp: Namespace) -> Any:
    """Return the real dtype with the precision of `x`."""
    return xp.real(x).dtype if is_complex(x, xp) else x.dtype


def inverse(A: Array) -> Array:
    """Return the inverses of square matrices."""
    if compat.is_torch_array(A):  # whose own is wrong for several, see there
        return _module("svdinv.backends.torch_namespace").linalg.inv(A)
    return namespace(A).linalg.inv(A)


def count_up(size: Any, like: Array, xp: Namespace) -> Array:
    """Return 0, 1, ..., size - 1 in the dtype and on the device of `like`."""
    whole = xp.arange(size, dtype=xp.int32, **on_device(like))
    return xp.astype(whole, like.dtype)


def as_complex(x: Array, xp: Namespace) -> Array:
    """Cast `x` to the complex dtype of its precision."""
    return x if is_complex(x, xp) else xp.astype(x, _complex_dtype(x, xp))


def join_complex(re: Array, im: Array, x: Array, xp: Namespace) -> Array:
    """Combine real and imaginary parts into complex numbers of the dtype of `x`."""
    # Mixed precision gives parts of less precision than x.
    re, im = like(re, xp.real(x), xp), like(im, xp.real(x), xp)
    join = getattr(xp, "complex", None)
    if join is not None:
        return join(re, im)
    return like(re, x, xp) + 1j * like(im, x, xp)


def on_device(x: Array) -> dict[str, Any]:
    """Return options that put a new array on the device of `x`, where needed."""
    return {"device": x.device} if compat.is_torch_array(x) else {}


def cast_like(value: Array, x: Array, xp: Namespace) -> Array:
    """Convert a parameter of an operator to the framework and precision of `x`.

    Complex if `value` or `x` is; bool remains bool; NumPy arrays move to x's device.
    Raises TypeError if `x` holds integers, to which the parameter would be rounded.
    """
    if compat.is_numpy_array(value) and not compat.is_numpy_array(x):
        value = xp.asarray(value, **on_device(x))
    if is_bool(value):
        return value
    check_floating("images and data", x)
    if not is_complex(value, xp):
        return like(value, x, xp)
    dtype = _complex_dtype(x, xp)
    return value if value.dtype == dtype else xp.astype(value, dtype)


def stacked(arrays: Sequence[Array], axes: int) -> Array:
    """Stack arrays, with leading axes of length 1 added up to `axes`."""
    xp = namespace(arrays[0])
    shapes = [(*[1] * (axes - len(x.shape)), *x.shape) for x in arrays]
    return xp.stack([xp.reshape(x, s) for x, s in zip(arrays, shapes, strict=True)])


def check_broadcast(name: str, shape: Sequence[Any], data: Sequence[Any]) -> None:
    """Raise ValueError if a shape does not broadcast to that of the data.

    Lengths that are unknown while TensorFlow traces a graph are scalar tensors, which
    are compared when the graph runs.
    """
    given, wanted = (
        tuple(None if is_tensorflow(n) else n for n in lengths)
        for lengths in (shape, data)
    )
    fits = broadcasts(given, wanted)
    if fits and None not in (*given, *wanted):
        return
    message = f"{name} {given} does not broadcast to data of shape {wanted}"
    if not fits:
        raise ValueError(message)
    pairs = zip(reversed(shape), reversed(data), strict=False)
    unknown = [(n, m) for n, m in pairs if is_tensorflow(n) or is_tensorflow(m)]
    if unknown:
        ours, theirs = map(sys.modules["tensorflow"].stack, zip(*unknown, strict=True))
        assert_in_graph((ours == 1) | (ours == theirs), message)


def assert_in_graph(conditions: Any, message: str) -> None:
    """Let a graph of TensorFlow fail, when it runs, unless all conditions hold."""
    tf: Any = sys.modules["tensorflow"]
    # `tf.debugging.assert_equal` makes a conditional of two functions.
    tf.raw_ops.Assert(condition=tf.reduce_all(conditions), data=[message])


def check_count(name: str, count: Any, least: int) -> None:
    """Raise ValueError unless `count` is an integer of at least `least`."""
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise ValueError(
            f"{name} must be an integer of at least {least}, got {count!r}"
        )


def check_floating(name: str, x: Array) -> None:
    """Raise TypeError unless an array is real or complex floating point, not masked."""
    check_plain(x, name)
    if not namespace(x).isdtype(x.dtype, ("real floating", "complex floating")):
        rule = "floating point or complex, e.g. by astype(float)"
        raise TypeError(f"{name} must be {rule}, got {x.dtype}")


def is_bool(x: Array) -> bool:
    """Return whether `x`, of any framework, is a bool array."""
    return "bool" in str(getattr(x, "dtype", ""))


def rounds_products(x: Any) -> bool:
    """Return whether PyTorch's autocast computes products in lower precision."""
    if not compat.is_torch_array(x):
        return False
    enabled: bool = sys.modules["torch"].is_autocast_enabled(x.device.type)
    return enabled


def is_tensorflow(x: Any) -> bool:
    """Return whether `x` is a tensor or a variable of TensorFlow."""
    # If x is a tensor, TensorFlow has been imported; do not import it otherwise.
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(
        x, tensorflow.Tensor | tensorflow.Variable
    )


def times(factor: Any, x: Array, xp: Namespace) -> Array:
    """Return a number, or a real array that broadcasts, times `x` in its dtype."""
    return (like(factor, x, xp) if hasattr(factor, "dtype") else factor) * x


def nonnegative(value: Any, name: str, xp: Namespace | None = None) -> Any:
    """Return an array clipped at 0, or a number; ValueError if it is negative or NaN.

    NaN in arrays stays, and the derivative at 0 is 1.
    """
    if isinstance(value, numbers.Real):
        if not float(value) >= 0:
            raise ValueError(f"{name} must not be negative or NaN, got {value}")
    elif hasattr(value, "dtype"):
        xp = xp or namespace(value)
        return xp.where(value < 0, xp.zeros_like(value), value)
    return value


def root(x: Array, xp: Namespace) -> Array:
    """Return the square root, with derivative 0 at 0."""
    one = xp.ones_like(x)
    return xp.where(x > 0, xp.sqrt(xp.where(x > 0, x, one)), xp.zeros_like(x))


def inner(x: Array, y: Array, axis: Any = None, *, keepdims: bool = False) -> Array:
    """Return Re <x, y>, summed over `axis` or all axes, which `keepdims` keeps."""
    xp = namespace(x)
    if is_complex(x, xp) != is_complex(y, xp):  # which TensorFlow cannot multiply
        x, y = real(x, xp), real(y, xp)
    return xp.sum(real(conj(x, xp) * y, xp), axis=axis, keepdims=keepdims)


def norm(x: Array) -> Array:
    """Return the root of the sum of squared magnitudes, over all axes."""
    return namespace(x).sqrt(inner(x, x))


def as_float(x: Any) -> float:
    """Return a number or 0-d array as a Python float, detached from derivatives."""
    x = untraced(x)
    return _read(float, x.detach() if hasattr(x, "detach") else x)


def to_numpy(x: Any) -> np.ndarray[Any, Any]:
    """Return an array of any framework as a NumPy array, without its derivative."""
    # "resolve_..." is for PyTorch, where conjugation may be lazy, "get" for CuPy.
    for move in ("detach", "resolve_conj", "resolve_neg", "cpu", "get"):
        if hasattr(x, move) and not is_tensorflow(x):  # which warns of its `cpu`
            x = getattr(x, move)()
    # NumPy has no bfloat16.
    x = x.float() if str(x.dtype) == "torch.bfloat16" else x
    return _read(np.asarray, x)


def _read(convert: Callable[[Any], T], x: Any) -> T:
    try:
        return convert(x)
    except TypeError as error:
        if not type(error).__module__.startswith("jax"):
            raise
        raise TypeError(
            "JAX cannot trace what reads values, such as solve, to choose steps and to "
            "stop: use algorithm.start and algorithm.iterate in the traced function"
        ) from error


def short_repr(fields: Any) -> str:
    """Return the ``repr`` of a dataclass with arrays as their dtype and shape."""
    entries = []
    for field in dataclasses.fields(fields):
        value = getattr(fields, field.name)
        shape = getattr(value, "shape", ())
        text = f"{value.dtype} {tuple(shape)}" if shape else repr(value)
        entries += [f"{field.name}={text}"] if field.repr else []
    return f"{type(fields).__name__}({', '.join(entries)})"


def each_row(images: Array, matrix: Array, xp: Namespace) -> Array:
    """Multiply the rows of images (..., H, W) by a matrix (W, n)."""
    # As one product of all rows: a batched product takes up to 2.7 times as long in
    # NumPy, with gradient, and writes out of bounds in TensorFlow 2.21.
    *before, W = sizes(images, xp)
    _, n = sizes(matrix, xp)
    return xp.reshape(xp.reshape(images, (-1, W)) @ matrix, (*before, n))


def casorati(series: Array, xp: Namespace) -> Array:
    """Reshape series (..., T, H, W) to Casorati matrices (..., T, H * W)."""
    if len(series.shape) < 3:
        shape = tuple(series.shape)
        raise ValueError(f"a series must have the shape (..., T, H, W), got {shape}")
    *batch, T, H, W = sizes(series, xp)
    return xp.reshape(series, (*batch, T, H * W))


def from_casorati(matrices: Array, series: Array, xp: Namespace) -> Array:
    """Reshape matrices (..., T, H * W) to the shape of `series`."""
    return xp.reshape(matrices, tuple(sizes(series, xp)))


_MODULES = (
    (compat.is_torch_array, "svdinv.torch"),
    (compat.is_jax_array, "svdinv.jax"),
    (compat.is_numpy_array, "svdinv.numpy"),
    (compat.is_cupy_array, "svdinv.cupy"),
)


def _complex_dtype(x: Array, xp: Namespace) -> Any:
    if is_complex(x, xp):
        return x.dtype
    return xp.complex128 if x.dtype == xp.float64 else xp.complex64
