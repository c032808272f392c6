"""Measured data of any task in HDF5 or .npz files: layout, reading and writing."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from svdinv import __version__
from svdinv._missing import needing
from svdinv.unroll.formats.checks import FileError, reading
from svdinv.unroll.formats.fastmri import holds_fastmri
from svdinv.unroll.formats.hdf5 import Datasets, open_hdf5, writing_hdf5
from svdinv.unroll.formats.scans import Geometry
from svdinv.unroll.formats.series import read_arrays, shapes_in
from svdinv.unroll.formats.table import HDF5_SUFFIXES
from svdinv.unroll.plugins import near
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.registry import TaskEntry, entries
from svdinv.unroll.tasks.task import Task

_WHAT = "undersampled data in HDF5"


def write_problem(
    path: str | Path,
    task: Task,
    problem: Problem,
    *,
    truth: bool = True,
    options: dict[str, Any] | None = None,
) -> None:
    """Write a problem to an HDF5 file that `read_measurement` reads.

    The datasets are those of `Task.arrays_to_save` and, if `truth` is set and the
    problem has one, ``truth``, multiplied by the scale of the problem. The attributes
    are ``kind``, ``name``, ``setting``, and `options`, which record how the data were
    made. An existing file is replaced only once the new one is complete. Raises
    ValueError if an option has a reserved name, ImportError without h5py.
    """
    own = {"kind": task.kind, "name": problem.name, "setting": problem.setting}
    own["svdinv"] = __version__
    if reserved := own.keys() & (options or {}):
        name = sorted(reserved)[0]
        raise ValueError(f"options must not be called {name!r}: the name is reserved")
    arrays = dict(task.arrays_to_save(problem))
    if truth and problem.truth is not None:
        arrays["truth"] = problem.truth
    if problem.scale != 1:
        for name in {task.dataset, "truth"} & set(arrays):
            arrays[name] = arrays[name] * np.float32(problem.scale)
    if isinstance(problem.scan, Geometry):
        arrays["affine"] = problem.scan.affine
        options = {**(options or {}), "frame_seconds": problem.scan.seconds}
    with writing_hdf5(path) as file:
        file.attrs.update({**(options or {}), **own})
        for dataset, array in arrays.items():
            file.create_dataset(dataset, data=array, compression="gzip", shuffle=True)


def measured_entry(path: str | Path) -> TaskEntry | None:
    """Return the task of a file in the layout of `write_problem`, None for others.

    No array is read.
    """
    if Path(path).suffix.lower() == ".npz":  # these have no attributes
        shapes = shapes_in(path)
        found = [
            entry
            for entry in entries().values()
            if entry.companions and shapes.keys() >= {entry.dataset, *entry.companions}
        ]
        return _by_axes(found, lambda name: len(shapes[name]))
    if Path(path).suffix.lower() not in HDF5_SUFFIXES:
        return None
    with _opened(path) as file:
        known = entries()
        named = any(e.dataset in file for e in known.values() if e.dataset)
        own = named and ("kind" in file.attrs or not holds_fastmri(file))
        kind = _text(file.attrs.get("kind", ""))
        return _entry(file) if own or kind in known else None


def read_measurement(path: str | Path) -> tuple[Task, Problem]:
    """Read measured data in the layout of `write_problem`; return task and problem.

    The file is HDF5, or ``.npz`` with arrays of the same names. The attribute ``kind``
    names the task; without it, the name of the dataset, such as ``kspace`` or
    ``samples``, determines the task, and the number of its axes whether a ``sinogram``
    is of CT or of spectral CT. The attributes ``name`` and ``setting`` are
    optional. `Task.read_measured` of each task describes its datasets.

    Raises ValueError, naming the dataset, if the file is missing, damaged or in another
    layout, or its root holds an array that the task does not read; all shapes are
    checked before any array is read. Raises ImportError without h5py.
    """
    with _opened(path) as file:
        task: Task = _entry(file).reader()
        file.asked.clear()  # what `_entry` looked for
        file.found.clear()
        problem = task.read_measured(file)
        _check_all_read(file, task)
        name = _text(file.attrs.get("name", "")) or Path(path).stem
        setting = _text(file.attrs.get("setting", ""))
    return task, replace(problem, name=name, setting=setting)


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Datasets]:
    """Open an HDF5 file, or copy an ``.npz`` file to an HDF5 file in memory."""
    if Path(path).suffix.lower() != ".npz":
        with open_hdf5(path, _WHAT) as datasets:
            yield datasets
        return
    with needing("h5py", "mri"):
        import h5py
    with reading(path, _WHAT), h5py.File(io.BytesIO(), "w") as file:
        for name, array in read_arrays(path).items():
            file[name] = array
        yield Datasets(file, path)


def _entry(file: Datasets) -> TaskEntry:
    tasks = entries()
    if "kind" in file.attrs:
        attribute = file.attrs["kind"]
        if (kind := _text(attribute)) in tasks:
            return tasks[kind]
        raise FileError(
            f"{file.path}: the attribute kind must be {' or '.join(tasks)}, got "
            f"{kind or attribute}"
        )
    found = [e for e in tasks.values() if e.dataset and e.dataset in file]
    if entry := _by_axes(found, lambda name: file.dataset(name).ndim):
        return entry
    names = " nor ".join(entry.dataset for entry in tasks.values() if entry.dataset)
    raise FileError(f"{file.path} has neither a dataset {names}")


def _check_all_read(file: Datasets, task: Task) -> None:
    """Raise ValueError for arrays of other names, such as one that is misspelt.

    Single numbers may be notes, unless their names resemble known ones.
    """
    asked = sorted(file.asked)
    for name in file.unread():
        hint = near(name, asked)
        if hint or file.dataset(name).size != 1:
            known = ", ".join(asked)
            raise file.error(
                name, f"would not be used: {task.kind} reads {known}{hint}"
            )


def _by_axes(found: list[TaskEntry], axes: Callable[[str], int]) -> TaskEntry | None:
    """Return the first task whose data have that number of axes, else the first."""
    fits = (e for e in found if e.ndim is None or e.ndim == axes(e.dataset))
    return next(fits, found[0] if found else None)


def _text(value: Any) -> str:
    """Return an attribute as a string, empty if it is not text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""
