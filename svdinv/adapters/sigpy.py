"""svdinv's priors as proximal operators of SigPy, for its apps and algorithms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sigpy.prox

from svdinv.adapters.proximal import check_prior, prox_of_images
from svdinv.unroll.arrays import Array
from svdinv.unroll.priors import Prior

__all__ = ["Prox"]


class Prox(sigpy.prox.Prox):
    """The proximal operator of a prior of svdinv, for arrays of NumPy and CuPy.

    Parameters
    ----------
    prior : svdinv.unroll.priors.Prior
        The prior.
    shape : sequence of int
        Shape of an image.

    Raises
    ------
    TypeError
        If `prior` has no proximal operator.

    Notes
    -----
    SigPy's step `alpha` is a number, or an array that broadcasts to the images, with a
    step for each image.
    """

    def __init__(self, prior: Prior, shape: Sequence[int]) -> None:
        super().__init__(shape, repr_str=type(prior).__name__)
        self.prior = check_prior(prior)

    def _prox(self, alpha: Any, input: Array) -> Array:
        return prox_of_images(self.prior, input, alpha, "alpha")
