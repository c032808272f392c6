"""HDF5 files as other programs may write them, and what is read of files."""

from __future__ import annotations

import pytest

from svdinv.unroll.tasks.measured_files import read_measurement
from svdinv.unroll.tasks.reading import source_of


def write_h5(path, attributes=None, **arrays):
    """Write arrays under their names, but those that are None; give the path."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes or {})
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
    return path


def refused(path, arrays, changes, attributes=None):
    """Check that measured data are refused after each (name, array, message)."""
    for name, array, message in changes:
        write_h5(path, attributes, **{**arrays, name: array})
        with pytest.raises(ValueError, match=message):
            read_measurement(path)


def read_input(path, **options):
    """The task of an input, and what is read."""
    source = source_of(path)
    return source.task, source.read(source.task.options(**options))
