"""The singular value decomposition and low-rank operators for NumPy.

NumPy has no automatic differentiation: `vjp` returns the value of any function that is
composed of these and the function from its cotangent to those of its arguments, `jvp`
the value and its tangent.
"""

from __future__ import annotations

from svdinv._missing import explain_missing

try:
    import numpy as np
except ImportError as error:
    raise explain_missing("numpy", "numpy") from error

from svdinv.backends import numpy_namespace as xp
from svdinv.backends.arrays import ArrayBackend, make_module

_backend = ArrayBackend(
    xp,
    True,
    np.linalg.LinAlgError,
    np.random.default_rng,
    lambda: np.errstate(over="ignore", under="ignore", invalid="ignore"),
    xp.memory,
)
_functions = make_module(_backend, __name__)
__all__ = sorted(_functions)
globals().update(_functions)


def __dir__() -> list[str]:
    return __all__
