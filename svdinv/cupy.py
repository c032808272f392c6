"""The singular value decomposition and low-rank operators for CuPy.

CuPy has no automatic differentiation. For any function that is composed of these, `vjp`
returns the value and a function that maps the cotangent of the value to those of the
arguments; `jvp` returns the value and its tangent.
"""

# Imports start with an underscore: editors that use Jedi list all other names.
from __future__ import annotations as _annotations

from svdinv._missing import needing as _needing

with _needing("cupy", "cupy"):
    import cupy as _cupy

import numpy as _np

from svdinv.backends import cupy_namespace as _xp
from svdinv.backends.arrays import ArrayBackend as _ArrayBackend
from svdinv.backends.arrays import make_module as _make_module

# False, because reading a value would wait for the device.
_backend = _ArrayBackend(_xp, False, _np.linalg.LinAlgError, _cupy.random.default_rng)
_functions = _make_module(_backend, __name__)
__all__ = sorted(_functions)
globals().update(_functions)

__dir__ = __all__.copy
