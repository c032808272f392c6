"""The singular value decomposition and low-rank operators for CuPy.

CuPy has no automatic differentiation: `vjp` returns the value of any function that is
composed of these and the function from its cotangent to those of its arguments, `jvp`
the value and its tangent.
"""

from __future__ import annotations

from svdinv._missing import explain_missing

try:
    import cupy
except ImportError as error:
    raise explain_missing("cupy", "cupy") from error

import numpy as np
from array_api_compat import cupy as xp

from svdinv.backends.arrays import ArrayBackend, make_module

# To ask for a value would wait for the device.
_backend = ArrayBackend(xp, False, np.linalg.LinAlgError, cupy.random.default_rng)
_functions = make_module(_backend, __name__)
__all__ = sorted(_functions)
globals().update(_functions)


def __dir__() -> list[str]:
    return __all__
