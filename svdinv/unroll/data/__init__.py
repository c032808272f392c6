"""Pictures, image series and k-space data: from files, and from installed packages.

Nothing is downloaded and nothing is unpickled. A file that is damaged, or is not what
it should be, gives a ValueError that names it.
"""

from svdinv.unroll.data.bart import read_bart, read_cfl, save_cfl
from svdinv.unroll.data.cifar import Cifar, read_cifar
from svdinv.unroll.data.dicom import read_dicom
from svdinv.unroll.data.fastmri import FastMRI, read_fastmri
from svdinv.unroll.data.hearts import HEARTS, heart_series, read_hearts
from svdinv.unroll.data.ismrmrd import Acquisitions, read_ismrmrd
from svdinv.unroll.data.nifti import read_nifti, save_nifti
from svdinv.unroll.data.photographs import (
    HELD_OUT,
    PHOTOS,
    TEST,
    photograph,
    split,
)
from svdinv.unroll.data.pictures import (
    SUFFIXES,
    Image,
    centre_crop,
    patches,
    read_folder,
    read_picture,
)
from svdinv.unroll.data.scans import Geometry, Scan
from svdinv.unroll.data.series import read_series, save_series

__all__ = [
    "HEARTS",
    "HELD_OUT",
    "PHOTOS",
    "SUFFIXES",
    "TEST",
    "Acquisitions",
    "Cifar",
    "FastMRI",
    "Geometry",
    "Image",
    "Scan",
    "centre_crop",
    "heart_series",
    "patches",
    "photograph",
    "read_bart",
    "read_cfl",
    "read_cifar",
    "read_dicom",
    "read_fastmri",
    "read_folder",
    "read_hearts",
    "read_ismrmrd",
    "read_nifti",
    "read_picture",
    "read_series",
    "save_cfl",
    "save_nifti",
    "save_series",
    "split",
]
