"""Safe reading of untrusted HDF5 files: every dataset is checked before it is read.

A dataset must lie in the file itself, and its shape and chunks must not exceed the
memory limit. Links are followed one by one, so that no other file is ever opened.
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
from svdinv.unroll.plugins import near

Arrays = NDArray[Any]

_MOST_LINKS = 64  # in the path to one object


@contextmanager
def open_hdf5(path: str | Path, expected: str) -> Iterator[Datasets]:
    """Open an HDF5 file for reading; errors name the file."""
    with needing("h5py", "mri"):
        import h5py
    with reading(path, expected), h5py.File(path, "r") as file:
        yield Datasets(file, path)


def is_hdf5(path: Path) -> bool:
    """Return whether a file is HDF5, alone or after MATLAB's header of 512 bytes."""
    if not path.is_file():  # a pipe might block forever
        return False
    with reading(path, "a file"), path.open("rb") as file:
        start = file.read(520)
    return b"\x89HDF\r\n\x1a\n" in (start[:8], start[512:])


@contextmanager
def writing_hdf5(path: str | Path) -> Iterator[Any]:
    """Open an HDF5 file for writing, which appears at `path` once complete."""
    with needing("h5py", "mri"):
        import h5py
    # In memory, because HDF5 does not recover from a failed write.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        yield file
    with replacing(path) as stream:
        stream.write(content.getbuffer())


def as_mask(values: Arrays, what: str) -> NDArray[np.bool_]:
    """Convert a sampling mask of booleans, or of the numbers 0 and 1, to bool."""
    if not ((values == 0) | (values == 1)).all():
        raise FileError(f"{what} must contain only 0 and 1, or true and false")
    mask = values == 1
    if not mask.any():
        raise FileError(f"{what} samples nothing")
    return mask


