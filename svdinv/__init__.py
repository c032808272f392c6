"""The singular value decomposition that one can train through.

Importing ``svdinv`` imports no framework. Each framework has its own face,
imported by name: ``svdinv.torch``, ``svdinv.tf``, ``svdinv.jax``,
``svdinv.numpy`` and ``svdinv.cupy``.
"""

from importlib.metadata import PackageNotFoundError, version

from svdinv.core.gauge import GaugeError, GaugeMonitor, GaugeWarning

try:
    __version__ = version("svdinv")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["GaugeError", "GaugeMonitor", "GaugeWarning", "__version__"]
