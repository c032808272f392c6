"""Thresholds of many small matrices by their Gram matrices, in single precision."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.backends import numpy_namespace as xp
from svdinv.backends.numpy_memory import NumPyMemory
from svdinv.core.thresholds import LogSum
from svdinv.kernels.memory import decomposition

# The squares of singular values are as exact as the largest of them, to 1e-7: those at
# the cutoff to some percent.
_LEAST_CUTOFF = 5e-7


class _Single(NumPyMemory):
    """NumPy arrays, decomposed in their own precision."""

    in_double = False


_memory = _Single()


def log_sum_by_gram(A: Any, tau: float, epsilon: Any) -> NDArray[Any] | None:
    """Compute `svdinv.numpy.log_sum_threshold` by the Gram matrix, in half the time.

    Of matrices (..., m, n). Singular values near the cutoff have errors of some
    percent. None where these would be larger, for arrays of other precision or another
    framework, and without kernels.
    """
    if type(A) is not np.ndarray or A.dtype not in (np.float32, np.complex64):
        return None
    wide = A.shape[-2] < A.shape[-1]
    other = A.conj().swapaxes(-1, -2)
    gram = A @ other if wide else other @ A
    trace = np.trace(gram, axis1=-2, axis2=-1).real
    # Squares of single precision end somewhere.
    if not (trace.size and 0 < trace.max() < min(4 * tau / _LEAST_CUTOFF, 1e30)):
        return None
    found = decomposition("eigh", gram, _memory)
    if found is None:
        return None
    values, vectors = found
    s = np.sqrt(np.maximum(values, 0))
    kept = LogSum(epsilon).value(s, s.dtype.type(tau), xp)
    share = np.where(kept > 0, kept / np.where(s > 0, s, 1), 0)[..., None, :]
    back = (vectors * share) @ vectors.conj().swapaxes(-1, -2)
    return back @ A if wide else A @ back
