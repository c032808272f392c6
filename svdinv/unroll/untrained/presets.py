"""Untrained priors by name, with sizes that match a problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from svdinv.unroll.arrays import is_complex, namespace
from svdinv.unroll.networks import (
    Bilinear,
    Decoder,
    Generator,
    LowRankAndSparse,
    Recipe,
    Skip,
)
from svdinv.unroll.plugins import class_named
from svdinv.unroll.problem import Problem

_SCALES = 5


def _low_rank_and_sparse(n: int, **common: Any) -> Recipe:
    low_rank = Bilinear(space=Decoder(features=(64,) * n), rank=4)
    sparse = Decoder(features=(32,) * n)
    return LowRankAndSparse(low_rank=low_rank, sparse=sparse, depth=64, **common)


def _skip(n: int, **common: Any) -> Skip:
    return Skip(features=(32,) * n, skips=(4,) * n, **common)


# Functions of the number of scales and of options.
PRIORS: dict[str, Callable[..., Recipe]] = {
    "dip": _skip,
    "deep-decoder": lambda n, **common: Decoder(features=(64,) * n, **common),
    "conv-decoder": lambda n, **common: Decoder(features=(64,) * n, side=3, **common),
    "bilinear": lambda n, **common: Bilinear(space=_skip(n), rank=8, **common),
    "low-rank-and-sparse": _low_rank_and_sparse,
}
"""Generators by their names on the command line; the last two are for series."""


def generator_for(name: str, problem: Problem) -> Recipe:
    """Make a generator for a problem of one image, (C, H, W) real or (T, H, W) complex.

    `name` is one of `PRIORS`, or ``package.module:Class`` for a user-defined
    `Generator`, which is constructed with `images` and `channels`. The number of scales
    depends on the size of the image. Raises ValueError if there is no such name, or the
    generator does not support such images.
    """
    x = problem.adjoint()
    if len(x.shape) != 3:
        raise ValueError(
            f"the image must have three axes, got {tuple(x.shape)} (pass one of (H, W) "
            "as (1, H, W))"
        )
    series = is_complex(x, namespace(x))
    channels, H, W = x.shape
    common: dict[str, Any] = {"channels": int(channels)}
    common["images"] = "series" if series else "image"
    scales = 1
    while scales < _SCALES and min(H, W) >= 8 * 2**scales:
        scales += 1
    if name not in PRIORS:
        return class_named(name, Generator, dict.fromkeys(PRIORS, Skip))(**common)
    if not series and name in ("bilinear", "low-rank-and-sparse"):
        raise ValueError(f"{name} is for series, not for images with channels")
    return PRIORS[name](scales, **common)
