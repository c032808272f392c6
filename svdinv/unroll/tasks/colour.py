"""Colour compressed sensing: photographs from a part of their samples."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.data import (
    PHOTOS,
    TEST,
    Image,
    centre_crop,
    photograph,
    read_picture,
    split,
)
from svdinv.unroll.data.masks import uniform_mask
from svdinv.unroll.data.pictures import patches, picture_files
from svdinv.unroll.training.batches import Batch, Case, generator
from svdinv.unroll.training.config import option, register_task

__all__ = [
    "Colour",
    "Photographs",
    "case",
    "channels_first",
    "channels_last",
    "fingerprint",
    "shrunk",
    "training_photographs",
    "undersampled",
]


@register_task
@dataclass(frozen=True, kw_only=True)
class Colour:
    """Photographs, of which each channel is sampled at random on its own."""

    kind: ClassVar[str] = "colour"
    axes: ClassVar[str] = "B C H W"
    channels: ClassVar[int] = 3

    photographs: tuple[str, ...] = option(
        (), "folders and files of pictures to train on besides those built in"
    )
    held_out: tuple[str, ...] = option(
        TEST, "built-in photographs that are not trained on, for svdinv evaluate"
    )
    longest: int = option(1024, "pictures with longer sides are scaled down to this")
    validation: int = option(
        4, "photographs to watch the training by; quarters of them where there are few"
    )
    patch: int = option(64, "side of the patches in pixels")
    rates: tuple[float, float] = option(
        (0.04, 0.5), "lowest and highest sampling rate; validation takes both"
    )

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises
        ------
        ValueError
            Naming the option.
        """
        low, high = self.rates
        if not 0.01 <= low <= high <= 0.99:
            raise ValueError(
                f"rates must be two ascending numbers in [0.01, 0.99], got {self.rates}"
            )
        if self.patch < 8:
            raise ValueError(f"patch must be at least 8, got {self.patch}")
        if self.longest < self.patch:
            raise ValueError(f"longest must be at least patch, got {self.longest}")
        if self.validation < 1:
            raise ValueError(f"validation must be at least 1, got {self.validation}")
        unknown = [name for name in self.held_out if name not in PHOTOS]
        if unknown:
            raise ValueError(
                f"held_out: no photograph {unknown[0]!r}; there are {', '.join(PHOTOS)}"
            )

    def load(self) -> Photographs:
        """Read the photographs.

        Returns
        -------
        Photographs
            Those to train on, and those to validate with: `validation` whole ones, or
            where there are not more than that, a quarter of each, which is then cut
            off the part to train on.

        Raises
        ------
        ValueError
            If a file or folder is missing or is no picture, or one is too small.
        """
        images = training_photographs(self.photographs, self.held_out, self.longest)
        if not images:
            raise ValueError("no photographs to train on: all are held out")
        small = [n for n, x in images.items() if min(x.shape[:2]) < self.patch]
        if small:
            raise ValueError(f"{small[0]} is smaller than a patch of {self.patch}")
        if len(images) <= self.validation:
            parts = {name: parted(x, self.patch) for name, x in images.items()}
            return Photographs(
                self,
                [rest for rest, _ in parts.values()],
                {f"part of {name}": part for name, (_, part) in parts.items()},
            )
        # Spread over the names: neighbours in a folder tend to be alike.
        every = len(images) / self.validation
        chosen = {list(images)[int((i + 0.5) * every)] for i in range(self.validation)}
        return Photographs(
            self,
            [image for name, image in images.items() if name not in chosen],
            {name: images[name] for name in sorted(chosen)},
        )


def training_photographs(
    places: Sequence[str], held_out: Sequence[str], longest: int
) -> dict[str, Image]:
    """Read photographs to train on.

    Parameters
    ----------
    places : sequence of str
        Folders and files of pictures, besides the built-in ones.
    held_out : sequence of str
        Built-in photographs to leave out.
    longest : int
        Pictures with longer sides are scaled down to this.

    Returns
    -------
    dict of str to ndarray of float32, shape (H, W, 3)
        Photographs in [0, 1], by name.

    Raises
    ------
    ValueError
        If a file or folder is missing or is no picture.
    """
    names = split(*held_out) if held_out else PHOTOS
    # Scaled down one by one: all of them at their full size could fill the memory.
    images = {name: shrunk(photograph(name), longest) for name in names}
    for file in _files(places):
        name = str(file) if file.stem in images else file.stem
        images[name] = shrunk(read_picture(file, largest=None), longest)
    return images


