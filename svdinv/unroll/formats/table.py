"""The file formats of series and of their k-space, in one table.

A reader or writer is imported when it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdinv.unroll.plugins import load

if TYPE_CHECKING:
    from svdinv.unroll.formats.scans import Geometry, Scan

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
"""How the names of DICOM files end, if with anything."""

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
"""How the names of HDF5 files end."""

SERIES_SUFFIXES = (".npy", ".npz", ".mat", *HDF5_SUFFIXES)
"""How the names of the files end that `read_series` reads."""

_HERE = "svdinv.unroll.formats"


@dataclass(frozen=True)
class Format:
    """A file format."""

    name: str
    suffixes: tuple[str, ...]  # how the names of its files end
    reader: str  # module:function of this package, from a path and options to a `Scan`
    options: tuple[str, ...]  # of the reader, by their names on the command line
    test: str = ""  # module:function, which looks into a file with such a suffix

    def recognises(self, path: Path) -> bool:
        """Check whether a file is of this format: by its name and, if need be, more."""
        named = bool(ending(path, self.suffixes))
        return named and bool(not self.test or load(f"{_HERE}.{self.test}")(path))

    def read(self, path: Path, **options: Any) -> Scan:
        """Read a file."""
        scan: Scan = load(f"{_HERE}.{self.reader}")(path, **options)
        return scan


def ending(path: Path, suffixes: tuple[str, ...]) -> str:
    """Return the suffix that a name ends with, such as ``.nii.gz``; or nothing."""
    name = path.name.lower()
    return next((suffix for suffix in suffixes if name.endswith(suffix)), "")


_SLICE = ("slice",)

_RAW = (*HDF5_SUFFIXES, ".mrd")

# A format is a line here, and nothing elsewhere.  The first that recognises a file
# reads it; DICOM is in files of any name, and in folders.
FORMATS: tuple[Format, ...] = (
    Format("DICOM", DICOM_SUFFIXES, "dicom:read_dicom", _SLICE),
    Format("NIfTI", (".nii", ".nii.gz"), "nifti:read_nifti", ("slice", "time_axis")),
    Format("BART", (".cfl",), "bart:read_bart", ("slice", "holds")),
    Format("ISMRMRD", _RAW, "ismrmrd:read_scan", _SLICE, "ismrmrd:holds_ismrmrd"),
    Format("fastMRI", _RAW, "fastmri:read_scan", _SLICE, "fastmri:path_holds_fastmri"),
    Format("array", SERIES_SUFFIXES, "series:read_scan", ("key", "time_axis")),
)
"""What is read."""

SUFFIXES = tuple(dict.fromkeys(s for each in FORMATS for s in each.suffixes))
"""How the names of all these files end."""

_WRITERS = {
    **dict.fromkeys((".npz", ".npy", ".h5", ".hdf5"), "series:save_series"),
    **dict.fromkeys((".nii", ".nii.gz"), "nifti:save_nifti"),
    ".cfl": "bart:save_cfl",
}

WRITTEN = tuple(_WRITERS)
"""How the names of the files end that `save` writes."""


def save(path: Path, series: Any, place: Geometry | None = None) -> None:
    """Write a series (T, H, W) in the format of a suffix of `WRITTEN`.

    NIfTI files hold magnitudes, since programs that show them know no complex numbers,
    and the `place`.
    """
    name = _WRITERS[ending(path, WRITTEN)]
    write = load(f"{_HERE}.{name}")
    if name == "nifti:save_nifti":
        write(path, abs(series), place)
    else:
        write(path, series)


def format_of(path: str | Path) -> Format | None:
    """Find the format of a file, or of a folder of files: the first that recognises it.

    Raises ValueError if it is an HDF5 file that is missing or damaged, ImportError if
    it is one, and h5py is missing.
    """
    path = Path(path)
    found = next((each for each in FORMATS if each.recognises(path)), None)
    if found is None and load(f"{_HERE}.dicom:holds_dicom")(path):
        return FORMATS[0]
    return found
