"""Files of arrays, scans and measured data: readers, writers, and their checks.

Nothing is downloaded and nothing is unpickled. A file that is damaged, or is not what
it should be, gives a ValueError that names it. What is exported here is imported when
it is first used: no reader brings the others along.
"""

from __future__ import annotations

import importlib
from typing import Any

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

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
