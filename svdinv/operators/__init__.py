"""The public operators, written once for every framework.

Each takes a `svdinv.core.backend.Backend` first. The module of a framework binds
them to its backend: a function added here appears in every framework.
"""

from svdinv.core.results import (
    Alignment,
    Correlations,
    LowRankAndSparse,
    Similarity,
    Whitened,
)
from svdinv.operators import (
    alignment,
    decompositions,
    hermitian,
    least_squares,
    norms,
    risk,
    robust,
    statistics,
    tensors,
    thresholds,
)
from svdinv.operators._registry import OPERATORS, bind, documented, operator

__all__ = [
    "OPERATORS",
    "Alignment",
    "Correlations",
    "LowRankAndSparse",
    "Similarity",
    "Whitened",
    "alignment",
    "bind",
    "decompositions",
    "documented",
    "hermitian",
    "least_squares",
    "norms",
    "operator",
    "risk",
    "robust",
    "statistics",
    "tensors",
    "thresholds",
]
