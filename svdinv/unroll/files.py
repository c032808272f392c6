"""Files that are complete or not there at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["replacing"]


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file to write that takes its name only when it is complete.

    Parameters
    ----------
    path : str or Path
        Where to write; an existing file is replaced.

    Yields
    ------
    BinaryIO
        The stream to write to.

    Raises
    ------
    OSError
        If the file cannot be written; what was there before is left as it was.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # Readable as the umask says, unlike a file of `tempfile`, and without asking for
    # the umask: that sets it for a moment, for all threads.
    how = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(draft, how, 0o666)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            # Else a power cut could leave the new name on data never written.
            file.flush()
            os.fsync(handle)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
