"""A singular value decomposition that networks can be trained through.

Importing ``svdinv`` imports no framework. Each framework has its own module,
imported by name: ``svdinv.torch``, ``svdinv.tf``, ``svdinv.jax``, ``svdinv.numpy``,
``svdinv.cupy``, ``svdinv.dask`` and ``svdinv.mlx``; `for_namespace` makes one for any
other namespace of the array API. Layers for networks are in ``svdinv.torch.nn`` and
``svdinv.keras``.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from svdinv.core.gauge import GaugeError, GaugeMonitor, GaugeWarning

try:
    __version__ = version("svdinv")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_MODULES = ("torch", "tf", "jax", "numpy", "cupy", "dask", "mlx", "keras")


def __getattr__(name: str) -> Any:
    """Import `for_namespace`; for a framework, name the missing import in the error."""
    if name == "for_namespace":
        from svdinv.backends.arrays import for_namespace

        return for_namespace
    hint = f": write 'import svdinv.{name}' first" if name in _MODULES else ""
    raise AttributeError(f"module 'svdinv' has no attribute {name!r}{hint}")


__all__ = [
    "GaugeError",
    "GaugeMonitor",
    "GaugeWarning",
    "__version__",
    "for_namespace",
]
