"""array-api-compat's namespace for CuPy, with a faster SVD of large matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import cupy as compat
from array_api_compat.cupy import *  # noqa: F403

from svdinv.core.approximate import svd_by_approximation

__all__ = ["linalg"]

# Up to this side CuPy computes all matrices of a batch at once.
_BATCHED_SIDE = 32


def _approximate(A: Any) -> tuple[Any, ...] | None:
    from cupyx import cusolver

    try:
        U, S, V = cusolver.gesvda(A)
    except (RuntimeError, np.linalg.LinAlgError):  # it is missing, or failed
        return None
    return U, S, V.conj().swapaxes(-1, -2)


def _thin(A: Any) -> tuple[Any, ...]:
    return tuple(compat.linalg.svd(A, full_matrices=False))


class _Linalg:
    """array-api-compat's `linalg`, with a function of its own."""

    def __getattr__(self, name: str) -> Any:
        return getattr(compat.linalg, name)

    def svd(self, A: Any, *, full_matrices: bool = True) -> tuple[Any, ...]:
        thin = not full_matrices or A.shape[-2] == A.shape[-1]
        large = min(A.shape[-2:]) > _BATCHED_SIDE and A.size > 0
        if thin and large and A.dtype in (compat.float32, compat.complex64):
            return svd_by_approximation(A, _approximate, _thin, compat)
        return tuple(compat.linalg.svd(A, full_matrices=full_matrices))


linalg = _Linalg()
