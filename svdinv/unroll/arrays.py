"""The functions that fit an array: its namespace and svdinv's operators for it."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import Any

import array_api_compat as compat

from svdinv.core.namespace import Array, Namespace, array_namespace, is_complex, sizes

__all__ = [
    "Array",
    "Namespace",
    "casorati",
    "count_up",
    "from_casorati",
    "is_complex",
    "like",
    "namespace",
    "operators",
    "real_dtype",
    "sizes",
]


def namespace(x: Array) -> Namespace:
    """Give the array functions for `x`, in the array API.

    Parameters
    ----------
    x : array
        Of NumPy, CuPy, PyTorch, JAX, TensorFlow, or any array-API library.

    Returns
    -------
    namespace
        Its functions, differentiable where the framework differentiates.
    """
    if _is_tensorflow(x):
        return import_module("svdinv.backends.tensorflow_namespace")
    return array_namespace(x)


def operators(x: Array) -> Any:
    """Give the low-rank operators for `x`: the face of its framework.

    Parameters
    ----------
    x : array
        As for `namespace`.

    Returns
    -------
    module or object
        `svdinv.torch`, `svdinv.tf`, `svdinv.jax`, `svdinv.numpy` or `svdinv.cupy`;
        for another array-API library the same functions without derivatives.
    """
    if _is_tensorflow(x):
        return import_module("svdinv.tf")
    for known, face in _FACES:
        if known(x):
            return import_module(face)
    return _undifferentiated(array_namespace(x))


def like(x: Any, other: Array, xp: Namespace) -> Array:
    """`x` in the dtype of `other`: not every framework mixes real and complex."""
    return x if x.dtype == other.dtype else xp.astype(x, other.dtype)


def real_dtype(x: Array, xp: Namespace) -> Any:
    """Give the real dtype that goes with that of `x`."""
    return xp.real(x).dtype if is_complex(x, xp) else x.dtype


def count_up(size: Any, like: Array, xp: Namespace) -> Array:
    """Count 0, 1, ..., size - 1 in the dtype and on the device of `like`."""
    if _is_tensorflow(like):
        return xp.arange(size, dtype=like.dtype)
    return xp.arange(size, dtype=like.dtype, device=compat.device(like))


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


def _is_tensorflow(x: Any) -> bool:
    # Whoever holds a tensor has imported TensorFlow: nobody else should.
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(
        x, tensorflow.Tensor | tensorflow.Variable
    )


@cache
def _undifferentiated(xp: Namespace) -> Any:
    import numpy as np

    from svdinv.backends.manual import Toolbox
    from svdinv.backends.manual_operators import ManualOperators

    toolbox = Toolbox(xp, bool, ValueError, np.random.default_rng)
    return ManualOperators(toolbox, "svdinv")
