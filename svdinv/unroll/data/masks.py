"""Sampling masks: which pixels of an image, or points of k-space, are measured.

In k-space the centre, frequency zero, is at ``(H // 2, W // 2)``.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.plugins import naming

GOLDEN_ANGLE = 180 / ((1 + math.sqrt(5)) / 2)
"""Angle in degrees between successive spokes that fill the half circle evenly."""

Mask = NDArray[np.bool_]
_Array = NDArray[np.floating]


def uniform_mask(
    shape: tuple[int, ...], rate: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw a mask that samples every entry independently with probability `rate`.

    The masks of the channels of a colour image are independent, as in Zhang & Hu
    (arXiv 2411.14141). Raises ValueError if `rate` is outside (0, 1).
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate must lie in (0, 1), got {rate}")
    return rng.random(shape, dtype=np.float32) < rate


def variable_density_mask(
    shape: tuple[int, ...],
    rate: float,
    rng: np.random.Generator,
    *,
    power: float = 6.0,
    calibration: int = 8,
) -> NDArray[np.bool_]:
    """Draw points of k-space with a density that decreases towards the border.

    The density is that of Lustig, Donoho & Pauly (MRM 58, 2007): a point at distance r
    from the centre, relative to that of the corner, is sampled with probability
    ``min(1, (1 - r)**power + offset)``, with the offset found by bisection to meet the
    rate. If an offset of zero already exceeds the rate, the density is scaled down. The
    points are drawn by systematic sampling in random order (Madow 1949), which keeps
    these probabilities and fixes the number of points.

    Each frame of the `shape` (H, W) or (T, H, W) is drawn independently with
    ``round(rate * H * W)`` points, including a square of `calibration` points a side
    around the centre. Raises ValueError if an argument is out of range, or the square
    alone exceeds the rate.
    """
    frames, height, width = _frames(shape)
    _check_rng(rng)
    if not 0 < rate <= 1:
        raise ValueError(f"rate must lie in (0, 1], got {rate}")
    _check_power(power)
    _check_calibration(calibration, min(height, width))
    radius = np.hypot(_offsets(height)[:, None], _offsets(width)) / math.sqrt(2)
    centre = np.zeros((height, width), dtype=bool)
    centre[middle(height, calibration), middle(width, calibration)] = True
    count = round(rate * height * width)
    if count < calibration**2:
        raise ValueError(
            f"rate {rate} samples {count} points of {height}x{width}, fewer than the "
            f"{calibration}x{calibration} of calibration"
        )
    probability = _probabilities(radius.ravel(), centre.ravel(), count, power)
    drawn = [_systematic(probability, count, rng) for _ in range(frames)]
    return np.reshape(drawn, shape)


def cartesian_mask(
    shape: tuple[int, ...],
    acceleration: float,
    rng: np.random.Generator,
    *,
    axis: int = -2,
    calibration: int = 4,
    power: float = 2.0,
) -> NDArray[np.bool_]:
    """Draw complete phase-encode lines, most of them near the centre of k-space.

    The density over the lines is that of `variable_density_mask` in one dimension. In
    each frame of the `shape` (H, W) or (T, H, W), ``round(N / acceleration)`` of N
    lines are drawn independently, including `calibration` lines around the centre. The
    lines are chosen along `axis`, -2 for H or -1 for W, and run along the other axis,
    the readout. Raises ValueError if an argument is out of range, or there are fewer
    lines than `calibration`.
    """
    frames, *grid = _frames(shape)
    _check_rng(rng)
    _check_power(power)
    lines = grid[_check_axis(axis)]
    _check_calibration(calibration, lines)
    count = _line_count(lines, acceleration)
    if count < calibration:
        raise ValueError(
            f"acceleration {acceleration} leaves {count} of {lines} lines, fewer than "
            f"the {calibration} of calibration"
        )
    centre = np.zeros(lines, dtype=bool)
    centre[middle(lines, calibration)] = True
    probability = _probabilities(np.abs(_offsets(lines)), centre, count, power)
    drawn = np.stack([_systematic(probability, count, rng) for _ in range(frames)])
    return _spread(drawn, axis, shape)


def radial_mask(
    shape: tuple[int, ...],
    spokes: int,
    *,
    angle: str | float = "golden",
    rng: np.random.Generator | None = None,
) -> NDArray[np.bool_]:
    """Make pseudo-radial lines through the centre, on the Cartesian grid.

    A spoke samples the nearest grid point in each column, or in each row if it is
    steep, from border to border, so that no gridding is needed. The spokes rotate from
    frame to frame; with the golden angle (Winkelmann et al., IEEE TMI 26, 2007) any
    sequence of frames covers k-space nearly evenly. Dynamic MRI is commonly simulated
    with 16 or 30 lines a frame.

    `angle` is the angle in degrees between successive spokes, also across frames;
    "golden" is `GOLDEN_ANGLE`, and "uniform" spaces the spokes of a frame evenly and
    rotates each frame by the golden angle. `rng` draws the angle of the first spoke,
    which is otherwise 0, along W. Raises ValueError if an argument is out of range.
    """
    frames, height, width = _frames(shape)
    _check_rng(rng, optional=True)
    if not is_integer(spokes) or spokes < 1:
        raise ValueError(f"spokes must be a positive integer, got {spokes!r}")
    degrees = _spoke_angles(frames, spokes, angle)
    if rng is not None:
        degrees = degrees + rng.uniform(0, 180)
    mask = np.zeros((frames, height, width), dtype=bool)
    radians = np.deg2rad(degrees)
    rise, run = np.sin(radians), np.cos(radians)
    frame = np.arange(frames)[:, None, None]
    flat = np.abs(rise) <= np.abs(run)
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.where(flat, rise / run, 0), np.where(flat, 0, run / rise)
    # By columns, steep spokes by rows; rint is an odd function, which keeps them
    # symmetric.
    turned = mask.swapaxes(1, 2)
    for part, own, slope in ((mask, flat, slopes[0]), (turned, ~flat, slopes[1])):
        across, along = part.shape[1:]
        steps = np.arange(along) - along // 2
        place = np.rint(slope[..., None] * steps).astype(int) + across // 2
        inside = own[..., None] & (place >= 0) & (place < across)
        where = np.broadcast_arrays(frame, place, np.arange(along))
        part[tuple(index[inside] for index in where)] = True
    return mask.reshape(shape)


def vista_like_mask(
    shape: tuple[int, int, int],
    acceleration: float,
    rng: np.random.Generator,
    *,
    axis: int = -2,
    power: float = 2.0,
    sweeps: int = 10,
) -> NDArray[np.bool_]:
    """Draw phase-encode lines that are well separated in k-space and time.

    Like VISTA (Ahmad et al., MRM 74, 2015), this minimises a Riesz energy of the
    samples in the k-t plane, but by another algorithm: from random lines, each line in
    turn moves, in at most `sweeps` sweeps, to the free line of its frame with the least
    energy ``sum(1 / distance**2)`` to the others. Distances in k are integrals of the
    density ``(1 - |k|)**power + 0.1`` between two lines, so that lines are closer near
    the centre, where the distance of adjacent lines equals that of adjacent frames.

    `shape` is (T, H, W); lines, `axis` and `acceleration` are as for `cartesian_mask`.
    No line is sampled in every frame, including the central one: adjacent frames share
    no line if each has at most half of the lines, and as few as possible otherwise.
    Raises ValueError if an argument is out of range.
    """
    frames, *grid = _frames(shape, series=True)
    _check_rng(rng)
    _check_power(power)
    if not is_integer(sweeps) or sweeps < 0:
        raise ValueError(f"sweeps must be a non-negative integer, got {sweeps!r}")
    lines = grid[_check_axis(axis)]
    count = _line_count(lines, acceleration)
    density = (1 - np.abs(_offsets(lines))) ** power + 0.1
    drawn = np.zeros((frames, lines), dtype=bool)
    for t in range(frames):
        before = drawn[t - 1] if t else np.zeros(lines, dtype=bool)
        drawn[t] = _draw_apart(density, count, before, rng)
    place = np.cumsum(density) / density.max()
    for _ in range(sweeps):
        if not _move_apart(drawn, place, rng):
            break
    return _spread(drawn, axis, shape)


def equispaced_mask(
    shape: tuple[int, int, int],
    acceleration: float,
    *,
    axis: int = -2,
    calibration: int = 0,
    rng: np.random.Generator | None = None,
) -> NDArray[np.bool_]:
    """Return equispaced phase-encode lines, shifted from frame to frame.

    Similar to UNFOLD (Madore, Glover & Pelc, MRM 42, 1999) and TSENSE (Kellman, Epstein
    & McVeigh, MRM 45, 2001), whose frames sample interleaved lines. Here each frame is
    shifted by the golden section of the line distance, so that any sequence of frames
    covers k-space nearly evenly.

    `shape` is (T, H, W), `axis` and `acceleration` are as for `cartesian_mask`.
    Distances differ by 1 if they cannot be equal; `calibration` lines around the centre
    are added. `rng` draws the position of the first frame's lines, which otherwise
    start at 0. Raises ValueError if an argument is out of range.
    """
    frames, *grid = _frames(shape, series=True)
    _check_rng(rng, optional=True)
    lines = grid[_check_axis(axis)]
    count = _line_count(lines, acceleration)
    _check_calibration(calibration, lines, least=0)
    first = 0.0 if rng is None else rng.random()
    shifts = (first + np.arange(frames) * (math.sqrt(5) - 1) / 2) % 1
    indices = (np.arange(count) + shifts[:, None]) * (lines / count)
    drawn = np.zeros((frames, lines), dtype=bool)
    drawn[np.arange(frames)[:, None], np.minimum(indices.astype(int), lines - 1)] = True
    drawn[:, middle(lines, calibration)] = True
    return _spread(drawn, axis, shape)


def read_mask(
    path: str | Path, *, key: str | None = None, time_axis: int = -3
) -> NDArray[np.bool_]:
    """Read a sampling mask (..., H, W) from an array file of booleans, or of 0 and 1.

    Or from a picture file, white where sampled and black elsewhere: (H, W) if it is
    grey; if it has colours, (3, H, W), no two channels of which may be equal. `key` and
    `time_axis` are as for `svdinv.unroll.formats.read_series`; by default, the array
    called ``mask`` is read if there are several. Raises ValueError if the file cannot
    be read, contains other numbers, or samples nothing.
    """
    from svdinv.unroll.data.pictures import SUFFIXES, read_picture
    from svdinv.unroll.formats.hdf5 import as_mask
    from svdinv.unroll.formats.series import read_series

    if Path(path).suffix.lower() in SUFFIXES:
        picture = np.moveaxis(read_picture(path, largest=None), -1, 0)
        grey = (picture == picture[:1]).all()
        # Paint of one colour leaves two channels equal.
        equal = (picture == np.roll(picture, 1, axis=0)).all(axis=(1, 2))
        if (equal.any() and not grey) or not ((picture == 0) | (picture == 1)).all():
            raise ValueError(
                f"{path}: the mask must be black and white alone, white where sampled; "
                "channels with samples of their own may be in an array file (3, H, W)"
            )
        return as_mask(picture[0] if grey else picture, f"{path}: the mask")
    array = read_series(path, key, time_axis=time_axis, usual="mask")
    return as_mask(array, f"{path}: the mask")


def mask_of_file(path: str, shape: tuple[int, ...], time_axis: int = -3) -> Mask:
    """Read a mask of a shape, or one (H, W) for all frames or channels.

    Raises ValueError, naming the option ``mask``, as `read_mask`, or for other shapes.
    """
    with naming("mask"):
        mask = read_mask(path, time_axis=time_axis)
        if mask.shape not in (shape, shape[-2:]):
            raise ValueError(
                f"the mask must have the shape {shape}, or {shape[-2:]} for one common "
                f"mask, got {mask.shape}"
            )
    return np.array(np.broadcast_to(mask, shape))


def _draw_apart(
    density: _Array, count: int, before: Mask, rng: np.random.Generator
) -> Mask:
    """Draw `count` lines, avoiding those of the previous frame if possible."""
    new = np.flatnonzero(~before)
    if len(new) <= count:  # all new lines, and some of the previous frame
        chosen, pool = ~before, np.flatnonzero(before)
    else:
        chosen, pool = np.zeros_like(before), new
    rest = count - np.count_nonzero(chosen)
    if rest:
        weights = density[pool] / density[pool].sum()
        chosen[rng.choice(pool, rest, replace=False, p=weights)] = True
    return chosen


def _move_apart(drawn: Mask, place: _Array, rng: np.random.Generator) -> bool:
    """Move each line, in place, to its energy minimum; return whether any moved."""
    frames = len(drawn)
    reach = 4  # frames farther apart hardly interact
    squared = (place[:, None] - place) ** 2
    kernels = [1 / np.maximum(squared + dt**2, 1e-3) for dt in range(reach + 1)]
    moved = False
    for t in rng.permutation(frames):
        near = range(max(0, t - reach), min(frames, t + reach + 1))
        energy = np.sum([kernels[abs(s - t)] @ drawn[s] for s in near], axis=0)
        occupied = drawn[t].copy()
        for s in (t - 1, t + 1):
            if 0 <= s < frames:
                occupied |= drawn[s]
        for line in rng.permutation(np.flatnonzero(drawn[t])):
            energy -= kernels[0][line]
            candidates = np.where(occupied, np.inf, energy)
            candidates[line] = energy[line]
            best = int(np.argmin(candidates))
            # The margin keeps rounding from moving a line between equal minima.
            if candidates[best] < energy[line] * (1 - 1e-9):
                drawn[t, line], drawn[t, best] = False, True
                occupied[best] = True
                occupied[line] = any(
                    drawn[s, line] for s in (t - 1, t + 1) if 0 <= s < frames
                )
                line, moved = best, True
            energy += kernels[0][line]
    return moved


def _probabilities(radius: _Array, centre: Mask, count: int, power: float) -> _Array:
    """Probabilities that decrease from 1 in the centre, and sum to `count`."""
    density = np.maximum(0, 1 - radius) ** power
    rest = count - int(np.count_nonzero(centre))
    outer = density[~centre]
    if outer.sum() < rest:
        scaled = _lift(outer, rest)
    else:
        scaled = outer * (rest / outer.sum()) if rest else 0 * outer
    probability = np.ones_like(density)
    probability[~centre] = scaled
    return probability


def _lift(density: _Array, total: int) -> _Array:
    """Add the offset to a density, clipped to 1, that makes it sum to `total`."""
    low, high = 0.0, 1.0
    for _ in range(50):
        offset = (low + high) / 2
        if np.minimum(1, density + offset).sum() < total:
            low = offset
        else:
            high = offset
    return np.minimum(1, density + high)


def _systematic(probability: _Array, count: int, rng: np.random.Generator) -> Mask:
    """Draw exactly `count` entries with given probabilities, in one pass."""
    drawn = probability >= 1
    order = rng.permutation(np.flatnonzero(~drawn))
    count -= int(np.count_nonzero(drawn))
    if count == 0:
        return drawn
    total = np.cumsum(probability[order])
    ticks = np.floor(total * (count / total[-1]) + rng.random())
    ticks[-1] = count
    drawn[order] = np.diff(ticks, prepend=0) > 0
    return drawn


def _spoke_angles(frames: int, spokes: int, angle: str | float) -> _Array:
    """Return angles in degrees, shape (frames, spokes)."""
    frame, spoke = np.arange(frames)[:, None], np.arange(spokes)
    if angle == "uniform":
        return frame * GOLDEN_ANGLE + spoke * (180 / spokes)
    if angle == "golden":
        angle = GOLDEN_ANGLE
    if isinstance(angle, bool | str) or not math.isfinite(angle):
        raise ValueError(
            f'angle must be "golden", "uniform" or finite degrees, got {angle!r}'
        )
    return (frame * spokes + spoke) * float(angle)


def _spread(lines: Mask, axis: int, shape: tuple[int, ...]) -> Mask:
    """Extend the lines of each frame (T, N) along the readout."""
    frames = lines[:, :, None] if axis == -2 else lines[:, None, :]
    full = np.broadcast_to(frames, (len(lines), *shape[-2:]))
    return full.reshape(shape).copy()


def _offsets(n: int) -> _Array:
    """Offsets from the centre of an axis, with magnitude 1 at the border."""
    return (np.arange(n) - n // 2) / max(n // 2, 1)


def middle(n: int, width: int) -> slice:
    """Return the slice of `width` samples around the centre n // 2 of an axis."""
    start = n // 2 - width // 2
    return slice(start, start + width)


