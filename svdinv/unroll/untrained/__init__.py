"""Untrained priors: images as what a network can make, fitted to one measurement."""

from svdinv.unroll.untrained.fitting import Fitting, fit
from svdinv.unroll.untrained.options import Fit, Options, Record, educated
from svdinv.unroll.untrained.stopping import (
    SURE,
    Discrepancy,
    HeldOut,
    MovingVariance,
    Rule,
)

__all__ = [
    "SURE",
    "Discrepancy",
    "Fit",
    "Fitting",
    "HeldOut",
    "MovingVariance",
    "Options",
    "Record",
    "Rule",
    "educated",
    "fit",
]
