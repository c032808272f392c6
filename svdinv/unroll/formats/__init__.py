"""Readers and writers of arrays, scans and measured data.

Nothing is downloaded or unpickled. Damaged and unsuitable files raise a ValueError that
names the file. Readers are imported on first use.
"""

# ruff: noqa: I001  # one statement for each module
from __future__ import annotations

from typing import TYPE_CHECKING

from svdinv.unroll.plugins import late_attributes

if TYPE_CHECKING:
    from svdinv.unroll.formats.bart import (
        read_bart as read_bart,
        read_cfl as read_cfl,
        save_cfl as save_cfl,
    )
    from svdinv.unroll.formats.dicom import read_dicom as read_dicom
    from svdinv.unroll.formats.fastmri import (
        FastMRI as FastMRI,
        read_fastmri as read_fastmri,
    )
    from svdinv.unroll.formats.ismrmrd import (
        Acquisitions as Acquisitions,
        read_ismrmrd as read_ismrmrd,
    )
    from svdinv.unroll.formats.nifti import (
        read_nifti as read_nifti,
        save_nifti as save_nifti,
    )
    from svdinv.unroll.formats.scans import Geometry as Geometry, Scan as Scan
    from svdinv.unroll.formats.series import (
        read_series as read_series,
        save_series as save_series,
    )

__getattr__, __all__ = late_attributes(__name__)
