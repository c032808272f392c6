"""HDF5 files of others: every dataset is checked before it is read.

It must lie in the file itself, its shape and chunks must be such as the file may ask
for, and links are followed one by one, so that no other file is ever opened.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv._missing import needing
from svdinv.unroll.formats.atomic import replacing
from svdinv.unroll.formats.checks import (
    FileError,
    check_bytes,
    is_numeric,
    reading,
    to_complex,
)

Arrays = NDArray[Any]

_MOST_LINKS = 64  # on the way to one object


@contextmanager
def open_hdf5(path: str | Path, expected: str) -> Iterator[Datasets]:
    """Open an HDF5 file to read, with errors that name it."""
    with needing("h5py", "mri"):
        import h5py
    with reading(path, expected), h5py.File(path, "r") as file:
        yield Datasets(file, path)


@contextmanager
def writing_hdf5(path: str | Path) -> Iterator[Any]:
    """Open an HDF5 file to write; it is complete or not there at all."""
    with needing("h5py", "mri"):
        import h5py
    # In memory: HDF5 does not survive that a file cannot be written to the end.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        yield file
    with replacing(path) as stream:
        stream.write(content.getbuffer())


def as_mask(values: Arrays, what: str) -> NDArray[np.bool_]:
    """Convert a sampling mask, of bool or of numbers that are 0 or 1, to bool."""
    if not ((values == 0) | (values == 1)).all():
        raise FileError(f"{what} must hold 0 and 1, or true and false, alone")
    mask = values == 1
    if not mask.any():
        raise FileError(f"{what} samples nothing")
    return mask


class Datasets:
    """The datasets of an open file of h5py, each checked before it is read.

    The path is its name in messages. What is missing, or not as it should be, raises
    ValueError.
    """

    def __init__(self, file: Any, path: str | Path) -> None:
        self._file, self.path, self.attrs = file, path, file.attrs

    def __contains__(self, name: str) -> bool:
        """Whether there is a dataset of that name at the top, or a link to one."""
        return self._file.get(name, getlink=True) is not None

    def __iter__(self) -> Iterator[str]:
        """Go over the names at the top."""
        return iter(self._file)

    def groups(self) -> Iterator[tuple[str, set[str]]]:
        """Go over the groups at the top, each with the names in it; through no link."""
        for name in self._file:
            if type(self._file.get(name, getlink=True)).__name__ == "HardLink":
                found = self._file[name]
                yield name, set(found) if hasattr(found, "keys") else set()

    def shapes(self) -> dict[str, tuple[int, ...] | None]:
        """List all datasets, those in groups included, with the shapes of numbers."""
        found: dict[str, tuple[int, ...] | None] = {}

        def visit(name: str, node: Any) -> None:
            if hasattr(node, "is_virtual"):  # a dataset, neither a group nor a type
                # The shape of a virtual one may depend on other files.
                shown = is_numeric(node.dtype) and not node.is_virtual
                found[name] = node.shape if shown else None

        self._file.visititems(visit)
        return found

    def dataset(self, name: str) -> Any:
        """Return a dataset, unread, which lies in this file and is not too large."""
        dataset = self._found(name)
        if not hasattr(dataset, "is_virtual"):
            raise self.error(name, "must be an array of numbers")
        # Before its shape is asked for, as above.
        if dataset.is_virtual or dataset.external:
            raise self.error(name, "lies in another file, which is not read")
        size = dataset.dtype.itemsize
        check_bytes(self.path, name, size, *(dataset.shape or ()))
        if dataset.chunks:  # a whole one is read for the least part of it
            check_bytes(self.path, f"a chunk of {name}", size, *dataset.chunks)
        return dataset

    def read(self, name: str) -> Any:
        """Read a dataset as it is."""
        return self.dataset(name)[()]

    def shape(self, name: str, said: str, axes: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a dataset of numbers, of so many axes."""
        dataset = self.dataset(name)
        if not is_numeric(dataset.dtype):
            raise self.error(name, "must be an array of numbers")
        shape = tuple(dataset.shape or ())
        if len(shape) not in axes or 0 in shape:
            raise self.error(name, f"must have the shape {said}, got {shape}")
        return shape

    def same(self, name: str, expected: tuple[int, ...], said: str) -> None:
        """Check that a dataset has a shape."""
        shape = self.shape(name, said, range(8))
        if shape != expected:
            raise self.error(
                name, f"must have the shape {said}, here {expected}, got {shape}"
            )

    def truth(self, shape: tuple[int, ...], said: str) -> Arrays | None:
        """Read the dataset ``truth``, if there is one, of a shape: float32."""
        if "truth" not in self:
            return None
        self.same("truth", shape, said)
        truth = self.real("truth")
        if not (truth > 0).any():  # no metric would have a peak
            raise self.error("truth", "must be positive somewhere")
        return truth

    def complex(self, name: str) -> Arrays:
        """Read complex numbers, or real ones as such: complex64."""
        return to_complex(self.read(name), self.path, name)

    def is_complex(self, name: str) -> bool:
        """Check whether elements are complex, or pairs of their parts."""
        dtype = self.dataset(name).dtype
        return dtype.kind == "c" or dtype.names is not None

    def real(self, name: str) -> Arrays:
        """Read real numbers, of floating point or whole, all finite: float32."""
        dataset = self.dataset(name)
        if dataset.dtype.kind not in "fiu":
            raise self.error(name, f"must be of real numbers, got {dataset.dtype}")
        with np.errstate(over="ignore"):
            array: Arrays = dataset[()].astype(np.float32)
        if not np.isfinite(array).all():
            raise self.error(
                name, "has numbers that are not finite in single precision"
            )
        return array

    def whole(self, name: str) -> Arrays:
        """Read whole numbers, of any type: int64."""
        numbers = self.real(name)
        if (numbers != np.round(numbers)).any():
            raise self.error(name, "must be of whole numbers")
        return numbers.astype(np.int64)

    def mask(self) -> NDArray[np.bool_]:
        """Read the dataset ``mask``."""
        return as_mask(self.read("mask"), f"{self.path}: mask")

    def error(self, name: str, what: str) -> ValueError:
        """Make an error that names the file and the dataset."""
        return FileError(f"{self.path}: {name} {what}")

    def _found(self, name: str) -> Any:
        """Follow links to an object one by one, never into another file."""
        found, left, steps = self._file, name.split("/"), 0
        while left:
            part, *left = left
            if part in ("", "."):
                continue
            steps += 1
            inside = found.get(part, getlink=True) if hasattr(found, "keys") else None
            if inside is None or steps > _MOST_LINKS:
                raise self.error(name, "is missing")
            kind = type(inside).__name__
            if kind == "ExternalLink":
                raise self.error(name, "lies in another file, which is not read")
            if kind == "SoftLink":
                left = [*inside.path.split("/"), *left]
                found = self._file if inside.path.startswith("/") else found
            else:
                found = found[part]
        return found
