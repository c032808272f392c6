"""Undersampled data in HDF5 files: one layout, written and read here alone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv import __version__
from svdinv._missing import explain_missing
from svdinv.unroll.data._files import FileError, is_numeric, open_hdf5, to_complex
from svdinv.unroll.files import replacing
from svdinv.unroll.training.batches import Case

__all__ = [
    "as_mask",
    "holds_measurement",
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
    # In memory: HDF5 does not survive that a file cannot be written to the end.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs.update(given | dict(zip(_OWN, own, strict=True)))
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", shuffle=True)
    with replacing(path) as stream:
        stream.write(content.getbuffer())


def holds_measurement(path: str | Path) -> bool:
    """Tell files of undersampled data from others, such as files of whole series.

    Parameters
    ----------
    path : str or Path
        An HDF5 file.

    Returns
    -------
    bool
        Whether it has a dataset ``kspace`` or ``samples``.

    Raises
    ------
    ValueError
        If the file is missing or damaged.
    ImportError
        If h5py is missing.
    """
    with open_hdf5(path, "an HDF5 file") as file:
        return any(name in file for name in _SAMPLES.values())


def read_measurement(path: str | Path) -> Case:
    """Read undersampled data, of `write_measurement` or in the same layout.

    Of a series: ``kspace`` (T, H, W) or (T, C, H, W), complex; ``mask`` (T, H, W);
    ``maps`` (C, H, W), complex, if there are coils and their sensitivities are known;
    ``truth`` (T, H, W), if that is known. Of a colour image: ``samples`` (C, H, W), of
    floating point, for colours in [0, 1]; ``mask`` of the same shape; ``truth``, if
    known. The attribute
    ``kind``, "cine" or "colour", may be left out; which it is, is then told by the
    dataset ``kspace`` or ``samples``. So may the attributes ``name`` and ``setting``.
    The zero frequency is at (H // 2, W // 2).

    Parameters
    ----------
    path : str or Path
        An HDF5 file.

    Returns
    -------
    Case
        With complex64 or float32, and a mask of bool. For coils without maps, its
        `measurement` is the mask alone.

    Raises
    ------
    ValueError
        If the file is missing, damaged or of another form; the message names the
        dataset. All shapes are checked before any array is read.
    ImportError
        If h5py is missing.
    """
    with open_hdf5(path, "undersampled data in HDF5") as file:
        reader = _Reader(file, path)
        samples, given, truth = (
            reader.cine() if reader.kind() == "cine" else reader.colour()
        )
        name = _text(file.attrs.get("name", "")) or Path(path).stem
        setting = _text(file.attrs.get("setting", ""))
    return Case(name, setting, samples, given, truth)


def as_mask(values: NDArray[Any], what: str) -> NDArray[np.bool_]:
    """Convert a sampling mask to bool.

    Parameters
    ----------
    values : ndarray
        Of bool, or of numbers of any type that are 0 or 1.
    what : str
        What to call it in errors.

    Returns
    -------
    ndarray of bool
        True where sampled.

    Raises
    ------
    ValueError
        If it holds other numbers, or samples nothing.
    """
    if not ((values == 0) | (values == 1)).all():
        raise FileError(f"{what} must hold 0 and 1, or true and false, alone")
    mask = values == 1
    if not mask.any():
        raise FileError(f"{what} samples nothing")
    return mask


Read = tuple[NDArray[Any], tuple[NDArray[Any], ...], NDArray[Any] | None]


class _Reader:
    """Reads the datasets of a file, after the shapes of all have been checked."""

    def __init__(self, file: Any, path: str | Path) -> None:
        self.file, self.path = file, path

    def kind(self) -> str:
        if "kind" in self.file.attrs:
            given = self.file.attrs["kind"]
            if (kind := _text(given)) in _SAMPLES:
                return kind
            said = f"must be {' or '.join(_SAMPLES)}, got {kind or given}"
            raise self._error("the attribute kind", said)
        for kind, name in _SAMPLES.items():
            if name in self.file:
                return kind
        raise FileError(f"{self.path} has neither a dataset kspace nor samples")

    def cine(self) -> Read:
        kspace = self._shape("kspace", "(T, H, W) or (T, C, H, W)", (3, 4))
        T, *coils, H, W = kspace
        self._same("mask", (T, H, W), "(T, H, W)")
        mapped, known = "maps" in self.file, "truth" in self.file
        if mapped and not coils:
            raise self._error("kspace", "must be (T, C, H, W) where there are maps")
        if mapped:
            self._same("maps", (*coils, H, W), "(C, H, W)")
        if known:
            self._same("truth", (T, H, W), "(T, H, W)")
        given = (self._mask(), *([self._complex("maps")] if mapped else []))
        truth = self._complex("truth") if known else None
        return self._complex("kspace"), given, truth

    def colour(self) -> Read:
        shape = self._shape("samples", "(C, H, W)", (3,))
        known = "truth" in self.file
        for name in ("mask", "truth") if known else ("mask",):
            self._same(name, shape, "that of samples")
        truth = self._real("truth") if known else None
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
        return as_mask(self.file["mask"][()], f"{self.path}: mask")

    def _error(self, name: str, what: str) -> FileError:
        return FileError(f"{self.path}: {name} {what}")


def _text(value: Any) -> str:
    """Read an attribute that may be a string of any kind."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""
