"""Phantoms of dynamic emission tomography with a two-tissue compartment model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.tasks.tomography.densities import Ellipse, drawn

FRAMES: tuple[float, ...] = (
    *(0.25,) * 8, *(0.5,) * 4, *(1.0,) * 4, *(2.0,) * 3, *(5.0,) * 5,
)  # fmt: skip
"""Default durations of 24 frames, in minutes."""

_GRID = 0.01  # minutes


class Plasma(NamedTuple):
    """Parameters of `plasma`: amplitudes and decay rates per minute."""

    amplitudes: tuple[float, float, float]
    decays: tuple[float, float, float]


FDG = Plasma((851.1, 21.88, 20.81), (4.134, 0.1191, 0.01043))

# K1, k2, k3, k4 per minute and blood fraction: grey and white matter, tumour, muscle.
_TISSUES = (
    (0.102, 0.130, 0.062, 0.0068, 0.05),
    (0.054, 0.109, 0.045, 0.0058, 0.03),
    (0.150, 0.120, 0.130, 0.0050, 0.08),
    (0.030, 0.200, 0.020, 0.0100, 0.03),
)
# Ranges from which the rates of random tissues are drawn.
_LEAST_RATES = (0.01, 0.05, 0.005, 0.002, 0.005)
_MOST_RATES = (0.5, 0.8, 0.3, 0.03, 0.15)
_REGIONS = (
    Ellipse(1.0, 0.8, 0.9),
    Ellipse(1.0, 0.6, 0.7, 0, 0.02),
    Ellipse(1.0, 0.12, 0.16, 0.3, 0.3, 30),
    Ellipse(1.0, 0.2, 0.12, -0.25, -0.3, 10),
)


def plasma(minutes: NDArray[np.floating], tracer: Plasma = FDG) -> NDArray[np.float64]:
    """Return the activity of plasma after an injection.

    ``(a1 t - a2 - a3) exp(-l1 t) + a2 exp(-l2 t) + a3 exp(-l3 t)`` (Feng, Huang & Wang,
    Int. J. Biomed. Comput. 1993).
    """
    (a1, a2, a3), (l1, l2, l3) = tracer
    t = np.asarray(minutes, np.float64)
    first = (a1 * t - a2 - a3) * np.exp(-l1 * t)
    return first + a2 * np.exp(-l2 * t) + a3 * np.exp(-l3 * t)


def two_tissues(
    rates: Sequence[float] | NDArray[np.floating],
    frames: Sequence[float] = FRAMES,
    tracer: Plasma = FDG,
) -> NDArray[np.float64]:
    """Return the mean activity of a tissue in each frame.

    The tissue is the convolution of `plasma` with the response of two compartments
    (Huang et al., Am. J. Physiol. 1980), mixed with blood. `rates` holds K1, k2, k3, k4
    per minute and the blood fraction; `frames` are durations in minutes, starting at
    the injection. Frames of 5 s are exact to 0.4 %, of 2 s to 2.4 %; without blood to
    1.2 and 9.4 %. Raises ValueError if a duration is not positive or a rate negative.
    """
    lengths = np.asarray(frames, np.float64)
    positive = (lengths > 0) & (lengths < math.inf)
    if lengths.ndim != 1 or not lengths.size or not positive.all():
        raise ValueError(f"frames must be positive lengths, got {frames!r}")
    if len(rates) != 5 or not all(0 <= rate < math.inf for rate in rates):
        raise ValueError(f"rates must be five, finite and not negative, got {rates!r}")
    if rates[4] > 1:
        raise ValueError(f"the blood fraction must be at most 1, got {rates[4]}")
    K1, k2, k3, k4, blood = rates
    ends = np.cumsum(lengths)
    t = np.arange(0, ends[-1] + 2 * _GRID, _GRID)
    total = k2 + k3 + k4
    root = math.sqrt(max(total**2 - 4 * k2 * k4, 0.0))  # rounding errors if k3 = 0
    slow, fast = (total - root) / 2, (total + root) / 2
    Cp = plasma(t, tracer)
    first = _convolved(Cp, slow)
    tissue = K1 * first
    if root:
        both = (k3 + k4 - slow) * first + (fast - k3 - k4) * _convolved(Cp, fast)
        tissue = K1 / root * both
    curve = (1 - blood) * tissue + blood * Cp
    area = np.concatenate([[0], np.cumsum((curve[1:] + curve[:-1]) / 2) * _GRID])
    return np.diff(np.interp([0, *ends], t, area)) / lengths


def kinetic_phantom(
    size: int, *, frames: Sequence[float] = FRAMES, seed: int = 0
) -> NDArray[np.float32]:
    """Return a slice of a head, without vessels, whose regions take up a tracer.

    The result is float32 (frames, size, size) with maximum 1. `frames` is as for
    `two_tissues`; `seed` determines the rates, which lie around those of the literature
    and vary slowly within regions.
    """
    rng = np.random.default_rng(seed)
    rates = [np.array(_TISSUES[k]) for k in (3, 0, 2, 1)]
    return _uptake(_REGIONS, rates, 0.2, size, frames, FDG, rng)


def random_kinetics(
    size: int, frames: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw a dynamic phantom with random shapes, rates, tracer and frame durations.

    The result is as for `kinetic_phantom`.
    """
    a, b = rng.uniform(0.55, 0.95, 2)
    x, y = rng.uniform(-0.04, 0.04, 2)
    regions = [Ellipse(1.0, a, b, x, y, rng.uniform(0, 180))]
    for _ in range(rng.integers(2, 10)):
        x, y = rng.uniform(-0.6, 0.6, 2) * (a, b)
        sides = np.exp(rng.uniform(np.log(0.05), np.log(0.6), 2))
        turn, rectangle = rng.uniform(0, 180), bool(rng.random() < 0.2)
        regions.append(Ellipse(1.0, sides[0], sides[1], x, y, turn, rectangle))
    low, high = np.log(_LEAST_RATES), np.log(_MOST_RATES)
    rates = [np.exp(rng.uniform(low, high)) for _ in regions]
    amplitudes = np.array(FDG.amplitudes) * np.exp(rng.uniform(-0.7, 0.7, 3))
    decays = np.array(FDG.decays) * np.exp(rng.uniform(-0.7, 0.7, 3))
    tracer = Plasma(tuple(amplitudes), tuple(decays))
    growth = np.exp(rng.uniform(0, np.log(40.0)))
    lengths = growth ** (np.arange(frames) / frames)
    lengths *= rng.uniform(20, 90) / lengths.sum()
    spread = rng.uniform(0, 0.4)
    return _uptake(regions, rates, spread, size, list(lengths), tracer, rng)


