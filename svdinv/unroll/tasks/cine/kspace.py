"""k-space of series: sampling patterns, and checks and scaling of measured data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.algorithms.iterations import conjugate_gradients
from svdinv.unroll.data.masks import (
    equispaced_mask,
    middle,
    radial_mask,
    variable_density_mask,
    vista_like_mask,
)
from svdinv.unroll.formats.checks import FileError
from svdinv.unroll.operators import MRI
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.cine.coils import estimate_maps

# Functions of the shape (T, H, W), the acceleration and the random generator. A new
# pattern needs an entry here and in `PATTERNS`.
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
"""Sampling patterns and their descriptions."""

MASKS = ("radial", "variable-density", "vista")
"""Default patterns for evaluation and training."""

OF_SERIES = ("vista", "equispaced")
"""Patterns for several frames: a single frame may lack the centre of k-space."""

ACCELERATION = 8
"""Default undersampling factor of k-space."""


def sampling(
    name: str,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    acceleration: float = ACCELERATION,
) -> NDArray[np.bool_]:
    """Draw a sampling pattern of `PATTERNS`, bool (T, H, W), true where sampled.

    A fraction of 1 / `acceleration` of k-space is sampled; the number of radial lines
    is that fraction of the mean of H and W. Raises ValueError if there is no such
    pattern, or nothing would be sampled.
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
    """Sample the k-space of a complex series (T, H, W).

    The data of the problem are (T, H, W), or (T, C, H, W) with coil maps (C, H, W).
    """
    A = MRI(mask, maps)
    return Problem(A(series).astype(np.complex64), A, truth=series, name=name)


SMALLEST = 16
"""Smallest number of pixels a side."""

_CALIBRATION = 24  # most rows and columns from which maps are estimated
_LEAST_CALIBRATION = 8  # fewest rows and columns, for the kernels of ESPIRiT
# Bounds of the largest energy of coil maps, which is 1 up to rounding; with smaller
# maps than these the steps of the networks are too short to reach the image.
_LEAST_ENERGY, _UNIT_ENERGY = 0.1, 1.02
_NEAR = 2  # points of k-space by which its peak may be off the centre
_OUT_OF_ORDER = 100  # energy ratio of peak and centre that reveals unshifted FFTs
_SPIKE = 1.5  # least outer magnitude, relative to the inner ones
_ZEROS = 0.5  # largest fraction of measured values that may be 0
_DISAGREEING = 0.02  # largest such fraction, if as many others lie outside the mask
# Check of maps: numbers of frames and steps, and least relative residual to doubt them.
_FITTED, _FITS, _MISFIT = 4, 4, 0.5
# Bounds of the factor of the truth that fits the data best, and for magnitudes.
_MULTIPLES, _MULTIPLES_OF_MAGNITUDES = (0.5, 2.0), (0.2, 10.0)
_SAME_PHASE = 0.97  # least correlation for equal phases, relative to magnitudes
_TINY = 1e-30  # magnitude below which single precision cannot divide


def divided(x: Any, scale: float) -> Any:
    """Return `x / scale`, also for extreme scales."""
    if _TINY < scale < 1 / _TINY:
        return x / np.float32(scale)
    return (x.astype(np.complex128) / scale).astype(np.complex64)


