"""NumPy arrays as addresses, for the kernels."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.kernels import Layout, default_threads

__all__ = ["NumPyMemory", "memory"]


class NumPyMemory:
    """See `svdinv.kernels.operations.Memory`."""

    def suits(self, *x: Any) -> bool:
        return all(t is None or type(t) is np.ndarray for t in x)

    def dtype(self, x: NDArray[Any]) -> str:
        return x.dtype.name if x.dtype.isnative else ""

    def flat(self, x: NDArray[Any], axes: int) -> tuple[NDArray[Any], Layout]:
        if x.ndim != axes + 1:
            x = x.reshape(prod(x.shape[: x.ndim - axes]), *x.shape[x.ndim - axes :])
        size = x.real.itemsize
        if any(step % size for step in x.strides):  # a field of a record, say
            x = x.copy()
        matrix, *steps = (step // size for step in x.strides)
        return x, (x.ctypes.data, matrix, steps[0] * (axes - 1), steps[-1])

    def empty(
        self, shape: tuple[int, ...], dtype: str, *, real: bool = False
    ) -> tuple[NDArray[Any], int]:
        x = np.empty(shape, np.dtype(dtype).type(0).real.dtype if real else dtype)
        return x, x.ctypes.data

    def threads(self) -> int:
        return default_threads()


memory = NumPyMemory()
