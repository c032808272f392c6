"""Input files and built-in names: finding their task, and reading them."""

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
    """A file or a built-in name with its task, not read yet.

    `measured` if it is a file of measured data in svdinv's own layout.
    """

    name: str | Path
    entry: TaskEntry
    measured: bool = False

    @cached_property
    def task(self) -> Task:
        """The task, imported on first access."""
        return cast(Task, self.entry.reader())

    def read(self, options: Options) -> InputImage | Problem:
        """Read the image or the measured data, named after the file.

        Raises ValueError, naming the file, if it is missing, damaged or of the wrong
        shape; ImportError if the package that reads such files is missing.
        """
        if not self.measured:
            return self.task.read(self.name, options)
        from svdinv.unroll.tasks.measured_files import read_measurement

        _, problem = read_measurement(self.name)
        name = Path(self.name).stem
        return replace(problem, name=name, setting=as_measured(problem))

    def applicable(self, given: InputImage | Problem) -> tuple[str, ...]:
        """Return the names of the options that apply to the result of `read`.

        These are the options of its file and, for an image, those of its measurement,
        or, for raw data from a scanner, those that select samples.
        """
        if self.measured:
            return ()
        of_file = self.task.file_options(self.name)
        if isinstance(given, Problem):
            return (*of_file, *self.task.sampling_options(given))
        options = self.task.options
        return (*of_file, *(n for n in options.names() if n not in options.of_files()))


def source_of(name: str | Path, preferred: TaskEntry | None = None) -> Source:
    """Find the task of a file or of a built-in name: `preferred`, if it reads it.

    Raises ValueError if no task reads it, or it is a damaged HDF5 file; ImportError for
    HDF5 files if h5py is missing.
    """
    if Path(name).suffix.lower() in (".npz", *HDF5_SUFFIXES):
        from svdinv.unroll.tasks.measured_files import measured_entry

        if (entry := measured_entry(name)) is not None:
            return Source(name, entry, measured=True)
    if preferred is not None and preferred.recognises(name):
        return Source(name, preferred)
    return Source(name, entry_of_file(name))


def read_all(
    sources: Sequence[str | Path], task: Task, options: Options
) -> list[InputImage | Problem]:
    """Read several files of one task, in order, under distinct names.

    Files that share a name are named by their paths. Raises ValueError as `Source.read`
    does, and if a file belongs to another task.
    """
    inputs = []
    for name in sources:
        source = source_of(name, task.described())
        if source.entry.kind != task.kind:
            raise ValueError(
                f"{name} is of the kind {source.entry.kind}, but the task is "
                f"{task.kind}"
            )
        inputs.append(source.read(options))
    names = [item.name for item in inputs]
    return [
        replace(item, name=str(path)) if names.count(item.name) > 1 else item
        for item, path in zip(inputs, sources, strict=True)
    ]


def files_of(places: Iterable[str | Path], task: Task) -> list[str | Path]:
    """List the files and names in `places`, and the files of a task in their folders.

    The files of a folder are sorted by name. Raises ValueError if a folder has no file
    of the task.
    """
    found: list[str | Path] = []
    for place in places:
        if Path(place).is_dir() and not task.described().recognises(Path(place)):
            found += task.files(Path(place))
        else:
            found.append(place)
    return found
