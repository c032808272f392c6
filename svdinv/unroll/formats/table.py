"""The file formats of series and of their k-space, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.formats.bart import read_bart, save_cfl
from svdinv.unroll.formats.dicom import DICOM_SUFFIXES, holds_dicom, read_dicom
from svdinv.unroll.formats.fastmri import holds_fastmri, read_fastmri
from svdinv.unroll.formats.hdf5 import Datasets, open_hdf5
from svdinv.unroll.formats.ismrmrd import cropped_readout, of_images, read_ismrmrd
from svdinv.unroll.formats.nifti import read_nifti, save_nifti
from svdinv.unroll.formats.scans import Geometry, Scan, chosen
from svdinv.unroll.formats.series import (
    HDF5_SUFFIXES,
    SERIES_SUFFIXES,
    read_series,
    save_series,
)

__all__ = ["FORMATS", "SUFFIXES", "WRITERS", "Format", "ending", "format_of"]


@dataclass(frozen=True)
class Format:
    """A file format.

    `read` takes a path, and the options in `takes` by the names that they have on the
    command line, where what is not said is None. Where there is no `holds`, which tells
    by the content whether a path is of this format, the suffix does.
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


def _in_hdf5(test: Callable[[Datasets], Any]) -> Callable[[Path], bool]:
    """Make a test of open HDF5 files one of paths."""

    def holds(path: Path) -> bool:
        if not ending(path, (*HDF5_SUFFIXES, ".mrd")):
            return False
        with open_hdf5(path, "an HDF5 file") as file:
            return bool(test(file))

    return holds


def _acquisitions(file: Datasets) -> str:
    """Name the group of ISMRMRD's acquisitions, or none."""
    found = (name for name, held in file.groups() if {"xml", "data"} <= held)
    return next(found, "")


def _read_ismrmrd(path: Path, *, slice: int | None = None) -> Scan:
    with open_hdf5(path, "an ISMRMRD file") as file:
        group = _acquisitions(file)
        dataset = file.dataset(f"{group}/data")
        fields = dataset.dtype.names or ()
        head = dataset["head"] if "head" in fields else None
    select = None
    if head is not None:  # else what reads all of it complains
        slices = np.unique(head["idx"]["slice"][of_images(head)])
        number = chosen(path, slice, [""] * max(1, len(slices)))
        select = {"slice": int(slices[number])} if len(slices) else None
    found = read_ismrmrd(path, group=group, select=select)
    return Scan(found.kspace, found.mask)


def _read_fastmri(path: Path, *, slice: int | None = None) -> Scan:
    """Read a slice as a series of one frame, without the oversampled readout."""
    with open_hdf5(path, "an HDF5 file of fastMRI") as file:
        count, *_ = file.shape("kspace", "(slices, C, H, W)", (3, 4))
    number = chosen(path, slice, [""] * count)
    volume = read_fastmri(path, slices=np.s_[number : number + 1])
    kspace, mask = volume.kspace, (volume.kspace != 0).any(axis=1)
    if volume.mask is not None:
        mask = np.array(np.broadcast_to(volume.mask, mask.shape))
    if not volume.header:
        return Scan(kspace, mask)
    turned = kspace.swapaxes(-1, -2), mask.swapaxes(-1, -2)  # the readout last
    kspace, mask = cropped_readout(*turned, volume.header, path)
    return Scan(
        np.ascontiguousarray(kspace.swapaxes(-1, -2)),
        np.ascontiguousarray(mask.swapaxes(-1, -2)),
    )


def _read_array(
    path: Path, *, key: str | None = None, time_axis: int | None = None
) -> Scan:
    axis = -3 if time_axis is None else time_axis
    return Scan(read_series(path, key, time_axis=axis))


_SLICE = ("slice",)

# A format is a line here, and nothing elsewhere.  The first that recognises a file
# reads it.
FORMATS: tuple[Format, ...] = (
    Format("DICOM", DICOM_SUFFIXES, read_dicom, _SLICE, holds_dicom),
    Format("NIfTI", (".nii", ".nii.gz"), read_nifti, ("slice", "time_axis")),
    Format("BART", (".cfl",), read_bart, ("slice", "holds")),
    Format("ISMRMRD", (".h5", ".mrd"), _read_ismrmrd, _SLICE, _in_hdf5(_acquisitions)),
    Format("fastMRI", (".h5",), _read_fastmri, _SLICE, _in_hdf5(holds_fastmri)),
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
    """Find the format of a file, or of a folder of files: the first that recognises it.

    Raises ValueError if it is an HDF5 file that is missing or damaged, ImportError if
    it is one, and h5py is missing.
    """
    return next((each for each in FORMATS if each.recognises(Path(path))), None)
