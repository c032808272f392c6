"""Measured data in HDF5 files: one layout, written and read here alone.

The data of a task, what the forward operator is made of, and perhaps ``truth``, as
datasets; as attributes ``kind``, the task, and optionally ``name`` and ``setting``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv import __version__
from svdinv.unroll.data._files import (
    FileError,
    is_numeric,
    to_complex,
    writing_hdf5,
)
from svdinv.unroll.data.series import read_series

__all__ = ["Datasets", "as_mask", "read_mask", "text", "write_measurement"]

Value = str | int | float
Arrays = NDArray[Any]

_OWN = ("kind", "name", "setting", "svdinv")


def write_measurement(
    path: str | Path,
    arrays: Mapping[str, Arrays],
    *,
    kind: str,
    name: str,
    setting: str,
    options: Mapping[str, Value] | None = None,
) -> None:
    """Write measured data to an HDF5 file; it is complete or not there at all.

    The datasets, such as ``kspace``, ``mask`` and ``truth``, by name; the task as
    `kind`, what it is of, how it was measured, and as attributes how the data were
    made. Raises ValueError if an option has a name that is taken, ImportError without
    h5py.
    """
    given = dict(options or {})
    taken = [name for name in given if name in _OWN]
    if taken:
        raise ValueError(f"options must not be called {taken[0]!r}: that name is taken")
    own = (kind, name, setting, __version__)
    with writing_hdf5(path) as file:
        file.attrs.update(given | dict(zip(_OWN, own, strict=True)))
        for dataset, array in arrays.items():
            file.create_dataset(dataset, data=array, compression="gzip", shuffle=True)


def as_mask(values: Arrays, what: str) -> NDArray[np.bool_]:
    """Convert a sampling mask, of bool or of numbers that are 0 or 1, to bool.

    Raises ValueError, calling it `what`, if it holds other numbers, or samples nothing.
    """
    if not ((values == 0) | (values == 1)).all():
        raise FileError(f"{what} must hold 0 and 1, or true and false, alone")
    mask = values == 1
    if not mask.any():
        raise FileError(f"{what} samples nothing")
    return mask


def read_mask(
    path: str | Path, *, key: str | None = None, time_axis: int = -3
) -> NDArray[np.bool_]:
    """Read a sampling mask (..., H, W) from a file of an array of bool, or of 0 and 1.

    With `key` and `time_axis` as for `svdinv.unroll.data.read_series`; of several
    arrays the one called ``mask`` is taken. Raises ValueError if the file cannot be
    read, holds other numbers, or samples nothing.
    """
    array = read_series(path, key, time_axis=time_axis, usual="mask")
    return as_mask(array, f"{path}: the mask")


class Datasets:
    """The datasets of an open file of h5py, each checked before it is read.

    The path is its name in messages. What is missing, or not as it should be, raises
    ValueError.
    """

    def __init__(self, file: Any, path: str | Path) -> None:
        self.file, self.path = file, path

    def __contains__(self, name: str) -> bool:
        """Tell whether there is a dataset of that name, or a link to one."""
        return self.file.get(name, getlink=True) is not None

    def dataset(self, name: str) -> Any:
        """Give a dataset, unread, which must not lie in another file."""
        link = self.file.get(name, getlink=True) if name in self else None
        dataset: Any = None
        if type(link).__name__ != "ExternalLink":
            dataset = self.file.get(name)
            if dataset is None:
                raise self.error(name, "is missing")
        # A symbolic link may lead through another one into another file.
        if dataset is None or dataset.file.filename != self.file.file.filename:
            raise self.error(name, "lies in another file, which is not read")
        if not hasattr(dataset, "shape"):
            raise self.error(name, "must be an array of numbers")
        if dataset.external or dataset.is_virtual:
            raise self.error(name, "lies in another file, which is not read")
        return dataset

    def shape(self, name: str, said: str, axes: Sequence[int]) -> tuple[int, ...]:
        """Give the shape of a dataset of numbers, of so many axes."""
        dataset = self.dataset(name)
        if not is_numeric(dataset.dtype):
            raise self.error(name, "must be an array of numbers")
        shape = tuple(dataset.shape or ())
        if len(shape) not in axes or 0 in shape:
            raise self.error(name, f"must have the shape {said}, got {shape}")
        return shape

    def same(self, name: str, expected: tuple[int, ...], said: str) -> None:
        """Check that a dataset has a shape."""
        shape = self.shape(name, said, range(8))
        if shape != expected:
            raise self.error(
                name, f"must have the shape {said}, here {expected}, got {shape}"
            )

    def complex(self, name: str) -> Arrays:
        """Read complex numbers, or real ones as such: complex64."""
        return to_complex(self.file[name][()], self.path, name)

    def is_complex(self, name: str) -> bool:
        """Tell whether its numbers are complex, or pairs that stand for such."""
        dtype = self.file[name].dtype
        return dtype.kind == "c" or dtype.names is not None

    def real(self, name: str) -> Arrays:
        """Read real numbers, of floating point or whole, all finite: float32."""
        dataset = self.dataset(name)
        if dataset.dtype.kind not in "fiu":
            raise self.error(name, f"must be of real numbers, got {dataset.dtype}")
        with np.errstate(over="ignore"):
            array: Arrays = dataset[()].astype(np.float32)
        if not np.isfinite(array).all():
            raise self.error(
                name, "has numbers that are not finite in single precision"
            )
        return array

    def whole(self, name: str) -> Arrays:
        """Read whole numbers, of any type: int64."""
        numbers = self.real(name)
        if (numbers != np.round(numbers)).any():
            raise self.error(name, "must be of whole numbers")
        return numbers.astype(np.int64)

    def mask(self) -> NDArray[np.bool_]:
        """Read the dataset ``mask``."""
        return as_mask(self.file["mask"][()], f"{self.path}: mask")

    def error(self, name: str, what: str) -> ValueError:
        """Give an error that names the file and the dataset."""
        return FileError(f"{self.path}: {name} {what}")


def text(value: Any) -> str:
    """Read an attribute that may be a string of any kind."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""
