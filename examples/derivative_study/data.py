"""Data of the study: patches of photographs, ordinary or flat, and test photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data import TEST, Image, centre_crop, photograph
from svdinv.unroll.data.masks import uniform_mask
from svdinv.unroll.data.pictures import patches
from svdinv.unroll.operators import Sampling
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.colour.task import Colour, channels_first

__all__ = ["DATA", "Patches", "TestCrops", "pool"]

DATA = {
    "ordinary": "patches of photographs in which no row and no column is flat",
    "flat": "the same patches, made black but for a part: singular values repeat",
}
"""Kinds of data, and what they are."""

# Standard deviation of a row or column that is not flat: half a step of 8 bits.
_DETAIL = 0.5 / 255
# Validation and test items have numbers that no step of a training has.
_VALIDATION, _TEST = 2_000_000_000, 2_000_000_001
_VALIDATION_ITEMS = 4


def pool(photographs: Sequence[str], patch: int) -> list[Image]:
    """Return the built-in training photographs and those that are named.

    Float32, (H, W, 3). Raises ValueError if a file or folder is missing, is no picture,
    or too small for a patch.
    """
    task = Colour(
        photographs=tuple(photographs), held_out=TEST, patch=patch, validation=1
    )
    loaded = task.load()
    return [*loaded.training, *loaded.aside.values()]


@dataclass(frozen=True)
class Patches:
    """Patches to train on, with sides of a multiple of 8 pixels.

    Items of one seed, step and number are the same part of the same photograph for both
    kinds of `DATA` and for all sampling rates.
    """

    photographs: list[Image]
    kind: str
    rate: float
    size: int = 32

    def batch(self, seed: int, step: int, items: range) -> Problem:
        """Draw samples (B, 3, H, W), what sampled them, and the patches themselves."""
        drawn = [
            self._item(np.random.default_rng((seed, step, item))) for item in items
        ]
        truth = np.stack([patch for patch, _ in drawn])
        mask = np.stack([mask for _, mask in drawn])
        samples = np.where(mask, truth, np.float32(0))
        return Problem(samples, Sampling(mask), truth=truth)

    def validation(self) -> list[Problem]:
        """Return other patches of the same photographs, to detect a collapse."""
        given = self.batch(0, _VALIDATION, range(_VALIDATION_ITEMS))
        masks = given.A.mask  # type: ignore[attr-defined]
        return [
            Problem(
                given.y[i],
                Sampling(masks[i]),
                truth=given.truth[i],
                name=f"patch {i}",
                setting=self.kind,
            )
            for i in range(_VALIDATION_ITEMS)
        ]

    def _item(
        self, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        patch = channels_first(_detailed(self.photographs, self.size, rng))
        mask = uniform_mask(patch.shape, self.rate, rng)
        if self.kind == "flat":
            flatten = (_bands, _cartoon, _copies)[int(rng.integers(3))]
            patch, mask = flatten(patch, mask, rng)
        return np.ascontiguousarray(patch), np.ascontiguousarray(mask)


Pair = tuple[NDArray[np.float32], NDArray[np.bool_]]


def _detailed(
    photographs: list[Image], size: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw a patch in which every row and column varies, its channels in any order."""
    for _ in range(1000):
        (patch,) = patches(photographs, 1, size, rng)
        grey = patch.mean(axis=-1)
        if min(grey.std(axis=0).min(), grey.std(axis=1).min()) >= _DETAIL:
            return patch[..., rng.permutation(3)]
    raise ValueError(
        f"the photographs have hardly any patch of {size}x{size} pixels without a flat "
        "row or column"
    )


def _bands(
    patch: NDArray[np.float32], mask: NDArray[np.bool_], rng: np.random.Generator
) -> Pair:
    """Keep a band of at most half the rows or columns, as of a cropped film."""
    size = patch.shape[-1]
    width = int(rng.integers(size // 4, size // 2 + 1))
    first = int(rng.integers(size - width + 1))
    kept = np.zeros((size, size), dtype=bool)
    kept[first : first + width] = True
    if rng.integers(2):
        kept = kept.T
    return np.where(kept, patch, np.float32(0)), mask


def _cartoon(
    patch: NDArray[np.float32], mask: NDArray[np.bool_], rng: np.random.Generator
) -> Pair:
    """Put a rectangle of one colour on black, its edges on a grid of an eighth."""
    size = patch.shape[-1]
    step = size // 8
    colour = rng.integers(1, 9, (3, 1, 1)) / 8
    heights = np.sort(rng.choice(7, (2, 2), replace=False), axis=1) * step
    (top, bottom), (left, right) = heights + step
    drawn = np.zeros_like(patch)
    drawn[:, top:bottom, left:right] = colour
    return drawn, mask


def _copies(
    patch: NDArray[np.float32], mask: NDArray[np.bool_], rng: np.random.Generator
) -> Pair:
    """Put a piece of the patch, sampled alike, twice along the diagonal on black.

    As far apart as the convolutions of a cell do not reach: until then the maps are
    block diagonal with two equal blocks, and every singular value comes twice.
    """
    half, piece = patch.shape[-1] // 2, patch.shape[-1] // 4
    quadrant = np.zeros_like(patch[:, :half, :half])
    inner = slice(half // 4, half // 4 + piece)
    quadrant[:, inner, inner] = patch[:, :piece, :piece]
    black = np.zeros_like(quadrant)
    return (
        np.block([[quadrant, black], [black, quadrant]]),
        np.tile(mask[:, :half, :half], (1, 2, 2)),
    )


class TestCrops:
    """Crops of the test photographs, as tiles of the size that was trained on.

    `crop` is the side of the crops in pixels, a multiple of `size`, that of the tiles.
    """

    __test__ = False  # pytest would take it for a test

    def __init__(self, crop: int, size: int) -> None:
        self.size = size
        crops = [centre_crop(photograph(name), crop) for name in TEST]
        self.truths = channels_first(np.stack(crops))

    def batch(self, rate: float) -> Problem:
        """Sample all tiles, (B, 3, size, size), one crop after the other.

        The masks depend on the rate alone.
        """
        masks = [
            uniform_mask(truth.shape, rate, np.random.default_rng((_TEST, i)))
            for i, truth in enumerate(self.truths)
        ]
        truth, mask = self.tiles(self.truths), self.tiles(np.stack(masks))
        samples = np.where(mask, truth, np.float32(0))
        return Problem(samples, Sampling(mask), truth=truth)

    def tiles(self, crops: np.ndarray) -> np.ndarray:
        """Cut crops (N, C, H, W) into tiles (B, C, size, size)."""
        N, C, H, W = crops.shape
        n = self.size
        cut = crops.reshape(N, C, H // n, n, W // n, n).transpose(0, 2, 4, 1, 3, 5)
        return np.ascontiguousarray(cut.reshape(-1, C, n, n))

    def joined(self, tiles: np.ndarray) -> np.ndarray:
        """Put the tiles of `tiles` together again."""
        N, C, H, W = self.truths.shape
        n = self.size
        grid = tiles.reshape(N, H // n, W // n, C, n, n).transpose(0, 3, 1, 4, 2, 5)
        return np.ascontiguousarray(grid.reshape(N, C, H, W))
