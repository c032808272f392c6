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

_MODULES = {
    "Acquisitions": "ismrmrd",
    "FastMRI": "fastmri",
    "Geometry": "scans",
    "Scan": "scans",
    "read_bart": "bart",
    "read_cfl": "bart",
    "read_dicom": "dicom",
    "read_fastmri": "fastmri",
    "read_ismrmrd": "ismrmrd",
    "read_nifti": "nifti",
    "read_series": "series",
    "save_cfl": "bart",
    "save_nifti": "nifti",
    "save_series": "series",
}

__getattr__ = late_attributes(__name__, _MODULES)