def _line_count(lines: int, acceleration: float) -> int:
    if not 1 <= acceleration < math.inf:
        raise ValueError(f"acceleration must be at least 1, got {acceleration}")
    count = round(lines / acceleration)
    if count < 1:
        raise ValueError(f"acceleration {acceleration} leaves none of {lines} lines")
    return count


def _frames(shape: tuple[int, ...], series: bool = False) -> tuple[int, int, int]:
    if len(shape) not in (2, 3) or not all(is_integer(n) and n > 0 for n in shape):
        raise ValueError(
            f"shape must be (H, W) or (T, H, W) of positive integers, got {shape}"
        )
    if series and len(shape) != 3:
        raise ValueError(f"shape must be (T, H, W), got {shape}")
    height, width = shape[-2:]
    return (shape[0] if len(shape) == 3 else 1), height, width


def is_integer(value: object) -> bool:
    """Return whether a value is a Python or NumPy integer, but not a bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_rng(rng: object, optional: bool = False) -> None:
    if not (optional and rng is None) and not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {type(rng)}")


def _check_power(power: float) -> None:
    if not 0 <= power < math.inf:
        raise ValueError(f"power must be at least 0, got {power}")


def _check_calibration(calibration: int, largest: int, least: int = 1) -> None:
    if not is_integer(calibration) or not least <= calibration <= largest:
        raise ValueError(
            f"calibration must be an integer of {least} to {largest}, got "
            f"{calibration!r}"
        )


def _check_axis(axis: int) -> int:
    if axis not in (-2, -1):
        raise ValueError(f"axis must be -2 (lines chosen along H) or -1, got {axis!r}")
    return axis
