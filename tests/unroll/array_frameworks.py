"""Arrays of each framework, from NumPy's and back, and numbers to fill them."""

from __future__ import annotations

import contextlib
from importlib import import_module

import numpy as np
import pytest

FRAMEWORKS = ("numpy", "array_api_strict", "torch", "tensorflow", "jax")


class Framework:
    def __init__(self, name):
        self.name = name
        self.module = pytest.importorskip(name)

    def array(self, x):
        """`x` as an array of the framework, in its own dtype."""
        module = import_module("jax.numpy") if self.name == "jax" else self.module
        name = "convert_to_tensor" if self.name == "tensorflow" else "asarray"
        return getattr(module, name)(np.asarray(x))

    def numpy(self, x):
        return x.detach().numpy() if self.name == "torch" else np.asarray(x)

    def owns(self, x):
        if self.name == "numpy":
            return isinstance(x, np.ndarray | np.generic)
        return type(x) is type(self.array(np.ones(2)))

    @contextlib.contextmanager
    def double(self):
        """Allow double precision, which JAX does not by itself."""
        if self.name == "jax":
            with self.module.enable_x64(True):
                yield
        else:
            yield


def gauss(rng, *shape):
    """Complex numbers whose parts are normal."""
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def draw(dtype, rng, *shape):
    """Normal numbers, complex ones as `gauss`."""
    if np.dtype(dtype).kind == "c":
        return gauss(rng, *shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)
