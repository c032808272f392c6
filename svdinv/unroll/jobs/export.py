"""Undersampled data in files of their own, and pictures of what there is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv import __version__
from svdinv._missing import explain_missing
from svdinv.unroll.data._files import FileError, is_numeric, open_hdf5, to_complex
from svdinv.unroll.files import replacing
from svdinv.unroll.jobs.data import Case

__all__ = [
    "noisy",
    "read_measurement",
    "write_measurement",
]

Value = str | int | float

# What the samples are called, for each kind of data.
_SAMPLES = {"cine": "kspace", "colour": "samples"}
_OWN = ("kind", "name", "setting", "svdinv")


def write_measurement(
    path: str | Path,
    case: Case,
    *,
    truth: bool = True,
    options: Mapping[str, Value] | None = None,
) -> None:
    """Write undersampled data to an HDF5 file that `read_measurement` reads.

    A series is written as ``kspace``, ``mask`` and, with coils, ``maps``; a colour
    image as ``samples`` and ``mask``; both with ``truth``, if that is known and wanted.
    The file is complete or not there at all.

    Parameters
    ----------
    path : str or Path
        The file; an existing one is replaced.
    case : Case
        The data: a series if the samples are complex, a colour image otherwise.
    truth : bool
        Whether to write the truth.
    options : mapping of str to str, int or float, optional
        How the data were made, written as attributes of the file, beside ``kind``,
        ``name``, ``setting`` and the version of ``svdinv``.

    Raises
    ------
    ValueError
        If an option has a name that is taken.
    ImportError
        If h5py is missing.
    OSError
        If the file cannot be written.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise explain_missing("h5py", "mri") from error

    kind = "cine" if np.iscomplexobj(case.samples) else "colour"
    given = dict(options or {})
    taken = [name for name in given if name in _OWN]
    if taken:
        raise ValueError(f"options must not be called {taken[0]!r}: that name is taken")
    own = (kind, case.name, case.setting, __version__)
    arrays = {_SAMPLES[kind]: case.samples}
    arrays |= dict(zip(("mask", "maps"), case.measurement, strict=False))
    if truth and case.truth is not None:
        arrays["truth"] = case.truth
    with replacing(path) as stream, h5py.File(stream, "w") as file:
        file.attrs.update(given | dict(zip(_OWN, own, strict=True)))
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", shuffle=True)


def read_measurement(path: str | Path) -> Case:
    """Read undersampled data, of `write_measurement` or of the same form.

    The attribute ``kind`` is "cine" or "colour". For "cine": ``kspace`` (T, H, W) or
    (T, C, H, W), complex; ``mask`` (T, H, W); with coils ``maps`` (C, H, W), complex;
    maybe ``truth`` (T, H, W). For "colour": ``samples`` (C, H, W), real, ``mask`` of
    the same shape, maybe ``truth``. A mask is of bool, or of integers 0 and 1.

    Parameters
    ----------
    path : str or Path
        An HDF5 file.

    Returns
    -------
    Case
        With complex64 or float32, and masks of bool.

    Raises
    ------
    ValueError
        If the file is missing, damaged or of another form; the message names the
        dataset. Shapes are checked before any array is read.
    ImportError
        If h5py is missing.
    """
    with open_hdf5(path, "undersampled data in HDF5") as file:
        kind = _text(file.attrs.get("kind", ""))
        if kind not in _SAMPLES:
            raise FileError(
                f"{path}: the attribute kind must be one of {', '.join(_SAMPLES)}, "
                f"got {kind!r}"
            )
        reader = _Reader(file, path)
        arrays = reader.cine() if kind == "cine" else reader.colour()
        name = _text(file.attrs.get("name", "")) or Path(path).stem
        setting = _text(file.attrs.get("setting", ""))
    samples, given, truth = arrays
    return Case(name, setting, samples, given, truth)


