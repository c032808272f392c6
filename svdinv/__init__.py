"""The singular value decomposition that one can train through.

Importing ``svdinv`` imports no framework. Each framework has its own face,
imported by name: ``svdinv.torch``, ``svdinv.tf``, ``svdinv.jax``,
``svdinv.numpy`` and ``svdinv.cupy``. Layers for networks are in
``svdinv.torch.nn`` and ``svdinv.keras``.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from svdinv.core.gauge import GaugeError, GaugeMonitor, GaugeWarning

try:
    __version__ = version("svdinv")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_FACES = ("torch", "tf", "jax", "numpy", "cupy", "keras")


def __getattr__(name: str) -> NoReturn:
    """Say how to get at a face, which nothing imports by itself."""
    hint = f": write 'import svdinv.{name}' first" if name in _FACES else ""
    raise AttributeError(f"module 'svdinv' has no attribute {name!r}{hint}")


__all__ = ["GaugeError", "GaugeMonitor", "GaugeWarning", "__version__"]
