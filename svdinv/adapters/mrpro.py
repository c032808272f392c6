"""svdinv's priors as proximable functionals of MRpro."""

from __future__ import annotations

from typing import Any

import torch
from mrpro.operators.Functional import (
    ProximableFunctional,
    throw_if_negative_or_complex,
)

from svdinv.adapters.proximal import check_prior, prox_of_images, with_weight
from svdinv.unroll.priors import Prior

__all__ = ["Functional"]


class Functional(ProximableFunctional):
    """A prior of svdinv with its proximal operator.

    Parameters
    ----------
    prior : svdinv.unroll.priors.Prior
        The prior. A `weight` that is a Parameter becomes a parameter of this module.
    time : int, optional
        Axis of the frames of a series, such as 0 of MRpro's (time, coils, z, y, x). It
        is moved before y and x, where `Casorati` and other priors of series expect it.

    Raises
    ------
    TypeError
        If `prior` has no proximal operator.
    """

    def __init__(self, prior: Prior, *, time: int | None = None) -> None:
        super().__init__()
        self.prior, self.time = check_prior(prior), time
        weight = getattr(prior, "weight", None)
        learned = isinstance(weight, torch.nn.Parameter)
        self.weight = weight if learned else None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        """Return the value of the prior, in a tuple."""
        prior = with_weight(self.prior, self.weight)
        return (prior.value(self._series(x)),)

    def prox(self, x: torch.Tensor, sigma: Any = 1.0) -> tuple[torch.Tensor]:
        """Apply the proximal operator of `sigma` times the prior.

        `sigma` is a number, or broadcasts to x with a step for each image or series.

        Raises
        ------
        ValueError
            If `sigma` is negative or complex, does not broadcast to x, or varies along
            axes that the prior treats jointly.
        """
        throw_if_negative_or_complex(sigma)
        if isinstance(sigma, torch.Tensor):
            sigma = self._series(sigma[(None,) * (x.ndim - sigma.ndim)])
        prior = with_weight(self.prior, self.weight)
        z = prox_of_images(prior, self._series(x), sigma, "sigma")
        return (z if self.time is None else z.movedim(-3, self.time),)

    def _series(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.time is None else x.movedim(self.time, -3)
