"""svdinv's priors as proximal operators of PyProximal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyproximal

from svdinv.adapters.proximal import check_prior
from svdinv.operators._arguments import as_shape
from svdinv.unroll.arrays import Array, as_float
from svdinv.unroll.priors import Prior

__all__ = ["Prox"]


class Prox(pyproximal.ProxOperator):
    """A prior of svdinv with its proximal operator, also of batches and complex arrays.

    Parameters
    ----------
    prior : svdinv.unroll.priors.Prior
        The prior.
    dims : sequence of int
        Shape of the image, or of a batch, that the vectors of PyProximal stand for.

    Raises
    ------
    TypeError
        If `prior` has no proximal operator, or `dims` is not a sequence of integers.
    """

    def __init__(self, prior: Prior, dims: Sequence[int]) -> None:
        super().__init__(None, False)
        self.prior = check_prior(prior)
        self.dims = as_shape(dims, "dims")

    def __call__(self, x: Array) -> float:
        """Return the value of the prior."""
        return as_float(self.prior.value(self._image(x)))

    def prox(self, x: Array, tau: float, **options: Any) -> Array:
        """Apply the proximal operator of tau times the prior to a vector.

        Raises
        ------
        ValueError
            If `tau` is not one positive number, or `x` does not have as many elements
            as `dims`.
        """
        if np.size(tau) != 1:
            raise ValueError(
                f"tau must be one number, since a prior takes elements together, got "
                f"{np.shape(tau)}"
            )
        if not tau > 0:
            raise ValueError(f"tau must be positive, got {tau}")
        return self.prior.prox(self._image(x), tau).reshape(-1)

    def _image(self, x: Array) -> Array:
        if x.size != math.prod(self.dims):
            raise ValueError(f"x must have the elements of {self.dims}, got {x.shape}")
        return x.reshape(self.dims)
