"""Geometry and pictures, read the same way by all tasks with sinograms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data import photograph, read_picture
from svdinv.unroll.data.pictures import PHOTOS

if TYPE_CHECKING:
    from svdinv.unroll.formats.hdf5 import Datasets

LEAST, MOST = 11, 4096
"""Fewest and most rows and columns of an image."""

_MANY = 8  # views that no scan takes within a few degrees


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
