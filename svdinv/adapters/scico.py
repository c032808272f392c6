"""svdinv's priors as functionals of SCICO."""

from __future__ import annotations

from typing import Any

import scico.functional

from svdinv.adapters.proximal import check_prior, prox_of_images
from svdinv.unroll.arrays import Array
from svdinv.unroll.priors import Prior

__all__ = ["Functional"]


class Functional(scico.functional.Functional):
    """A prior of svdinv with its proximal operator, for JAX arrays of any shape.

    Parameters
    ----------
    prior : svdinv.unroll.priors.Prior
        The prior.

    Raises
    ------
    TypeError
        If `prior` has no proximal operator.
    """

    has_eval = True
    has_prox = True

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = check_prior(prior)

    def __call__(self, x: Array) -> Array:
        """Return the value of the prior."""
        return self.prior.value(x)

    def prox(self, v: Array, lam: Any = 1.0, **options: Any) -> Array:
        """Apply the proximal operator of `lam` R, with one step or one per image."""
        return prox_of_images(self.prior, v, lam, "lam")
