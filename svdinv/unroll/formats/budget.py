"""How much memory a file may ask for, checked before anything of it is read.

A few bytes can declare gigabytes: shapes, chunks, members of archives and matrices of
headers all say how much is to be allocated. Every reader asks here first.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["VARIABLE", "FileError", "check_bytes", "most_bytes"]

VARIABLE = "SVDINV_READ_LIMIT"
"""Environment variable with another limit, in bytes."""

# Of files of any size, and times the size of larger ones: arrays of images are
# compressed to a tenth at the best, sparse masks further.
_LEAST, _TIMES = 2**28, 50


class FileError(ValueError):
    """An error that names the file already."""


def most_bytes(path: str | Path) -> int:
    """Return how many bytes of memory an array of a file may take.

    Raises FileError if the environment variable is no number.
    """
    said = os.environ.get(VARIABLE, "").strip()
    if said and not said.isdecimal():
        raise FileError(f"{VARIABLE} must be a whole number of bytes, got {said!r}")
    return int(said) if said else max(_LEAST, _TIMES * Path(path).stat().st_size)


def check_bytes(path: str | Path, member: str, *sizes: int) -> None:
    """Check the product of some sizes, the bytes of an item among them.

    Raises FileError if the file may not ask for that much.
    """
    due, most = math.prod(map(int, sizes)), most_bytes(path)
    if due > most:
        raise FileError(
            f"{path}: {member} would take {due:.4g} bytes of memory, more than the "
            f"{most:.4g} that a file of its size may take; set {VARIABLE} to allow more"
        )