def _uptake(
    regions: Sequence[Ellipse],
    rates: Sequence[NDArray[np.float64]],
    spread: float,
    size: int,
    frames: Sequence[float],
    tracer: Plasma,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Draw regions, later ones on top, with rates that vary linearly across each."""
    series = np.zeros((len(frames), size, size))
    line = np.linspace(-1, 1, size)
    for region, mean in zip(regions, rates, strict=True):
        cover = drawn([region], size)
        curves = [
            two_tissues(mean * rng.uniform(1 - spread, 1 + spread, 5), frames, tracer)
            for _ in range(2)
        ]
        angle = rng.uniform(0, 2 * np.pi)
        along = (1 + np.cos(angle) * line + np.sin(angle) * line[:, None]) / 2
        along = along.clip(0, 1)
        uptake = sum(
            c[:, None, None] * w
            for c, w in zip(curves, (along, 1 - along), strict=True)
        )
        series = (1 - cover) * series + cover * uptake
    return (series / series.max()).astype(np.float32)


def _convolved(x: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """Return ``integral of x(u) exp(-rate (t - u)) du`` from 0 to t, on the grid."""
    from scipy.signal import lfilter

    decay, half = math.exp(-rate * _GRID), _GRID / 2
    found, _ = lfilter([half, decay * half], [1, -decay], x, zi=[-half * x[0]])
    return found
