"""array-api-compat's namespace for CuPy, with a better SVD in single precision."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import cupy as compat
from array_api_compat import is_cupy_array
from array_api_compat.cupy import *  # noqa: F403

from svdinv.core.approximate import svd_by_approximation, svd_in_double
from svdinv.core.guarded import marked
from svdinv.core.namespace import abs_max, scaled

# Largest side for which CuPy decomposes all matrices of a batch at once.
_BATCHED_SIDE = 32


def _approximate(A: Any) -> tuple[Any, ...] | None:
    from cupyx import cusolver

    try:
        U, S, V = cusolver.gesvda(A)
    except (RuntimeError, np.linalg.LinAlgError):  # it is missing, or failed
        return None
    return U, S, V.conj().swapaxes(-1, -2)


def _own_svd(A: Any, full_matrices: bool = False) -> tuple[Any, ...]:
    # For a matrix near 1e-300, cuSOLVER's residual is 1e-9 to 3e-5 of its norm.
    unit = scaled(abs_max(A, compat), compat)[1]
    U, S, Vh = compat.linalg.svd(A / unit, full_matrices=full_matrices)
    return marked(A, (U, S * unit[..., 0], Vh), compat)


def may_share_memory(x: Any, y: Any) -> bool:
    """As CuPy's function, which aborts the process for arrays that are not CuPy's."""
    arrays = is_cupy_array(x) and is_cupy_array(y)
    return arrays and compat.may_share_memory(x, y)


class _Linalg:
    """array-api-compat's `linalg`, with decompositions of its own."""

    def __getattr__(self, name: str) -> Any:
        return getattr(compat.linalg, name)

    def svd(self, A: Any, *, full_matrices: bool = True) -> tuple[Any, ...]:
        thin = not full_matrices or A.shape[-2] == A.shape[-1]
        single = A.dtype in (compat.float32, compat.complex64)
        if not (thin and single and A.size):
            return _own_svd(A, full_matrices)
        m, n = A.shape[-2:]
        if m > _BATCHED_SIDE and n > _BATCHED_SIDE:
            return svd_by_approximation(A, _approximate, _own_svd, compat)
        return svd_in_double(A, _own_svd, compat)

    def svdvals(self, A: Any) -> Any:
        return self.svd(A, full_matrices=False)[1]

    def eigh(self, A: Any) -> tuple[Any, ...]:
        return marked(compat.tril(A), tuple(compat.linalg.eigh(A)), compat)


linalg = _Linalg()
