"""Image series, or any complex arrays, in .npy, .npz, .mat and .h5 files."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdinv._missing import needing
from svdinv.unroll.formats.atomic import replacing
from svdinv.unroll.formats.checks import (
    FileError,
    check_bytes,
    is_numeric,
    load_matlab,
    magnitudes_or_complex,
    reading,
)
from svdinv.unroll.formats.hdf5 import is_hdf5, open_hdf5, writing_hdf5
from svdinv.unroll.formats.scans import Scan
from svdinv.unroll.formats.table import HDF5_SUFFIXES

Shapes = Mapping[str, tuple[int, ...]]
Choice = Callable[[Path, Shapes, list[str]], str]  # from path, shapes and names

_ARCHIVE = "an archive of NumPy arrays"

# Measured data, which would be sampled again as images, and what files need with them.
_MEASURED = {
    "kspace": "mask",
    "samples": "mask",
    "sinogram": "angles and geometry",
    "counts": "angles and geometry",
    "voltages": "currents and the mesh",
}
_NEVER_IMAGES = ("kspace", "sinogram")
_ALSO_KSPACE = ("ksp", "kdata", "rawdata")  # and names that begin with these
_GEOMETRIES = ("angles", "geometry", "currents")  # never stored with images


def read_series(
    path: str | Path, key: str | None = None, *, time_axis: int = -3, usual: str = ""
) -> NDArray[np.complex64]:
    """Read an image series from an array file.

    Parameters
    ----------
    path : str or Path
        ``.npy``, ``.npz``, ``.mat`` (any version; 7.3 is HDF5 and needs h5py, the
        others need SciPy) or ``.h5``, ``.hdf5``. Nothing is unpickled. In HDF5, numbers
        may be complex, real, or pairs with the fields r and i, re and im, or real and
        imag.
    key : str, optional
        Name of the array in the file; in HDF5 the path of the dataset. Optional if
        exactly one array is numeric and has two axes or more.
    time_axis : int
        Time axis of arrays with more than two axes, which is moved to axis -3; 2 for
        MATLAB's (H, W, T).
    usual : str
        Name of the array to read if there are several and `key` is not set.

    Returns
    -------
    ndarray of complex64, shape (..., T, H, W) or (H, W)
        The series, with the order of axes that NumPy, or MATLAB, displays.

    Raises
    ------
    ValueError
        If the file is missing, damaged, of another kind, or ambiguous; if the array
        is empty, has fewer than two axes, is not finite, or is real with
        values below -0.1 times the largest.
    ImportError
        If SciPy or h5py is needed and missing.
    """
    return _read(path, partial(_choose, key, usual), key, time_axis)


def _read(
    path: str | Path, choose: Choice, key: str | None, time_axis: int
) -> NDArray[np.complex64]:
    readers: dict[str, Callable[[Path, Choice], NDArray[Any]]]
    readers = {".npy": _read_npy, ".npz": _read_npz, ".mat": _read_mat}
    readers |= dict.fromkeys(HDF5_SUFFIXES, _read_hdf5)
    file = Path(path)
    if file.suffix.lower() not in readers:
        raise ValueError(f"{path} must end in one of {', '.join(readers)}")
    array = readers[file.suffix.lower()](file, choose)
    if array.ndim < 2 or not array.size:
        raise FileError(
            f"{path} must hold a nonempty array with two axes or more, got the shape "
            f"{array.shape}"
        )
    series = magnitudes_or_complex(array, path, key or "the array")
    if series.ndim == 2:
        return series
    if not -series.ndim <= time_axis < series.ndim:
        raise ValueError(f"time_axis {time_axis} does not exist: {series.ndim} axes")
    return np.ascontiguousarray(np.moveaxis(series, time_axis, -3))


def save_series(path: str | Path, series: ArrayLike, *, key: str = "series") -> None:
    """Write an array to a .npy, .npz, .h5 or .hdf5 file that `read_series` reads.

    `key` names the array in files with names. The file only appears once complete.
    Raises ValueError for another suffix or an array that is not numeric; ImportError if
    h5py is needed and missing.
    """
    array = np.asarray(series)
    suffix = Path(path).suffix.lower()
    if array.dtype.kind not in "biufc":
        raise ValueError(f"series must be numeric, got the dtype {array.dtype}")
    if suffix not in (".npy", ".npz", *HDF5_SUFFIXES):
        raise ValueError(f"{path} must end in .npy, .npz or .h5")
    if suffix in HDF5_SUFFIXES:
        with writing_hdf5(path) as hdf5:
            hdf5[key] = array
        return
    with replacing(path) as file:
        if suffix == ".npy":
            np.save(file, array, allow_pickle=False)
        else:
            named: dict[str, Any] = {key: array}
            np.savez(file, **named)


def read_scan(
    path: Path, *, key: str | None = None, time_axis: int | None = None
) -> Scan:
    """Read a series as `read_series` does, with time on axis -3 by default.

    Raises ValueError for measured data, unless `key` names another array beside them.
    """
    axis = -3 if time_axis is None else time_axis
    return Scan(_read(path, partial(_choose_images, key), key, axis))


def shapes_in(path: str | Path) -> Shapes:
    """Return the shapes of the arrays in an ``.npz`` file, none if it is damaged."""
    if not Path(path).is_file():  # a pipe might block forever
        return {}
    try:
        with reading(path, _ARCHIVE), zipfile.ZipFile(path) as archive:
            return {name: shape for name, (shape, _) in _npz_headers(archive).items()}
    except ValueError:
        return {}


def read_arrays(path: str | Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of an ``.npz`` file by name, or the one of an ``.npy`` file.

    The array of an ``.npy`` file has the name of the file. Nothing is unpickled.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        return {path.stem: _read_npy(path)}
    with reading(path, _ARCHIVE), zipfile.ZipFile(path) as archive:
        names = dict.fromkeys(n.removesuffix(".npy") for n in archive.namelist())
        return {name: _npz_array(path, archive, name) for name in names}


def _read_npy(path: Path, choose: Choice | None = None) -> NDArray[Any]:
    with reading(path, "an array in NumPy's format"):
        array = np.lib.format.open_memmap(path, mode="r")
        if not is_numeric(array.dtype):
            raise FileError(f"{path} must hold numbers, got the dtype {array.dtype}")
        return array


def _read_npz(path: Path, choose: Choice) -> NDArray[Any]:
    with reading(path, _ARCHIVE), zipfile.ZipFile(path) as archive:
        headers = _npz_headers(archive)
        shapes = {
            k: shape for k, (shape, dtype) in headers.items() if is_numeric(dtype)
        }
        name = choose(path, shapes, list(headers))
        return _npz_array(path, archive, name)


def _npz_array(path: Path, archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    shape, dtype = _npz_header(archive, name)
    if not is_numeric(dtype):
        raise FileError(f"{path}: {name} is not an array of numbers")
    check_bytes(path, name, dtype.itemsize, *shape)
    with archive.open(f"{name}.npy") as member:
        array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        return array


def _npz_headers(
    archive: zipfile.ZipFile,
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shapes and dtypes of all arrays in an archive, by name."""
    ends = [n for n in archive.namelist() if n.endswith(".npy")]
    names = [n.removesuffix(".npy") for n in dict.fromkeys(ends)]
    return {name: _npz_header(archive, name) for name in names}


