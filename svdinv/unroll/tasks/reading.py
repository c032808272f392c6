"""What a user brings to be reconstructed: images of a task, or measured data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

from svdinv.unroll.formats.table import HDF5_SUFFIXES
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.registry import TaskEntry, entry_of_file
from svdinv.unroll.tasks.task import InputImage, Options, Task, as_measured


@dataclass(frozen=True)
class Source:
    """A file or a built-in name, of which the task is known and nothing is read yet.

    Attributes
    ----------
    name : str or Path
        What the user wrote.
    entry : TaskEntry
        Its task.
    measured : bool
        Whether it is a file of measured data in svdinv's own layout.
    """

    name: str | Path
    entry: TaskEntry
    measured: bool = False

    @cached_property
    def task(self) -> Task:
        """The task, imported at the first access."""
        return cast(Task, self.entry.load()())

    def read(self, options: Options) -> InputImage | Problem:
        """Read the image or the measured data, which are named after the file.

        Raises ValueError, naming it, if it is missing, damaged or of the wrong shape;
        ImportError if what reads such files is missing.
        """
        if not self.measured:
            return self.task.read(self.name, options)
        from svdinv.unroll.tasks.measured_files import read_measurement

        _, problem = read_measurement(self.name)
        name = Path(self.name).stem
        return replace(problem, name=name, setting=as_measured(problem))

    def applicable(self, given: InputImage | Problem) -> tuple[str, ...]:
        """Name the options that apply to what `read` returned.

        Those of its file, and of an image those that say how to measure it.
        """
        of_file = () if self.measured else self.task.file_options(self.name)
        if isinstance(given, Problem):
            return of_file
        options = self.task.options
        return (*of_file, *(n for n in options.names() if n not in options.of_files()))


def source_of(name: str | Path) -> Source:
    """Find the task of a file or of a built-in name.

    Raises ValueError if there is no task for it, or it is an HDF5 file that cannot be
    read; ImportError if it is one and h5py is missing.
    """
    if Path(name).suffix.lower() in (".npz", *HDF5_SUFFIXES):
        from svdinv.unroll.tasks.measured_files import measured_entry

        if (entry := measured_entry(name)) is not None:
            return Source(name, entry, measured=True)
    return Source(name, entry_of_file(name))


def read_all(
    sources: Sequence[str | Path], task: Task, options: Options
) -> list[InputImage | Problem]:
    """Read several files of one task, and call each by its own name.

    In the same order; files with one name are called by their paths. Raises ValueError
    as `Source.read`, and if one is of another task.
    """
    found = []
    for source in sources:
        own = source_of(source)
        if own.entry.kind != task.kind:
            raise ValueError(
                f"{source} is of the kind {own.entry.kind}, and the weights are for "
                f"{task.kind}"
            )
        found.append(own.read(options))
    names = [given.name for given in found]
    return [
        replace(given, name=str(source)) if names.count(given.name) > 1 else given
        for given, source in zip(found, sources, strict=True)
    ]


def files_of(places: Iterable[str | Path], task: Task) -> list[str | Path]:
    """List what is named, and what of a task is in the folders that are named.

    Files of a folder are sorted by name. Raises ValueError if a folder has nothing of
    that task.
    """
    found: list[str | Path] = []
    for place in places:
        if Path(place).is_dir() and not task.described().recognises(Path(place)):
            found += task.files(Path(place))
        else:
            found.append(place)
    return found
