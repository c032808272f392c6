"""K-space of CMRxRecon (Wang et al., Scientific Data 11:687, 2024), MATLAB 7.3."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from svdinv.unroll.formats.checks import to_complex
from svdinv.unroll.formats.hdf5 import Datasets, open_hdf5
from svdinv.unroll.formats.scans import Scan, chosen

_NAMES = ("kspace", "kus")  # kspace_full, kspace_single_sub04, kus_Uniform8, ...


def _name(file: Datasets) -> str:
    """Return the name of k-space that is the only array of three axes or more."""
    arrays = [name for name, shape in file.shapes().items() if shape and len(shape) > 2]
    return arrays[0] if len(arrays) == 1 and arrays[0].startswith(_NAMES) else ""


def _axes(name: str) -> int:
    return 4 if "single" in name else 5


def holds_cmrxrecon(file: Datasets) -> bool:
    """Return whether an open HDF5 file, written by MATLAB, is one of CMRxRecon."""
    name = _name(file)
    if not name:
        return False
    dataset = file.dataset(name)
    is_complex = dataset.dtype.kind == "c" or dataset.dtype.names is not None
    return is_complex and 3 <= dataset.ndim <= _axes(name)


def read_scan(path: Path, *, slice: int | None = None) -> Scan:
    """Read the frames of a slice, with all coils. Samples that are 0 are missing.

    The axes are (kx, ky, coil, slice, time) in MATLAB, without coil if "single" is in
    the name, and reversed in HDF5; kx is the readout. MATLAB leaves out trailing axes
    of length 1.
    """
    with open_hdf5(path, "a MATLAB file") as file:
        name = _name(file)
        dataset = file.dataset(name)
        missing = _axes(name) - dataset.ndim
        count = dataset.shape[1 - missing] if missing < 2 else 1
        number = chosen(path, slice, [""] * count)
        place = (np.s_[:, number], number, ...)[missing]
        kspace = to_complex(dataset[place], path, name)
    if missing:
        kspace = kspace[None]
    if _axes(name) == 4:
        kspace = kspace[:, None]
    return Scan(kspace, (kspace != 0).any(axis=1))
