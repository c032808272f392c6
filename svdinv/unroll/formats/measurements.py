"""Measured data in HDF5 files: one layout, written and read here alone.

The data of a task, what the forward operator is made of, and perhaps ``truth``, as
datasets; as attributes ``kind``, the task, and optionally ``name`` and ``setting``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv import __version__
from svdinv.unroll.formats.hdf5 import as_mask, writing_hdf5
from svdinv.unroll.formats.series import read_series

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


def broadcast_mask(mask: Any, shape: tuple[int, ...]) -> Any:
    """Repeat a mask (H, W) for all frames or channels; ValueError for other shapes."""
    if mask.shape not in (shape, shape[-2:]):
        raise ValueError(
            f"the mask must have the shape {shape}, or {shape[-2:]} for all alike, got "
            f"{mask.shape}"
        )
    return np.array(np.broadcast_to(mask, shape))


def text(value: Any) -> str:
    """Read an attribute that may be a string of any kind."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""