def fingerprint(places: Sequence[str]) -> str:
    """Sum up pictures that are trained on: their names, order and content.

    Parameters
    ----------
    places : sequence of str
        Folders and files of pictures.

    Returns
    -------
    str
        SHA-256 in hexadecimal digits.
    """
    whole = hashlib.sha256()
    for file in _files(places):
        with file.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
        whole.update(os.fsencode(file.name) + b"\0")
    return whole.hexdigest()


def _files(places: Sequence[str]) -> Iterator[Path]:
    """List the pictures, each of them once."""
    seen = set()
    for place in map(Path, places):
        if not place.exists():
            raise ValueError(f"task.photographs: there is no {place.absolute()}")
        for file in picture_files(place) if place.is_dir() else [place]:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


@dataclass(frozen=True)
class Photographs:
    """Photographs to train on and to validate with.

    Attributes
    ----------
    task : Colour
        The options.
    training : list of ndarray of float32, shape (H, W, 3)
        Photographs in [0, 1].
    aside : dict of str to ndarray
        Those for validation.
    """

    task: Colour
    training: list[Image]
    aside: dict[str, Image]

    def batch(self, seed: int, step: int, items: range) -> Batch:
        """Draw patches and masks.

        Parameters
        ----------
        seed, step : int
            Draw them.
        items : range
            Which items of the step.

        Returns
        -------
        Batch
            Patches (B, 3, H, W), their samples and masks.
        """
        low, high = map(math.log, self.task.rates)
        images, masks = [], []
        for item in items:
            rng = generator(seed, step, item)
            (patch,) = patches(self.training, 1, self.task.patch, rng)
            images.append(patch[..., rng.permutation(3)])
            rate = math.exp(rng.uniform(low, high))
            masks.append(uniform_mask(patch.shape, rate, rng))
        truth, mask = channels_first(np.stack(images)), channels_first(np.stack(masks))
        return Batch(np.where(mask, truth, np.float32(0)), (mask,), truth)

    def validation(self) -> list[Case]:
        """Give crops of the photographs held aside: at both rates and between them."""
        low, high = self.task.rates
        rates = sorted({low, math.sqrt(low * high), high})
        return [
            case(name, centre_crop(image, 192), rate, seed=i)
            for i, (name, image) in enumerate(self.aside.items())
            for rate in rates
        ]


def case(name: str, image: Image, rate: float, *, seed: int) -> Case:
    """Sample a photograph.

    Parameters
    ----------
    name : str
        What to call it.
    image : ndarray of float32, shape (H, W, 3)
        The photograph, in [0, 1].
    rate : float
        Sampling rate: the part of the values that is sampled, in (0, 1).
    seed : int
        Draws the mask.

    Returns
    -------
    Case
        With channels first.
    """
    mask = channels_first(uniform_mask(image.shape, rate, np.random.default_rng(seed)))
    return undersampled(name, f"rate {rate:g}", channels_first(image), mask)


def undersampled(
    name: str, setting: str, truth: NDArray[np.float32], mask: NDArray[np.bool_]
) -> Case:
    """Make a case of a colour image and a mask.

    Parameters
    ----------
    name, setting : str
        Of the case.
    truth : ndarray of float32, shape (C, H, W)
        The image.
    mask : ndarray of bool, shape (C, H, W)
        True where sampled.

    Returns
    -------
    Case
        Its samples are 0 where nothing is sampled.
    """
    return Case(name, setting, np.where(mask, truth, np.float32(0)), (mask,), truth)


def channels_first(images: np.ndarray) -> np.ndarray:
    """From (..., H, W, C) to (..., C, H, W)."""
    return np.ascontiguousarray(np.moveaxis(images, -1, -3))


def channels_last(images: np.ndarray) -> np.ndarray:
    """From (..., C, H, W) to (..., H, W, C)."""
    return np.ascontiguousarray(np.moveaxis(images, -3, -1))


def parted(image: Image, least: int) -> tuple[Image, Image]:
    """Cut a quarter off, across the longer side, at least `least` pixels wide.

    Raises
    ------
    ValueError
        If less than that would be left.
    """
    H, W = image.shape[:2]
    cut = max(H, W) - max(max(H, W) // 4, least)
    if cut < least:
        raise ValueError(
            f"a photograph of {H}x{W} pixels is too small to be cut in two, for "
            f"training and validation, with patches of {least}: give more photographs"
        )
    return (image[:cut], image[cut:]) if H > W else (image[:, :cut], image[:, cut:])


def shrunk(image: Image, longest: int) -> Image:
    """Scale a photograph down by a whole number, by the means of squares of pixels."""
    factor = -(-max(image.shape[:2]) // longest)
    if factor == 1:
        return image
    H, W = (n // factor * factor for n in image.shape[:2])
    squares = image[:H, :W].reshape(H // factor, factor, W // factor, factor, -1)
    return squares.mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