def check_centred(mask: NDArray[np.bool_], what: str) -> None:
    """Raise FileError for masks with the zero frequency in the corner, as in FFTs."""
    if len(mask) == 1 and any(
        (mask == mask.any(axis, keepdims=True)).all() for axis in (-2, -1)
    ):  # lines, which may miss the centre
        return
    rows, columns = (middle(n, 2 * max(1, n // 16) + 1) for n in mask.shape[1:])
    in_corner = np.fft.fftshift(mask, axes=(-2, -1))[:, rows, columns].mean()
    in_middle = mask[:, rows, columns].mean()
    mean = mask.mean()
    dense = in_corner > max(0.5, 2 * mean)  # unlike any grid
    few = in_middle < in_corner / 3
    # Complete in the corners, and in the middle as elsewhere.
    few |= in_corner == 1 and in_middle < (1 + mean) / 2
    if len(mask) > 1:
        dense |= mask[:, 0, 0].all() and not in_middle
    if dense and few:
        raise FileError(
            f"{what} samples {in_corner:.0%} of the corners of k-space and "
            f"{in_middle:.0%} of its centre, which must be at (H // 2, W // 2): apply "
            "numpy.fft.fftshift to the last two axes"
        )
    rows, columns = (middle(n, 2 * max(3, n // 8) + 1) for n in mask.shape[1:])
    if mask.any() and not mask[:, rows, columns].any():
        raise FileError(f"{what} samples nothing near the centre of k-space")


def _check_kspace(path: str | Path, kspace: Any, mask: NDArray[np.bool_]) -> None:
    """Raise FileError for k-space in FFT order, spikes, and zeros in the mask."""
    size = np.abs(kspace)
    _check_order(path, size, len(mask))
    _check_spikes(path, size * (mask if kspace.ndim == 3 else mask[:, None]))
    nonzero = kspace.reshape(len(mask), -1, *mask.shape[-2:]).any(axis=1)
    if not nonzero[mask].any():
        raise FileError(f"{path}: kspace is zero at all samples")
    if kspace.ndim == 4:
        _check_coils(path, kspace != 0)
    _check_zeros(path, nonzero, mask)


def _check_order(path: str | Path, size: Any, count: int) -> None:
    """Raise FileError if the magnitudes of `count` frames are largest at a corner."""
    height, width = size.shape[-2:]
    unit = float(size.max()) or 1.0
    frames = np.square(size / unit).reshape(count, -1, height, width).sum(axis=1)
    energy = frames.sum(axis=0)
    peak = np.unravel_index(int(energy.argmax()), energy.shape)
    # Axes along which the peak lies at the zero frequency of FFTs.
    wrapped = [
        axis
        for axis, at, n in zip((-2, -1), peak, (height, width), strict=True)
        if min(at, n - at) <= _NEAR
    ]
    near = middle(height, 2 * _NEAR + 1), middle(width, 2 * _NEAR + 1)
    largest = frames.reshape(count, -1).argmax(axis=1) == energy.argmax()
    spike = largest.sum() == 1 < count
    ahead = energy[peak] > _OUT_OF_ORDER * energy[near].max()
    if wrapped and ahead and not spike:
        raise FileError(
            f"{path}: kspace is largest at ({peak[0]}, {peak[1]}), and not in its "
            f"centre, which must be at (H // 2, W // 2): apply numpy.fft.fftshift to "
            f"it and the mask, over axes {tuple(wrapped)}"
        )


def _check_spikes(path: str | Path, size: Any) -> None:
    """Raise FileError if magnitudes far from the centre exceed all near it.

    Those near it are overwritten by zeros.
    """
    height, width = (n // 4 for n in size.shape[-2:])
    near = (..., slice(height, -height), slice(width, -width))
    inner = size[near].max()
    size[near] = 0
    if 0 < _SPIKE * inner < size.max():
        place = tuple(map(int, np.unravel_index(size.argmax(), size.shape)))
        raise FileError(
            f"{path}: kspace is largest at {place}, far from its centre at (H // 2, "
            "W // 2): set mask to false at spikes"
        )


def _check_zeros(
    path: str | Path, nonzero: NDArray[np.bool_], mask: NDArray[np.bool_]
) -> None:
    """Raise FileError if many samples, or all of a frame, in the mask are exactly 0."""
    zero = 1 - float(nonzero[mask].mean())
    if zero > _ZEROS:
        raise FileError(
            f"{path}: {zero:.0%} of the samples in the mask are exactly 0; mask must "
            "be false where nothing is measured"
        )
    empty = mask.any(axis=(1, 2)) & ~(nonzero & mask).any(axis=(1, 2))
    if empty.any():
        raise FileError(
            f"{path}: kspace of frame {np.flatnonzero(empty)[0]} is exactly 0; mask "
            "must be false where nothing is measured"
        )
    # Zeros that a scanner has filled in are zero in all frames.
    missing = float((~nonzero & nonzero.any(axis=0))[mask].mean())
    outside = float((~mask)[nonzero].mean())
    if min(missing, outside) > _DISAGREEING:
        raise FileError(
            f"{path}: mask does not agree with kspace: {missing:.0%} of the samples in "
            f"it are exactly 0, and {outside:.0%} of those that are not lie outside it"
        )


def _check_coils(path: str | Path, nonzero: NDArray[np.bool_]) -> None:
    """Raise FileError if frames seem to be coils. Coils of zeros do not count."""
    nonzero = nonzero[:, nonzero.any(axis=(0, 2, 3))]
    if len(nonzero) == 1:
        return
    of_time, of_coils = ((nonzero != nonzero.take([0], axis)).mean() for axis in (0, 1))
    if of_coils > _DISAGREEING and not of_time:
        raise FileError(
            f"{path}: kspace is sampled alike in all frames, but not in all coils: it "
            "must be (T, C, H, W), and seems to be (C, T, H, W)"
        )


def _check_maps(path: str | Path, kspace: Any, mask: Any, maps: Any) -> None:
    """Raise FileError if k-space fits conjugate maps, or an image shifted by a half.

    Both are common mistakes in data from other programs. So are coils of zeros.
    """
    dead = maps.any(axis=(1, 2)) & ~kspace.any(axis=(0, 2, 3))
    if dead.any():
        coil = np.flatnonzero(dead)[0]
        raise FileError(
            f"{path}: kspace of coil {coil} is exactly 0, its map is not: leave it out"
        )
    sampled = np.flatnonzero(mask.any(axis=(1, 2)))[:_FITTED]
    kspace, mask = kspace[sampled], mask[sampled]

    def misfit(kspace: Any, maps: Any) -> float:
        """Return the residual of least squares after a few steps, relative to data."""
        A = MRI(mask, maps)
        y = A.project_to_samples(kspace)
        y = divided(y, float(np.abs(y).max()) or 1.0)
        right = A.H(y)
        x = conjugate_gradients(lambda x: A.H(A(x)), right, 0 * right, _FITS)
        size = float(np.linalg.norm(y))
        return float(np.linalg.norm(A(x) - y)) / size if size else 0.0

    own = misfit(kspace, maps)
    if own < _MISFIT:
        return
    height, width = mask.shape[-2:]
    for conjugate, rows, columns in itertools.product((False, True), repeat=3):
        changes = []
        if conjugate:
            changes.append("the complex conjugates of the maps")
        if rows or columns:
            changes.append("an image moved by half its sides")
        signs = np.ones((height, width), np.float32)
        signs[1::2] *= -1 if rows else 1
        signs[:, 1::2] *= -1 if columns else 1
        given = kspace * signs, maps.conj() if conjugate else maps
        if changes and misfit(*given) <= own / 2:
            raise FileError(
                f"{path}: kspace does not fit the maps, but {' and '.join(changes)}: "
                "k-space must be fftshift(fft2(ifftshift(maps * image)))"
            )


def problem_of_kspace(
    path: str | Path, kspace: Any, mask: NDArray[np.bool_], maps: Any, truth: Any
) -> Problem:
    """Check measured k-space, and scale it to images of magnitude 1."""
    size = mask.shape[-2:]
    if min(size) < SMALLEST:
        raise FileError(
            f"{path}: frames must have {SMALLEST} pixels a side or more, got {size}"
        )
    if truth is not None and not truth.any():
        raise FileError(f"{path}: truth is zero everywhere")
    points = kspace.reshape(-1, *size).any(axis=0)
    if points.any():  # lines of zeros, which scanners fill in, were not measured
        mask = mask & points.any(axis=0) & points.any(axis=1)[:, None]
    check_centred(mask, f"{path}: mask")
    _check_kspace(path, kspace, mask)
    estimated = False
    if kspace.ndim == 4 and maps is None:
        if kspace.shape[1] == 1:
            kspace = kspace[:, 0]
        else:
            maps, estimated = _estimated(path, kspace, mask), True
    energy = 1.0
    if maps is not None:
        energy = float(np.square(np.abs(maps), dtype=float).sum(axis=0).max())
    if energy == 0:
        raise FileError(f"{path}: maps are 0 everywhere")
    if not _LEAST_ENERGY <= energy <= _UNIT_ENERGY:
        raise FileError(
            f"{path}: the squared magnitudes of the maps must add up to 1, or to "
            f"0 where there is no signal, but are {energy:.3g} at most: divide them by "
            f"{energy**0.5:.3g}, or in each pixel by the root of that sum"
        )
    if maps is not None and not estimated:
        _check_maps(path, kspace, mask, maps)
    phase_known = not estimated
    A = MRI(mask, maps)
    kspace = A.project_to_samples(kspace)
    if truth is None:
        # Scaled first, because the transform could overflow single precision.
        unit = float(np.abs(kspace).max())
        unit = 1.0 if _TINY < unit < 1 / _TINY else unit or 1.0
        image = A.H(divided(kspace, unit))
        scale = unit * float(np.abs(image).max())
    else:
        _check_truth(path, kspace, A, truth, phase_known=phase_known)
        phase_known = phase_known and _has_phase(kspace, A, truth)
        scale = float(np.abs(truth).max())
    if scale == 0:  # where the maps are 0, too
        raise FileError(f"{path}: kspace is zero at all samples")
    return Problem(
        divided(kspace, scale),
        A,
        truth=None if truth is None else divided(truth, scale),
        scale=scale,
        phase_known=phase_known,
    )


def _has_phase(kspace: Any, A: MRI, truth: Any) -> bool:
    """Return whether a truth has the phase of the image, not only its magnitude.

    A real truth has it if its zero-filled image correlates with that of the data nearly
    as well as the magnitudes of both do.
    """
    if truth.imag.any():
        return True
    expected, found = (
        A.H(divided(x, float(np.abs(x).max()) or 1.0)) for x in (A(truth), kspace)
    )
    magnitudes = np.vdot(np.abs(expected), np.abs(found))
    return bool(np.vdot(expected, found).real >= _SAME_PHASE * magnitudes)


def _check_truth(
    path: str | Path, kspace: Any, A: MRI, truth: Any, *, phase_known: bool
) -> None:
    """Raise FileError if a truth has other units or axes than the k-space.

    The test is the factor of the truth that fits the data best, which is 1 whatever
    their noise; if the truth has no phase, that of magnitudes, which noise increases.
    """
    size = float(np.abs(truth).max())
    expected, found = A(divided(truth, size)), divided(kspace, size)
    bounds = _MULTIPLES
    if not (phase_known and np.iscomplexobj(truth) and truth.imag.any()):
        expected, found = abs(A.H(expected)), abs(A.H(found))
        bounds = _MULTIPLES_OF_MAGNITUDES
    energy = np.vdot(expected, expected).real
    multiple = float(np.vdot(expected, found).real / energy) if energy else 1.0
    if not bounds[0] < multiple < bounds[1]:
        raise FileError(
            f"{path}: kspace is that of truth times {multiple:.3g}: in the same units "
            'and phase, it must be fftshift(fft2(ifftshift(truth), norm="ortho")) over '
            "the last two axes, of the truth times the maps, if any"
        )


def _estimated(path: str | Path, kspace: Any, mask: NDArray[np.bool_]) -> Any:
    # The largest central square that all frames together sample.
    sampled: NDArray[np.bool_] = np.logical_or.reduce(mask, axis=0)
    height, width = sampled.shape
    calibration = min(_CALIBRATION, height, width)
    while calibration:
        if sampled[middle(height, calibration), middle(width, calibration)].all():
            break
        calibration -= 1
    if calibration < _LEAST_CALIBRATION:
        raise FileError(
            f"{path} has no maps, and they cannot be estimated: all frames "
            f"together sample the central {calibration} x {calibration} points of "
            f"k-space, but {_LEAST_CALIBRATION} x {_LEAST_CALIBRATION} are needed"
        )
    try:
        return estimate_maps(kspace, mask=mask, calibration=calibration)
    except ValueError as error:
        raise FileError(
            f"{path} has no maps, and they cannot be estimated from the "
            f"central {calibration} x {calibration} points of k-space: {error}"
        ) from error