def noisy(case: Case, deviation: float, *, seed: int) -> Case:
    """Add white Gaussian noise to what was sampled.

    Parameters
    ----------
    case : Case
        With its truth.
    deviation : float
        Standard deviation relative to 1 for images in [0, 1], and to the largest
        magnitude of a series; the square root of E|n|**2 of complex noise n.
    seed : int
        Draws the noise.

    Returns
    -------
    Case
        The same case with other samples.
    """
    rng = np.random.default_rng([seed, 1])
    shape, mask = case.samples.shape, case.measurement[0]
    if np.iscomplexobj(case.samples):
        assert case.truth is not None
        parts = rng.standard_normal((2, *shape), dtype=np.float32)
        noise: NDArray[Any] = (parts[0] + 1j * parts[1]) / np.float32(math.sqrt(2))
        scale = deviation * float(np.abs(case.truth).max())
        mask = mask if mask.ndim == len(shape) else mask[:, None]
    else:
        noise, scale = rng.standard_normal(shape, dtype=np.float32), deviation
    noise = np.where(mask, noise * np.float32(scale), np.float32(0))
    return replace(case, samples=case.samples + noise)


Read = tuple[NDArray[Any], tuple[NDArray[Any], ...], NDArray[Any] | None]


class _Reader:
    """Reads datasets of a file, each checked before it is read."""

    def __init__(self, file: Any, path: str | Path) -> None:
        self.file, self.path = file, path

    def cine(self) -> Read:
        kspace = self._shape("kspace", "(T, H, W) or (T, C, H, W)", (3, 4))
        T, *coils, H, W = kspace
        self._same("mask", (T, H, W), "(T, H, W)")
        if coils:
            self._same("maps", (*coils, H, W), "(C, H, W)")
        elif "maps" in self.file:
            raise self._error("kspace", "must be (T, C, H, W) where there are maps")
        if "truth" in self.file:
            self._same("truth", (T, H, W), "(T, H, W)")
        given = (self._mask(), *([self._complex("maps")] if coils else []))
        truth = self._complex("truth") if "truth" in self.file else None
        return self._complex("kspace"), given, truth

    def colour(self) -> Read:
        shape = self._shape("samples", "(C, H, W)", (3,))
        self._same("mask", shape, "that of samples")
        if "truth" in self.file:
            self._same("truth", shape, "that of samples")
        truth = self._real("truth") if "truth" in self.file else None
        return self._real("samples"), (self._mask(),), truth

    def _shape(self, name: str, said: str, axes: Sequence[int]) -> tuple[int, ...]:
        dataset = self.file.get(name)
        if dataset is None:
            raise self._error(name, "is missing")
        if not hasattr(dataset, "shape") or not is_numeric(dataset.dtype):
            raise self._error(name, "must be an array of numbers")
        shape = tuple(dataset.shape or ())
        if len(shape) not in axes or 0 in shape:
            raise self._error(name, f"must have the shape {said}, got {shape}")
        return shape

    def _same(self, name: str, expected: tuple[int, ...], said: str) -> None:
        shape = self._shape(name, said, range(8))
        if shape != expected:
            raise self._error(
                name, f"must have the shape {said}, here {expected}, got {shape}"
            )

    def _complex(self, name: str) -> NDArray[Any]:
        return to_complex(self.file[name][()], self.path, name)

    def _real(self, name: str) -> NDArray[Any]:
        if self.file[name].dtype.kind != "f":
            raise self._error(
                name, f"must be of floating point, got {self.file[name].dtype}"
            )
        with np.errstate(over="ignore"):
            array = self.file[name][()].astype(np.float32)
        if not np.isfinite(array).all():
            raise self._error(
                name, "has numbers that are not finite in single precision"
            )
        return array

    def _mask(self) -> NDArray[np.bool_]:
        mask = self.file["mask"][()]
        if mask.dtype.kind not in "biu" or not ((mask == 0) | (mask == 1)).all():
            raise self._error("mask", "must be of bool, or of integers 0 and 1")
        if not mask.any():
            raise self._error("mask", "samples nothing")
        return mask.astype(bool)

    def _error(self, name: str, what: str) -> FileError:
        return FileError(f"{self.path}: {name} {what}")


def _text(value: Any) -> str:
    """Read an attribute that may be a string of any kind."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""
