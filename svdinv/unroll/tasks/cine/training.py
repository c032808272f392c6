"""Series to train on: real hearts, phantoms and moving photographs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data import Image
from svdinv.unroll.data.noise import white_noise
from svdinv.unroll.operators import MRI
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.cine.hearts import cropped_series, smooth_phase
from svdinv.unroll.tasks.cine.moving import (
    in_the_middle,
    moving_photograph,
    phantom_series,
)
from svdinv.unroll.tasks.cine.phantom import coil_maps
from svdinv.unroll.tasks.cine.sampling import sampling
from svdinv.unroll.tasks.task import InputImage

if TYPE_CHECKING:
    from svdinv.unroll.tasks.cine.task import Cine

# Series that are not trained on begin here, so that no number of them collides.
_FIRST_VALIDATION = 2_000_000
# Number of no item, for what those of a step have in common: without a third number
# NumPy would give the randomness of item 0.
_COMMON = 2**32 - 1


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

        @functools.lru_cache(maxsize=task.series + task.validation)
        def series(index: int) -> NDArray[np.complex64]:
            size, share = task.size, task.perfusion
            return phantom_series(index, task.frames, size, perfusion=share)

        @functools.lru_cache(maxsize=64)
        def maps(coils: int, seed: int) -> NDArray[np.complex64]:
            return coil_maps(coils, task.size, task.size, seed=seed)

        self._series, self._maps = series, maps

    def batch(self, seed: int, step: int, items: range) -> Problem:
        """Draw the series and masks of some items of a step.

        k-space (B, T, H, W), or with coils (B, T, C, H, W), and the truth (B, T, H, W).
        """
        task = self.task
        common = np.random.default_rng((seed, step, _COMMON))
        coils = int(common.choice(task.coils))
        frames = int(common.integers((2 * task.frames + 2) // 3, task.frames + 1))
        every = (np.random.default_rng((seed, step, item)) for item in items)
        drawn = [self._item(rng, coils, frames) for rng in every]
        kspace, masks, maps, truth = zip(*drawn, strict=True)
        own = np.stack(maps)[:, None] if coils else None
        A = MRI(np.stack(masks), own)
        return Problem(np.stack(kspace), A, truth=np.stack(truth))

    def validation(self) -> list[Problem]:
        """Return other series, one for each pattern in turn."""
        task = self.task
        kind: Any = task.options
        size = int(1.5 * task.size)
        given = [
            InputImage(name, in_the_middle(magnitude, task.frames, size))
            for name, magnitude in self._aside.items()
        ] or [
            InputImage(f"heart {i}", self._series(_FIRST_VALIDATION + i))
            for i in range(task.validation)
        ]
        return [
            task.measure(each, kind(mask=task.masks[i % len(task.masks)], seed=i))
            for i, each in enumerate(given)
        ]

    def _item(
        self, rng: np.random.Generator, coils: int, frames: int
    ) -> tuple[Any, ...]:
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
        A = MRI(mask, maps)
        kspace = A(series).astype(np.complex64)
        if task.noise:  # also where nothing is sampled: nobody looks there
            deviation = np.float32(task.noise * rng.random())
            noise = white_noise(kspace.shape, kspace.dtype, rng)
            kspace = kspace + deviation * noise
        if task.snr and rng.random() < task.noisy:
            ratio = rng.uniform(task.snr[0], task.snr[1])
            power = np.mean(np.abs(series) ** 2) / 10 ** (ratio / 10)
            noise = white_noise(kspace.shape, kspace.dtype, rng)
            kspace = kspace + np.float32(np.sqrt(power)) * noise
        # Noise where nothing is sampled is no data.
        kspace = A.project_to_samples(kspace)
        return kspace, mask, maps, np.ascontiguousarray(series)
