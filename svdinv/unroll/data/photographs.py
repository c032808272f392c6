"""Photographs that come with scikit-image and scikit-learn.

Nothing is downloaded: every picture named here lies in the wheel of its package.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from svdinv.unroll.data.pictures import (
    Image,
    from_bytes,
    picture_files,
    read_picture,
)
from svdinv.unroll.formats import checks as _files

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

TEST = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "immunohistochemistry",
    "motorcycle_left",
    "china",
    "flower",
)
"""Photographs that the weights in this package have never seen."""

# Two views of one scene: whoever has seen the one has seen the other.
_TWINS = frozenset({"motorcycle_left", "motorcycle_right"})


def split(*test: str) -> tuple[str, ...]:
    """Names of the photographs to train on when others are to be reconstructed.

    This is the one place where training and test photographs are told apart.

    Parameters
    ----------
    *test : str
        Names of `PHOTOS`, or anything else, such as a picture of the user's own;
        where no name is known, `HELD_OUT` takes their place.

    Returns
    -------
    tuple of str
        The training photographs: none of these, nor another view of one.
    """
    held_out = {name for name in test if name in PHOTOS} or {HELD_OUT}
    if held_out & _TWINS:
        held_out |= _TWINS
    return tuple(name for name in PHOTOS if name not in held_out)


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

        return from_bytes(load_sample_image(f"{name}.jpg"))
    import skimage.data

    if name in _TWINS:
        left, right, _ = skimage.data.stereo_motorcycle()
        return from_bytes(left if name == "motorcycle_left" else right)
    return from_bytes(getattr(skimage.data, name)())


def training_photographs(
    places: Sequence[str], held_out: Sequence[str], longest: int
) -> dict[str, Image]:
    """Read photographs to train on, by name: float32 (H, W, 3) in [0, 1].

    Those in folders and files, and the built-in ones that are not held out; with longer
    sides than `longest` they are scaled down. Raises ValueError if a file or folder is
    missing or is no picture.
    """
    names = split(*held_out) if held_out else PHOTOS
    # Scaled down one by one: all of them at their full size could fill the memory.
    images = {name: shrunk(photograph(name), longest) for name in names}
    for file in _pictures(places):
        name = str(file) if file.stem in images else file.stem
        images[name] = shrunk(read_picture(file, largest=None), longest)
    return images


def fingerprint(places: Sequence[str]) -> str:
    """Sum up pictures in folders and files by SHA-256: names, order and content."""
    return _files.fingerprint(_pictures(places))


def _pictures(places: Sequence[str]) -> Iterator[Path]:
    return _files.listed(places, picture_files, "task.photographs: ")


def shrunk(image: Image, longest: int) -> Image:
    """Scale a photograph down by a whole number, by the means of squares of pixels."""
    factor = -(-max(image.shape[:2]) // longest)
    if factor == 1:
        return image
    H, W = (n // factor * factor for n in image.shape[:2])
    squares = image[:H, :W].reshape(H // factor, factor, W // factor, factor, -1)
    return squares.mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
