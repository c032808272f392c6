"""Series or measured k-space from files, and the geometry of their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.formats.checks import FileError

_LISTED = 8  # slices in a message


@dataclass(frozen=True, eq=False)
class Geometry:
    """The position of the pixels of a series, and the duration of a frame.

    Attributes
    ----------
    affine : ndarray of float64, shape (4, 4)
        Map from (column, row, 0, 1) to millimetres to the right, the front and the head
        (RAS), as in NIfTI.
    seconds : float
        Time between frames; 0 if unknown.

    Raises
    ------
    ValueError
        If the affine is not finite, pixels have no area, or the time is negative or not
        finite.
    """

    affine: NDArray[np.float64]
    seconds: float = 0.0

    def __post_init__(self) -> None:
        affine = np.asarray(self.affine)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError("the affine must be 4 x 4 numbers, all finite")
        # The spacing of slices may be 0, because there is only one.
        if not np.cross(affine[:3, 0], affine[:3, 1]).any():
            raise ValueError("pixels of the affine must have an area")
        if not 0 <= self.seconds < np.inf:
            raise ValueError(
                f"the seconds of a frame must be finite and not negative, got "
                f"{self.seconds}"
            )

    def __str__(self) -> str:
        width, height, _ = np.linalg.norm(self.affine[:3, :3], axis=0)
        corner = ", ".join(f"{round(x, 1) + 0.0:.1f}" for x in self.affine[:3, 3])
        time = f", {1000 * self.seconds:.4g} ms a frame" if self.seconds else ""
        return f"pixels {height:.4g} x {width:.4g} mm, the first at ({corner}){time}"


@dataclass(frozen=True, eq=False)
class Scan:
    """The data of one slice.

    `array` is a series, complex64 (..., T, H, W), without mask; or k-space (T, C, H, W)
    with its centre at (H // 2, W // 2), 0 outside `mask` (T, H, W). `geometry` is that
    in the file, if any; `phase_axis` is the axis of phase encoding.
    """

    array: NDArray[Any]
    mask: NDArray[np.bool_] | None = None
    geometry: Geometry | None = None
    phase_axis: int = -2


class SeveralSlices(FileError):
    """Error for a file with several slices, described in order, if none is selected."""

    def __init__(self, path: str | Path, slices: Sequence[str]) -> None:
        self.slices = tuple(slices)
        listed = [f"{i}: {text}" for i, text in enumerate(slices[:_LISTED]) if text]
        more = ["..."] if listed and len(slices) > _LISTED else []
        listing = f" ({'; '.join(listed + more)})" if listed else ""
        super().__init__(
            f"{path} holds {len(slices)} slices; choose one by slice, 0 to "
            f"{len(slices) - 1}{listing}"
        )


def chosen(path: str | Path, number: int | None, slices: Sequence[str]) -> int:
    """Return the index of the slice to read: the selected or the only one."""
    if number is None and len(slices) > 1:
        raise SeveralSlices(path, slices)
    if not 0 <= (number or 0) < len(slices):
        raise FileError(
            f"slice: must lie in [0, {len(slices) - 1}] for {path}, got {number}"
        )
    return number or 0
