"""The file formats of series and of their k-space, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data._files import open_hdf5
from svdinv.unroll.data.bart import read_bart, save_cfl
from svdinv.unroll.data.dicom import DICOM_SUFFIXES, holds_dicom, read_dicom
from svdinv.unroll.data.fastmri import holds_fastmri, read_fastmri_slice
from svdinv.unroll.data.ismrmrd import ismrmrd_group, read_ismrmrd_slice
from svdinv.unroll.data.nifti import read_nifti, save_nifti
from svdinv.unroll.data.scans import Geometry, Scan
from svdinv.unroll.data.series import (
    HDF5_SUFFIXES,
    SERIES_SUFFIXES,
    read_series,
    save_series,
)

__all__ = ["FORMATS", "SUFFIXES", "WRITERS", "Format", "ending", "format_of"]


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes
    ----------
    name : str
        What it is called.
    suffixes : tuple of str
        How names of its files end.
    read : callable
        From a path, and the options of `takes`, to a `Scan`. What is not said is None.
    takes : tuple of str
        Options of `read`, by the names that they have on the command line.
    holds : callable or None
        Tells by the content whether a path is of this format; None: the suffix does.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[..., Scan]
    takes: tuple[str, ...]
    holds: Callable[[Path], bool] | None = None

    def recognises(self, path: Path) -> bool:
        """Tell whether a path is of this format."""
        if self.holds is not None:
            return self.holds(path)
        return bool(ending(path, self.suffixes))


def ending(path: Path, suffixes: tuple[str, ...]) -> str:
    """Give the suffix that a name ends with, such as ``.nii.gz``; or nothing."""
    name = path.name.lower()
    return next((suffix for suffix in suffixes if name.endswith(suffix)), "")


def _holds_fastmri(path: Path) -> bool:
    if not ending(path, HDF5_SUFFIXES):
        return False
    with open_hdf5(path, "an HDF5 file") as file:
        return holds_fastmri(file)


def _holds_ismrmrd(path: Path) -> bool:
    if not ending(path, (*HDF5_SUFFIXES, ".mrd")):
        return False
    with open_hdf5(path, "an HDF5 file") as file:
        return ismrmrd_group(file) is not None


def _read_array(
    path: Path, *, key: str | None = None, time_axis: int | None = None
) -> Scan:
    axis = -3 if time_axis is None else time_axis
    return Scan(read_series(path, key, time_axis=axis))


# A format is a line here, and nothing elsewhere.  The first that recognises a file
# reads it.
FORMATS: tuple[Format, ...] = (
    Format("DICOM", DICOM_SUFFIXES, read_dicom, ("slice",), holds_dicom),
    Format("NIfTI", (".nii", ".nii.gz"), read_nifti, ("slice", "time_axis")),
    Format("BART", (".cfl",), read_bart, ("slice", "holds")),
    Format("ISMRMRD", (".h5", ".mrd"), read_ismrmrd_slice, ("slice",), _holds_ismrmrd),
    Format("fastMRI", (".h5",), read_fastmri_slice, ("slice",), _holds_fastmri),
    Format("array", SERIES_SUFFIXES, _read_array, ("key", "time_axis")),
)
"""What is read."""

SUFFIXES = tuple(dict.fromkeys(s for each in FORMATS for s in each.suffixes))
"""How the names of all these files end."""

Writer = Callable[[Path, NDArray[Any], Geometry | None], None]

WRITERS: Mapping[str, Writer] = {
    **dict.fromkeys(
        (".npz", ".npy", ".h5", ".hdf5"), lambda path, x, _: save_series(path, x)
    ),
    # Programs that show NIfTI files know no complex numbers.
    **dict.fromkeys(
        (".nii", ".nii.gz"), lambda path, x, place: save_nifti(path, np.abs(x), place)
    ),
    ".cfl": lambda path, x, _: save_cfl(path, x),
}
"""What writes a series (T, H, W), by the suffix of the file."""


def format_of(path: str | Path) -> Format | None:
    """Find the format of a file, or of a folder of files.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    Format or None
        The first that recognises it.

    Raises
    ------
    ValueError
        If it is an HDF5 file that is missing or damaged.
    ImportError
        If it is one, and h5py is missing.
    """
    return next((each for each in FORMATS if each.recognises(Path(path))), None)
