"""Series in NIfTI files, as nibabel reads and writes them."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv._missing import needing
from svdinv.unroll.formats.atomic import replacing
from svdinv.unroll.formats.checks import (
    FileError,
    check_bytes,
    is_numeric,
    reading,
    to_complex,
)
from svdinv.unroll.formats.scans import Geometry, Scan, chosen

_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


def read_nifti(
    path: str | Path, *, slice: int | None = None, time_axis: int | None = None
) -> Scan:
    """Read a series of one slice from a NIfTI file, ``.nii`` or ``.nii.gz``.

    Its axes are (x, y, slice, time); `time_axis` is 2 where a file of three has (x, y,
    time). `slice` says which to take, of several. The scan has rows along y and columns
    along x, and its geometry; numbers are scaled as the header says. Raises ValueError
    if the file is missing, damaged, or has other axes, or if there are several slices
    and none is chosen; ImportError without nibabel.
    """
    nibabel = _nibabel()
    with reading(path, "a NIfTI file"):
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image):
            raise FileError(f"{path} is no NIfTI file of one part")
        shape = _shape(path, image, time_axis)
        number = chosen(path, slice, [""] * shape[2])
        axes = [np.s_[:], np.s_[:], number, np.s_[:], *[0] * 3]
        if shape != (*image.shape, 1, 1)[:4]:  # the third is time
            axes[2] = np.s_[:]
        values = np.asarray(image.dataobj[tuple(axes[: len(image.shape)])])
        array = to_complex(values.reshape(*shape[:2], shape[3]).T, path, "the array")
        affine = np.array(image.affine, dtype=np.float64)
        affine[:3, 3] += number * affine[:3, 2]
        unit = _SECONDS.get(image.header.get_xyzt_units()[1], 0.0)
        step = [*image.header.get_zooms(), 0.0, 0.0][3]
        geometry = Geometry(affine, unit * float(step) if shape[3] > 1 else 0.0)
    return Scan(np.ascontiguousarray(array), geometry=geometry)


def save_nifti(
    path: str | Path, series: NDArray[Any], geometry: Geometry | None = None
) -> None:
    """Write a series (T, H, W) to a NIfTI file, ``.nii`` or ``.nii.gz``.

    Numbers, real or complex, become (W, H, 1, T), as `read_nifti` reads them. Without a
    geometry the file says that the place of the pixels is not known. An existing file
    is replaced, and only by a complete one. Raises ValueError if the array has another
    number of axes, ImportError without nibabel, OSError if the file cannot be written.
    """
    nibabel, array = _nibabel(), np.asarray(series)
    if array.ndim != 3:
        raise ValueError(f"series must be (T, H, W), got the shape {array.shape}")
    affine = None if geometry is None else geometry.affine
    image = nibabel.Nifti1Image(array.T[:, :, None], affine)
    if geometry is not None:
        zooms = image.header.get_zooms()[:3]
        image.header.set_zooms((*zooms, geometry.seconds))
        image.header.set_xyzt_units("mm", "sec" if geometry.seconds else None)
    content = image.to_bytes()
    if Path(path).suffix.lower() == ".gz":
        content = gzip.compress(content, mtime=0)  # the same, whenever it is written
    with replacing(path) as stream:
        stream.write(content)


def _shape(path: str | Path, image: Any, time_axis: int | None) -> tuple[int, ...]:
    """Return the sizes along x, y, slices and time, after checking them."""
    said = tuple(map(int, image.shape))
    shape = (*said, 1, 1)[: max(4, len(said))]
    if time_axis not in (None, 2, 3) or (time_axis == 2 and shape[3] > 1):
        raise FileError(
            f"time_axis: must be 3, or 2 if {path} has (x, y, time), got {time_axis} "
            f"for {said}"
        )
    if len(said) < 2 or min(said) < 1 or math.prod(shape[4:]) > 1:
        raise FileError(
            f"{path} must have the axes (x, y, slice, time), got the shape {said}"
        )
    dtype = image.get_data_dtype()
    if not is_numeric(dtype):
        raise FileError(f"{path} must hold numbers, got the dtype {dtype}")
    check_bytes(path, "the array", dtype.itemsize, *said)
    packed = Path(path).suffix.lower() == ".gz"
    if not packed and math.prod(said) * dtype.itemsize > Path(path).stat().st_size:
        raise FileError(f"{path} is too small to hold an array of {said}")
    shape = shape[:4]
    return (*shape[:2], 1, shape[2]) if time_axis == 2 else shape


def _nibabel() -> Any:
    with needing("nibabel", "mri"):
        import nibabel
    return nibabel