def _npz_header(
    archive: zipfile.ZipFile, name: str
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array in an archive, from its header alone."""
    form = np.lib.format
    with archive.open(f"{name}.npy") as file:
        first = form.read_magic(file) == (1, 0)
        # Versions 2 and 3 differ only in the encoding of field names.
        read = form.read_array_header_1_0 if first else form.read_array_header_2_0
        shape, _, dtype = read(file)
        return shape, dtype


def _read_mat(path: Path, choose: Choice) -> NDArray[Any]:
    with needing("scipy", "mri"):
        import scipy.io
    with reading(path, "a MATLAB file"):
        if is_hdf5(path):
            return _read_hdf5(path, choose, reverse=True)
        numeric = ("double", "single", "logical", "int", "uint")
        listed = scipy.io.whosmat(path)
        shapes = {k: shape for k, shape, kind in listed if kind.startswith(numeric)}
        name = choose(path, shapes, [k for k, _, _ in listed])
        array = load_matlab(path, name)[name]
        if not isinstance(array, np.ndarray) or not is_numeric(array.dtype):
            raise FileError(f"{path}: {name} is not an array of numbers")
        return array


def _read_hdf5(path: Path, choose: Choice, *, reverse: bool = False) -> NDArray[Any]:
    """Read a dataset; `reverse` its axes, which MATLAB stores last first."""
    order = -1 if reverse else 1
    with open_hdf5(path, "an HDF5 file") as file:
        datasets = file.shapes()
        shapes = {n: x[::order] for n, x in datasets.items() if x is not None}
        name = choose(path, shapes, list(datasets))
        if name not in shapes:
            file.dataset(name)  # raises for a dataset in another file
            raise FileError(f"{path}: {name} is not an array of numbers")
        array: NDArray[Any] = file.read(name)
        return array.T if reverse else array


def _choose_images(
    key: str | None, path: Path, shapes: Shapes, names: list[str]
) -> str:
    """Return the name of the array to read; FileError if it may be measured data."""
    every = sorted(shapes, key=lambda name: _kind(name) in _GEOMETRIES)
    for name in every if key is None else [key.strip("/")]:
        kind, shape = _kind(name), shapes.get(name, ())
        if key is None and len(shape) > 1 and kind not in _MEASURED:
            bare = kind.replace("_", "").replace("-", "").replace(" ", "")
            if bare.startswith(_ALSO_KSPACE) or bare == "mask":
                raise FileError(
                    f"{path}: {name} has the name of measured data, not of images; "
                    "svdinv reads k-space as kspace, beside mask, from .h5 and .npz "
                    "files, or from .mat files of CMRxRecon, and images by key (--key)"
                )
        refused = _MEASURED if key is None else _NEVER_IMAGES
        if kind in refused and len(shape) > 1:
            raise FileError(
                f"{path}: {name} holds measured data, not images; svdinv reads {kind} "
                f"from .h5 and .npz files that also hold {_MEASURED[kind]}, and images "
                "by key (--key)"
            )
        if key is None and kind in _GEOMETRIES and math.prod(shape) > 1:
            raise FileError(
                f"{path} holds {name}, as measured data do; svdinv reads data named "
                f"{', '.join(_MEASURED)}, and images by key (--key)"
            )
    return _choose(key, "", path, shapes, names)


def _kind(name: str) -> str:
    return name.split("/")[-1].lower()


def _choose(
    key: str | None, usual: str, path: Path, shapes: Shapes, names: list[str]
) -> str:
    """Return the name of the array to read: `key`, the only one, or `usual`."""
    described = ", ".join(
        f"{k} {shapes[k]}" if k in shapes else k for k in sorted(names)
    )
    if key is not None:
        name = key.strip("/")
        if name not in names:
            raise FileError(f"{path} has no {key!r}; it has {described or 'nothing'}")
        return name
    candidates = [k for k, shape in shapes.items() if len(shape) >= 2]
    if len(candidates) != 1 and usual in candidates:
        return usual
    if len(candidates) != 1:
        if not candidates:
            rule = "has no array of numbers with two axes or more"
            raise FileError(f"{path} {rule}; it has {described or 'nothing'}")
        hint = f"none is called {usual}" if usual else "choose one by key (--key)"
        raise FileError(f"{path} has several arrays; {hint}: {described}")
    return candidates[0]
