"""What a task gives to a training: batches and cases."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Batch", "Case", "Source", "generator", "noisy", "white_noise"]

Arrays = NDArray[Any]


class Batch(NamedTuple):
    """Items to train on.

    Attributes
    ----------
    samples : ndarray
        Measured values, the batch axis first.
    measurement : tuple of ndarray
        What the forward operator of the network is made of: a mask, coil maps.
    truth : ndarray
        The images.
    """

    samples: Arrays
    measurement: tuple[Arrays, ...]
    truth: Arrays


@dataclass(frozen=True)
class Case:
    """One image to reconstruct, with its truth if that is known.

    Attributes
    ----------
    name : str
        What it is.
    setting : str
        How it was sampled, such as "rate 0.4".
    samples : ndarray
        Measured values, without a batch axis.
    measurement : tuple of ndarray
        What the forward operator is made of, without a batch axis.
    truth : ndarray or None
        The image: (C, H, W) or (T, H, W).
    phase_known : bool
        False where coil maps were estimated: their common phase is arbitrary, and
        with it that of the series.
    """

    name: str
    setting: str
    samples: Arrays
    measurement: tuple[Arrays, ...]
    truth: Arrays | None
    phase_known: bool = True

    def compared(self, image: Arrays) -> tuple[Arrays, Arrays]:
        """Give the truth, which is known, and an image as they can be compared."""
        assert self.truth is not None
        if self.phase_known:
            return self.truth, image
        return np.abs(self.truth), np.abs(image)

    def batch(self) -> tuple[Arrays, tuple[Arrays, ...]]:
        """Give the samples and the measurement with a batch axis of 1."""
        return self.samples[None], tuple(x[None] for x in self.measurement)


class Source(Protocol):
    """Data of a task, loaded or made."""

    def batch(self, seed: int, step: int, items: range) -> Batch:
        """Draw items of a step: the same whoever asks, and whatever came before."""
        ...

    def validation(self) -> list[Case]:
        """Give cases that are not trained on."""
        ...


def generator(*key: int) -> np.random.Generator:
    """Give the randomness that belongs to a seed, a step and an item."""
    return np.random.default_rng(key)


def white_noise(
    shape: tuple[int, ...], dtype: DTypeLike, rng: np.random.Generator
) -> Arrays:
    """Draw white Gaussian noise of variance 1.

    Parameters
    ----------
    shape : tuple of int
        Shape of the noise.
    dtype : dtype
        float32 or complex64, which is circular: E|n|**2 is 1 then.
    rng : numpy.random.Generator
        Draws it.

    Returns
    -------
    ndarray
        The noise.
    """
    if np.dtype(dtype).kind != "c":
        return rng.standard_normal(shape, dtype=np.float32)
    real, imaginary = rng.standard_normal((2, *shape), dtype=np.float32)
    return (real + 1j * imaginary) / np.float32(math.sqrt(2))


def noisy(case: Case, deviation: float, *, seed: int) -> Case:
    """Add white Gaussian noise to what was sampled.

    Parameters
    ----------
    case : Case
        With its truth.
    deviation : float
        Standard deviation, sqrt(E|n|**2) of complex noise n, relative to the largest
        value that an image can have: 1 for colours, the largest magnitude of a series.
    seed : int
        Draws the noise.

    Returns
    -------
    Case
        The same case with other samples.
    """
    samples, mask = case.samples, case.measurement[0]
    scale = deviation
    if np.iscomplexobj(samples):
        assert case.truth is not None
        scale *= float(np.abs(case.truth).max())
        mask = mask if mask.ndim == samples.ndim else mask[:, None]
    rng = np.random.default_rng([seed, 1])
    noise = white_noise(samples.shape, samples.dtype, rng)
    return replace(
        case, samples=samples + np.where(mask, np.float32(scale) * noise, np.float32(0))
    )
