"""array-api-compat's namespace for NumPy, with the kernels' decompositions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import numpy as compat
from array_api_compat.numpy import *  # noqa: F403
from numpy.typing import NDArray

from svdinv.backends.numpy_memory import memory
from svdinv.core.guarded import marked
from svdinv.kernels.memory import clusters as by_kernel
from svdinv.kernels.memory import decomposes, decomposition

decomposes_in_double = True
# As in NumPy, whose decompositions use double precision for any dtype.
_COMPUTED_IN = {"float32": np.float64, "complex64": np.complex128}


decomposes_quickly = partial(decomposes, memory=memory)
clusters = partial(by_kernel, memory, np)


class _Linalg:
    """array-api-compat's `linalg`, with svdinv's `svd`, `svdvals` and `eigh`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(compat.linalg, name)

    def svd(self, A: NDArray[Any], *, full_matrices: bool = True) -> tuple[Any, ...]:
        if not full_matrices or A.shape[-2] == A.shape[-1]:
            factors = _in_double("svd", A)
            if factors is not None:
                return factors
        return _of_finite(partial(compat.linalg.svd, full_matrices=full_matrices), A)

    def svdvals(self, A: NDArray[Any]) -> NDArray[Any]:
        factors = _in_double("svd", A) if math.prod(A.shape[:-2]) > 1 else None
        if factors is not None:
            return factors[1]
        return _of_finite(lambda A: (compat.linalg.svdvals(A),), A)[0]

    def eigh(self, A: NDArray[Any]) -> tuple[Any, ...]:
        factors = _in_double("eigh", A)
        return compat.linalg.eigh(A) if factors is None else factors


def _of_finite(
    decomposition: Callable[[NDArray[Any]], tuple[Any, ...]], A: NDArray[Any]
) -> tuple[Any, ...]:
    """NaN for matrices with infinity, for which LAPACK's SVD may never return."""
    infinite = np.isinf(A).any(axis=(-2, -1), keepdims=True)
    if not infinite.any():
        return decomposition(A)
    return marked(A, decomposition(np.where(infinite, A.dtype.type(0), A)), np)


def _in_double(kind: str, A: NDArray[Any]) -> tuple[Any, ...] | None:
    if not decomposes_quickly(A):
        return None
    wide = A.astype(_COMPUTED_IN.get(A.dtype.name, A.dtype), copy=False)
    factors = decomposition(kind, wide, memory)
    if factors is None or wide is A:
        return factors
    with np.errstate(over="ignore", under="ignore"):
        kinds = (A.dtype if x.ndim == A.ndim else A.real.dtype for x in factors)
        return tuple(x.astype(kind) for x, kind in zip(factors, kinds, strict=True))


linalg = _Linalg()
