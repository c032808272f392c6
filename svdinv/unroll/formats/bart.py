"""Arrays of BART (Uecker et al., Proc. ISMRM 23, 2015): a .cfl file and its .hdr.

The text header lists the dimensions; the .cfl file holds single-precision complex
numbers, little-endian, with the first dimension varying fastest.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.formats.atomic import replacing_all
from svdinv.unroll.formats.checks import FileError, check_regular, reading, to_complex
from svdinv.unroll.formats.scans import Scan, chosen

HOLDS = ("kspace", "image")
"""Possible contents of a file, which the header does not distinguish."""

_DIMENSIONS = 16
# Indices of the dimensions that are read, with the names of BART.
_READ, _PHASE, _PARTITION, _COIL, _TIME, _SLICE = 0, 1, 2, 3, 10, 13
_KEPT = (_READ, _PHASE, _PARTITION, _COIL, _TIME, _SLICE)
_HEADER = 65536  # most bytes of a header


def read_cfl(path: str | Path) -> NDArray[np.complex64]:
    """Map a BART array, complex64 with 16 axes, from a ``.cfl`` file and its ``.hdr``.

    `path` is either of them or, as for BART, their name without the suffix. Only the
    header is read immediately. The first axis is READ, the fourth COIL, the
    eleventh TIME. Raises ValueError if a file is missing or damaged, or its size does
    not match the header.
    """
    path, header = _files(path)
    check_regular(path)
    with reading(header, "a header of BART"), header.open("rb") as file:
        lines = file.read(_HEADER).decode("utf-8", "replace").splitlines()
        dimensions = next(line for line in [*lines, ""] if not line.startswith("#"))
        sizes = [int(word) for word in dimensions.split()]
    if not 1 <= len(sizes) <= _DIMENSIONS or min(sizes) < 1:
        raise FileError(
            f"{header} must list 1 to {_DIMENSIONS} dimensions, each at least 1, got "
            f"{dimensions[:80]!r}"
        )
    expected, size = 8 * math.prod(sizes), path.stat().st_size
    if expected != size:
        shape = " x ".join(f"{n:.6g}" for n in sizes)
        raise FileError(
            f"{path} has {size} bytes, but {shape} complex numbers need {expected:.6g}"
        )
    sizes += [1] * (_DIMENSIONS - len(sizes))
    return np.memmap(path, "<c8", mode="r", shape=tuple(sizes), order="F")


def read_bart(
    path: str | Path, *, slice: int | None = None, holds: str | None = None
) -> Scan:
    """Read a series, or k-space, of one slice of a file that `read_cfl` takes.

    `slice` selects one of several slices, along SLICE or, for images, PHS2. `holds` is
    the content, "kspace" or "image"; by default k-space if there are several coils.
    k-space is sampled where some coil is not 0. Rows are along PHS1, columns along
    READ. Raises ValueError as `read_cfl` does, if other dimensions exceed 1, or if
    there are several slices and none is selected.
    """
    array, path = read_cfl(path), _files(path)[0]
    others = [i for i, n in enumerate(array.shape) if n > 1 and i not in _KEPT]
    if others:
        raise FileError(
            f"{path}: dimension {others[0]} is {array.shape[others[0]]}; only READ, "
            "PHS1, PHS2, COIL, TIME and SLICE may exceed 1"
        )
    if holds not in (None, *HOLDS):
        raise ValueError(f"holds: must be one of {', '.join(HOLDS)}, got {holds!r}")
    kept = tuple(np.s_[:] if i in _KEPT else 0 for i in range(_DIMENSIONS))
    block = array[kept].T  # (SLICE, TIME, COIL, PHS2, PHS1, READ)
    slices, _, coils, partitions = block.shape[:4]
    kspace = coils > 1 if holds is None else holds == "kspace"
    if kspace and partitions > 1:
        raise FileError(f"{path} has three-dimensional encoding; it must have two")
    if not kspace and (coils > 1 or min(slices, partitions) > 1):
        raise FileError(
            f"{path} must hold images of one coil, and slices along PHS2 or SLICE, not "
            "both"
        )
    # Merge SLICE and PHS2, one of which is 1.
    stack = np.moveaxis(block, 3, 1).reshape(-1, *block.shape[1:3], *block.shape[4:])
    number = chosen(path, slice, [""] * len(stack))
    data = to_complex(np.ascontiguousarray(stack[number]), path, "the array")
    return Scan(data, (data != 0).any(axis=1)) if kspace else Scan(data[:, 0])


def _files(path: str | Path) -> tuple[Path, Path]:
    """Return the file of numbers and the header."""
    path = Path(path)
    if path.suffix not in (".cfl", ".hdr"):
        path = path.with_name(f"{path.name}.cfl")
    return path.with_suffix(".cfl"), path.with_suffix(".hdr")


def save_cfl(path: str | Path, series: NDArray[Any]) -> None:
    """Write a series (T, H, W) to a ``.cfl`` file and its header, named by `path`.

    The axes become the dimensions TIME, PHS1 and READ. Existing files are replaced only
    once both new ones are complete. Raises ValueError if the series has another number
    of axes, OSError if a file cannot be written.
    """
    array = np.ascontiguousarray(series, "<c8")
    if array.ndim != 3:
        raise ValueError(f"series must be (T, H, W), got the shape {array.shape}")
    sizes = [1] * _DIMENSIONS
    sizes[_TIME], sizes[_PHASE], sizes[_READ] = array.shape
    with replacing_all(_files(path)) as (numbers, header):
        array.tofile(numbers)
        header.write_text(f"# Dimensions\n{' '.join(map(str, sizes))}\n")
