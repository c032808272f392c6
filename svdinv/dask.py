"""Low-rank operators for Dask arrays, each matrix of which may have many chunks.

Results are lazy. A matrix cut along its longer side is thresholded by its Gram matrix,
which Dask sums over the chunks; nothing of the size of the matrix leaves its chunk.
`vjp` and `jvp` are as in `svdinv.numpy`, and their derivatives are lazy, too; functions
passed to them must use NumPy's functions instead of Dask's.
"""

# Imports start with an underscore: editors that use Jedi list all other names.
from __future__ import annotations as _annotations

from svdinv._missing import needing as _needing

with _needing("dask", "dask"):
    import dask.array as _array  # noqa: F401

from svdinv.backends.arrays import make_module as _make_module
from svdinv.backends.dask import DaskBackend as _DaskBackend

_backend = _DaskBackend()
_functions = _make_module(_backend, __name__)
__all__ = sorted(_functions)
globals().update(_functions)

__dir__ = __all__.copy
