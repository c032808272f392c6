"""The public operators, written once for every framework.

Each takes a `svdinv.core.backend.Backend` first. The module of a framework binds
them to its own: a new operator is a function here, and appears in all of them.
"""

from svdinv.operators import (
    alignment,
    decompositions,
    hermitian,
    norms,
    risk,
    tensors,
    thresholds,
)
from svdinv.operators._registry import OPERATORS, bind, documented, operator
from svdinv.operators.alignment import Alignment

__all__ = [
    "OPERATORS",
    "Alignment",
    "alignment",
    "bind",
    "decompositions",
    "documented",
    "hermitian",
    "norms",
    "operator",
    "risk",
    "tensors",
    "thresholds",
]
