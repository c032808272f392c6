"""Iterative algorithms: their iterations, and reconstruction by them."""

# ruff: noqa: I001  # one statement for each module
from __future__ import annotations

from typing import TYPE_CHECKING

from svdinv.unroll.plugins import late_attributes

if TYPE_CHECKING:
    from svdinv.unroll.algorithms.em import EM as EM
    from svdinv.unroll.algorithms.iterations import (
        ADMM as ADMM,
        FISTA as FISTA,
        ISTA as ISTA,
        PDHG as PDHG,
        Algorithm as Algorithm,
        GradientDescent as GradientDescent,
        LowRankPlusSparse as LowRankPlusSparse,
        conjugate_gradients as conjugate_gradients,
    )
    from svdinv.unroll.algorithms.solver import (
        Interrupted as Interrupted,
        Solution as Solution,
        objective_value as objective_value,
        solve as solve,
    )

__getattr__, __all__ = late_attributes(__name__)
