"""Files that are complete or not there at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

_LOCK = ".lock"


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file to write, renamed to `path` only when it is complete.

    Raises OSError if it cannot be written; what was there before is left as it was.
    """
    # Readable as the umask says, unlike a file of `tempfile`, and without asking for
    # the umask: that sets it for a moment, for all threads.
    how = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with replacing_all([Path(path)]) as (draft,):
        handle = os.open(draft, how, 0o666)
        try:
            with os.fdopen(handle, "w+b") as file:
                yield file
                # Else a power cut could leave the new name on data never written.
                file.flush()
                os.fsync(handle)
        except OSError as error:
            if error.errno and error.filename is None:
                error.filename = str(path)  # of a full disk, say
            raise


@contextlib.contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield temporary names to write to; on success they replace the files."""
    drafts = [p.with_name(f".{p.name}.{secrets.token_hex(8)}") for p in paths]
    try:
        yield drafts
        for draft, path in zip(drafts, paths, strict=True):
            os.replace(draft, path)
            _sync_names(path.parent)
    except BaseException:
        for draft in drafts:
            draft.unlink(missing_ok=True)
        raise


def remove_drafts(path: Path) -> None:
    """Remove what processes that were killed left of a file that was not complete."""
    # A draft may have been written by a draft of its own.
    draft = re.compile(rf"\.+{re.escape(path.name)}(\.[0-9a-f]{{16}})+")
    for file in path.parent.iterdir():
        if draft.fullmatch(file.name):
            file.unlink()


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder, by a file ``.lock``.

    Where the system, or the file system, has no locks, nothing is kept out. Raises
    BlockingIOError if another process is in it.
    """
    if sys.platform == "win32":
        yield
        return
    path = folder / _LOCK
    # Not through a link, and nothing in it is cut off: it may be somebody's file.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with os.fdopen(handle, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # not on this file system
            pass
        if os.fstat(file.fileno()).st_nlink == 0:  # who held it has just removed it
            raise BlockingIOError(f"{path} is changing hands")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _sync_names(folder: Path) -> None:
    """Flush new names in a folder to the disk, where the system can."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # not in every folder, on every file system
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
