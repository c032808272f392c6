"""Folders of pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from svdinv.unroll.data import read_picture
from svdinv.unroll.data.pictures import picture_files


def read_folder(path, **options):
    return [read_picture(file, **options) for file in picture_files(path)]


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return pixels / np.float32(255)


def test_folder_is_read_in_the_order_of_names(tmp_path, rng):
    pixels = rng.integers(0, 256, (3, 40, 36, 3), dtype=np.uint8)
    truths = [
        save(tmp_path / name, image)
        for name, image in zip(("b.PNG", "a.bmp", "c.tiff"), pixels, strict=True)
    ]
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_text("not a picture either")
    (tmp_path / "deeper.png").mkdir()
    (tmp_path / "deeper.png").rmdir()
    images = read_folder(tmp_path)
    assert [image.dtype for image in images] == [np.float32] * 3
    for image, k in zip(images, (1, 0, 2), strict=True):
        np.testing.assert_array_equal(image, truths[k])


def test_folder_crops_as_pictures_are_cropped(tmp_path, rng):
    pixels = rng.integers(0, 256, (64, 40, 3), dtype=np.uint8)
    truth = save(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(
        read_folder(tmp_path, largest=32)[0], truth[16:48, 4:36]
    )


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_damaged_picture_is_named(tmp_path, rng, share):
    for name in "ab":
        save(tmp_path / f"{name}.png", rng.integers(0, 256, (40, 40, 3), np.uint8))
    data = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"cannot read .*b\.png"):
        read_folder(tmp_path)


def test_folder_must_hold_pictures(tmp_path):
    with pytest.raises(ValueError, match="no picture in"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match="not a folder"):
        read_folder(tmp_path / "missing")
