"""Table of the file formats of series and k-space.

Readers and writers are imported on first use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdinv.unroll.plugins import load

if TYPE_CHECKING:
    from svdinv.unroll.formats.scans import Geometry, Scan

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
"""Suffixes of DICOM files, which may also have none."""

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
"""Suffixes of HDF5 files."""

SERIES_SUFFIXES = (".npy", ".npz", ".mat", *HDF5_SUFFIXES)
"""Suffixes of files that `read_series` reads."""

_HERE = "svdinv.unroll.formats"


@dataclass(frozen=True)
class Format:
    """A file format."""

    name: str
    suffixes: tuple[str, ...]  # of its files
    reader: str  # module:function of this package, from a path and options to a `Scan`
    options: tuple[str, ...]  # names of command-line options that the reader takes
    test: str = ""  # module:function that checks the content of an open HDF5 file

    def recognises(self, path: Path) -> bool:
        """Check by name and, if necessary, by content if a file has this format."""
        named = bool(ending(path, self.suffixes))
        if not (named and self.test):
            return named
        if self.suffixes == _MATLAB and not load(f"{_HERE}.hdf5:is_hdf5")(path):
            return False
        with load(f"{_HERE}.hdf5:open_hdf5")(path, "an HDF5 file") as file:
            return bool(load(f"{_HERE}.{self.test}")(file))

    def read(self, path: Path, **options: Any) -> Scan:
        """Read a file."""
        scan: Scan = load(f"{_HERE}.{self.reader}")(path, **options)
        return scan


def ending(path: Path, suffixes: tuple[str, ...]) -> str:
    """Return the suffix of a name, such as ``.nii.gz``; empty if there is none."""
    name = path.name.lower()
    return next((suffix for suffix in suffixes if name.endswith(suffix)), "")


_SLICE = ("slice",)

_RAW, _MATLAB = (*HDF5_SUFFIXES, ".mrd"), (".mat",)

# All formats; the first that recognises a file reads it. DICOM files may also have any
# other name, or be in a folder.
FORMATS: tuple[Format, ...] = (
    Format("DICOM", DICOM_SUFFIXES, "dicom:read_dicom", _SLICE),
    Format("NIfTI", (".nii", ".nii.gz"), "nifti:read_nifti", ("slice", "time_axis")),
    Format("BART", (".cfl",), "bart:read_bart", ("slice", "holds")),
    Format("ISMRMRD", _RAW, "ismrmrd:read_scan", _SLICE, "ismrmrd:acquisitions"),
    Format("fastMRI", _RAW, "fastmri:read_scan", _SLICE, "fastmri:holds_fastmri"),
    Format(
        "CMRxRecon", _MATLAB, "cmrxrecon:read_scan", _SLICE, "cmrxrecon:holds_cmrxrecon"
    ),
    Format("array", (".npy",), "series:read_scan", ("time_axis",)),
    Format("array", SERIES_SUFFIXES, "series:read_scan", ("key", "time_axis")),
)
"""File formats that are read, in order of precedence."""

SUFFIXES = tuple(dict.fromkeys(s for each in FORMATS for s in each.suffixes))
"""Suffixes of all formats."""

_WRITERS = {
    **dict.fromkeys((".npz", ".npy", ".h5", ".hdf5"), "series:save_series"),
    **dict.fromkeys((".nii", ".nii.gz"), "nifti:save_nifti"),
    ".cfl": "bart:save_cfl",
}

WRITTEN = tuple(_WRITERS)
"""Suffixes of files that `save` writes."""


def save(path: Path, series: Any, place: Geometry | None = None) -> None:
    """Write a series (T, H, W) in the format of a suffix of `WRITTEN`.

    NIfTI files contain magnitudes, because most viewers do not support complex numbers,
    and the geometry `place`.
    """
    name = _WRITERS[ending(path, WRITTEN)]
    write = load(f"{_HERE}.{name}")
    if name == "nifti:save_nifti":
        write(path, abs(series), place)
    else:
        write(path, series)


def format_of(path: str | Path) -> Format | None:
    """Find the format of a file or a folder: the first that recognises it, or None.

    Raises ValueError if an HDF5 file is missing or damaged, ImportError for HDF5 files
    if h5py is missing.
    """
    path = Path(path)
    found = next((each for each in FORMATS if each.recognises(path)), None)
    if found is None and load(f"{_HERE}.dicom:holds_dicom")(path):
        return FORMATS[0]
    return found
