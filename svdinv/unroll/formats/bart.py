"""Arrays of BART (Uecker et al., Proc. ISMRM 23, 2015): a .cfl file and its .hdr.

The header is text with the dimensions; the other file holds single-precision complex
numbers, little-endian, the first dimension fastest.
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
"""What a file may hold: it does not say."""

_DIMENSIONS = 16
# Numbers of the dimensions that are read: the names are BART's.
_READ, _PHASE, _PARTITION, _COIL, _TIME, _SLICE = 0, 1, 2, 3, 10, 13
_KEPT = (_READ, _PHASE, _PARTITION, _COIL, _TIME, _SLICE)
_HEADER = 65536  # bytes of a header, at most


def read_cfl(path: str | Path) -> NDArray[np.complex64]:
    """Read an array of BART, complex64 of 16 axes, from a ``.cfl`` file.

    The ``.hdr`` file lies beside it. The array is mapped from the file, of which
    nothing but the header is read yet: the first axis is READ, the fourth COIL, the
    eleventh TIME. Raises ValueError if a file is missing or damaged, or its size is not
    what the header says.
    """
    path = Path(path)
    header = path.with_suffix(".hdr")
    check_regular(path)
    with reading(header, "a header of BART"), header.open("rb") as file:
        lines = file.read(_HEADER).decode("utf-8", "replace").splitlines()
        said = next(line for line in [*lines, ""] if not line.startswith("#"))
        sizes = [int(word) for word in said.split()]
    if not 1 <= len(sizes) <= _DIMENSIONS or min(sizes) < 1:
        raise FileError(
            f"{header} must give 1 to {_DIMENSIONS} dimensions, each at least 1, got "
            f"{said[:80]!r}"
        )
    due, size = 8 * math.prod(sizes), path.stat().st_size
    if due != size:
        shape = " x ".join(f"{n:.6g}" for n in sizes)
        raise FileError(
            f"{path} has {size} bytes, and {shape} complex numbers are {due:.6g}"
        )
    sizes += [1] * (_DIMENSIONS - len(sizes))
    return np.memmap(path, "<c8", mode="r", shape=tuple(sizes), order="F")


def read_bart(
    path: str | Path, *, slice: int | None = None, holds: str | None = None
) -> Scan:
    """Read a series, or k-space, of one slice of a ``.cfl`` file.

    `slice` says which to take, of several: of the dimension SLICE, or of images also
    PHS2. It `holds` "kspace" or "image", by default the first if it has several coils;
    k-space is sampled where some coil is not 0. Rows are along PHS1, columns along
    READ. Raises ValueError as `read_cfl`; if there are dimensions that are not
    understood, or several slices and none is chosen.
    """
    array = read_cfl(path)
    others = [i for i, n in enumerate(array.shape) if n > 1 and i not in _KEPT]
    if others:
        raise FileError(
            f"{path}: dimension {others[0]} is {array.shape[others[0]]}; read are "
            "READ, PHS1, PHS2, COIL, TIME and SLICE alone"
        )
    if holds not in (None, *HOLDS):
        raise ValueError(f"holds: must be one of {', '.join(HOLDS)}, got {holds!r}")
    kept = tuple(np.s_[:] if i in _KEPT else 0 for i in range(_DIMENSIONS))
    whole = array[kept].T  # (SLICE, TIME, COIL, PHS2, PHS1, READ)
    slices, _, coils, partitions = whole.shape[:4]
    kspace = coils > 1 if holds is None else holds == "kspace"
    if kspace and partitions > 1:
        raise FileError(f"{path} is encoded in three dimensions; only two are read")
    if not kspace and (coils > 1 or min(slices, partitions) > 1):
        raise FileError(
            f"{path} must hold images of one coil, and slices along PHS2 or SLICE, not "
            "both"
        )
    # One of the two is 1.
    stack = np.moveaxis(whole, 3, 1).reshape(-1, *whole.shape[1:3], *whole.shape[4:])
    number = chosen(path, slice, [""] * len(stack))
    taken = to_complex(np.ascontiguousarray(stack[number]), path, "the array")
    return Scan(taken, (taken != 0).any(axis=1)) if kspace else Scan(taken[:, 0])


def save_cfl(path: str | Path, series: NDArray[Any]) -> None:
    """Write a series (T, H, W) to a ``.cfl`` file, and its header beside it.

    The axes go to the dimensions TIME, PHS1 and READ. Existing files are replaced when
    both are complete. Raises ValueError if the series has another number of axes,
    OSError if a file cannot be written.
    """
    array = np.ascontiguousarray(series, "<c8")
    if array.ndim != 3:
        raise ValueError(f"series must be (T, H, W), got the shape {array.shape}")
    sizes = [1] * _DIMENSIONS
    sizes[_TIME], sizes[_PHASE], sizes[_READ] = array.shape
    path = Path(path)
    with replacing_all([path, path.with_suffix(".hdr")]) as (numbers, header):
        array.tofile(numbers)
        header.write_text(f"# Dimensions\n{' '.join(map(str, sizes))}\n")
