"""Photographs that come with scikit-image and scikit-learn, and patches of them.

Nothing is downloaded: every picture named here lies in the wheel of its package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "HELD_OUT",
    "PHOTOS",
    "patches",
    "photograph",
    "read_picture",
    "split",
]

HELD_OUT = "chelsea"
"""The photograph that is never trained on unless another takes its place."""

PHOTOS = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "immunohistochemistry",
    "hubble_deep_field",
    "retina",
    "motorcycle_left",
    "motorcycle_right",
    "china",
    "flower",
)
"""Names of the photographs at hand."""

# Two views of one scene: whoever has seen the one has seen the other.
_TWINS = frozenset({"motorcycle_left", "motorcycle_right"})

Image = NDArray[np.float32]
_Number = TypeVar("_Number", np.uint8, np.float32)


def split(test: str = HELD_OUT) -> tuple[str, ...]:
    """Names of the photographs to train on when `test` is to be reconstructed.

    This is the one place where training and test photographs are told apart.

    Parameters
    ----------
    test : str
        A name of `PHOTOS`, or anything else: a picture of the user's own, for which
        the training photographs are those of the default split.

    Returns
    -------
    tuple of str
        The training photographs: neither `test` nor another view of it.
    """
    held_out = test if test in PHOTOS else HELD_OUT
    left_out = _TWINS if held_out in _TWINS else {held_out}
    return tuple(name for name in PHOTOS if name not in left_out)


def photograph(name: str) -> Image:
    """Load a photograph from the wheel of scikit-image or scikit-learn.

    Parameters
    ----------
    name : str
        A name of `PHOTOS`.

    Returns
    -------
    ndarray of float32, shape (H, W, 3)
        Colour image in [0, 1].

    Raises
    ------
    ValueError
        If there is no such photograph.
    """
    if name not in PHOTOS:
        raise ValueError(f"no photograph {name!r}; there are {', '.join(PHOTOS)}")
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return _unit(load_sample_image(f"{name}.jpg"))
    import skimage.data

    if name in _TWINS:
        left, right, _ = skimage.data.stereo_motorcycle()
        return _unit(left if name == "motorcycle_left" else right)
    return _unit(getattr(skimage.data, name)())


def read_picture(path: str | Path, *, largest: int = 512) -> Image:
    """Read a picture file as a colour image.

    Parameters
    ----------
    path : str or Path
        PNG, JPEG, TIFF or whatever else Pillow reads.
    largest : int
        Wider or higher pictures are cropped to this many pixels around their middle.

    Returns
    -------
    ndarray of float32, shape (H, W, 3)
        Colour image in [0, 1]; grey pictures get three equal channels, transparency
        is dropped.

    Raises
    ------
    ValueError
        If the file is missing, is not a picture, or is smaller than 32x32 pixels.
    """
    from PIL import Image as pillow
    from PIL import ImageOps

    try:
        with pillow.open(path) as picture:
            pixels = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        raise ValueError(f"cannot read {path} as a picture: {error}") from error
    if min(pixels.shape[:2]) < 32:
        raise ValueError(f"{path} is smaller than 32x32 pixels: {pixels.shape[:2]}")
    return _unit(centre_crop(pixels, largest))


def centre_crop(pixels: NDArray[_Number], largest: int) -> NDArray[_Number]:
    """Crop an image to at most `largest` pixels a side, around its middle."""
    top, left = (max(0, (n - largest) // 2) for n in pixels.shape[:2])
    return pixels[top : top + largest, left : left + largest]


def patches(
    photos: Mapping[str, Image] | Sequence[Image],
    count: int,
    size: int,
    rng: np.random.Generator,
) -> Image:
    """Draw square patches from whole photographs, flat and black ones included.

    Every photograph is as likely as any other, every place in it too. Patches are
    mirrored and turned at random.

    Parameters
    ----------
    photos : mapping or sequence of ndarray, shape (H, W, channels)
        Photographs, of different sizes if need be.
    count, size : int
        Number of patches, and their side in pixels.
    rng : numpy.random.Generator
        Source of the randomness.

    Returns
    -------
    ndarray of float32, shape (count, size, size, channels)
        The patches.

    Raises
    ------
    ValueError
        If a photograph is smaller than a patch.
    """
    pool = list(photos.values()) if isinstance(photos, Mapping) else list(photos)
    if any(min(photo.shape[:2]) < size for photo in pool):
        raise ValueError(f"a photograph is smaller than a patch of {size} pixels")
    drawn = []
    for _ in range(count):
        photo = pool[rng.integers(len(pool))]
        top = rng.integers(photo.shape[0] - size + 1)
        left = rng.integers(photo.shape[1] - size + 1)
        patch = photo[top : top + size, left : left + size]
        patch = np.rot90(patch, int(rng.integers(4)))
        drawn.append(patch[:, ::-1] if rng.integers(2) else patch)
    return np.stack(drawn)


def _unit(pixels: NDArray[np.uint8]) -> Image:
    return pixels.astype(np.float32) / np.float32(255)
