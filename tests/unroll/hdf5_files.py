"""HDF5 files as other programs may write them."""

from __future__ import annotations

import pytest


def write_h5(path, attributes=None, **arrays):
    """Write arrays under their names, but those that are None; give the path."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes or {})
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
    return path
