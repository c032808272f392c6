"""Files that are complete or not there at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = ["replace"]


def replace(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under another name, then move it to its own.

    Parameters
    ----------
    path : str or Path
        Where to write; an existing file is replaced.
    write : callable
        Given the binary stream to write to.

    Raises
    ------
    OSError
        If the file cannot be written; what was there before is left as it was.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(suffix=path.suffix, prefix=".", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
