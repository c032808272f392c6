"""Checks of files, including a limit on the memory that reading them takes.

A few bytes can declare gigabytes: shapes, chunks, members of archives and matrix sizes
in headers determine allocations. Every reader calls `check_bytes` first, except for the
fields of MATLAB's structures.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VARIABLE = "SVDINV_READ_LIMIT"
"""Environment variable that sets another limit, in bytes."""

# Limits in bytes, and in multiples of the size of larger files: image arrays compress
# to a tenth at best, sparse masks further.
_LEAST, _TIMES = 2**28, 50


class FileError(ValueError):
    """An error whose message names the file."""


def most_bytes(path: str | Path) -> int:
    """Return the largest allowed size of an array in a file, in bytes."""
    limit = os.environ.get(VARIABLE, "").strip()
    if limit and not limit.isdecimal():
        raise FileError(f"{VARIABLE} must be a whole number of bytes, got {limit!r}")
    return int(limit) if limit else max(_LEAST, _TIMES * Path(path).stat().st_size)


def check_bytes(path: str | Path, member: str, *sizes: int) -> None:
    """Raise FileError if the product of `sizes`, in bytes, exceeds the limit."""
    needed, limit = math.prod(map(int, sizes)), most_bytes(path)
    if needed > limit:
        raise FileError(
            f"{path}: {member} would take {needed:.4g} bytes of memory, more than the "
            f"limit of {limit:.4g} for a file of its size; set {VARIABLE} to allow "
            "more bytes"
        )


# Field names of complex numbers in formats without a complex dtype.
_PARTS = ({"r", "i"}, {"re", "im"}, {"real", "imag"})


@contextlib.contextmanager
def reading(path: str | Path, expected: str) -> Iterator[None]:
    """Convert exceptions to a ValueError that names the file; suppress warnings.

    This includes exceptions of all classes, because damaged files can make parsers
    raise any.
    """
    try:
        check_regular(path)
        with quiet():
            yield
    except (FileError, ImportError):
        raise
    except Exception as error:
        raise FileError(f"cannot read {path} as {expected}: {error}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and log messages."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def check_regular(path: str | Path) -> None:
    """Raise ValueError unless it is a regular file: a pipe might block forever."""
    if Path(path).is_file():
        return
    if Path(path).is_dir():
        raise FileError(f"{path} is a folder, not a file")
    if Path(path).exists():
        raise FileError(f"{path} is not a regular file")
    raise FileError(f"there is no file {path}")


def listed(
    places: Sequence[str], inside: Callable[[Path], Iterable[Path]], prefix: str = ""
) -> Iterator[Path]:
    """Yield files, and the files inside folders, each once."""
    seen = set()
    for place in map(Path, places):
        if not place.exists():
            raise ValueError(f"{prefix}there is no {place.absolute()}")
        for file in inside(place) if place.is_dir() else [place]:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def fingerprint(files: Iterable[Path]) -> str:
    """Return the SHA-256 of names, order and content of files, in hexadecimal."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
        digest.update(os.fsencode(file.name) + b"\0")
    return digest.hexdigest()


def matlab_names(path: str | Path) -> set[str]:
    """Return the names of variables in a MATLAB file; empty if it is unreadable."""
    if Path(path).suffix.lower() != ".mat" or not Path(path).is_file():
        return set()
    try:
        from scipy.io import whosmat

        return {name for name, *_ in whosmat(path)}
    except Exception:  # damaged, or of a version that other readers handle
        return set()


def load_matlab(path: str | Path, *names: str, **options: Any) -> dict[str, Any]:
    """Read variables of a MATLAB file, those of `names` that exist, with SciPy.

    Sizes are checked first, but not those of fields of structures, which files declare
    one by one, nor of sparse matrices.
    """
    from scipy.io import loadmat, whosmat

    for name, shape, kind in whosmat(path):
        if name in names and kind != "sparse":
            # The kind does not distinguish complex numbers, of 16 bytes.
            check_bytes(path, name, 16, *shape)
    found: dict[str, Any] = loadmat(path, variable_names=names, **options)
    return found


def is_numeric(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is numeric, or has fields for real and imaginary parts."""
    if dtype.names is not None:
        return set(dtype.names) in _PARTS and all(
            dtype[name].kind == "f" for name in dtype.names
        )
    return dtype.kind in "biufc"


def to_complex(array: NDArray[Any], path: str | Path, name: str) -> NDArray[Any]:
    """Convert to complex64, and check that every number is finite."""
    if array.dtype.names is not None:
        real, imaginary = sorted(array.dtype.names, reverse=True)
        numbers = np.empty(array.shape, dtype=np.complex64)
        with np.errstate(over="ignore"):
            numbers.real, numbers.imag = array[real], array[imaginary]
    else:
        with np.errstate(over="ignore"):
            numbers = array.astype(np.complex64)
    if not np.isfinite(numbers).all():
        place = tuple(int(k) for k in np.argwhere(~np.isfinite(numbers))[0])
        raise FileError(
            f"{path}: {name} has numbers that are not finite in single precision, "
            f"the first at {place}"
        )
    return numbers


def magnitudes_or_complex(
    array: NDArray[Any], path: str | Path, name: str = "the array"
) -> NDArray[Any]:
    """Convert images to complex64; real ones must not be negative.

    Interpolated magnitudes may be negative, by up to a tenth of the largest.
    """
    images = to_complex(array, path, name)
    if array.dtype.kind in "if":
        check_magnitudes(array.min(initial=0), array.max(initial=0), path, name)
    return images


def check_magnitudes(least: float, largest: float, path: str | Path, name: str) -> None:
    """Raise FileError for extrema of real images that cannot be magnitudes."""
    if least < -0.1 * largest:
        raise FileError(
            f"{path}: {name} has negative numbers, down to {least:.4g}: real images "
            "must be magnitudes; save signed ones as complex numbers, and add 1000 to "
            "Hounsfield units"
        )
