"""What a study compares, and the runs that it is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args, get_type_hints

from svdinv.study.data import DATA
from svdinv.unroll.tasks.task import check_ranges, option
from svdinv.unroll.training.config import Training

__all__ = ["METHODS", "Plan", "Study"]

METHODS: tuple[str, ...] = get_args(get_type_hints(Training)["svd"])
"""Ways to differentiate the low-rank step; the others are compared to the first."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared; ``svdinv compare`` has the options with a line of help.

    The others are the sides in pixels of the patches, a multiple of 8, and of the crops
    of test photographs, a multiple of that.
    """

    methods: tuple[str, ...] = option(METHODS, "of those below (default: all)")
    data: tuple[str, ...] = option(tuple(DATA), "ordinary, flat (default: both)")
    rates: tuple[float, ...] = option(
        (0.04, 0.1, 0.3, 0.4, 0.5),
        "sampling rates, from 0.01 to 0.99 (default: 0.04 0.1 0.3 0.4 0.5)",
        low=0.01,
        high=0.99,
    )
    seeds: int = option(
        3,
        "number of seeds, 0 to N - 1, of first weights and batches (default: 3)",
        low=1,
    )
    steps: int = option(
        100,
        "steps of each training (default: 100, which keeps all within 40 minutes)",
        low=1,
    )
    batch: int = option(
        4, "patches of 32 x 32 in a step (default: 4, for the same reason)", low=1
    )
    cells: int = option(10, "cells of the network (default: 10, as published)", low=1)
    patch: int = 32
    crop: int = 96
    photographs: tuple[str, ...] = option(
        (), "folders and files of pictures to train on besides those built in"
    )
    threads: int = option(1, "threads of PyTorch (default: 1)", low=1)

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
        check_ranges(self)
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
