"""Sampling masks: which pixels of an image are measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["uniform_mask"]


def uniform_mask(
    shape: tuple[int, ...], rate: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw a mask that samples every entry independently with the same chance.

    Every channel of a colour image therefore gets a mask of its own, as in the
    colour compressed sensing of Zhang & Hu (arXiv 2411.14141).

    Parameters
    ----------
    shape : tuple of int
        Shape of the mask, channels included.
    rate : float
        Chance of an entry to be sampled, in (0, 1).
    rng : numpy.random.Generator
        Source of the randomness; the same state gives the same mask.

    Returns
    -------
    ndarray of bool, shape `shape`
        True where sampled.

    Raises
    ------
    ValueError
        If `rate` is outside (0, 1).
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate must lie in (0, 1), got {rate}")
    return rng.random(shape, dtype=np.float32) < rate
