"""What a user brings to be reconstructed: pictures, series, or measured samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.coils import estimate_maps
from svdinv.unroll.data import (
    PHOTOS,
    SUFFIXES,
    centre_crop,
    photograph,
    read_picture,
    read_series,
)
from svdinv.unroll.data._files import is_numeric, open_hdf5, to_complex
from svdinv.unroll.data.pictures import picture_files
from svdinv.unroll.jobs import cine
from svdinv.unroll.jobs.colour import channels_first
from svdinv.unroll.jobs.data import Case
from svdinv.unroll.masks import uniform_mask
from svdinv.unroll.operators import MRI
from svdinv.unroll.phantom import coil_maps

__all__ = [
    "SERIES_SUFFIXES",
    "Input",
    "Sampler",
    "files_of",
    "read_input",
    "read_inputs",
    "read_mask",
]

SERIES_SUFFIXES = (".npy", ".npz", ".mat", ".h5", ".hdf5", ".hdf")
"""How the names of the files of series, and of measured samples, end."""

Arrays = NDArray[Any]
Kind = Literal["colour", "cine"]

_HDF5 = (".h5", ".hdf5", ".hdf")
_SMALLEST = 16  # pixels a side of a series
_UNIT_ENERGY = 1.02  # of coil maps, with room for rounding


@dataclass(frozen=True, eq=False)
class Input:
    """Something to reconstruct.

    Attributes
    ----------
    name : str
        What to call it.
    kind : {"colour", "cine"}
        A picture or a series.
    truth : ndarray or None
        (C, H, W) in [0, 1], or complex (T, H, W) with the largest magnitude 1.
    samples : ndarray or None
        What was measured; None for what is yet to be sampled.
    measurement : tuple of ndarray
        Mask and coil maps of the samples.
    scale : float
        What the series, or the samples, were divided by.
    """

    name: str
    kind: Kind
    truth: Arrays | None
    samples: Arrays | None = None
    measurement: tuple[Arrays, ...] = ()
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image."""
        if self.truth is not None:
            return self.truth.shape
        return self.measurement[0].shape


@dataclass(frozen=True, eq=False)
class Sampler:
    """How images are sampled that are whole.

    Attributes
    ----------
    rate : float
        Part of the samples of a picture.
    mask : str or ndarray of bool
        Pattern for the k-space of a series, a name of `svdinv.unroll.jobs.cine.MASKS`;
        or a mask, of whatever is sampled.
    coils : int
        Number of simulated coils of a series; 0 for none, and no maps.
    seed : int
        Draws masks, and the place of the coils.
    """

    rate: float = 0.4
    mask: str | NDArray[np.bool_] = "radial"
    coils: int = 0
    seed: int = 0

    def case(self, given: Input) -> Case:
        """Sample something, unless it is sampled already.

        Parameters
        ----------
        given : Input
            A picture, a series, or samples.

        Returns
        -------
        Case
            To reconstruct.

        Raises
        ------
        ValueError
            If the mask does not fit.
        """
        if given.samples is not None:
            samples, measurement = given.samples, given.measurement
            return Case(given.name, "as measured", samples, measurement, given.truth)
        truth = given.truth
        assert truth is not None
        mask, setting = self._mask(truth.shape, given.kind)
        if given.kind == "colour":
            samples = np.where(mask, truth, np.float32(0))
            return Case(given.name, setting, samples, (mask,), truth)
        if not self.coils:
            return Case(given.name, setting, cine.measured(truth, mask), (mask,), truth)
        maps = coil_maps(self.coils, *truth.shape[-2:], seed=self.seed)
        setting += f", {self.coils} coils" if self.coils > 1 else ", 1 coil"
        samples = cine.measured(truth, mask, maps)
        return Case(given.name, setting, samples, (mask, maps), truth)

    def _mask(self, shape: tuple[int, ...], kind: str) -> tuple[NDArray[np.bool_], str]:
        rng = np.random.default_rng(self.seed)
        if not isinstance(self.mask, str):
            mask = _fitted(self.mask, shape)
            if kind == "cine":
                _check_centred(mask)
            return mask, "own mask"
        if kind == "colour":
            channels, height, width = shape
            drawn = uniform_mask((height, width, channels), self.rate, rng)
            return channels_first(drawn), f"rate {self.rate:g}"
        return cine.sampling(self.mask, shape, rng), self.mask


