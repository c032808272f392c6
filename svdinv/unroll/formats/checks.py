"""What readers of files check, and how much memory a file may ask for.

A few bytes can declare gigabytes: shapes, chunks, members of archives and matrices of
headers all say how much is to be allocated. Every reader asks `check_bytes` first.
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
"""Environment variable with another limit, in bytes."""

# Of files of any size, and times the size of larger ones: arrays of images are
# compressed to a tenth at the best, sparse masks further.
_LEAST, _TIMES = 2**28, 50


class FileError(ValueError):
    """An error that names the file already."""


def most_bytes(path: str | Path) -> int:
    """Return the largest size of an array of a file, in bytes."""
    said = os.environ.get(VARIABLE, "").strip()
    if said and not said.isdecimal():
        raise FileError(f"{VARIABLE} must be a whole number of bytes, got {said!r}")
    return int(said) if said else max(_LEAST, _TIMES * Path(path).stat().st_size)


def check_bytes(path: str | Path, member: str, *sizes: int) -> None:
    """Check the product of some sizes, the bytes of an item among them."""
    due, most = math.prod(map(int, sizes)), most_bytes(path)
    if due > most:
        raise FileError(
            f"{path}: {member} would take {due:.4g} bytes of memory, more than the "
            f"{most:.4g} that a file of its size may take; set {VARIABLE} to allow more"
        )


# Names of the two parts of complex numbers in files that have no type for them.
_PARTS = ({"r", "i"}, {"re", "im"}, {"real", "imag"})


@contextlib.contextmanager
def reading(path: str | Path, expected: str) -> Iterator[None]:
    """Turn whatever goes wrong within into a ValueError that names the file.

    Exceptions of every kind: a damaged header can lead a parser anywhere. What parsers
    warn of beside that is not shown.
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
    """Keep warnings and logs from the terminal, those below an error included."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def check_regular(path: str | Path) -> None:
    """Raise ValueError for what is no regular file: a pipe might block for ever."""
    if Path(path).is_file():
        return
    if Path(path).is_dir():
        raise FileError(f"{path} is a folder, not a file")
    if Path(path).exists():
        raise FileError(f"{path} is no regular file")
    raise FileError(f"there is no file {path}")


def listed(
    places: Sequence[str], inside: Callable[[Path], Iterable[Path]], prefix: str = ""
) -> Iterator[Path]:
    """List files, and those inside of folders, each of them once."""
    seen = set()
    for place in map(Path, places):
        if not place.exists():
            raise ValueError(f"{prefix}there is no {place.absolute()}")
        for file in inside(place) if place.is_dir() else [place]:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def fingerprint(files: Iterable[Path]) -> str:
    """Sum up names, order and content of files by SHA-256, in hexadecimal digits."""
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
        whole.update(os.fsencode(file.name) + b"\0")
    return whole.hexdigest()


def matlab_names(path: str | Path) -> set[str]:
    """Name the variables of a file of MATLAB; empty if it cannot be read as one."""
    if Path(path).suffix.lower() != ".mat" or not Path(path).is_file():
        return set()
    try:
        from scipy.io import whosmat

        return {name for name, *_ in whosmat(path)}
    except Exception:  # damaged, or of another version: it has other readers
        return set()


def is_numeric(dtype: np.dtype[Any]) -> bool:
    """Whether it is a dtype of numbers, or of their real and imaginary parts."""
    if dtype.names is not None:
        return set(dtype.names) in _PARTS and all(
            dtype[name].kind == "f" for name in dtype.names
        )
    return dtype.kind in "biufc"


def to_complex(array: NDArray[Any], path: str | Path, name: str) -> NDArray[Any]:
    """Convert to complex64, and see that every number is finite."""
    if array.dtype.names is not None:
        real, imaginary = sorted(array.dtype.names, reverse=True)
        whole = np.empty(array.shape, dtype=np.complex64)
        with np.errstate(over="ignore"):
            whole.real, whole.imag = array[real], array[imaginary]
    else:
        with np.errstate(over="ignore"):
            whole = array.astype(np.complex64)
    if not np.isfinite(whole).all():
        place = tuple(int(k) for k in np.argwhere(~np.isfinite(whole))[0])
        raise FileError(
            f"{path}: {name} has numbers that are not finite in single precision, "
            f"the first at {place}"
        )
    return whole
