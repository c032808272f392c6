"""Iterative algorithms: their iterations, and reconstruction by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svdinv.unroll.plugins import late_attributes

if TYPE_CHECKING:
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

_NAMES = {
    "em": ("EM",),
    "iterations": (
        "ADMM",
        "Algorithm",
        "FISTA",
        "GradientDescent",
        "ISTA",
        "LowRankPlusSparse",
        "PDHG",
        "conjugate_gradients",
    ),
    "solver": ("Interrupted", "Solution", "objective_value", "solve"),
}

__getattr__ = late_attributes(__name__, _NAMES)
