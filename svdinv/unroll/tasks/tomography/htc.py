"""Fan-beam sinograms of the Helsinki Tomography Challenge 2022.

Meaney, Silva de Moura & Siltanen, Helsinki Tomography Challenge 2022 open tomographic
dataset, Zenodo. The ``.mat`` files hold a struct with the sinogram and the geometry.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svdinv._missing import needing
from svdinv.unroll.formats.checks import (
    FileError,
    load_matlab,
    matlab_names,
    reading,
)

_STRUCTS = ("CtDataLimited", "CtDataFull")


@dataclass(frozen=True, eq=False)
class HTC:
    """A measurement of the challenge.

    The sinogram (views, detectors) holds line integrals of the attenuation; angles are
    in degrees; `source` and `distance` are the distances of the source from the centre
    of rotation and from the detector, in mm, as is the spacing of the detectors.
    """

    sinogram: NDArray[np.float32]
    angles: NDArray[np.float64]
    source: float
    distance: float
    spacing: float


def holds_htc(path: str | Path) -> bool:
    """Check by its variables whether a file is from the challenge."""
    return not matlab_names(path).isdisjoint(_STRUCTS)


def read_htc(path: str | Path) -> HTC:
    """Read a ``.mat`` file of the challenge.

    Raises ValueError if it is missing, damaged or in another format, ImportError
    without SciPy.
    """
    with (
        needing("scipy", "train"),
        reading(path, "a sinogram of the Helsinki challenge"),
    ):
        content = load_matlab(path, *_STRUCTS, simplify_cells=True)
        data = next(content[name] for name in _STRUCTS if name in content)
        parameters = data["parameters"]
        sinogram = np.asarray(data["sinogram"], np.float32)
        angles = np.atleast_1d(np.asarray(parameters["angles"], np.float64))
        numbers = [
            float(parameters[name])
            for name in (
                "distanceSourceOrigin",
                "distanceSourceDetector",
                "pixelSizePost",
            )
        ]
    if sinogram.ndim != 2 or angles.shape != sinogram.shape[:1]:
        raise FileError(
            f"{path}: the sinogram must have a row for each of {angles.size} angles, "
            f"got {sinogram.shape}"
        )
    if not np.isfinite(sinogram).all():
        raise FileError(f"{path}: the sinogram must be finite")
    return HTC(sinogram, angles, *numbers)