def files_of(places: Iterable[str | Path], kind: str) -> list[str | Path]:
    """List what is named, and what is in the folders that are named.

    Parameters
    ----------
    places : iterable of str or Path
        Files, folders, and names of photographs that are built in.
    kind : {"colour", "cine"}
        Which files of the folders to take.

    Returns
    -------
    list of str or Path
        For `read_input`; of folders by name.

    Raises
    ------
    ValueError
        If a folder has nothing of that kind.
    """
    found: list[str | Path] = []
    for place in places:
        if not Path(place).is_dir():
            found.append(place)
        elif kind == "colour":
            found += picture_files(place)
        else:
            files = sorted(Path(place).iterdir())
            files = [f for f in files if f.suffix.lower() in SERIES_SUFFIXES]
            if not files:
                raise ValueError(
                    f"no series in {place}; looked for {', '.join(SERIES_SUFFIXES)}"
                )
            found += files
    return found


def read_inputs(
    sources: Sequence[str | Path], *, crop: int = 0, **options: Any
) -> list[Input]:
    """Read several files, and call each by its own name.

    Parameters
    ----------
    sources : sequence of str or Path
        As for `read_input`.
    crop, **options
        As for `read_input`.

    Returns
    -------
    list of Input
        In the same order. Files with one name are called by their paths.

    Raises
    ------
    ValueError
        As `read_input`.
    """
    inputs = [read_input(source, crop=crop, **options) for source in sources]
    names = [given.name for given in inputs]
    return [
        replace(given, name=str(source)) if names.count(given.name) > 1 else given
        for given, source in zip(inputs, sources, strict=True)
    ]


def read_input(
    source: str | Path,
    *,
    crop: int = 0,
    key: str | None = None,
    time_axis: int = -3,
) -> Input:
    """Read a picture, a series, or samples.

    Parameters
    ----------
    source : str or Path
        Name of a built-in photograph; picture file; series in a ``.npy``, ``.npz``,
        ``.mat`` or ``.h5`` file; or ``.h5`` file with the dataset ``kspace``,
        (T, H, W) or (T, C, H, W), or ``samples``, (C, H, W), beside ``mask``, and
        ``truth`` and ``maps`` where they are known.
    crop : int
        Most pixels a side of a picture, which is cropped around its middle; 0 for
        all of it.
    key, time_axis
        Of a series, as for `svdinv.unroll.data.read_series`.

    Returns
    -------
    Input
        What was read.

    Raises
    ------
    ValueError
        If it is missing, damaged or of the wrong shape; the message names it.
    ImportError
        If what reads such files is missing.
    """
    path = Path(source)
    suffix = path.suffix.lower()
    if str(source) in PHOTOS or suffix in SUFFIXES:
        built_in = str(source) in PHOTOS
        image = (
            photograph(str(source)) if built_in else read_picture(path, largest=None)
        )
        image = centre_crop(image, crop) if crop else image
        return Input(path.stem, "colour", channels_first(image))
    if suffix not in SERIES_SUFFIXES:
        raise ValueError(
            f"{source} is neither a picture ({', '.join(SUFFIXES)}) nor a series "
            f"({', '.join(SERIES_SUFFIXES)}), nor a photograph that comes with svdinv "
            f"({', '.join(PHOTOS)})"
        )
    if suffix in _HDF5:
        measured = _read_samples(path)
        if measured is not None:
            return measured
    series = _one_series(read_series(path, key, time_axis=time_axis), path)
    scale = float(np.abs(series).max())
    if scale == 0:
        raise ValueError(f"{path} is zero everywhere")
    return Input(path.stem, "cine", series / np.float32(scale), scale=scale)


def read_mask(
    path: str | Path, *, key: str | None = None, time_axis: int = -3
) -> NDArray[np.bool_]:
    """Read a sampling mask from an array file.

    Parameters
    ----------
    path : str or Path
        ``.npy``, ``.npz``, ``.mat`` or ``.h5`` file with an array of bool, or of 0
        and 1.
    key, time_axis
        As for `svdinv.unroll.data.read_series`.

    Returns
    -------
    ndarray of bool, shape (..., H, W)
        True where sampled.

    Raises
    ------
    ValueError
        If the file cannot be read, holds other numbers, or samples nothing.
    """
    values = read_series(path, key, time_axis=time_axis)
    if not np.isin(values, (0, 1)).all():
        raise ValueError(f"{path}: a mask must hold 0 and 1, or true and false, alone")
    mask = values == 1
    if not mask.any():
        raise ValueError(f"{path}: the mask samples nothing")
    return mask


