"""NumPy arrays as addresses, for the kernels."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.core.operation import Operation
from svdinv.kernels import default_threads


class NumPyMemory:
    """See `svdinv.kernels.memory.Memory`."""

    in_double = True

    def own(self, operation: Operation) -> None:
        return None

    def key(self, x: Any) -> Hashable:
        found: list[Any] = []
        for t in x:
            if t is None:
                found.append(None)
            elif type(t) is np.ndarray and t.flags.aligned:
                found += t.dtype, t.shape, t.strides
            else:
                return None
        return tuple(found)

    def dtype(self, x: NDArray[Any]) -> str:
        return x.dtype.name if x.dtype.isnative else ""

    def resolved(self, x: NDArray[Any]) -> NDArray[Any]:
        return x

    def contiguous(self, x: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(x)

    def strides(self, x: NDArray[Any]) -> tuple[int, ...] | None:
        size = x.real.itemsize
        if any(step % size for step in x.strides):  # a field of a record, say
            return None
        return tuple(step // size for step in x.strides)

    def address(self, x: NDArray[Any]) -> int:
        return x.ctypes.data

    def empty(
        self, shape: tuple[int, ...], dtype: str, transposed: bool
    ) -> Callable[[], NDArray[Any]]:
        if transposed:
            *batch, m, n = shape
            return lambda: np.empty((*batch, n, m), dtype).mT
        return partial(np.empty, shape, dtype)

    def threads(self) -> int:
        return default_threads()


memory = NumPyMemory()
