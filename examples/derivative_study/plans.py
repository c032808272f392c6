"""What a study compares, and the runs that it is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args, get_type_hints

from derivative_study.data import DATA
from svdinv.unroll.training.config import Training

__all__ = ["METHODS", "Plan", "Study"]

METHODS: tuple[str, ...] = get_args(get_type_hints(Training)["svd"])
"""Ways to differentiate the low-rank step; the others are compared to the first."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared.

    Attributes
    ----------
    methods, data : tuple of str
        Of `METHODS` and of `DATA`.
    rates : tuple of float
        Sampling rates, from 0.01 to 0.99.
    seeds : int
        Number of seeds, 0 to N - 1, of first weights and batches.
    steps, batch : int
        Steps of each training, and patches in a step.
    cells : int
        Cells of the network.
    patch, crop : int
        Sides in pixels of the patches, a multiple of 8, and of the crops of test
        photographs, a multiple of that.
    photographs : tuple of str
        Folders and files of pictures to train on besides those built in.
    threads : int
        Threads of PyTorch.
    """

    methods: tuple[str, ...] = METHODS
    data: tuple[str, ...] = tuple(DATA)
    rates: tuple[float, ...] = (0.04, 0.1, 0.3, 0.4, 0.5)
    seeds: int = 3
    steps: int = 100
    batch: int = 4
    cells: int = 10
    patch: int = 32
    crop: int = 96
    photographs: tuple[str, ...] = ()
    threads: int = 1

    def __post_init__(self) -> None:
        for name, known in (("methods", METHODS), ("data", tuple(DATA))):
            if unknown := [x for x in getattr(self, name) if x not in known]:
                raise ValueError(
                    f"{name} must be of {', '.join(known)}, got {unknown[0]!r}"
                )
        for name in ("methods", "data", "rates"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name} must name at least one, and none twice")
        if not all(0.01 <= rate <= 0.99 for rate in self.rates):
            raise ValueError(f"rates must lie in [0.01, 0.99], got {self.rates}")
        for name in ("seeds", "steps", "batch", "cells", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        sound = self.patch >= 16 and self.crop >= 1
        if not sound or self.patch % 8 or self.crop % self.patch:
            raise ValueError(
                "patch must be a multiple of 8 from 16 on, and crop a multiple of it, "
                f"got {self.patch} and {self.crop}"
            )

    def plans(self) -> list[Plan]:
        """List the runs: all methods of a setting, then the next; seeds last."""
        return [
            Plan(data, rate, method, seed)
            for seed in range(self.seeds)
            for rate in self.rates
            for data in self.data
            for method in self.methods
        ]

    def quick(self) -> Study:
        """Make it small: two rates, one seed, a few steps of a shallow network."""
        return replace(
            self, rates=(0.04, 0.4), seeds=1, steps=30, batch=4, cells=3, crop=32
        )


@dataclass(frozen=True)
class Plan:
    """One run of a study."""

    data: str
    rate: float
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Name, which is that of its file too."""
        return f"{self.data}-{self.rate!r}-{self.method}-{self.seed}"
