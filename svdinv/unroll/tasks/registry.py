"""Tasks before they are imported: their names, files and options.

Each task of svdinv has a `TaskEntry` in the ``__init__`` of its folder. Those of other
packages come by the entry-point group ``svdinv.tasks``; `add` takes one that a program
or ``--task`` names. A task itself is imported when its entry is asked for its class.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from svdinv.unroll.plugins import load, near

GROUP = "svdinv.tasks"
"""Entry-point group; an entry point names a `TaskEntry`, or a `Task`."""

_FOLDERS = ("colour", "cine", "tomography", "impedance")
_ORDER = ("colour", "cine", "ct", "eit", "pet", "spectral-ct")


@dataclass(frozen=True, kw_only=True)
class TaskEntry:
    """Description of a task that can be read without importing it."""

    kind: str  # its name in configurations and on the command line
    location: str = ""  # its class, as package.module:Class
    axes: str = ""  # of its images, as of a network's recipe
    channels: int | None = None  # of its images; None if their number is free
    images: str = "images"  # what these are called in messages
    inputs: str = ""  # what it reads, in messages, without an article before
    dataset: str = ""  # name of the data in files of measured data (HDF5)
    names: Mapping[str, str] = field(default_factory=dict)  # built-in images
    heading: str = ""  # over these in ``svdinv data list``
    pictures: tuple[str, ...] = ()  # more names for ``svdinv data show``, such as masks
    prefixes: tuple[str, ...] = ()  # what names begin with that it reads
    suffixes: tuple[str, ...] = ()  # endings of the files that it reads
    # For an ending, package.module:function, which tells by its content whether a file
    # is of this task; "" is for folders and for files of other endings.
    contents: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()  # names of those of the command line
    # What ``svdinv evaluate``, which takes several values, calls some of them.
    plurals: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()  # modules of other packages that it cannot do without

    def load(self) -> Any:
        """Import the class of the task, a `svdinv.unroll.tasks.Task`."""
        return load(self.location)

    def has_name(self, name: str) -> bool:
        """Check whether an image of that name is built in, or made of a prefix."""
        return name in self.names or name.startswith(self.prefixes)

    def recognises(self, source: str | Path) -> bool:
        """Check whether a file, or a name, is of this task, whatever others there are.

        Raises ValueError if its content has to be read and is damaged.
        """
        return self.has_name(str(source)) or self._by_suffix(Path(source), last=True)

    def _by_suffix(self, path: Path, *, last: bool = False) -> bool:
        name = path.name.lower()
        for suffix, test in self.contents.items():
            asked = name.endswith(suffix) if suffix else last
            if asked and load(test)(path):
                return True
        return not path.is_dir() and name.endswith(self.suffixes)


_ADDED: dict[str, TaskEntry] = {}


def add(task: Any) -> TaskEntry:
    """Make a `Task`, or an entry, known to this process, and return its entry."""
    entry = task if isinstance(task, TaskEntry) else task.described()
    _ADDED[entry.kind] = entry
    return entry


def entries() -> dict[str, TaskEntry]:
    """List the entries of all tasks by kind: svdinv's, installed ones, those added."""
    own: dict[str, TaskEntry] = {}
    for folder in _FOLDERS:
        for entry in importlib.import_module(f"svdinv.unroll.tasks.{folder}").TASKS:
            own[entry.kind] = entry
    found = {kind: own[kind] for kind in _ORDER}
    for point in entry_points(group=GROUP):
        if point.name not in _ADDED:
            add(point.load())
    return found | _ADDED


def entry_of_file(source: str | Path) -> TaskEntry:
    """Find the task that reads a file, or has a built-in image of that name.

    Tasks of others come before those of svdinv. Raises ValueError if there is none.
    """
    known = list(reversed(entries().values()))
    path = Path(source)
    for entry in known:
        if entry.has_name(str(source)):
            return entry
    for last in (False, True):
        for entry in known:
            if entry._by_suffix(path, last=last):
                return entry
    if path.is_dir():
        raise ValueError(f"{source} is a folder, not a file")
    if not path.suffix and not path.exists():
        names = [name for entry in known for name in entry.names]
        raise ValueError(
            f"there is no file {source}, and no image of svdinv has that name"
            f"{near(str(source), names)}\n  'svdinv data list' lists the names"
        )
    inputs = ", nor ".join(e.inputs for e in reversed(known) if e.inputs)
    what = "\n  ".join(inputs.split(", nor "))
    raise ValueError(f"{source} is none of what can be read:\n  {what}")


def entry_of_images(axes: str | None, channels: int | None = None) -> TaskEntry:
    """Find the first task whose images have these axes and channels."""
    for entry in entries().values():
        if entry.axes == axes and channels in (None, entry.channels):
            return entry
    kinds = " or ".join(entry.images for entry in entries().values())
    raise ValueError(f"a network of {kinds} is needed, not of images ({axes})")
