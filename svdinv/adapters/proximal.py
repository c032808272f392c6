"""Proximal operators of priors as other libraries call them."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from svdinv.unroll.arrays import Array, namespace
from svdinv.unroll.operators import Identity
from svdinv.unroll.priors import Prior, Sparse


def check_prior(prior: Any) -> Prior:
    """Return a prior; TypeError unless it is an object with a proximal operator."""
    prox = getattr(type(prior), "prox", None)
    if isinstance(prior, type) or prox is None or prox is Prior.prox:
        raise TypeError(
            "prior must have a proximal operator, as svdinv.unroll.priors.Nuclear(1.0) "
            f"has, got {prior!r}"
        )
    return prior


def with_weight(prior: Prior, weight: Any) -> Prior:
    """Return a prior with the current weight of its module; None for its own.

    PyTorch replaces parameters of modules, as in `torch.func.functional_call`.
    """
    if weight is None:
        return prior
    prior = copy.copy(prior)
    object.__setattr__(prior, "weight", weight)
    return prior


def prox_of_images(prior: Prior, x: Array, step: Any, name: str) -> Array:
    """Apply the proximal operator of a prior, with one step or one for each image.

    `step`, called `name` in messages, is a number, or an array that broadcasts to `x`
    (..., H, W) and is constant over each image; for `Sparse` without a transform, any
    that broadcasts. Raises ValueError for other steps, and negative ones.
    """
    if isinstance(step, np.ndarray) and not (step >= 0).all():
        raise ValueError(f"{name} must be >= 0, got {step}")
    shape = tuple(np.shape(step))
    if math.prod(shape) == 1:
        return prior.prox(x, step.reshape(()) if shape else step)
    extra = len(x.shape) - len(shape)
    varies = [extra + axis for axis, n in enumerate(shape) if n != 1]
    fits = extra >= 0 and all(n in (1, x.shape[extra + i]) for i, n in enumerate(shape))
    if fits and isinstance(prior, Sparse) and isinstance(prior.transform, Identity):
        return prior.prox(x, step)
    if not fits or varies[-1] >= len(x.shape) - 2:
        raise ValueError(
            f"{name} must be one number, or have one for each image, got {shape} for "
            f"images {tuple(x.shape)}"
        )
    if not math.prod(x.shape):
        return x
    # Image by image: for the prior, an array holds a step for each of its matrices.
    xp, kept = namespace(x), x.shape[: varies[-1] + 1]
    steps = step.reshape(shape[: len(kept) - extra])
    steps = xp.reshape(xp.broadcast_to(steps, kept), (-1,))
    images = xp.reshape(x, (-1, *x.shape[len(kept) :]))
    try:
        done = [prior.prox(images[i], steps[i]) for i in range(math.prod(kept))]
    except (ValueError, RuntimeError) as error:
        prior.prox(x, 1.0)  # raises if the axes are at fault
        raise ValueError(
            f"{name} must not vary along axes that the prior takes together, got "
            f"{shape} for {tuple(x.shape)}: {error}"
        ) from error
    return xp.reshape(xp.stack(done), x.shape)
