"""Randomness that belongs to an item, and noise in measured data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from svdinv.unroll.problem import Problem

__all__ = ["counted", "generator", "noisy", "white_noise"]

Arrays = NDArray[Any]


def generator(*key: int) -> np.random.Generator:
    """Give the randomness that belongs to a seed, a step and an item."""
    return np.random.default_rng(key)


def white_noise(
    shape: tuple[int, ...], dtype: DTypeLike, rng: np.random.Generator
) -> Arrays:
    """Draw white Gaussian noise of variance 1.

    Parameters
    ----------
    shape : tuple of int
        Shape of the noise.
    dtype : dtype
        float32 or complex64, which is circular: E|n|**2 is 1 then.
    rng : numpy.random.Generator
        Draws it.

    Returns
    -------
    ndarray
        The noise.
    """
    if np.dtype(dtype).kind != "c":
        return rng.standard_normal(shape, dtype=np.float32)
    real, imaginary = rng.standard_normal((2, *shape), dtype=np.float32)
    return (real + 1j * imaginary) / np.float32(math.sqrt(2))


def noisy(problem: Problem, deviation: float, *, seed: int) -> Problem:
    """Add white Gaussian noise to what was measured.

    Parameters
    ----------
    problem : Problem
        Of NumPy arrays.
    deviation : float
        Standard deviation, sqrt(E|n|**2) of complex noise n, relative to the largest
        value that an image can have: 1 for real ones, the largest magnitude of the
        truth for complex ones.
    seed : int
        Draws the noise.

    Returns
    -------
    Problem
        The same with other data.
    """
    y, scale = problem.y, deviation
    if np.iscomplexobj(y):
        scale *= float(np.abs(problem.truth).max())
    noise = white_noise(y.shape, y.dtype, np.random.default_rng([seed, 1]))
    return replace(problem, y=y + problem.A.measured(np.float32(scale) * noise))


def counted(
    integrals: Arrays,
    photons: float,
    rng: np.random.Generator,
    *,
    electronic: float = 5.0,
) -> Arrays:
    """Give line integrals of attenuation as they are measured by counting photons.

    Counts are Poisson variables of mean ``photons * exp(-integral)``, plus Gaussian
    noise of the electronics (Lasio, Whiting & Williamson, Phys. Med. Biol. 2007). All
    photons have one energy: there is no beam hardening.

    Parameters
    ----------
    integrals : ndarray
        Without noise.
    photons : float
        Photons that a detector counts without anything in the way.
    rng : numpy.random.Generator
        Draws the noise.
    electronic : float
        Standard deviation of the electronics' noise, in photons.

    Returns
    -------
    ndarray
        Of the same dtype; what would be no photon at all counts as one.
    """
    mean = photons * np.exp(-integrals.astype(np.float64))
    counts = rng.poisson(mean) + electronic * rng.standard_normal(mean.shape)
    measured: Arrays = -np.log(np.maximum(counts, 1) / photons)
    return measured.astype(integrals.dtype)
