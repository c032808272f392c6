"""Dynamic MRI: series of images from a part of their k-space."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.jobs.config import option, register_task
from svdinv.unroll.jobs.data import Batch, Case, generator
from svdinv.unroll.masks import (
    radial_mask,
    variable_density_mask,
    vista_like_mask,
)
from svdinv.unroll.operators import MRI
from svdinv.unroll.phantom import coil_maps, heart

__all__ = ["MASKS", "Cine", "Hearts", "case", "sampling"]

MASKS = {
    "radial": "16 golden-angle lines in each frame",
    "variable-density": "1/8 of the points, most of them near the centre",
    "vista": "1/8 of the phase-encode lines, spread over k-space and time",
}
"""Names of the sampling patterns, and what they are."""

_SPOKES, _ACCELERATION = 16, 8
# Series that are never trained on begin here, so that no number of them collides.
_FIRST_TEST = 1_000_000
_FIRST_VALIDATION = 2_000_000


@register_task
@dataclass(frozen=True, kw_only=True)
class Cine:
    """Series of a beating heart from undersampled k-space."""

    kind: ClassVar[str] = "cine"
    axes: ClassVar[str] = "B T H W"

    series: int = option(64, "series of the phantom to train on")
    frames: int = option(12, "frames of each")
    size: int = option(128, "rows and columns in pixels")
    masks: tuple[str, ...] = option(tuple(MASKS), f"of {', '.join(MASKS)}")
    coils: tuple[int, ...] = option(
        (0, 4), "numbers of coils, one of which each step draws; 0: no coil maps"
    )
    perfusion: float = option(0.4, "part of the series that is perfusion, not cine")
    noise: float = option(
        0.0, "largest standard deviation of noise, the largest magnitude being 1"
    )
    validation: int = option(3, "series to watch the training by")

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
            if mask not in MASKS:
                raise ValueError(f"masks must be of {', '.join(MASKS)}, got {mask!r}")
        if not self.masks:
            raise ValueError("masks must name at least one")
        if not self.coils or min(self.coils) < 0:
            raise ValueError(f"coils must be 0 or more, got {self.coils}")
        if not 0 <= self.perfusion <= 1:
            raise ValueError(f"perfusion must lie in [0, 1], got {self.perfusion}")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise must lie in [0, 1], got {self.noise}")

    def load(self) -> Hearts:
        """Make the series ready, each when it is first needed."""
        return Hearts(self)


class Hearts:
    """Series of the phantom to train on and to validate with.

    Parameters
    ----------
    task : Cine
        The options.
    """

    def __init__(self, task: Cine) -> None:
        self.task = task
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
            k-space, masks (B, T, H, W) with coil maps (B, C, H, W) where there are
            coils, and series (B, T, H, W).
        """
        task = self.task
        coils = int(generator(seed, step).choice(task.coils))
        drawn = [self._item(generator(seed, step, item), coils) for item in items]
        samples = np.stack([kspace for kspace, _, _ in drawn])
        measurement = zip(*(given for _, given, _ in drawn), strict=True)
        truth = np.stack([series for _, _, series in drawn])
        return Batch(samples, tuple(map(np.stack, measurement)), truth)

    def validation(self) -> list[Case]:
        """Give other series, one for each pattern in turn."""
        task = self.task
        cases = []
        for i in range(task.validation):
            series = self._series(_FIRST_VALIDATION + i)
            mask = task.masks[i % len(task.masks)]
            cases.append(case(f"heart {i}", series, mask, seed=i))
        return cases

    def _item(
        self, rng: np.random.Generator, coils: int
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...], NDArray[np.complex64]]:
        task = self.task
        series = self._series(int(rng.integers(task.series)))
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
        mask = sampling(str(rng.choice(task.masks)), series.shape, rng)
        maps = self._maps(coils, int(rng.integers(16))) if coils else None
        kspace = measured(series, mask, maps)
        if task.noise:
            kspace = _noisy(kspace, task.noise * rng.random(), rng)
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
        Part of the indices that are perfusion.

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


def sampling(
    name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw a sampling pattern of `MASKS`.

    Parameters
    ----------
    name : str
        Its name.
    shape : tuple of int
        (T, H, W).
    rng : numpy.random.Generator
        Source of the randomness.

    Returns
    -------
    ndarray of bool, shape (T, H, W)
        True where sampled.

    Raises
    ------
    ValueError
        If there is no such pattern.
    """
    frames, height, width = shape
    if name == "radial":
        return radial_mask(shape, _SPOKES, rng=rng)
    if name == "variable-density":
        return variable_density_mask(shape, 1 / _ACCELERATION, rng)
    if name == "vista":
        return vista_like_mask((frames, height, width), _ACCELERATION, rng)
    raise ValueError(f"mask must be one of {', '.join(MASKS)}, got {name!r}")


def measured(
    series: NDArray[np.complex64],
    mask: NDArray[np.bool_],
    maps: NDArray[np.complex64] | None = None,
) -> NDArray[np.complex64]:
    """Sample the k-space of a series, (T, H, W) or (T, C, H, W)."""
    return MRI(mask, maps)(series).astype(np.complex64)


def case(
    name: str,
    series: NDArray[np.complex64],
    mask: str,
    *,
    seed: int,
    maps: NDArray[np.complex64] | None = None,
) -> Case:
    """Sample a series.

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
    drawn = sampling(mask, series.shape, np.random.default_rng(seed))
    given = (drawn,) if maps is None else (drawn, maps)
    return Case(name, mask, measured(series, drawn, maps), given, series)


def _noisy(
    kspace: NDArray[np.complex64], deviation: float, rng: np.random.Generator
) -> NDArray[np.complex64]:
    """Add noise to what was sampled: elsewhere it is not looked at."""
    noise = rng.standard_normal((2, *kspace.shape), dtype=np.float32)
    scale = np.float32(deviation / np.sqrt(2))
    return kspace + scale * (noise[0] + 1j * noise[1])
