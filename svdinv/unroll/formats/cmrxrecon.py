"""K-space of CMRxRecon (Wang et al., Scientific Data 11:687, 2024), MATLAB 7.3."""

from __future__ import annotations

from pathlib import Path

from svdinv.unroll.formats.checks import FileError, is_numeric, to_complex
from svdinv.unroll.formats.hdf5 import Datasets, open_hdf5
from svdinv.unroll.formats.scans import Scan, chosen

_NAMES = ("kspace", "kus")  # kspace_full, kspace_single_sub04, kus_Uniform8, ...


def _name(file: Datasets) -> str:
    """Return the name of the only k-space; empty if there is none, or several."""
    named = [name for name in file if name.startswith(_NAMES)]
    return named[0] if len(named) == 1 else ""


def holds_cmrxrecon(file: Datasets) -> bool:
    """Return whether an open HDF5 file, written by MATLAB, has k-space of CMRxRecon."""
    name = _name(file)
    return bool(name) and file.dataset(name).ndim in (4, 5) and "mask" not in file


def read_scan(path: Path, *, slice: int | None = None) -> Scan:
    """Read the frames of a slice, with all coils. Samples that are 0 are missing.

    The axes are (kx, ky, coil, slice, time) in MATLAB, without coil in files of one
    coil, and reversed in HDF5; kx is the readout.
    """
    with open_hdf5(path, "a MATLAB file") as file:
        name = _name(file)
        dataset = file.dataset(name)
        if not is_numeric(dataset.dtype):
            raise FileError(f"{path}: {name} must be numbers, got {dataset.dtype}")
        number = chosen(path, slice, [""] * dataset.shape[1])
        kspace = to_complex(dataset[:, number], path, name)
    if kspace.ndim == 3:
        kspace = kspace[:, None]
    return Scan(kspace, (kspace != 0).any(axis=1))
