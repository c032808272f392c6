"""The singular value decomposition and low-rank operators for NumPy.

NumPy has no automatic differentiation. For any function that is composed of these,
`vjp` returns the value and a function that maps the cotangent of the value to those of
the arguments; `jvp` returns the value and its tangent.
"""

# Imports start with an underscore: editors that use Jedi list all other names.
from __future__ import annotations as _annotations

from svdinv._missing import needing as _needing

with _needing("numpy", "numpy"):
    import numpy as _np

from svdinv.backends import numpy_namespace as _xp
from svdinv.backends.arrays import ArrayBackend as _ArrayBackend
from svdinv.backends.arrays import make_module as _make_module
from svdinv.backends.numpy_memory import memory as _memory

_backend = _ArrayBackend(
    _xp,
    True,
    _np.linalg.LinAlgError,
    _np.random.default_rng,
    lambda: _np.errstate(over="ignore", under="ignore", invalid="ignore"),
    _memory,
)
_functions = _make_module(_backend, __name__)
__all__ = sorted(_functions)
globals().update(_functions)

__dir__ = __all__.copy
