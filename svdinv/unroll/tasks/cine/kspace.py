"""The k-space of series: how it is sampled; of what was measured checks and scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data.masks import (
    equispaced_mask,
    radial_mask,
    variable_density_mask,
    vista_like_mask,
)
from svdinv.unroll.formats.checks import FileError
from svdinv.unroll.operators import MRI
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.cine.coils import estimate_maps

# A pattern is a line in both, and nothing elsewhere. From the shape (T, H, W), the
# acceleration and randomness to a mask.
_MASKS: Mapping[str, Callable[..., NDArray[np.bool_]]] = {
    "radial": lambda shape, rate, rng: radial_mask(
        shape, max(1, round(sum(shape[1:]) / 2 / rate)), rng=rng
    ),
    "variable-density": lambda shape, rate, rng: variable_density_mask(
        shape, 1 / rate, rng
    ),
    "vista": vista_like_mask,
    "equispaced": lambda shape, rate, rng: equispaced_mask(shape, rate, rng=rng),
}

PATTERNS: Mapping[str, str] = {
    "radial": "golden-angle lines in each frame, an eighth of its rows: 16 of 128",
    "variable-density": "1/8 of the points, most of them near the centre",
    "vista": "1/8 of the phase-encode lines, spread over k-space and time",
    "equispaced": "1/8 of the phase-encode lines at equal distances, moved each frame",
}
"""Names of the sampling patterns, and what they are."""

MASKS = ("radial", "variable-density", "vista")
"""Those that are evaluated, and trained on unless a configuration says more."""

OF_SERIES = ("vista", "equispaced")
"""Those whose frames fill each other's gaps: of one frame the centre may be missing."""

ACCELERATION = 8
"""One part in this many of k-space is sampled, unless something is said."""


def sampling(
    name: str,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    acceleration: float = ACCELERATION,
) -> NDArray[np.bool_]:
    """Draw a sampling pattern of `PATTERNS`, bool (T, H, W), true where sampled.

    One part in `acceleration` of k-space is sampled; of radial lines as many are taken
    as that is of the rows. Raises ValueError if there is no such pattern, or nothing
    would be left.
    """
    if name not in PATTERNS:
        raise ValueError(f"mask must be one of {', '.join(PATTERNS)}, got {name!r}")
    return _MASKS[name](shape, acceleration, rng)


def sampled(
    name: str,
    series: NDArray[np.complex64],
    mask: NDArray[np.bool_],
    maps: NDArray[np.complex64] | None = None,
) -> Problem:
    """Sample the k-space of a complex series (T, H, W), by coils with maps (C, H, W).

    The problem has k-space (T, H, W), or (T, C, H, W) with maps.
    """
    A = MRI(mask, maps)
    return Problem(A(series).astype(np.complex64), A, truth=series, name=name)


SMALLEST = 16
"""Fewest pixels a side."""

_CALIBRATION = 24  # rows and columns that unknown maps are estimated from, at most
_LEAST_CALIBRATION = 8  # twice the side of the kernels of ESPIRiT, and more
_UNIT_ENERGY = 1.02  # of coil maps, with room for rounding
_NEAR = 2  # points of k-space from its centre that its largest value may be
_OUT_OF_ORDER = 100  # times the energy there: that of the largest elsewhere
_ZEROS = 0.5  # share of measured values that may be 0
_TINY = 1e-30  # magnitudes that single precision does not divide by


def divided(x: Any, scale: float) -> Any:
    """`x` in units of `scale`, however small or large that is."""
    if _TINY < scale < 1 / _TINY:
        return x / np.float32(scale)
    return (x.astype(np.complex128) / scale).astype(np.complex64)


