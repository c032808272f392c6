"""Registry of tasks, with their names, files and options, before they are imported.

Each task of svdinv has a `TaskEntry` in the ``__init__`` of its folder. Other packages
register theirs in the entry-point group ``svdinv.tasks``; programs, and ``--task``,
call `add`. `TaskEntry.load` imports the task.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from svdinv.unroll.plugins import load, near

GROUP = "svdinv.tasks"
"""Entry-point group; an entry point names a `TaskEntry`, or a `Task`."""

_FOLDERS = ("colour", "cine", "tomography", "impedance")
_ORDER = ("colour", "cine", "ct", "eit", "pet", "spectral-ct")


@dataclass(frozen=True, kw_only=True)
class TaskEntry:
    """Description of a task that can be read without importing it.

    Attributes
    ----------
    kind : str
        Name in configurations and on the command line.
    location : str
        The class, as ``package.module:Class``.
    axes : str
        Axes of its images, as in the recipe of a network, such as ``"B C H W"``.
    channels : int or None
        Channels of its images; None if the number is free.
    images, inputs : str
        Noun for its images, and description of its inputs without an article, in
        messages.
    dataset : str
        Name of the data in files of measured data.
    companions : tuple of str
        Names of other arrays that such files must have.
    ndim : int or None
        Number of axes of the data, if tasks share their name.
    names : mapping of str to str
        Built-in images and their descriptions, which ``svdinv data list`` shows below
        `heading`.
    heading : str
    pictures : tuple of str
        More names for ``svdinv data show``, such as masks.
    prefixes, suffixes : tuple of str
        Prefixes of names and suffixes of files that it reads.
    contents : mapping of str to str
        By suffix, ``package.module:function`` that returns whether the content of a
        file belongs to this task; the suffix "" matches folders and all other files.
    options : tuple of str
        Names of its options on the command line.
    plurals : mapping of str to str
        Names of those that take several values in ``svdinv evaluate``.
    needs : tuple of str
        Third-party modules that it requires.
    """

    kind: str
    location: str = ""
    axes: str = ""
    channels: int | None = None
    images: str = "images"
    inputs: str = ""
    dataset: str = ""
    companions: tuple[str, ...] = ()
    ndim: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    heading: str = ""
    pictures: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    contents: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    plurals: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    def load(self) -> Any:
        """Import the class of the task, a `svdinv.unroll.tasks.Task`."""
        return load(self.location)

    def reader(self) -> Any:
        """Make the task; ValueError if it can only be trained."""
        task = self.load()()
        check_reads(task)
        return task

    def has_name(self, name: str) -> bool:
        """Check whether a name is that of a built-in image, or has a prefix."""
        return name in self.names or name.startswith(self.prefixes)

    def recognises(self, source: str | Path) -> bool:
        """Check whether a file or a name belongs to this task; others may match too.

        Raises ValueError if the content of the file must be read and is damaged.
        """
        return self.has_name(str(source)) or self._by_suffix(Path(source), last=True)

    def _by_suffix(self, path: Path, *, last: bool = False) -> bool:
        name = path.name.lower()
        for suffix, test in self.contents.items():
            matches = name.endswith(suffix) if suffix else last
            if matches and load(test)(path):
                return True
        return not path.is_dir() and name.endswith(self.suffixes)


def check_reads(task: Any) -> None:
    """Raise ValueError if a task cannot read images, but only be trained."""
    if not hasattr(task, "options"):
        raise ValueError(
            f"{task.kind} is a task that declares no `options` for its images, so that "
            "it can only be trained"
        )


_ADDED: dict[str, TaskEntry] = {}
_LEFT_OUT: set[EntryPoint] = set()


def add(task: Any) -> TaskEntry:
    """Register a `Task`, or an entry, in this process, and return its entry.

    Raises TypeError for anything else.
    """
    entry = _entry(task)
    _ADDED[entry.kind] = entry
    return entry


def _entry(task: Any) -> TaskEntry:
    if isinstance(task, TaskEntry):
        return task
    if not hasattr(task, "described"):
        raise TypeError(f"a Task or a TaskEntry is needed, got {task!r}")
    entry: TaskEntry = task.described()
    return entry


def entries() -> dict[str, TaskEntry]:
    """Return all tasks by kind: those of svdinv, of other packages, and from `add`.

    Leaves out a task of another package, with one warning, if it cannot be imported or
    has the name of one of svdinv's own.
    """
    own: dict[str, TaskEntry] = {}
    for folder in _FOLDERS:
        for entry in importlib.import_module(f"svdinv.unroll.tasks.{folder}").TASKS:
            own[entry.kind] = entry
    found = {kind: own[kind] for kind in _ORDER}
    for point in entry_points(group=GROUP):
        if point.name not in _ADDED and point not in _LEFT_OUT:
            try:
                entry = _entry(point.load())
                if entry.kind in own:
                    raise ValueError(f"svdinv has a task {entry.kind}")
                _ADDED[entry.kind] = entry
            except Exception as error:  # a module of others may raise any
                _LEFT_OUT.add(point)
                warnings.warn(
                    f"left out the task of the entry point {point.name} = "
                    f"{point.value!r}, which cannot be used: {error}",
                    stacklevel=2,
                )
    return found | _ADDED


def entry_of_file(source: str | Path) -> TaskEntry:
    """Find the task that reads a file, or has a built-in image of that name.

    Tasks of other packages take precedence. Raises ValueError if there is none.
    """
    tasks = list(reversed(entries().values()))
    path = Path(source)
    for entry in tasks:
        if entry.has_name(str(source)):
            return entry
    for last in (False, True):
        for entry in tasks:
            if entry._by_suffix(path, last=last):
                return entry
    if path.is_dir():
        raise ValueError(
            f"{source} is a folder in which no DICOM image lies; name other files "
            "themselves"
        )
    if not path.suffix and not path.exists():
        names = [name for entry in tasks for name in entry.names]
        raise ValueError(
            f"there is no file {source}, and no built-in image of that name"
            f"{near(str(source), names)}\n  'svdinv data list' lists the names"
        )
    inputs = ", nor ".join(e.inputs for e in reversed(tasks) if e.inputs)
    readable = "\n  ".join(inputs.split(", nor "))
    raise ValueError(f"cannot read {source}; svdinv reads:\n  {readable}")


def entry_of_images(axes: str | None, channels: int | None = None) -> TaskEntry:
    """Find the first task for these axes and `channels`; None matches any number."""
    for entry in entries().values():
        counts = {channels, entry.channels} - {None}
        if entry.axes == axes and len(counts) < 2:
            return entry
    kinds = " or ".join(entry.images for entry in entries().values())
    raise ValueError(f"a network of {kinds} is needed, not of images ({axes})")
