"""Files of arrays, scans and measured data: readers, writers, and their checks.

Nothing is downloaded and nothing is unpickled. A file that is damaged, or is not what
it should be, gives a ValueError that names it. A reader is imported when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svdinv.unroll.plugins import late_attributes

if TYPE_CHECKING:
    from svdinv.unroll.formats.bart import read_bart, read_cfl, save_cfl
    from svdinv.unroll.formats.dicom import read_dicom
    from svdinv.unroll.formats.fastmri import FastMRI, read_fastmri
    from svdinv.unroll.formats.ismrmrd import Acquisitions, read_ismrmrd
    from svdinv.unroll.formats.nifti import read_nifti, save_nifti
    from svdinv.unroll.formats.scans import Geometry, Scan
    from svdinv.unroll.formats.series import read_series, save_series

__all__ = [
    "Acquisitions",
    "FastMRI",
    "Geometry",
    "Scan",
    "read_bart",
    "read_cfl",
    "read_dicom",
    "read_fastmri",
    "read_ismrmrd",
    "read_nifti",
    "read_series",
    "save_cfl",
    "save_nifti",
    "save_series",
]

_NAMES = {
    "bart": ("read_bart", "read_cfl", "save_cfl"),
    "dicom": ("read_dicom",),
    "fastmri": ("FastMRI", "read_fastmri"),
    "ismrmrd": ("Acquisitions", "read_ismrmrd"),
    "nifti": ("read_nifti", "save_nifti"),
    "scans": ("Geometry", "Scan"),
    "series": ("read_series", "save_series"),
}

__getattr__ = late_attributes(__name__, _NAMES)
