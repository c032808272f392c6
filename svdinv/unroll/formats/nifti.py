"""Series in NIfTI files, read and written with nibabel."""

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
    magnitudes_or_complex,
    reading,
)
from svdinv.unroll.formats.scans import Geometry, Scan, chosen

_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_MILLIMETRES = {"meter": 1e3, "micron": 1e-3}  # others count as mm

# Nearest dtypes that NIfTI has.
_STORED: dict[Any, Any] = {
    np.bool_: np.uint8,
    np.float16: np.float32,
    np.longdouble: np.float64,
    np.clongdouble: np.complex128,
}


def read_nifti(
    path: str | Path, *, slice: int | None = None, time_axis: int | None = None
) -> Scan:
    """Read a series of one slice from a NIfTI file, ``.nii`` or ``.nii.gz``.

    The axes are (x, y, slice, time); set `time_axis` to 2 for files with (x, y, time).
    `slice` selects one of several slices. The scan has rows along y, columns along x
    and a geometry, or None if the header marks the position of the pixels as unknown;
    numbers are scaled as in the header. Raises ValueError if the file is missing,
    damaged, or has other axes, or if there are several slices and none is selected;
    ImportError without nibabel.
    """
    nibabel = _nibabel()
    with reading(path, "a NIfTI file"):
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image):
            raise FileError(f"{path} is not a single-file NIfTI image")
        shape = _shape(path, image, time_axis)
        number = chosen(path, slice, [""] * shape[2])
        axes = [np.s_[:], np.s_[:], number, np.s_[:], *[0] * 3]
        if shape != (*image.shape, 1, 1)[:4]:  # the third axis is time
            axes[2] = np.s_[:]
        values = np.asarray(image.dataobj[tuple(axes[: len(image.shape)])])
        images = values.reshape(*shape[:2], shape[3]).T
        array = magnitudes_or_complex(images, path)
        affine = np.array(image.affine, dtype=np.float64)
        affine[:3, 3] += number * affine[:3, 2]
        length, duration = image.header.get_xyzt_units()
        affine[:3] *= _MILLIMETRES.get(length, 1.0)
        unit = _SECONDS.get(duration, 0.0)
        step = [*image.header.get_zooms(), 0.0, 0.0][3]
        geometry = None
        if image.header["sform_code"] or image.header["qform_code"]:
            geometry = Geometry(affine, unit * float(step) if shape[3] > 1 else 0.0)
    return Scan(np.ascontiguousarray(array), geometry=geometry)


def save_nifti(
    path: str | Path, series: NDArray[Any], geometry: Geometry | None = None
) -> None:
    """Write a series (T, H, W) to a NIfTI file, ``.nii`` or ``.nii.gz``.

    The real or complex array is written as (W, H, 1, T), which `read_nifti` reads, in
    its own dtype if NIfTI has it. Without a geometry, the file marks the position of
    the pixels as unknown. An existing file is replaced only once the new one is
    complete. Raises ValueError if the array has another number of axes or no numbers,
    ImportError without nibabel, OSError if the file cannot be written.
    """
    nibabel, array = _nibabel(), np.asarray(series)
    if array.ndim != 3:
        raise ValueError(f"series must be (T, H, W), got the shape {array.shape}")
    if not is_numeric(array.dtype):
        raise ValueError(f"series must hold numbers, got the dtype {array.dtype}")
    affine = None if geometry is None else geometry.affine
    dtype = np.dtype(_STORED.get(array.dtype.type, array.dtype))
    array = array.astype(dtype, copy=False)
    image = nibabel.Nifti1Image(array.T[:, :, None], affine, dtype=dtype)
    if geometry is not None:
        zooms = image.header.get_zooms()[:3]
        image.header.set_zooms((*zooms, geometry.seconds))
        image.header.set_xyzt_units("mm", "sec" if geometry.seconds else None)
    content = image.to_bytes()
    if Path(path).suffix.lower() == ".gz":
        content = gzip.compress(content, mtime=0)  # reproducible
    with replacing(path) as stream:
        stream.write(content)


def _shape(path: str | Path, image: Any, time_axis: int | None) -> tuple[int, ...]:
    """Check the sizes along x, y, slices and time, and return them."""
    stored = tuple(map(int, image.shape))
    shape = (*stored, 1, 1)[: max(4, len(stored))]
    if time_axis not in (None, 2, 3) or (time_axis == 2 and shape[3] > 1):
        raise FileError(
            f"time_axis: must be 3, or 2 if {path} has (x, y, time), got {time_axis} "
            f"for {stored}"
        )
    if len(stored) < 2 or min(stored) < 1 or math.prod(shape[4:]) > 1:
        raise FileError(
            f"{path} must have the axes (x, y, slice, time), got the shape {stored}"
        )
    dtype = image.get_data_dtype()
    if not is_numeric(dtype):
        raise FileError(f"{path} must hold numbers, got the dtype {dtype}")
    check_bytes(path, "the array", dtype.itemsize, *stored)
    packed = Path(path).suffix.lower() == ".gz"
    if not packed and math.prod(stored) * dtype.itemsize > Path(path).stat().st_size:
        raise FileError(f"{path} is too small to hold an array of shape {stored}")
    shape = shape[:4]
    return (*shape[:2], 1, shape[2]) if time_axis == 2 else shape


def _nibabel() -> Any:
    with needing("nibabel", "mri"):
        import nibabel
    return nibabel
