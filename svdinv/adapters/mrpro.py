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
        """Return the value of the prior, in a tuple."""
        return (self.prior.value(x),)

    def prox(self, x: torch.Tensor, sigma: Any = 1.0) -> tuple[torch.Tensor]:
        """Apply the proximal operator of `sigma` times the prior.

        `sigma` is a number or broadcasts to x, such as (2, 1, 1, 1) for two series: a
        step for each image or series.

        Raises
        ------
        ValueError
            If `sigma` is negative or complex, does not broadcast to x, or varies along
            axes that the prior takes together.
        """
        throw_if_negative_or_complex(sigma)
        several = isinstance(sigma, torch.Tensor) and sigma.numel() > 1
        if not several:
            step = sigma.reshape(()) if isinstance(sigma, torch.Tensor) else sigma
            return (self.prior.prox(x, step),)
        # The prior's steps have axes of their own: one for each of its matrices.
        extra = x.ndim - sigma.ndim
        varies = [extra + axis for axis, n in enumerate(sigma.shape) if n > 1]
        if extra < 0 or varies[-1] >= x.ndim - 2:
            raise ValueError(
                f"sigma must have a step for each image at most, got {sigma.shape} for "
                f"{x.shape}"
            )
        kept = x.shape[: varies[-1] + 1]
        steps = sigma.reshape(sigma.shape[: len(kept) - extra]).expand(kept).reshape(-1)
        parts = zip(x.flatten(0, len(kept) - 1), steps, strict=True)
        try:
            found = [self.prior.prox(*each) for each in parts]
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"sigma must not vary along axes that the prior takes together, got "
                f"{tuple(sigma.shape)} for {tuple(x.shape)}: {error}"
            ) from error
        return (torch.stack(found).view(x.shape),)
