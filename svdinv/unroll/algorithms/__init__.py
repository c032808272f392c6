"""Iterative algorithms: their iterations, and reconstruction by them."""

from svdinv.unroll.algorithms.em import EM
from svdinv.unroll.algorithms.iterations import (
    ADMM,
    FISTA,
    ISTA,
    PDHG,
    Algorithm,
    GradientDescent,
    LowRankPlusSparse,
    conjugate_gradients,
)
from svdinv.unroll.algorithms.solver import (
    Interrupted,
    Solution,
    objective_value,
    solve,
)

__all__ = [
    "ADMM",
    "EM",
    "FISTA",
    "ISTA",
    "PDHG",
    "Algorithm",
    "GradientDescent",
    "Interrupted",
    "LowRankPlusSparse",
    "Solution",
    "conjugate_gradients",
    "objective_value",
    "solve",
]
