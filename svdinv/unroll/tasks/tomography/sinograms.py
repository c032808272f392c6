"""Geometry and pictures, read and simulated alike by all tasks with sinograms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data import photograph, read_picture
from svdinv.unroll.data.pictures import PHOTOS
from svdinv.unroll.tasks.task import InputImage, Options, Task, option

if TYPE_CHECKING:
    from svdinv.unroll.formats.hdf5 import Datasets

LEAST, MOST = 11, 4096
"""Fewest and most rows and columns of an image."""

_MANY = 8  # views that no scan takes within a few degrees


@dataclass(frozen=True, kw_only=True)
class FinerOptions(Options):
    """Options for simulating an object that is finer than its image."""

    finer: int = option(
        1,
        "pixels and detectors that are simulated for each one, along each axis; a "
        "picture has so many times fewer",
        low=1,
        high=8,
    )


@dataclass(frozen=True, kw_only=True)
class FinerTask(Task):
    """A task whose training may have objects that are finer than their images."""

    finer: tuple[int, ...] = option(
        (1,),
        "pixels and detectors that are simulated for each one, along each axis: each "
        "item draws one",
        low=1,
        high=8,
        some=True,
    )

    def drawn_finer(self, *key: int) -> int:
        """Draw the number of simulated pixels per pixel and axis, for an item."""
        return int(np.random.default_rng([*key, 1]).choice(self.finer))


def phantom_size(options: Any, default: int) -> int:
    """Return the rows of a phantom whose image has ``options.size`` or the default.

    Raises ValueError if they are more than the largest size of an image.
    """
    size = options.size or default
    if size * options.finer > MOST:
        raise ValueError(
            f"finer x size must be at most {MOST}, got {options.finer} x {size}"
        )
    return int(size * options.finer)


def coarser(given: InputImage, n: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the part of an image with whole blocks of n x n pixels, and their means.

    Shapes (..., n H, n W) and (frames, H, W). Raises ValueError if H or W is below the
    least size of an image.
    """
    rows, columns = (size // n for size in given.image.shape[-2:])
    if min(rows, columns) < LEAST:
        left = f"{rows} x {columns}" + (f" with finer {n}" if n > 1 else "")
        raise ValueError(f"{given.name} must have {LEAST} pixels a side, has {left}")
    fine = given.image[..., : n * rows, : n * columns]
    return fine, fine.reshape(-1, rows, n, columns, n).mean((-3, -1))


def read_geometry(
    file: Datasets, kind: Any, views: int
) -> tuple[Any, NDArray[np.float64]]:
    """Read ``geometry``, which starts with rows and columns, and ``angles``."""
    count = len(kind._fields)
    file.same("angles", (views,), "of one angle for each view")
    file.same("geometry", (count,), f"of {count} numbers")
    numbers = file.real("geometry").astype(np.float64).tolist()
    rows, columns = map(int, numbers[:2])
    if [rows, columns] != numbers[:2]:
        rule = f"must begin with integer rows and columns, got {numbers[:2]}"
        raise file.error("geometry", rule)
    if min(rows, columns) < LEAST or max(rows, columns) > MOST:
        rule = f"must have {LEAST} to {MOST} pixels a side, got {rows}x{columns}"
        raise file.error("geometry", rule)
    angles = file.real("angles").astype(np.float64)
    arc = float(np.ptp(angles))
    if views >= _MANY and arc <= 2 * math.pi:
        rule = f"must be in degrees, got {views} within {arc:.3g}, as in radians"
        raise file.error("angles", rule)
    return kind(rows, columns, *numbers[2:]), angles


def grey_picture(name: str, largest: int | None = None) -> NDArray[np.float32]:
    """Return a built-in photograph or a picture file in grey, (H, W)."""
    image = photograph(name) if name in PHOTOS else read_picture(name, largest=largest)
    return np.ascontiguousarray(image.mean(axis=-1, dtype=np.float32))
