"""Untrained priors: images as what a network can make, fitted to one measurement."""

from svdinv.unroll.untrained.fitting import Fitting, fit
from svdinv.unroll.untrained.linearised import Linearised, linearise
from svdinv.unroll.untrained.options import Fit, Options, Record, educated
from svdinv.unroll.untrained.stopping import (
    SURE,
    Discrepancy,
    HeldOut,
    MovingVariance,
    Rule,
)
from svdinv.unroll.untrained.subspace import directions, fit_in_subspace

__all__ = [
    "SURE",
    "Discrepancy",
    "Fit",
    "Fitting",
    "HeldOut",
    "Linearised",
    "MovingVariance",
    "Options",
    "Record",
    "Rule",
    "directions",
    "educated",
    "fit",
    "fit_in_subspace",
    "linearise",
]
