"""Atomic writing of files, and locks of folders."""

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
def naming_file(path: str | Path, draft: str | Path = "") -> Iterator[None]:
    """Name a file in errors of writing to it, such as that of a full disk.

    Its name replaces that of `draft`, a temporary file for it.
    """
    try:
        yield
    except OSError as error:
        if error.errno and error.filename in (None, str(draft)):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file to write, renamed to `path` once it is complete.

    Raises OSError if it cannot be written; an existing file is then left unchanged.
    """
    # Unlike `tempfile`, this respects the umask, without reading it: that would set it
    # for a moment, for all threads.
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with replacing_all([Path(path)]) as (draft,), naming_file(path, draft):
        handle = os.open(draft, flags, 0o666)
        with os.fdopen(handle, "w+b") as file:
            yield file
            # Without a sync, a power failure could leave the new name on lost data.
            file.flush()
            os.fsync(handle)


@contextlib.contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield temporary names to write to; on success rename them to `paths`."""
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
    """Remove the temporary files for `path` that killed processes left behind."""
    # Drafts of drafts have several of these suffixes.
    draft = re.compile(rf"\.+{re.escape(path.name)}(\.[0-9a-f]{{16}})+")
    for file in path.parent.iterdir():
        if draft.fullmatch(file.name):
            file.unlink()


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold an advisory lock on a folder, by a file ``.lock``.

    Does nothing on systems and file systems without locks. Raises BlockingIOError if
    another process holds the lock.
    """
    if sys.platform == "win32":
        yield
        return
    path = folder / _LOCK
    # Neither follow a link nor truncate: the file may belong to the user.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with os.fdopen(handle, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # not supported by the file system
            pass
        if os.fstat(file.fileno()).st_nlink == 0:  # just removed by its last holder
            raise BlockingIOError(f"{path} is being released by another process")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _sync_names(folder: Path) -> None:
    """Flush new names in a folder to disk, on systems that support it."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # not supported by all file systems
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