class Datasets:
    """The datasets of an open h5py file, each checked before it is read.

    `path` is the name in messages. Missing and invalid datasets raise ValueError.
    `asked` collects the names that were looked up, `found` the datasets found.
    """

    def __init__(self, file: Any, path: str | Path) -> None:
        self._file, self.path, self.attrs = file, path, file.attrs
        self.asked: set[str] = set()
        self.found: list[Any] = []

    def __contains__(self, name: str) -> bool:
        """Return whether the root group has an object or a link of that name."""
        self.asked.add(name)
        return self._file.get(name, getlink=True) is not None

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in the root group."""
        return iter(self._file)

    def groups(self) -> Iterator[tuple[str, set[str]]]:
        """Iterate over the groups in the root, each with its names; ignore links."""
        for name in self._file:
            if type(self._file.get(name, getlink=True)).__name__ == "HardLink":
                node = self._file[name]
                yield name, set(node) if hasattr(node, "keys") else set()

    def shapes(self) -> dict[str, tuple[int, ...] | None]:
        """Return the shapes of all datasets, also in groups; None if not numeric."""
        shapes: dict[str, tuple[int, ...] | None] = {}

        def visit(name: str, node: Any) -> None:
            if hasattr(node, "is_virtual"):  # a dataset, neither a group nor a type
                # The shape of a virtual dataset may depend on other files.
                numeric = is_numeric(node.dtype) and not node.is_virtual
                shapes[name] = node.shape if numeric else None

        self._file.visititems(visit)
        return shapes

    def dataset(self, name: str) -> Any:
        """Return an unread dataset that lies in this file and is not too large."""
        self.asked.add(name)
        dataset = self._found(name)
        if not hasattr(dataset, "is_virtual"):
            raise self.error(name, "must be an array of numbers")
        # Checked before its shape, which may depend on other files.
        if dataset.is_virtual or dataset.external:
            raise self.error(name, "lies in another file, which is not read")
        size = dataset.dtype.itemsize
        check_bytes(self.path, name, size, *(dataset.shape or ()))
        if dataset.chunks:  # chunks are always read as a whole
            check_bytes(self.path, f"a chunk of {name}", size, *dataset.chunks)
        self.found.append(dataset)
        return dataset

    def unread(self) -> Iterator[str]:
        """Iterate over the names in the root of arrays that were not looked up.

        Links to datasets in `found`, and the scales of axes, are left out.
        """
        for name in self._file:
            try:
                node = self._found(name)
            except FileError:  # a link to another file, or to nothing
                continue
            if (
                hasattr(node, "is_virtual")
                and is_numeric(node.dtype)
                and node.attrs.get("CLASS") != b"DIMENSION_SCALE"
                and all(node != other for other in self.found)
            ):
                yield name

    def read(self, name: str) -> Any:
        """Read a dataset without conversion."""
        return self.dataset(name)[()]

    def shape(self, name: str, layout: str, axes: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a numeric dataset, whose number of axes is in `axes`."""
        dataset = self.dataset(name)
        if not is_numeric(dataset.dtype):
            raise self.error(name, "must be an array of numbers")
        shape = tuple(dataset.shape or ())
        if len(shape) not in axes or 0 in shape:
            raise self.error(name, f"must have the shape {layout}, got {shape}")
        return shape

    def same(self, name: str, expected: tuple[int, ...], layout: str) -> None:
        """Check that a dataset has the `expected` shape, described by `layout`."""
        shape = self.shape(name, layout, range(8))
        if shape != expected:
            raise self.error(
                name, f"must have the shape {layout}, here {expected}, got {shape}"
            )

    def truth(self, shape: tuple[int, ...], layout: str) -> Arrays | None:
        """Read the dataset ``truth`` of that shape as float32; None if missing."""
        if "truth" not in self:
            return None
        self.same("truth", shape, layout)
        truth = self.real("truth")
        if not (truth > 0).any():  # metrics need a positive peak
            raise self.error("truth", "must be positive somewhere")
        return truth

    def complex(self, name: str) -> Arrays:
        """Read complex or real numbers as complex64."""
        return to_complex(self.read(name), self.path, name)

    def is_complex(self, name: str) -> bool:
        """Check whether elements are complex, or pairs of real and imaginary parts."""
        dtype = self.dataset(name).dtype
        return dtype.kind == "c" or dtype.names is not None

    def real(self, name: str) -> Arrays:
        """Read finite floating-point numbers or integers as float32."""
        dataset = self.dataset(name)
        if dataset.dtype.kind not in "fiu":
            raise self.error(name, f"must be real numbers, got {dataset.dtype}")
        with np.errstate(over="ignore"):
            array: Arrays = dataset[()].astype(np.float32)
        wrong = ~np.isfinite(array)
        if wrong.any():
            first = tuple(map(int, np.unravel_index(wrong.argmax(), wrong.shape)))
            where = f"{np.count_nonzero(wrong)} of {array.size}, the first at {first}"
            rule = "has numbers that are not finite in single precision"
            raise self.error(name, f"{rule}: {where}")
        return array

    def number(self, name: str) -> float:
        """Read one number, of the shape () or (1,)."""
        shape = self.shape(name, "of one number", (0, 1))
        if shape not in ((), (1,)):
            raise self.error(name, f"must be one number, got the shape {shape}")
        return float(self.real(name).reshape(()))

    def whole(self, name: str) -> Arrays:
        """Read integers of any dtype as int64."""
        numbers = self.real(name)
        if (numbers != np.round(numbers)).any():
            raise self.error(name, "must be integers")
        return numbers.astype(np.int64)

    def mask(self) -> NDArray[np.bool_]:
        """Read the dataset ``mask``."""
        return as_mask(self.read("mask"), f"{self.path}: mask")

    def error(self, name: str, what: str) -> ValueError:
        """Return an error that names the file and the dataset."""
        return FileError(f"{self.path}: {name} {what}")

    def _found(self, name: str) -> Any:
        """Return an object by following links one by one, never into another file."""
        node, rest, steps = self._file, name.split("/"), 0
        while rest:
            part, *rest = rest
            if part in ("", "."):
                continue
            steps += 1
            link = node.get(part, getlink=True) if hasattr(node, "keys") else None
            if link is None or steps > _MOST_LINKS:
                others = [n for n in self if name in n or n in name]
                raise self.error(name, f"is missing{near(name, others)}")
            kind = type(link).__name__
            if kind == "ExternalLink":
                raise self.error(name, "lies in another file, which is not read")
            if kind == "SoftLink":
                rest = [*link.path.split("/"), *rest]
                node = self._file if link.path.startswith("/") else node
            else:
                node = node[part]
        return node
