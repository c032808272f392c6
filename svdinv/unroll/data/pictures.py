"""Pictures: installed photographs, files, and patches of them.

Nothing is downloaded: the photographs named here lie in the wheels of scikit-image and
scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from svdinv._missing import needing
from svdinv.unroll.formats import checks
from svdinv.unroll.formats.checks import check_bytes, check_regular, quiet

SUFFIXES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""How the names of the files end of pictures."""

Image = NDArray[np.float32]
_Number = TypeVar("_Number", np.uint8, np.float32)


HELD_OUT = "chelsea"
"""The photograph left out of training, unless another is chosen."""

PHOTOS = (
    "astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry",
    "hubble_deep_field", "retina", "motorcycle_left", "motorcycle_right", "china",
    "flower",
)  # fmt: skip
"""Names of the photographs of installed packages."""

TEST = (
    "astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry",
    "motorcycle_left", "china", "flower",
)  # fmt: skip
"""Photographs that the weights in this package have never seen."""

# Two photographs of one scene: to train on the one is to have seen the other.
_TWINS = frozenset({"motorcycle_left", "motorcycle_right"})


def read_picture(path: str | Path, *, largest: int | None = 512) -> Image:
    """Read a picture file as a colour image, float32 (H, W, 3) in [0, 1].

    PNG, JPEG, TIFF or whatever else Pillow reads. Grey pictures, of 8 or 16 bits, get
    three equal channels, transparency is dropped. Wider or higher pictures than
    `largest` pixels are cropped around their middle; None takes them whole. Raises
    ValueError if the file is missing, is no picture, holds numbers without a known
    range (32 bits), or is smaller than 32x32 pixels.
    """
    with needing("PIL", "demo"):
        from PIL import Image as pillow
        from PIL import ImageOps

    try:
        check_regular(path)
        with quiet(), pillow.open(path) as picture:
            check_bytes(path, "the picture", 12, *picture.size)
            upright = ImageOps.exif_transpose(picture)
            deep = upright.mode.startswith("I;16") or (
                # In these formats Pillow scales to 16 bits what it holds in 32.
                upright.mode == "I" and picture.format in ("PNG", "PPM")
            )
            # Pillow's conversion of what is not bytes makes white of everything.
            if upright.mode in ("I", "F") and not deep:
                raise ValueError("its numbers have no largest one, which is white")
            pixels = np.asarray(upright if deep else upright.convert("RGB"))
    except Exception as error:  # a damaged file can lead Pillow anywhere
        raise ValueError(f"cannot read {path} as a picture: {error}") from error
    if deep:
        grey = pixels.astype(np.float32) / np.float32(65535)
        pixels = np.stack([grey] * 3, axis=-1)
    if min(pixels.shape[:2]) < 32:
        raise ValueError(f"{path} is smaller than 32x32 pixels: {pixels.shape[:2]}")
    cropped = pixels if largest is None else centre_crop(pixels, largest)
    return cropped if deep else from_bytes(cropped)


def picture_files(path: str | Path) -> list[Path]:
    """List the picture files of a folder, by name."""
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"{path} is not a folder")
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        raise ValueError(f"no picture in {path}; looked for {', '.join(SUFFIXES)}")
    return files


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

    Every photograph is as likely as any other, every place in it too; patches are
    mirrored and turned at random. Of photographs (H, W, channels), of different sizes
    if need be, to float32 (count, size, size, channels). Raises ValueError if one is
    smaller than a patch.
    """
    pool = list(photos.values()) if isinstance(photos, Mapping) else photos
    if isinstance(pool, list):  # others may make their pictures when asked
        _check_fit(pool, size)
    drawn = []
    for _ in range(count):
        photo = pool[int(rng.integers(len(pool)))]
        _check_fit([photo], size)
        top = rng.integers(photo.shape[0] - size + 1)
        left = rng.integers(photo.shape[1] - size + 1)
        patch = photo[top : top + size, left : left + size]
        patch = np.rot90(patch, int(rng.integers(4)))
        drawn.append(patch[:, ::-1] if rng.integers(2) else patch)
    return np.stack(drawn)


def _check_fit(photos: Sequence[Image], size: int) -> None:
    if any(min(photo.shape[:2]) < size for photo in photos):
        raise ValueError(f"a photograph is smaller than a patch of {size} pixels")


def from_bytes(pixels: NDArray[np.uint8]) -> Image:
    """Scale bytes to [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255)


def split(*test: str) -> tuple[str, ...]:
    """Return names of the photographs to train on when others are to be reconstructed.

    This is the one place where training and test photographs are told apart: left out
    are those in `test`, and other views of them. Where it has no name of `PHOTOS`, such
    as for a picture of the user's own, `HELD_OUT` takes its place.
    """
    held_out = {name for name in test if name in PHOTOS} or {HELD_OUT}
    if held_out & _TWINS:
        held_out |= _TWINS
    return tuple(name for name in PHOTOS if name not in held_out)


def photograph(name: str) -> Image:
    """Load a photograph of `PHOTOS`: float32 (H, W, 3) in [0, 1].

    Raises ValueError if there is none of that name.
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
    """Read photographs to train on, by name: float32 (H, W, 3) in [0, 1]."""
    names = split(*held_out) if held_out else PHOTOS
    # Scaled down one by one: all of them at their full size could fill the memory.
    images = {name: shrunk(photograph(name), longest) for name in names}
    for file in _pictures(places):
        name = str(file) if file.stem in images else file.stem
        images[name] = shrunk(read_picture(file, largest=None), longest)
    return images


def fingerprint(places: Sequence[str]) -> str:
    """Sum up pictures in folders and files by SHA-256: names, order and content."""
    return checks.fingerprint(_pictures(places))


def _pictures(places: Sequence[str]) -> Iterator[Path]:
    return checks.listed(places, picture_files, "task.photographs: ")


def shrunk(image: Image, longest: int) -> Image:
    """Scale a photograph down by a whole number, by the means of squares of pixels."""
    factor = -(-max(image.shape[:2]) // longest)
    if factor == 1:
        return image
    H, W = (n // factor * factor for n in image.shape[:2])
    squares = image[:H, :W].reshape(H // factor, factor, W // factor, factor, -1)
    return squares.mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
