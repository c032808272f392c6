"""Signals of tissues, with and without contrast agent, and the cardiac cycle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

_SIGNALS = {
    "fat": (0.82, 0.42),
    "muscle": (0.24, 0.13),
    "lung": (0.05, 0.03),
    "vessel": (0.5, 0.1),
    "liver": (0.34, 0.17),
    "spleen": (0.46, 0.14),
    "marrow": (0.36, 0.18),
    "cortex": (0.08, 0.04),
    "fluid": (0.8, 0.09),
    "cord": (0.42, 0.13),
    "myocardium": (0.33, 0.11),
    "left": (1.0, 0.09),
    "right": (0.95, 0.09),
}

CINE = {name: signal for name, (signal, _) in _SIGNALS.items()}
"""Signals in balanced steady-state free precession at 1.5 T, relative to blood."""

PERFUSION = {name: signal for name, (_, signal) in _SIGNALS.items()}
"""Signals after saturation recovery, before the contrast agent arrives."""


def first_pass(times: Array) -> dict[str, Array]:
    """Signals of tissues during the first pass of a contrast agent.

    The concentration in blood follows gamma variates (Thompson et al., Circ. Res. 14,
    1964), with dispersion in the lungs and recirculation; tissues take up and release
    the agent at constant rates.
    """
    step = 0.25
    fine = np.arange(0, times[-1] + 2 * step, step)

    def bolus(arrival: float, peak: float, shape: float) -> Array:
        t = np.maximum(fine - arrival, 0) / peak
        return t**shape * np.exp(shape * (1 - t))

    right = bolus(3, 3.5, 3) + 0.25 * bolus(14, 8, 2)
    left = 0.85 * bolus(7, 5, 3) + 0.28 * bolus(18, 9, 2)

    def tissue(uptake: float, release: float) -> Array:
        decay = np.exp(-release * fine)
        return uptake * step * np.convolve(left, decay)[: len(fine)]

    curves = {
        "left": left,
        "right": right,
        "myocardium": tissue(0.03, 0.045),
        "defect": tissue(0.008, 0.015),
        "liver": tissue(0.014, 0.01),
        "spleen": tissue(0.03, 0.04),
        "vessel": 0.5 * (left + right),
        "muscle": tissue(0.006, 0.01),
    }
    signals = {}
    for name, value in {**PERFUSION, "defect": PERFUSION["myocardium"]}.items():
        level = np.full(len(times), value)
        if name in curves:  # the signal saturates at high concentrations
            agent = np.interp(times, fine, curves[name])
            level = value + (1 - value) * (1 - np.exp(-2 * agent))
        signals[name] = of_frames(level)
    return signals


def contraction(beat: Array) -> Array:
    """Contraction of the ventricle: 0 at end-diastole, 1 at end-systole."""
    knots = np.array([0, 0.35, 0.58, 0.82, 1])
    values = np.array([0, 1, 0.2, 0.16, 0])
    phase = beat % 1
    k = np.clip(np.searchsorted(knots, phase, side="right") - 1, 0, len(knots) - 2)
    share = (phase - knots[k]) / (knots[k + 1] - knots[k])
    share = (1 - np.cos(np.pi * share)) / 2
    return values[k] + share * (values[k + 1] - values[k])


def of_frames(values: Array) -> Array:
    """Reshape values (T,) to (T, 1, 1), to broadcast to images."""
    return values.astype(np.float32)[:, None, None]
