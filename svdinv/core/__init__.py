"""The mathematics, written once against the Python array API."""

from svdinv.core.gauge import gauge_dependence
from svdinv.core.results import SVDResult
from svdinv.core.svd import svd, svd_pullback, svd_pushforward

__all__ = [
    "SVDResult",
    "gauge_dependence",
    "svd",
    "svd_pullback",
    "svd_pushforward",
]
