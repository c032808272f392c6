"""Dynamic MRI: series of images from a part of their k-space."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data import TEST, Image
from svdinv.unroll.data.hearts import cropped_series, read_hearts, smooth_phase
from svdinv.unroll.jobs.colour import shrunk, training_photographs
from svdinv.unroll.jobs.config import option, register_task
from svdinv.unroll.jobs.data import Batch, Case, generator, white_noise
from svdinv.unroll.masks import (
    equispaced_mask,
    radial_mask,
    variable_density_mask,
    vista_like_mask,
)
from svdinv.unroll.operators import MRI
from svdinv.unroll.phantom import coil_maps, heart

__all__ = [
    "MASKS",
    "PATTERNS",
    "Cine",
    "Hearts",
    "case",
    "measured",
    "phantom_series",
    "sampling",
    "undersampled",
    "unseen_series",
    "warped",
]

MASKS = {
    "radial": "golden-angle lines in each frame, an eighth of its rows: 16 of 128",
    "variable-density": "1/8 of the points, most of them near the centre",
    "vista": "1/8 of the phase-encode lines, spread over k-space and time",
}
"""Names of the sampling patterns, and what they are."""

PATTERNS = {
    **MASKS,
    "equispaced": "1/8 of the phase-encode lines at equal distances, moved each frame",
}
"""Those and more, to train on."""

_ACCELERATION = 8
_MOST_ACCELERATED = 16
_QUIETEST = 80.0  # dB
# Series that are never trained on begin here, so that no number of them collides.
_FIRST_TEST = 1_000_000
_FIRST_VALIDATION = 2_000_000
# Number of no item, for what those of a step have in common: without a third number
# NumPy would give the randomness of item 0.
_COMMON = 2**32 - 1
_LONGEST = 1024  # side of a photograph in pixels


@register_task
@dataclass(frozen=True, kw_only=True)
class Cine:
    """Series of a beating heart from undersampled k-space."""

    kind: ClassVar[str] = "cine"
    axes: ClassVar[str] = "B T H W"

    series: int = option(64, "series of the phantom to train on")
    frames: int = option(12, "frames of each; a step may take a third less")
    size: int = option(128, "rows and columns in pixels")
    masks: tuple[str, ...] = option(tuple(MASKS), f"of {', '.join(PATTERNS)}")
    accelerations: tuple[float, ...] = option(
        (8.0,), "of which each item draws one: 8 is an eighth of k-space"
    )
    coils: tuple[int, ...] = option(
        (0, 4), "numbers of coils, one of which each step draws; 0: no coil maps"
    )
    perfusion: float = option(
        0.4, "share of the phantoms that show first-pass perfusion, not cine"
    )
    textures: float = option(
        0.5, "share of the series that are made of photographs, not of the phantom"
    )
    photographs: tuple[str, ...] = option(
        (), "folders and files of pictures for these, besides those built in"
    )
    noise: float = option(
        0.0, "largest standard deviation of noise, the largest magnitude being 1"
    )
    snr: tuple[float, ...] = option(
        (),
        "lowest and highest signal-to-noise ratio in dB, of the series to the noise in "
        "it were all of k-space sampled; empty: no such noise",
    )
    noisy: float = option(0.5, "share of the items that have noise of such a ratio")
    real: tuple[str, ...] = option(
        (), "files .npz and .npy of real series, and folders of them"
    )
    real_share: float = option(0.5, "share of the items that are made of these")
    held_out: tuple[str, ...] = option(
        (), "names of real series that are not trained on; they validate instead"
    )
    validation: int = option(
        3, "series to watch the training by; held_out series take their place"
    )

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises
        ------
        ValueError
            Naming the option.
        """
        for name in ("series", "frames", "validation"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        if self.size < 32:
            raise ValueError(f"size must be at least 32, got {self.size}")
        for mask in self.masks:
            if mask not in PATTERNS:
                raise ValueError(
                    f"masks must be of {', '.join(PATTERNS)}, got {mask!r}"
                )
        if not self.masks:
            raise ValueError("masks must name at least one")
        if not self.coils or min(self.coils) < 0:
            raise ValueError(f"coils must be 0 or more, got {self.coils}")
        for name in ("perfusion", "textures", "noise", "noisy", "real_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        rates = self.accelerations
        if not rates or not all(1 <= rate <= _MOST_ACCELERATED for rate in rates):
            raise ValueError(
                f"accelerations must lie in [1, {_MOST_ACCELERATED}], got {rates}"
            )
        if self.snr:
            low, high = self.snr if len(self.snr) == 2 else (1.0, 0.0)
            if not 0 <= low <= high <= _QUIETEST:
                raise ValueError(
                    "snr must be two ascending numbers of dB in "
                    f"[0, {_QUIETEST:g}], or empty, got {self.snr}"
                )
            if self.noise:
                raise ValueError("snr and noise are two ways to say it: give one")
        if self.held_out and not self.real:
            raise ValueError("held_out names real series, but real names no files")

    def load(self) -> Hearts:
        """Make the series ready, each when it is first needed.

        Returns
        -------
        Hearts
            The series.

        Raises
        ------
        ValueError
            If a picture or a real series cannot be read, or is too small; if
            `held_out` names one that is not there, or all.
        """
        photos: list[Image] = []
        if self.textures:
            found = training_photographs(self.photographs, TEST, _LONGEST)
            photos = [image for _, image in sorted(found.items())]
            if min(min(photo.shape[:2]) for photo in photos) < self.size:
                raise ValueError(f"a photograph is smaller than size, {self.size}")
        try:
            real = read_hearts(self.real)
        except ValueError as error:
            raise ValueError(f"task.real: {error}") from error
        missing = [name for name in self.held_out if name not in real]
        if missing:
            raise ValueError(
                f"task.held_out: no series {missing[0]!r}; there are {', '.join(real)}"
            )
        if self.real and len(real) <= len(set(self.held_out)):
            raise ValueError("task.real has no series to train on: all are held out")
        return Hearts(self, photos, real)


class Hearts:
    """Series of the phantom to train on and to validate with.

    Parameters
    ----------
    task : Cine
        The options.
    photos : list of ndarray of float32, shape (H, W, 3)
        Photographs for `moving_photograph`.
    real : dict of str to ndarray of float32, shape (T, H, W), optional
        Magnitudes of real series, also of those held out.
    """

    def __init__(
        self,
        task: Cine,
        photos: list[Image],
        real: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        self.task, self.photos = task, photos
        real = real or {}
        self._aside = {name: real[name] for name in task.held_out}
        self._real = [real[name] for name in real if name not in self._aside]
        kept = task.series + task.validation
        self._series = functools.lru_cache(maxsize=kept)(self._make)
        self._maps = functools.lru_cache(maxsize=64)(
            lambda coils, seed: coil_maps(coils, task.size, task.size, seed=seed)
        )

    def batch(self, seed: int, step: int, items: range) -> Batch:
        """Draw series and masks.

        Parameters
        ----------
        seed, step : int
            Draw them.
        items : range
            Which items of the step.

        Returns
        -------
        Batch
            k-space (B, T, H, W), or with coils (B, T, C, H, W); masks (B, T, H, W)
            and, with coils, maps (B, C, H, W); series (B, T, H, W).
        """
        task = self.task
        common = generator(seed, step, _COMMON)
        coils = int(common.choice(task.coils))
        frames = int(common.integers((2 * task.frames + 2) // 3, task.frames + 1))
        drawn = [
            self._item(generator(seed, step, item), coils, frames) for item in items
        ]
        samples = np.stack([kspace for kspace, _, _ in drawn])
        measurement = zip(*(given for _, given, _ in drawn), strict=True)
        truth = np.stack([series for _, _, series in drawn])
        return Batch(samples, tuple(map(np.stack, measurement)), truth)

    def validation(self) -> list[Case]:
        """Give other series, one for each pattern in turn."""
        task = self.task
        cases = []
        for i, (name, magnitude) in enumerate(self._aside.items()):
            series = _in_the_middle(magnitude, task.frames, int(1.5 * task.size))
            mask = task.masks[i % len(task.masks)]
            cases.append(case(name, series, mask, seed=i))
        if cases:
            return cases
        for i in range(task.validation):
            series = self._series(_FIRST_VALIDATION + i)
            mask = task.masks[i % len(task.masks)]
            cases.append(case(f"heart {i}", series, mask, seed=i))
        return cases

    def _item(
        self, rng: np.random.Generator, coils: int, frames: int
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...], NDArray[np.complex64]]:
        task = self.task
        if self._real and rng.random() < task.real_share:
            real = self._real[int(rng.integers(len(self._real)))]
            part = cropped_series(real, frames, task.size, rng)
            series = part * smooth_phase(frames, task.size, rng)
        elif rng.random() < task.textures:
            photo = self.photos[int(rng.integers(len(self.photos)))]
            series = moving_photograph(photo, frames, task.size, rng)
        else:
            series = self._series(int(rng.integers(task.series)))[:frames]
        for axis in (-1, -2):
            if rng.integers(2):
                series = np.flip(series, axis)
        if rng.integers(2):
            series = np.swapaxes(series, -1, -2)
        if rng.integers(2):
            series = series[::-1]
        shift = tuple(rng.integers(-task.size // 8, task.size // 8 + 1, 2))
        series = np.roll(series, shift, (-2, -1))
        series = series * np.exp(2j * np.pi * rng.random(), dtype=np.complex64)
        pattern = str(rng.choice(task.masks))
        # Nothing is drawn of one, so that older configurations give the same.
        several = len(task.accelerations) > 1
        rate = task.accelerations[
            rng.integers(len(task.accelerations)) if several else 0
        ]
        mask = sampling(pattern, series.shape, rng, rate)
        maps = self._maps(coils, int(rng.integers(16))) if coils else None
        kspace = measured(series, mask, maps)
        if task.noise:  # also where nothing is sampled: nobody looks there
            deviation = np.float32(task.noise * rng.random())
            noise = white_noise(kspace.shape, kspace.dtype, rng)
            kspace = kspace + deviation * noise
        if task.snr and rng.random() < task.noisy:
            ratio = rng.uniform(task.snr[0], task.snr[1])
            power = np.mean(np.abs(series) ** 2) / 10 ** (ratio / 10)
            noise = white_noise(kspace.shape, kspace.dtype, rng)
            kspace = kspace + np.float32(np.sqrt(power)) * noise
        given = (mask,) if maps is None else (mask, maps)
        return kspace, given, np.ascontiguousarray(series)

    def _make(self, index: int) -> NDArray[np.complex64]:
        task = self.task
        return phantom_series(index, task.frames, task.size, perfusion=task.perfusion)


def phantom_series(
    index: int, frames: int, size: int, *, perfusion: float = 0.4
) -> NDArray[np.complex64]:
    """Make a series of the phantom, each index another patient and another scan.

    Parameters
    ----------
    index : int
        Which one.
    frames, size : int
        T, and H = W.
    perfusion : float
        Share of the indices that show first-pass perfusion.

    Returns
    -------
    ndarray of complex64, shape (T, H, W)
        The series; the largest magnitude is 1.
    """
    rng = generator(3, index)
    return heart(
        frames,
        size,
        size,
        seed=index,
        contrast="perfusion" if rng.random() < perfusion else "cine",
        heart_rate=float(rng.uniform(50, 95)),
        breathing_rate=float(rng.uniform(10, 20)),
        breathing=float(rng.uniform(0, 1.2)),
    ).series


def moving_photograph(
    photo: Image, frames: int, size: int, rng: np.random.Generator
) -> NDArray[np.complex64]:
    """Make a series of a photograph, for the texture that a phantom lacks.

    Its colours stand for the density and the relaxation of a tissue: the magnitude
    recovers towards the one at a rate set by the other, as after an inversion or a
    saturation, or hardly changes. The picture is moved as by breathing, here more than
    there, from frame to frame or, where heartbeats lie between frames, at random. It
    has a smooth phase, and a grain of its own in every frame.

    Parameters
    ----------
    photo : ndarray of float32, shape (H, W, 3)
        A photograph in [0, 1], of at least `size` pixels a side.
    frames, size : int
        T, and the rows and columns of the series.
    rng : numpy.random.Generator
        Draws the part of the photograph, and all else.

    Returns
    -------
    ndarray of complex64, shape (T, H, W)
        The series; the largest magnitude is 1.
    """
    # From details as they are to those of a picture that has been scaled down.
    least = min(photo.shape[:2]) // size
    photo = shrunk(photo, -(-max(photo.shape[:2]) // int(rng.integers(1, least + 1))))
    top, left = (int(rng.integers(n - size + 1)) for n in photo.shape[:2])
    patch = photo[top : top + size, left : left + size]
    density, relaxation = (patch @ rng.dirichlet(np.ones(3)) for _ in range(2))
    y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    if rng.random() < 0.5:  # a body in air
        radii = rng.uniform(0.6, 1.1, 2)
        density = density * ((x / radii[0]) ** 2 + (y / radii[1]) ** 2 < 1)
    time = np.linspace(0, 1, frames)
    relaxation = (relaxation - relaxation.mean()) / (relaxation.std() + 1e-3)
    rate = rng.uniform(1, 8) * np.exp(rng.normal(0, 1) * relaxation)
    lost = rng.choice([0.0, 1.0, 2.0]) * rng.uniform(0.5, 1)
    series = np.abs(density * (1 - lost * np.exp(-rate * time[:, None, None])))
    cycle = rng.random() + rng.uniform(0.2, 2) * time
    moved = np.sin(np.pi * cycle) ** 2 if rng.random() < 0.5 else rng.random(frames)
    series = warped(series, moved, _breathing(size, rng))
    waves = rng.normal(0, 1.5, 5)
    phase = waves[0] * x + waves[1] * y + waves[2] * x * y + waves[3] * (x**2 - y**2)
    turn = 0.2 * waves[4] * np.sin(2 * np.pi * cycle)
    series = series * np.exp(1j * (phase + turn[:, None, None]))
    # What no prior explains, as in any measured image.
    grain = rng.standard_normal((2, *series.shape), dtype=np.float32)
    deviation = 0.15 * rng.random() ** 2 * np.sqrt(np.mean(np.abs(series) ** 2))
    series = series + deviation * (grain[0] + 1j * grain[1])
    return (series / max(np.abs(series).max(), 1e-6)).astype(np.complex64)


def _breathing(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw how far each pixel moves at most, (2, H, W), in pixels."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    angle, place, width = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.5), rng.random()
    # On one side of a line, blurred, it moves fully; on the other it hardly does.
    across = np.cos(angle) * x + np.sin(angle) * y - place
    share = 1 / (1 + np.exp(-across / (0.05 + width)))
    farthest = 0.06 * size * rng.random() ** 2 * (rng.random() < 0.8)
    way = rng.standard_normal(2)
    way *= farthest / np.hypot(*way)
    return way[:, None, None] * share


def warped(
    series: NDArray[np.float64],
    shares: NDArray[np.float64],
    displacement: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Move what a series shows.

    Parameters
    ----------
    series : ndarray, shape (T, H, W)
        Magnitudes.
    shares : ndarray, shape (T,)
        What each frame is moved by, as a part of `displacement`.
    displacement : ndarray, shape (2, H, W)
        Down and to the right, in pixels.

    Returns
    -------
    ndarray, shape (T, H, W)
        ``series[t](p - shares[t] * displacement(p))`` by cubic splines, mirrored at
        the borders; no magnitude is negative.
    """
    from scipy.ndimage import map_coordinates

    here = np.stack(np.meshgrid(*map(np.arange, series.shape[1:]), indexing="ij"))
    frames = [
        map_coordinates(frame, here - share * displacement, order=3, mode="mirror")
        for frame, share in zip(series, shares, strict=True)
    ]
    return np.maximum(np.stack(frames), 0)


def _in_the_middle(
    magnitude: NDArray[np.float32], frames: int, size: int
) -> NDArray[np.complex64]:
    """Crop a real series around its middle, and give it a phase that is always one."""
    H, W = magnitude.shape[1:]
    side = min(size, H, W)
    top, left = (H - side) // 2, (W - side) // 2
    part = magnitude[:frames, top : top + side, left : left + side]
    phase = smooth_phase(len(part), side, np.random.default_rng(0))
    return part / np.float32(part.max() or 1) * phase


def unseen_series(
    index: int, frames: int = 12, size: int = 128
) -> NDArray[np.complex64]:
    """Make a series of the phantom that no training and no validation has seen.

    Parameters
    ----------
    index : int
        Which one, from 0.
    frames, size : int
        T, and H = W.

    Returns
    -------
    ndarray of complex64, shape (T, H, W)
        The series; the largest magnitude is 1.
    """
    return phantom_series(_FIRST_TEST + index, frames, size)


def sampling(
    name: str,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    acceleration: float = _ACCELERATION,
) -> NDArray[np.bool_]:
    """Draw a sampling pattern of `PATTERNS`.

    Parameters
    ----------
    name : str
        Its name.
    shape : tuple of int
        (T, H, W).
    rng : numpy.random.Generator
        Source of the randomness.
    acceleration : float
        One part in this many of k-space is sampled; of radial lines as many are taken
        as that is of the rows.

    Returns
    -------
    ndarray of bool, shape (T, H, W)
        True where sampled.

    Raises
    ------
    ValueError
        If there is no such pattern, or nothing would be left.
    """
    frames, height, width = shape
    if name == "radial":
        lines = max(1, round((height + width) / 2 / acceleration))
        return radial_mask(shape, lines, rng=rng)
    if name == "variable-density":
        return variable_density_mask(shape, 1 / acceleration, rng)
    if name == "vista":
        return vista_like_mask((frames, height, width), acceleration, rng)
    if name == "equispaced":
        return equispaced_mask((frames, height, width), acceleration, rng=rng)
    raise ValueError(f"mask must be one of {', '.join(PATTERNS)}, got {name!r}")


def measured(
    series: NDArray[np.complex64],
    mask: NDArray[np.bool_],
    maps: NDArray[np.complex64] | None = None,
) -> NDArray[np.complex64]:
    """Give the k-space of a series, (T, H, W) or (T, C, H, W), 0 off the mask."""
    return MRI(mask, maps)(series).astype(np.complex64)


def case(
    name: str,
    series: NDArray[np.complex64],
    mask: str,
    *,
    seed: int,
    maps: NDArray[np.complex64] | None = None,
) -> Case:
    """Undersample the k-space of a series.

    Parameters
    ----------
    name : str
        What to call it.
    series : ndarray of complex64, shape (T, H, W)
        The series.
    mask : str
        Pattern, a name of `MASKS`.
    seed : int
        Draws the mask.
    maps : ndarray of complex64, shape (C, H, W), optional
        Coil maps.

    Returns
    -------
    Case
        With k-space (T, H, W), or (T, C, H, W) with maps.
    """
    rng = np.random.default_rng(seed)
    drawn = sampling(mask, series.shape, rng)
    return undersampled(name, mask, series, drawn, maps)


def undersampled(
    name: str,
    setting: str,
    series: NDArray[np.complex64],
    mask: NDArray[np.bool_],
    maps: NDArray[np.complex64] | None = None,
) -> Case:
    """Make a case of a series and a mask.

    Parameters
    ----------
    name, setting : str
        Of the case.
    series : ndarray of complex64, shape (T, H, W)
        The series.
    mask : ndarray of bool, shape (T, H, W)
        True where sampled.
    maps : ndarray of complex64, shape (C, H, W), optional
        Coil maps.

    Returns
    -------
    Case
        With k-space (T, H, W), or (T, C, H, W) with maps.
    """
    given = (mask,) if maps is None else (mask, maps)
    return Case(name, setting, measured(series, mask, maps), given, series)
