"""svdinv's priors as proximable functionals of MRpro."""

from __future__ import annotations

from typing import Any

import torch
from mrpro.operators.Functional import (
    ProximableFunctional,
    throw_if_negative_or_complex,
)

from svdinv.unroll.priors import Prior

__all__ = ["Functional"]


class Functional(ProximableFunctional):
    """A prior of svdinv with its proximal operator.

    Parameters
    ----------
    prior : svdinv.unroll.priors.Prior
        The prior. MRpro's images are (..., coils, z, y, x); `Casorati` and others of
        series take the last three axes as frames, y and x.
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        """Give the value of the prior, in a tuple."""
        return (self.prior.value(x),)

    def prox(self, x: torch.Tensor, sigma: Any = 1.0) -> tuple[torch.Tensor]:
        """Apply the proximal operator of `sigma` times the prior.

        Raises
        ------
        ValueError
            If `sigma` is negative or complex.
        """
        throw_if_negative_or_complex(sigma)
        return (self.prior.prox(x, sigma),)