def _fitted(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Repeat a mask (H, W) for all frames or channels."""
    if mask.shape not in (shape, shape[-2:]):
        raise ValueError(
            f"the mask must have the shape {shape}, or {shape[-2:]} for all alike, got "
            f"{mask.shape}"
        )
    return np.ascontiguousarray(np.broadcast_to(mask, shape))


def _check_centred(mask: NDArray[np.bool_]) -> None:
    """Refuse masks with the zero frequency in the corner, as FFTs order it."""
    _, height, width = mask.shape
    rows, columns = (slice(n // 2 - 1, n // 2 + 2) for n in (height, width))
    if mask[:, 0, 0].all() and not mask[:, rows, columns].any():
        raise ValueError(
            "the mask samples the corners of k-space and not its centre, which must be "
            "at (H // 2, W // 2): numpy.fft.fftshift it"
        )


def _one_series(series: Arrays, path: Path) -> NDArray[np.complex64]:
    while series.ndim > 3 and len(series) == 1:
        series = series[0]
    if series.ndim != 3 or min(series.shape[-2:]) < _SMALLEST:
        raise ValueError(
            f"{path} must hold one series (T, H, W), of {_SMALLEST} pixels a side or "
            f"more, got the shape {series.shape}"
        )
    return series


def _read_samples(path: Path) -> Input | None:
    """Read measured samples, or nothing where the file has none."""
    with open_hdf5(path, "an HDF5 file") as file:
        names = [n for n in ("kspace", "samples") if hasattr(file.get(n), "shape")]
        if not names:
            return None
        wanted = (names[0], "mask", "maps", "truth")
        arrays = {n: file[n][()] for n in wanted if hasattr(file.get(n), "shape")}
    for name, array in arrays.items():
        if not is_numeric(array.dtype):
            raise ValueError(f"{path}: {name} must hold numbers, got {array.dtype}")
    if "mask" not in arrays or arrays["mask"].ndim != 3:
        raise ValueError(
            f"{path} has {names[0]}, but no mask of three axes; svdinv data makes such "
            "files of raw data"
        )
    values = {n: to_complex(a, path, n) for n, a in arrays.items() if n != "mask"}
    mask = arrays["mask"].astype(bool)
    if not mask.any():
        raise ValueError(f"{path}: the mask samples nothing")
    truth = values.get("truth")
    if truth is not None and truth.shape != mask.shape:
        raise ValueError(
            f"{path}: truth {truth.shape} and mask {mask.shape} differ in shape"
        )
    if truth is not None and not truth.any():
        raise ValueError(f"{path}: truth is zero everywhere")
    if names[0] == "samples":
        return _colour_samples(path, values["samples"], mask, truth)
    return _kspace(path, values["kspace"], mask, values.get("maps"), truth)


def _colour_samples(
    path: Path, samples: Arrays, mask: NDArray[np.bool_], truth: Arrays | None
) -> Input:
    if samples.shape != mask.shape or len(samples) != 3:
        raise ValueError(
            f"{path}: samples and mask must both be (3, H, W), got {samples.shape} and "
            f"{mask.shape}"
        )
    real = np.ascontiguousarray(samples.real)
    whole = None if truth is None else np.ascontiguousarray(truth.real)
    return Input(path.stem, "colour", whole, real, (mask,))


def _kspace(
    path: Path,
    kspace: Arrays,
    mask: NDArray[np.bool_],
    maps: Arrays | None,
    truth: Arrays | None,
) -> Input:
    frames, *size = mask.shape
    if min(size) < _SMALLEST:
        raise ValueError(
            f"{path}: frames must have {_SMALLEST} pixels a side or more, got {size}"
        )
    if kspace.ndim == 4 and kspace.shape[1] == 1 and maps is None:
        kspace = kspace[:, 0]
    coils = kspace.shape[1:2] if kspace.ndim == 4 else ()
    if kspace.shape != (frames, *coils, *size):
        raise ValueError(
            f"{path}: kspace {kspace.shape} is neither (T, H, W) nor (T, C, H, W) of "
            f"the mask (T, H, W) = {mask.shape}"
        )
    if coils and maps is None:
        maps = estimate_maps(kspace, mask=mask, calibration=min(24, *size))
    if maps is not None and maps.shape != (*(coils or (None,)), *size):
        raise ValueError(
            f"{path}: maps {maps.shape} do not go with kspace {kspace.shape}"
        )
    energy = 1.0 if maps is None else float((np.abs(maps) ** 2).sum(axis=0).max())
    if energy > _UNIT_ENERGY:
        raise ValueError(
            f"{path}: the squared magnitudes of the maps must add up to 1, or to 0 "
            f"where there is no signal, and reach {energy:.3g}"
        )
    given = (mask,) if maps is None else (mask, maps)
    operator = MRI(*given)
    reference = operator.H(kspace) if truth is None else truth
    scale = float(np.abs(reference).max())
    if scale == 0:
        raise ValueError(f"{path}: kspace is zero wherever it is sampled")
    divisor = np.float32(scale)
    samples = operator.measured(kspace) / divisor
    whole = None if truth is None else truth / divisor
    return Input(path.stem, "cine", whole, samples, given, scale)
