"""Real series of the beating heart: built-in ones, and files to train on.

The four built-in series are magnitude images of a pig's heart from the project
ep-dataset of the Wright Group, Sunnybrook Research Institute (animal 2011-12-01-GIP17,
github.com/WrightGroupSRI/ep-dataset, CC0 1.0): balanced SSFP at 1.5 T, gated, 20 frames
of one heart beat, pixels of 0.82 mm, slices of 5 mm. They are cropped to 96 x 96 pixels
around the heart. The files contain no phase.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.formats.checks import (
    FileError,
    fingerprint,
    listed,
    magnitudes_or_complex,
)
from svdinv.unroll.formats.series import read_arrays
from svdinv.unroll.tasks.cine import HEARTS

Series = NDArray[np.float32]

_LEAST = 16  # pixels a side
_FILE = "hearts.npz"


def heart_series(name: str) -> Series:
    """Load a real series of `HEARTS`: float32 (20, 96, 96), one heart beat, in [0, 1].

    Raises ValueError if there is no series of that name.
    """
    if name not in HEARTS:
        raise ValueError(f"no series {name!r}; there are {', '.join(HEARTS)}")
    content = (files("svdinv.unroll.tasks.cine") / _FILE).read_bytes()
    with np.load(io.BytesIO(content)) as archive:
        return _scaled(archive[name])


def read_hearts(places: Sequence[str]) -> dict[str, Series]:
    """Read real series to train on, float32 (T, H, W) in [0, 1], by name.

    Places are .npy files, .npz files whose arrays are all series, and folders of such
    files. A series is real or complex, with 16 or more pixels a side and 4 or more
    frames; its magnitude is used. Its name is that of the array or of the .npy file; if
    that occurs again, with the file's name or path in front. Raises ValueError if a
    file is missing or damaged, or an array is not a series.
    """
    found: dict[str, Series] = {}
    for file in _archives(places):
        for key, array in read_arrays(file).items():
            if array.dtype.kind not in "iufc":
                raise FileError(f"{file}: {key} is not a numeric array")
            fits = array.ndim == 3 and min(array.shape[1:]) >= _LEAST
            if not fits or len(array) < 4:
                raise FileError(
                    f"{file}: {key} must be (T, H, W) with at least 4 frames of "
                    f"{_LEAST} pixels a side, got {array.shape}"
                )
            magnitude = np.abs(magnitudes_or_complex(array, file, key))
            if not np.isfinite(magnitude).all() or not magnitude.any():
                raise FileError(f"{file}: {key} must be finite and not all 0")
            names = key, f"{file.stem}/{key}", f"{file}/{key}"
            name = next(name for name in names if name not in found)
            found[name] = _scaled(magnitude)
    return found


def cropped_series(
    series: Series, frames: int, size: int, rng: np.random.Generator
) -> Series:
    """Draw a random crop of a real series in space, time and scale, for training.

    Half of the crops keep the original pixels; the others are rotated and scaled by up
    to 1.6. They use every frame or every other one. Series that are too short or too
    small are mirrored at their ends and borders. The largest magnitude is 1, unless all
    are 0.
    """
    from scipy.ndimage import affine_transform, gaussian_filter

    T, *grid = series.shape
    index = int(rng.integers(T)) + int(rng.integers(1, 3)) * np.arange(frames)
    part = series[_mirrored(index, T)]
    # The heart is usually near the middle.
    centre = [(n - 1) / 2 + rng.normal() * n / 8 for n in grid]
    if rng.random() < 0.5:
        pixels = [
            _mirrored(round(c - size / 2) + np.arange(size), n)
            for c, n in zip(centre, grid, strict=True)
        ]
        part = part[:, pixels[0][:, None], pixels[1]]
    else:
        coarser = float(np.exp(rng.uniform(np.log(0.7), np.log(1.6))))
        angle = rng.uniform(0, 2 * np.pi)
        cos, sin = np.cos(angle), np.sin(angle)
        turn = coarser * np.array([[cos, -sin], [sin, cos]])
        corner = np.array(centre) - turn @ np.full(2, (size - 1) / 2)
        if coarser > 1:  # against aliasing on the coarser grid
            part = gaussian_filter(part, (0, 0.5 * coarser, 0.5 * coarser))
        part = np.stack(
            [
                affine_transform(frame, turn, corner, (size, size), mode="mirror")
                for frame in part
            ]
        )
    return _scaled(np.maximum(part, 0))


def smooth_phase(
    frames: int, size: int, rng: np.random.Generator
) -> NDArray[np.complex64]:
    """Draw a phase that is smooth in space and varies slightly in time.

    Returns complex64 (frames, size, size) of magnitude 1.
    """
    y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    waves = rng.normal(0, 1.2, 8)
    phase = waves[0] * x + waves[1] * y + waves[2] * x * y + waves[3] * (x**2 - y**2)
    phase = phase + waves[4] * np.sin(2 * x + waves[5]) * np.sin(2 * y + waves[6])
    turn = 0.15 * waves[7] * np.sin(2 * np.pi * (rng.random() + np.arange(frames) / 20))
    # It varies more around one place, as with flow or field inhomogeneity.
    place = np.exp(-4 * ((x - rng.uniform(-1, 1)) ** 2 + (y - rng.uniform(-1, 1)) ** 2))
    phase = phase + turn[:, None, None] * (0.5 + place)
    return np.exp(1j * phase).astype(np.complex64)


def _mirrored(index: NDArray[np.int_], n: int) -> NDArray[np.int_]:
    """Map indices to [0, n) by reflection at both ends."""
    index = index % (2 * n - 2)
    return np.where(index < n, index, 2 * n - 2 - index)


def _scaled(magnitude: NDArray[Any]) -> Series:
    largest = float(magnitude.max())
    return (magnitude / (largest or 1.0)).astype(np.float32)


def hearts_fingerprint(places: Sequence[str]) -> str:
    """Return the SHA-256 of names, order and content of the files of `read_hearts`."""
    return fingerprint(_archives(places))


def _archives(places: Sequence[str]) -> Iterator[Path]:
    def inside(folder: Path) -> list[Path]:
        return sorted(p for p in folder.iterdir() if p.suffix in (".npy", ".npz"))

    return listed(places, inside)