def check_centred(mask: NDArray[np.bool_], what: str) -> None:
    """Refuse masks with the zero frequency in the corner, as FFTs order it."""
    frames, height, width = mask.shape
    if frames == 1:  # some lines may well miss the centre
        return
    rows, columns = (slice(n // 2 - 1, n // 2 + 2) for n in (height, width))
    if mask[:, 0, 0].all() and not mask[:, rows, columns].any():
        raise FileError(
            f"{what} samples the corners of k-space and not its centre, which must be "
            "at (H // 2, W // 2): numpy.fft.fftshift it, over the last two axes"
        )


def _check_kspace(path: str | Path, kspace: Any, mask: NDArray[np.bool_]) -> None:
    """Refuse k-space as FFTs order it, and zeros where it should be measured."""
    height, width = mask.shape[-2:]
    size = np.abs(kspace)
    unit = float(size.max()) or 1.0
    energy = np.square(size / unit).reshape(-1, height, width).sum(axis=0)
    peak = np.unravel_index(int(energy.argmax()), energy.shape)
    # Axes along which it lies where FFTs have it.
    wrapped = [
        axis
        for axis, at, n in zip((-2, -1), peak, (height, width), strict=True)
        if min(at, n - at) <= _NEAR
    ]
    middle = np.s_[
        height // 2 - _NEAR : height // 2 + _NEAR + 1,
        width // 2 - _NEAR : width // 2 + _NEAR + 1,
    ]
    if wrapped and energy[peak] > _OUT_OF_ORDER * energy[middle].max():
        raise FileError(
            f"{path}: kspace is largest at ({peak[0]}, {peak[1]}), and not in its "
            f"centre, which must be at (H // 2, W // 2): numpy.fft.fftshift it and the "
            f"mask, over axes {tuple(wrapped)}"
        )
    known = kspace.reshape(len(mask), -1, height, width).any(axis=1)
    zero = 1 - float(known[mask].mean())
    if _ZEROS < zero < 1:
        raise FileError(
            f"{path}: {zero:.0%} of what is measured, by the mask, is exactly 0; mask "
            "must be false where nothing is measured"
        )


def problem_of_kspace(
    path: str | Path, kspace: Any, mask: NDArray[np.bool_], maps: Any, truth: Any
) -> Problem:
    """Check measured k-space, and scale it as the networks want it."""
    size = mask.shape[-2:]
    if min(size) < SMALLEST:
        raise FileError(
            f"{path}: frames must have {SMALLEST} pixels a side or more, got {size}"
        )
    if truth is not None and not truth.any():
        raise FileError(f"{path}: truth is zero everywhere")
    check_centred(mask, f"{path}: mask")
    _check_kspace(path, kspace, mask)
    estimated = False
    if kspace.ndim == 4 and maps is None:
        if kspace.shape[1] == 1:
            kspace = kspace[:, 0]
        else:
            maps, estimated = _estimated(path, kspace, mask), True
    energy = 1.0 if maps is None else float((np.abs(maps) ** 2).sum(axis=0).max())
    if energy > _UNIT_ENERGY:
        raise FileError(
            f"{path}: the squared magnitudes of the maps must add up to 1, or to "
            f"0 where there is no signal, and reach {energy:.3g}: divide them by "
            f"{energy**0.5:.3g}, or in each pixel by the root of their sum"
        )
    A = MRI(mask, maps)
    kspace = A.project_to_samples(kspace)
    if truth is None:
        # Single precision transforms no numbers near the end of its range.
        unit = float(np.abs(kspace).max())
        unit = 1.0 if _TINY < unit < 1 / _TINY else unit or 1.0
        image = A.H(divided(kspace, unit))
        scale = unit * float(np.abs(image).max())
    else:
        scale = float(np.abs(truth).max())
    if scale == 0:
        raise FileError(f"{path}: kspace is zero wherever it is sampled")
    return Problem(
        divided(kspace, scale),
        A,
        truth=None if truth is None else divided(truth, scale),
        scale=scale,
        phase_known=not estimated,
    )


def _estimated(path: str | Path, kspace: Any, mask: NDArray[np.bool_]) -> Any:
    # The largest middle square that all frames together sample.
    sampled: NDArray[np.bool_] = np.logical_or.reduce(mask, axis=0)
    height, width = sampled.shape
    calibration = min(_CALIBRATION, height, width)
    while calibration:
        top, left = (n // 2 - calibration // 2 for n in (height, width))
        if sampled[top : top + calibration, left : left + calibration].all():
            break
        calibration -= 1
    if calibration < _LEAST_CALIBRATION:
        raise FileError(
            f"{path} has no maps, and they cannot be estimated: all frames "
            f"together sample the middle {calibration} x {calibration} points of "
            f"k-space, and {_LEAST_CALIBRATION} x {_LEAST_CALIBRATION} are needed"
        )
    try:
        return estimate_maps(kspace, mask=mask, calibration=calibration)
    except ValueError as error:
        raise FileError(
            f"{path} has no maps, and they cannot be estimated from the "
            f"{calibration} x {calibration} points in the middle of k-space: {error}"
        ) from error
