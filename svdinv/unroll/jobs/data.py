"""What a task gives to a training: batches and cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch", "Case", "Source", "generator"]

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
    """

    name: str
    setting: str
    samples: Arrays
    measurement: tuple[Arrays, ...]
    truth: Arrays | None

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
