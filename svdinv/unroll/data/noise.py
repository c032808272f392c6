"""Noise in measured data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from svdinv.unroll.problem import Problem

Arrays = NDArray[Any]


def white_noise(
    shape: tuple[int, ...], dtype: DTypeLike, rng: np.random.Generator
) -> Arrays:
    """Draw white Gaussian noise of variance 1: float32, or circular complex64.

    The variance of complex noise n is E|n|**2.
    """
    if np.dtype(dtype).kind != "c":
        return rng.standard_normal(shape, dtype=np.float32)
    real, imaginary = rng.standard_normal((2, *shape), dtype=np.float32)
    return (real + 1j * imaginary) / np.float32(math.sqrt(2))


def noisy(problem: Problem, deviation: float, *, seed: int) -> Problem:
    """Add white Gaussian noise to the samples of a problem with NumPy arrays.

    `deviation`, sqrt(E|n|**2) for complex noise n, is relative to the peak of the
    image: 1 for real images, the largest magnitude of the truth for complex ones. It is
    appended to the setting of the problem.
    """
    y, scale = problem.y, deviation
    if np.iscomplexobj(y):
        scale *= float(np.abs(problem.truth).max())
    noise = white_noise(y.shape, y.dtype, np.random.default_rng([seed, 1]))
    y = y + problem.A.project_to_samples(np.float32(scale) * noise)
    setting = ", ".join(filter(None, (problem.setting, f"noise {deviation:g}")))
    return replace(problem, y=y, setting=setting)


def counted(
    integrals: Arrays,
    photons: float | Arrays,
    rng: np.random.Generator,
    *,
    electronic: float = 5.0,
) -> Arrays:
    """Simulate line integrals of attenuation measured by counting photons.

    Counts are Poisson variables with mean ``photons * exp(-integral)``, where `photons`
    is the count without an object (it broadcasts), plus Gaussian noise with standard
    deviation `electronic` in photons (Lasio, Whiting & Williamson, Phys. Med. Biol.
    2007). The photons of an integral have one energy, so there is no beam hardening.
    Counts below 1 are set to 1.
    """
    mean = photons * np.exp(-integrals.astype(np.float64))
    counts = rng.poisson(mean) + electronic * rng.standard_normal(mean.shape)
    measured: Arrays = -np.log(np.maximum(counts, 1) / photons)
    return measured.astype(integrals.dtype)
