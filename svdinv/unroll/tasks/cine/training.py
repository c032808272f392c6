"""Series to train on: real hearts, phantoms and moving photographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data import Image
from svdinv.unroll.data.noise import white_noise
from svdinv.unroll.data.pictures import shrunk
from svdinv.unroll.operators import MRI
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.cine.hearts import cropped_series, smooth_phase
from svdinv.unroll.tasks.cine.kspace import sampling
from svdinv.unroll.tasks.cine.phantom import coil_maps, heart
from svdinv.unroll.tasks.task import InputImage, Simulated
from svdinv.unroll.tiles import central

if TYPE_CHECKING:
    from svdinv.unroll.tasks.cine.task import Cine

# First indices of test and validation series, which differ from training indices.
_FIRST_TEST, _FIRST_VALIDATION = 1_000_000, 2_000_000
# Replaces the item in a key, for properties that the items of a step share: a key of
# two numbers would equal that of item 0.
_COMMON = 2**32 - 1


@dataclass(frozen=True, eq=False)
class Hearts(Simulated):
    """Series to train on and to validate with.

    `photos` are photographs (H, W, 3) for `moving_photograph`; `real` holds magnitudes
    of real series (T, H, W), including those held out.
    """

    task: Cine
    photos: list[Image]
    real: Mapping[str, NDArray[np.float32]]

    @cached_property
    def _held_out(self) -> dict[str, NDArray[np.float32]]:
        return {name: self.real[name] for name in self.task.held_out}

    @cached_property
    def _real(self) -> list[NDArray[np.float32]]:
        return [x for name, x in self.real.items() if name not in self._held_out]

    @cached_property
    def _series(self) -> Callable[[int], NDArray[np.complex64]]:
        task = self.task

        @lru_cache(maxsize=task.series + task.validation)
        def series(index: int) -> NDArray[np.complex64]:
            size, share = task.size, task.perfusion
            return phantom_series(index, task.frames, size, perfusion=share)

        return series

    @cached_property
    def _maps(self) -> Callable[[int, int], NDArray[np.complex64]]:
        size = self.task.size

        @lru_cache(maxsize=64)
        def maps(coils: int, seed: int) -> NDArray[np.complex64]:
            return coil_maps(coils, size, size, seed=seed)

        return maps

    def validation(self) -> list[Problem]:
        """Return validation series, sampled with the patterns in turn."""
        task = self.task
        kind: Any = task.options
        size = int(1.5 * task.size)
        images = [
            InputImage(name, in_the_middle(magnitude, task.frames, size))
            for name, magnitude in self._held_out.items()
        ] or [
            InputImage(f"heart {i}", self._series(_FIRST_VALIDATION + i))
            for i in range(task.validation)
        ]
        return [
            task.measure(each, kind(mask=task.masks[i % len(task.masks)], seed=i))
            for i, each in enumerate(images)
        ]

    def problem(self, *key: int) -> Problem:
        """Draw a series and its mask; all items of a step share coils and frames."""
        task, rng = self.task, np.random.default_rng(key)
        common = np.random.default_rng((*key[:-1], _COMMON))
        coils = int(common.choice(task.coils))
        frames = int(common.integers((2 * task.frames + 2) // 3, task.frames + 1))
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
        # A single one is not drawn, so that older configurations are reproducible.
        several = len(task.accelerations) > 1
        rate = task.accelerations[
            rng.integers(len(task.accelerations)) if several else 0
        ]
        mask = sampling(pattern, series.shape, rng, rate)
        maps = self._maps(coils, int(rng.integers(16))) if coils else None
        A = MRI(mask, maps)
        kspace = A(series).astype(np.complex64)
        if task.noise:  # also where nothing is sampled; removed below
            deviation = np.float32(task.noise * rng.random())
            noise = white_noise(kspace.shape, kspace.dtype, rng)
            kspace = kspace + deviation * noise
        if task.snr and rng.random() < task.noisy:
            ratio = rng.uniform(task.snr[0], task.snr[1])
            power = np.mean(np.abs(series) ** 2) / 10 ** (ratio / 10)
            noise = white_noise(kspace.shape, kspace.dtype, rng)
            kspace = kspace + np.float32(np.sqrt(power)) * noise
        kspace = A.project_to_samples(kspace)
        return Problem(kspace, A, truth=np.ascontiguousarray(series))


def phantom_series(
    index: int, frames: int, size: int, *, perfusion: float = 0.4
) -> NDArray[np.complex64]:
    """Make a phantom series, with anatomy and scan parameters drawn from the index.

    The result is complex64 (frames, size, size) with largest magnitude 1; a fraction
    `perfusion` of the indices shows first-pass perfusion.
    """
    rng = np.random.default_rng((3, index))
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
    """Make a series from a photograph, which has more texture than a phantom.

    Mixtures of its colours act as the density and the relaxation rate of tissue: the
    magnitude is constant, or recovers at that rate as after saturation or inversion.
    The picture moves as in breathing, with a displacement that varies in space and
    either follows a cycle or is random in each frame. It has a smooth phase and
    independent noise in every frame.

    `photo` is float32 (H, W, 3) in [0, 1] with at least `size` pixels a side; the
    result is complex64 (frames, size, size) with largest magnitude 1.
    """
    # Random downscaling varies the size of details.
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
    # Noise in the truth, as in any measured image.
    noise = rng.standard_normal((2, *series.shape), dtype=np.float32)
    deviation = 0.15 * rng.random() ** 2 * np.sqrt(np.mean(np.abs(series) ** 2))
    series = series + deviation * (noise[0] + 1j * noise[1])
    return (series / max(np.abs(series).max(), 1e-6)).astype(np.complex64)


def _breathing(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the largest displacement of each pixel, (2, H, W), in pixels."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    angle, place, width = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.5), rng.random()
    # Full motion on one side of a blurred line, hardly any on the other.
    across = np.cos(angle) * x + np.sin(angle) * y - place
    share = 1 / (1 + np.exp(-across / (0.05 + width)))
    farthest = 0.06 * size * rng.random() ** 2 * (rng.random() < 0.8)
    direction = rng.standard_normal(2)
    direction *= farthest / np.hypot(*direction)
    return direction[:, None, None] * share


def warped(
    series: NDArray[np.float64],
    shares: NDArray[np.float64],
    displacement: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Warp a series of magnitudes (T, H, W) by multiples of a displacement field.

    The displacement (2, H, W) is in pixels, down and to the right; frame t becomes
    ``series[t](p - shares[t] * displacement(p))``, interpolated by cubic splines,
    mirrored at the borders and clipped at 0.
    """
    from scipy.ndimage import map_coordinates

    pixels = np.stack(np.meshgrid(*map(np.arange, series.shape[1:]), indexing="ij"))
    frames = [
        map_coordinates(frame, pixels - share * displacement, order=3, mode="mirror")
        for frame, share in zip(series, shares, strict=True)
    ]
    return np.maximum(np.stack(frames), 0)


def in_the_middle(
    magnitude: NDArray[np.float32], frames: int, size: int
) -> NDArray[np.complex64]:
    """Crop a real series around its centre, and multiply by a fixed smooth phase."""
    H, W = magnitude.shape[1:]
    side = min(size, H, W)
    part = magnitude[:frames, central(H, side), central(W, side)]
    phase = smooth_phase(len(part), side, np.random.default_rng(0))
    return part / np.float32(part.max() or 1) * phase


def unseen_series(
    index: int, frames: int = 12, size: int = 128
) -> NDArray[np.complex64]:
    """Make a test series as `phantom_series` does, unused in training and validation.

    The index counts from 0.
    """
    return phantom_series(_FIRST_TEST + index, frames, size)
