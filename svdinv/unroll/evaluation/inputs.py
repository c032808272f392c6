"""What a user brings to be reconstructed: pictures, series, or measured samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data import (
    PHOTOS,
    SUFFIXES,
    centre_crop,
    photograph,
    read_picture,
    read_series,
)
from svdinv.unroll.data.coils import estimate_maps
from svdinv.unroll.data.masks import uniform_mask
from svdinv.unroll.data.measurements import as_mask, holds_measurement, read_measurement
from svdinv.unroll.data.phantom import coil_maps
from svdinv.unroll.data.pictures import picture_files
from svdinv.unroll.data.series import HDF5_SUFFIXES, SERIES_SUFFIXES
from svdinv.unroll.operators import MRI
from svdinv.unroll.tasks import cine, colour
from svdinv.unroll.tasks.colour import channels_first
from svdinv.unroll.training.batches import Case

__all__ = [
    "Input",
    "Sampler",
    "files_of",
    "read_input",
    "read_inputs",
    "read_mask",
]

Arrays = NDArray[Any]
Kind = Literal["colour", "cine"]

_SMALLEST = 16  # pixels a side of a series
_CALIBRATION = 24  # rows and columns that unknown maps are estimated from, at most
_LEAST_CALIBRATION = 8  # twice the side of the kernels of ESPIRiT, and more
_UNIT_ENERGY = 1.02  # of coil maps, with room for rounding
_LEAST, _MOST = -0.5, 1.5  # mean of sampled colours, with room for noise


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
    phase_known : bool
        As of `Case`.
    """

    name: str
    kind: Kind
    truth: Arrays | None
    samples: Arrays | None = None
    measurement: tuple[Arrays, ...] = ()
    scale: float = 1.0
    phase_known: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image."""
        if self.truth is not None:
            return self.truth.shape
        return self.measurement[0].shape


@dataclass(frozen=True, eq=False)
class Sampler:
    """How whole images are undersampled.

    Attributes
    ----------
    rate : float
        Sampling rate of a picture, in (0, 1).
    mask : str or ndarray of bool
        Name of a pattern of `svdinv.unroll.tasks.cine.MASKS`, for the k-space of a
        series; or a mask of the shape of the picture or series, or (H, W).
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
        """Undersample an image, unless it is given by samples already.

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
            return Case(
                given.name,
                "as measured",
                given.samples,
                given.measurement,
                given.truth,
                given.phase_known,
            )
        truth = given.truth
        assert truth is not None
        mask, setting = self._mask(truth.shape, given.kind)
        if given.kind == "colour":
            return colour.undersampled(given.name, setting, truth, mask)
        maps = None
        if self.coils:
            maps = coil_maps(self.coils, *truth.shape[-2:], seed=self.seed)
            setting += f", {self.coils} coils" if self.coils > 1 else ", 1 coil"
        return cine.undersampled(given.name, setting, truth, mask, maps)

    def _mask(self, shape: tuple[int, ...], kind: str) -> tuple[NDArray[np.bool_], str]:
        rng = np.random.default_rng(self.seed)
        if not isinstance(self.mask, str):
            mask = _fitted(self.mask, shape)
            if kind == "cine":
                _check_centred(mask, "the mask")
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
        ``.mat`` or ``.h5`` file; or undersampled data in an ``.h5`` file, as for
        `svdinv.unroll.data.measurements.read_measurement`. Coil maps that are missing there
        are estimated, by `svdinv.unroll.data.coils.estimate_maps`. Samples of colours are
        in [0, 1], apart from noise.
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
    if suffix in HDF5_SUFFIXES and holds_measurement(path):
        return _measured(path)
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
    return as_mask(read_series(path, key, time_axis=time_axis), f"{path}: the mask")


def _known_square(mask: NDArray[np.bool_]) -> int:
    """Side of the largest middle square that all frames together sample."""
    sampled: NDArray[np.bool_] = np.logical_or.reduce(mask, axis=0)
    height, width = sampled.shape
    for side in range(min(_CALIBRATION, height, width), 0, -1):
        top, left = (n // 2 - side // 2 for n in (height, width))
        if sampled[top : top + side, left : left + side].all():
            return side
    return 0


def _fitted(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Repeat a mask (H, W) for all frames or channels."""
    if mask.shape not in (shape, shape[-2:]):
        raise ValueError(
            f"the mask must have the shape {shape}, or {shape[-2:]} for all alike, got "
            f"{mask.shape}"
        )
    return np.ascontiguousarray(np.broadcast_to(mask, shape))


def _check_centred(mask: NDArray[np.bool_], what: str) -> None:
    """Refuse masks with the zero frequency in the corner, as FFTs order it."""
    frames, height, width = mask.shape
    if frames == 1:  # some lines may well miss the centre
        return
    rows, columns = (slice(n // 2 - 1, n // 2 + 2) for n in (height, width))
    if mask[:, 0, 0].all() and not mask[:, rows, columns].any():
        raise ValueError(
            f"{what} samples the corners of k-space and not its centre, which must be "
            "at (H // 2, W // 2): numpy.fft.fftshift it, over the last two axes"
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


def _measured(path: Path) -> Input:
    """Read measured samples, as the networks want them."""
    case = read_measurement(path)
    truth = case.truth
    if truth is not None and not truth.any():
        raise ValueError(f"{path}: truth is zero everywhere")
    if np.iscomplexobj(case.samples):
        return _kspace(path, case)
    if len(case.samples) != 3:
        raise ValueError(f"{path}: samples must be (3, H, W), got {case.samples.shape}")
    sampled = case.samples[case.measurement[0]]
    mean = float(sampled.mean(dtype=np.float64))  # of which noise has hardly any
    if not _LEAST <= mean <= _MOST:
        raise ValueError(
            f"{path}: samples must be in [0, 1], apart from noise, and their mean is "
            f"{mean:.3g}"
        )
    return Input(path.stem, "colour", truth, case.samples, case.measurement)


def _kspace(path: Path, case: Case) -> Input:
    kspace, (mask, *known), truth = case.samples, case.measurement, case.truth
    size = mask.shape[-2:]
    if min(size) < _SMALLEST:
        raise ValueError(
            f"{path}: frames must have {_SMALLEST} pixels a side or more, got {size}"
        )
    _check_centred(mask, f"{path}: mask")
    maps = known[0] if known else None
    estimated = False
    if kspace.ndim == 4 and maps is None:
        if kspace.shape[1] == 1:
            kspace = kspace[:, 0]
        else:
            maps, estimated = _estimated(path, kspace, mask), True
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
    return Input(path.stem, "cine", whole, samples, given, scale, not estimated)


def _estimated(path: Path, kspace: Arrays, mask: NDArray[np.bool_]) -> Arrays:
    calibration = _known_square(mask)
    if calibration < _LEAST_CALIBRATION:
        raise ValueError(
            f"{path} has no maps, and they cannot be estimated: all frames together "
            f"sample the middle {calibration} x {calibration} points of k-space, and "
            f"{_LEAST_CALIBRATION} x {_LEAST_CALIBRATION} are needed"
        )
    try:
        return estimate_maps(kspace, mask=mask, calibration=calibration)
    except ValueError as error:
        raise ValueError(
            f"{path} has no maps, and they cannot be estimated from the "
            f"{calibration} x {calibration} points in the middle of k-space: {error}"
        ) from error
