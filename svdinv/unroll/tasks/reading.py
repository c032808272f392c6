"""What a user brings to be reconstructed: images of a task, or measured data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from svdinv.unroll.formats.budget import FileError
from svdinv.unroll.formats.fastmri import holds_fastmri
from svdinv.unroll.formats.hdf5 import Datasets, open_hdf5
from svdinv.unroll.formats.measurements import text, write_measurement
from svdinv.unroll.formats.scans import Geometry
from svdinv.unroll.formats.series import HDF5_SUFFIXES
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.task import (
    Given,
    Options,
    Task,
    as_measured,
    recognise,
    tasks,
)

__all__ = [
    "files_of",
    "fitting",
    "holds_measurement",
    "read",
    "read_all",
    "read_measurement",
    "task_of_file",
    "write_problem",
]


def write_problem(
    path: str | Path,
    task: Task,
    problem: Problem,
    *,
    truth: bool = True,
    options: dict[str, Any] | None = None,
) -> None:
    """Write a problem to an HDF5 file that `read_measurement` reads.

    In the scale of what was read, not in that of the problem; with the truth, if wanted
    and known. An existing file is replaced, and only by a complete one. `options`, how
    the data were made, are written as attributes. Raises ValueError if one has a name
    that is taken, ImportError without h5py.
    """
    arrays = dict(task.measured(problem))
    if truth and problem.truth is not None:
        arrays["truth"] = problem.truth
    if problem.scale != 1:
        for name in {task.sampled, "truth"} & set(arrays):
            arrays[name] = arrays[name] * np.float32(problem.scale)
    if isinstance(problem.note, Geometry):
        arrays["affine"] = problem.note.affine
        options = {**(options or {}), "frame_seconds": problem.note.seconds}
    write_measurement(
        path,
        arrays,
        kind=task.kind,
        name=problem.name,
        setting=problem.setting,
        options=options,
    )


def holds_measurement(path: str | Path) -> bool:
    """Tell files in the layout of `write_problem` from all others, and from names.

    Those are HDF5 files with the dataset of a task, such as ``kspace`` or ``samples``,
    and none of fastMRI. Raises ValueError if such a file is missing or damaged,
    ImportError without h5py.
    """
    if Path(path).suffix.lower() not in HDF5_SUFFIXES:
        return False
    with open_hdf5(path, "an HDF5 file") as file:
        own = any(cls.sampled in file for cls in tasks().values())
        return own and ("kind" in file.attrs or not holds_fastmri(file))


def read_measurement(path: str | Path) -> tuple[Task, Problem]:
    """Read measured data, of `write_problem` or in the same layout, and their task.

    The attribute ``kind`` names the task; without it, that is told by the dataset of
    the data, such as ``kspace`` or ``samples``. The attributes ``name`` and ``setting``
    may be missing. What the datasets are is said at the tasks' `read_measured`.

    Raises ValueError, naming the dataset, if the file is missing, damaged or of another
    form; all shapes are checked before any array is read. Raises ImportError without
    h5py.
    """
    with open_hdf5(path, "undersampled data in HDF5") as file:
        task = _kind(file, path)
        problem = task.read_measured(file)
        if "affine" in file:
            file.same("affine", (4, 4), "of a matrix")
            affine = file.real("affine").astype(np.float64)
            seconds = float(file.attrs.get("frame_seconds", 0))
            problem = replace(problem, note=Geometry(affine, seconds))
        name = text(file.attrs.get("name", "")) or Path(path).stem
        setting = text(file.attrs.get("setting", ""))
    return task, replace(problem, name=name, setting=setting)


def task_of_file(source: str | Path) -> Task:
    """Tell which task a file is of, by its name and, of HDF5, what is in it.

    Takes names of what is built in, too. Raises ValueError if there is none for it, or
    it cannot be read.
    """
    if holds_measurement(source):
        with open_hdf5(source, "undersampled data in HDF5") as file:
            return _kind(file, source)
    return recognise(source)


def read(source: str | Path, task: Task, options: Options) -> Given | Problem:
    """Read an image of a task, or measured data, which are named after the file.

    The source is one of this task, by `task_of_file`. Raises ValueError, naming it, if
    it is missing, damaged or of the wrong shape; ImportError if what reads such files
    is missing.
    """
    if holds_measurement(source):
        _, problem = read_measurement(source)
        return replace(problem, name=Path(source).stem, setting=as_measured(problem))
    return task.read(source, options)


def fitting(source: str | Path, task: Task, given: Given | Problem) -> tuple[str, ...]:
    """Name the options that fit what `read` gave.

    Those of its file, and of an image those that say how to measure it.
    """
    takes = () if holds_measurement(source) else task.takes(source)
    if isinstance(given, Problem):
        return takes
    reading = task.options.reading()
    return (*takes, *(n for n in task.options.names() if n not in reading))


def read_all(
    sources: Sequence[str | Path], task: Task, options: Options
) -> list[Given | Problem]:
    """Read several files of one task, and call each by its own name.

    In the same order; files with one name are called by their paths. Raises ValueError
    as `read`, and if one is of another task.
    """
    found = []
    for source in sources:
        own = task_of_file(source)
        if own.kind != task.kind:
            raise ValueError(
                f"{source} is of the kind {own.kind}, and the weights are for "
                f"{task.kind}"
            )
        found.append(read(source, task, options))
    names = [given.name for given in found]
    return [
        replace(given, name=str(source)) if names.count(given.name) > 1 else given
        for given, source in zip(found, sources, strict=True)
    ]


def files_of(places: Iterable[str | Path], task: Task) -> list[str | Path]:
    """List what is named, and what of a task is in the folders that are named.

    For `read`; of folders by name. Raises ValueError if a folder has nothing of that
    task.
    """
    found: list[str | Path] = []
    for place in places:
        if Path(place).is_dir() and not task.recognises(Path(place)):
            found += task.files(Path(place))
        else:
            found.append(place)
    return found


def _kind(file: Datasets, path: str | Path) -> Task:
    known = tasks()
    if "kind" in file.attrs:
        given = file.attrs["kind"]
        if (kind := text(given)) in known:
            return known[kind]()
        raise FileError(
            f"{path}: the attribute kind must be {' or '.join(known)}, got "
            f"{kind or given}"
        )
    for cls in known.values():
        if cls.sampled in file:
            return cls()
    due = " nor ".join(cls.sampled for cls in known.values())
    raise FileError(f"{path} has neither a dataset {due}")
