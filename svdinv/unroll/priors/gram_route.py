"""Thresholding of many small matrices by their Gram matrices, in single precision."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.backends import numpy_namespace as xp
from svdinv.backends.numpy_memory import NumPyMemory
from svdinv.core.thresholds import LogSum
from svdinv.kernels.memory import decomposition

# Errors of squared singular values are 1e-7 times the largest; at this ratio those at
# the cutoff have relative errors of some percent.
_LEAST_CUTOFF = 5e-7


class _Single(NumPyMemory):
    """NumPy arrays, decomposed in their own precision instead of double precision."""

    in_double = False


_memory = _Single()


def log_sum_by_gram(A: Any, tau: float, epsilon: Any) -> NDArray[Any] | None:
    """Compute `svdinv.numpy.log_sum_threshold` by the Gram matrix, in half the time.

    Matrices are (..., m, n). Singular values near the cutoff have errors of some
    percent. Returns None if errors would be larger, for arrays of another precision or
    framework, and without kernels.
    """
    if type(A) is not np.ndarray or A.dtype not in (np.float32, np.complex64):
        return None
    wide = A.shape[-2] < A.shape[-1]
    AH = A.conj().swapaxes(-1, -2)
    gram = A @ AH if wide else AH @ A
    trace = np.trace(gram, axis1=-2, axis2=-1).real
    # The trace must not overflow in single precision.
    if not (trace.size and 0 < trace.max() < min(4 * tau / _LEAST_CUTOFF, 1e30)):
        return None
    factors = decomposition("eigh", gram, _memory)
    if factors is None:
        return None
    values, vectors = factors
    s = np.sqrt(np.maximum(values, 0))
    kept = LogSum(epsilon).value(s, s.dtype.type(tau), xp)
    gain = np.where(kept > 0, kept / np.where(s > 0, s, 1), 0)[..., None, :]
    projector = (vectors * gain) @ vectors.conj().swapaxes(-1, -2)
    return projector @ A if wide else A @ projector
