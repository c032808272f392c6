"""Pictures: photographs of installed packages, files, and patches.

Nothing is downloaded: the photographs come with scikit-image and scikit-learn.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from svdinv._missing import needing
from svdinv.unroll.formats import checks
from svdinv.unroll.formats.checks import check_bytes, check_regular, quiet
from svdinv.unroll.plugins import near
from svdinv.unroll.tiles import central

SUFFIXES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Suffixes of picture files."""

# Tags of TIFF, and the format of samples with a sign.
_SUBFILE, _BITS, _PHOTOMETRIC, _PLANES, _FORMAT, _SIGNED = 254, 258, 262, 284, 339, 2
# Formats of several pictures; in those of cameras (MPO) the first is the photograph.
_PAGED = ("TIFF", "GIF", "WEBP", "PNG")

Image = NDArray[np.float32]
_Number = TypeVar("_Number", np.uint8, np.float32)


HELD_OUT = "chelsea"
"""The photograph that is excluded from training by default."""

PHOTOS = (
    "astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry",
    "hubble_deep_field", "retina", "motorcycle_left", "motorcycle_right", "china",
    "flower",
)  # fmt: skip
"""Names of the built-in photographs."""

TEST = (
    "astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry",
    "motorcycle_left", "china", "flower",
)  # fmt: skip
"""Photographs that were not used to train the weights in this package."""

# Two photographs of one scene, which must not be split between training and test.
_TWINS = frozenset({"motorcycle_left", "motorcycle_right"})


def read_picture(path: str | Path, *, largest: int | None = 512) -> Image:
    """Read a picture file as a colour image, float32 (H, W, 3) in [0, 1].

    The format is PNG, JPEG, TIFF or any other that Pillow reads. Grey pictures of 8 or
    16 bits become three equal channels, and transparency is dropped. Pictures with more
    than `largest` pixels a side are cropped around their centre, unless it is None.
    Raises ValueError if the file is missing, is not a picture, holds several, has 32
    bits without a known range, or is smaller than 32x32 pixels.
    """
    with needing("PIL", "demo"):
        from PIL import Image as pillow
        from PIL import ImageOps

    try:
        check_regular(path)
        if Path(path).stat().st_size == 0:
            raise ValueError("it is empty")
        # Given a path, Pillow 13 maps the file, and scrambles TIFF with rotated pixels.
        with quiet(), Path(path).open("rb") as file, pillow.open(file) as picture:
            tags = getattr(picture, "tag_v2", {})  # of TIFF
            depths = tags.get(_BITS, (16,))
            white = 2 ** max(depths) - 1
            if white > 255 and len(depths) > 1 and tags.get(_PLANES) == 2:
                # Pillow reads these wrong.
                raise ValueError("its channels of more than 8 bits are not interleaved")
            if white <= 255 and _SIGNED in tags.get(_FORMAT, ()):  # read modulo 256
                raise ValueError("its values have a sign")
            # Size as decoded. Single precision takes four times as much: the largest
            # pictures of cameras do not reach this limit.
            check_bytes(path, "the picture", 3, *picture.size)
            if picture.format in _PAGED and not _holds_one(picture):
                raise ValueError("it holds several pictures; save one of them")
            upright = ImageOps.exif_transpose(picture)
            deep = upright.mode.startswith("I;16") or (
                # In these formats Pillow uses 32-bit integers for 16-bit values.
                upright.mode == "I" and picture.format in ("PNG", "PPM")
            )
            # Pillow's conversion to RGB would clip values above 255.
            if upright.mode in ("I", "F") and not deep:
                raise ValueError(
                    f"its values ({upright.mode}) have no known maximum for white; "
                    "save 8 or 16 bits"
                )
            pixels = np.asarray(upright if deep else upright.convert("RGB"))
            # For TIFF with white at 0, Pillow inverts only 8-bit values.
            if deep and tags.get(_PHOTOMETRIC) == 0:
                pixels = white - pixels
    except Exception as error:  # Pillow may raise any class for a damaged file
        raise ValueError(f"cannot read {path} as a picture: {error}") from error
    if deep:
        grey = pixels.astype(np.float32) / np.float32(white)
        pixels = np.stack([grey] * 3, axis=-1)
    if min(pixels.shape[:2]) < 32:
        raise ValueError(f"{path} is smaller than 32x32 pixels: {pixels.shape[:2]}")
    cropped = pixels if largest is None else centre_crop(pixels, largest)
    return cropped if deep else from_bytes(cropped)


def _holds_one(picture: Any) -> bool:
    """Whether further pages are previews, smaller than the first, or masks of it."""
    width, height = picture.size
    for page in itertools.count(1):
        try:
            picture.seek(page)
        except Exception:  # the end, or a page that is damaged
            picture.seek(0)
            return True
        preview = picture.width < width and picture.height < height
        if not preview and not getattr(picture, "tag_v2", {}).get(_SUBFILE):
            return False
    return True


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
    """Crop an image to at most `largest` pixels a side, around its centre."""
    height, width = pixels.shape[:2]
    return pixels[central(height, largest), central(width, largest)]


def patches(
    photos: Mapping[str, Image] | Sequence[Image],
    count: int,
    size: int,
    rng: np.random.Generator,
) -> Image:
    """Draw random square patches from photographs, float32 (count, size, size, C).

    The photographs (H, W, C), which may differ in size, are drawn with equal
    probability, as are the positions in each; patches are mirrored and rotated at
    random. Raises ValueError if a photograph is smaller than a patch.
    """
    pool = list(photos.values()) if isinstance(photos, Mapping) else photos
    if isinstance(pool, list):  # other sequences may load pictures lazily
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
    """Return the names of the training photographs for given test photographs.

    Excluded are those in `test` and other views of the same scene. If none of them is
    in `PHOTOS`, as for a picture of the user, `HELD_OUT` is excluded instead. Raises
    ValueError for a misspelt name.
    """
    for name in test:
        if name not in PHOTOS and not Path(name).suffix and near(name, PHOTOS):
            raise ValueError(f"test: no photograph {name!r}{near(name, PHOTOS)}")
    held_out = with_twins({name for name in test if name in PHOTOS} or {HELD_OUT})
    return tuple(name for name in PHOTOS if name not in held_out)


def with_twins(names: set[str]) -> set[str]:
    """Return names of photographs, with the other photograph of the same scene."""
    return names | _TWINS if names & _TWINS else names


def photograph(name: str) -> Image:
    """Load a photograph of `PHOTOS`: float32 (H, W, 3) in [0, 1].

    Raises ValueError if there is no photograph of that name.
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
    # Scaled down one by one, because all at full size could exhaust the memory.
    images = {name: shrunk(photograph(name), longest) for name in names}
    for file in _pictures(places):
        name = str(file) if file.stem in images else file.stem
        images[name] = shrunk(read_picture(file, largest=None), longest)
    return images


def fingerprint(places: Sequence[str]) -> str:
    """Return the SHA-256 of names, order and content of pictures."""
    return checks.fingerprint(_pictures(places))


def _pictures(places: Sequence[str]) -> Iterator[Path]:
    return checks.listed(places, picture_files, "task.photographs: ")


def shrunk(image: Image, longest: int) -> Image:
    """Downsample a photograph by an integer factor to at most `longest` a side."""
    factor = -(-max(image.shape[:2]) // longest)
    if factor == 1:
        return image
    H, W = (n // factor * factor for n in image.shape[:2])
    squares = image[:H, :W].reshape(H // factor, factor, W // factor, factor, -1)
    return squares.mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
