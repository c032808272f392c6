from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
from PIL import Image

from svdinv.unroll.data import (
    HELD_OUT,
    PHOTOS,
    patches,
    photograph,
    read_picture,
    split,
)
from svdinv.unroll.data.masks import uniform_mask
from svdinv.unroll.data.pictures import picture_files, with_twins
from svdinv.unroll.display.pictures import contact_sheet, save_animation, save_picture
from svdinv.unroll.tiles import tiles


@pytest.mark.parametrize("test", PHOTOS)
def test_never_trains_on_the_test_photograph(test):
    assert test not in split(test)
    assert len(split(test)) >= len(PHOTOS) - 2


def test_two_views_of_a_scene_are_one_photograph():
    assert not {"motorcycle_left", "motorcycle_right"} & set(split("motorcycle_left"))
    both = with_twins({"motorcycle_right", "coffee"})
    assert both == {"motorcycle_left", "motorcycle_right", "coffee"}


def test_a_picture_of_ones_own_changes_nothing():
    assert split("/home/me/cat.png") == split() == split(HELD_OUT)


def test_a_misspelt_photograph_is_not_trained_on():
    with pytest.raises(ValueError, match="no photograph 'cofee'; did you mean coffee"):
        split("chelsea", "cofee")


@pytest.mark.parametrize("name", ["chelsea", "china", "motorcycle_right"])
def test_photographs_are_colour_in_the_unit_interval(name):
    image = photograph(name)
    assert image.dtype == np.float32
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.min() >= 0
    assert 0.5 < image.max() <= 1


def test_unknown_photograph():
    with pytest.raises(ValueError, match="no photograph 'lena'"):
        photograph("lena")


def test_patches_come_from_the_photographs(rng):
    """Each value of the photograph names its place, so each patch can be traced."""
    place = np.arange(40 * 50, dtype=np.float32).reshape(40, 50, 1)
    for patch in patches([place], 30, 8, rng)[..., 0]:
        rows, columns = np.divmod(patch, 50)
        assert np.ptp(rows) == np.ptp(columns) == 7
        assert len(np.unique(patch)) == 64


def test_patches_reach_the_border_and_are_turned(rng):
    place = np.arange(10 * 10, dtype=np.float32).reshape(10, 10, 1)
    drawn = patches([place], 400, 8, rng)[..., 0]
    assert {drawn.min(), drawn.max()} == {0, 99}
    assert len({tuple(np.sign(p[0, -1] - p[0, 0]) * p[0, :2]) for p in drawn}) > 30


def test_patches_follow_the_seed():
    photos = {"a": np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)}
    one, two, other = (
        patches(photos, 5, 16, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_patches_must_fit(rng):
    with pytest.raises(ValueError, match="smaller than a patch"):
        patches([np.zeros((8, 40, 3), np.float32)], 1, 16, rng)


@pytest.mark.parametrize("rate", [0.04, 0.4, 0.9])
def test_mask_samples_at_the_rate_in_every_channel(rng, rate):
    mask = uniform_mask((200, 200, 3), rate, rng)
    assert mask.dtype == bool
    # Five standard deviations of a mean of 40000 coin tosses.
    slack = 5 * np.sqrt(rate * (1 - rate) / 40000)
    np.testing.assert_allclose(mask.mean(axis=(0, 1)), rate, atol=slack)
    assert not np.array_equal(mask[..., 0], mask[..., 1])


def test_crops_large_pictures_around_their_middle(tmp_path, rng):
    pixels = rng.integers(0, 256, (70, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read_picture(tmp_path / "a.png", largest=50), pixels[10:60] / np.float32(255)
    )


def test_grey_pictures_get_three_channels(tmp_path, rng):
    pixels = rng.integers(0, 256, (40, 50), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_picture(tmp_path / "a.png")
    assert image.shape == (40, 50, 3)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.png"])
def test_files_of_several_pictures_are_refused(tmp_path, name):
    pages = [Image.new("L", (40, 40), k) for k in (0, 255)]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=f"{name} as a picture: it holds several"):
        read_picture(tmp_path / name)


def test_a_preview_is_no_further_picture(tmp_path):
    pages = [Image.new("L", (size, size), size) for size in (40, 20, 40)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:2])
    assert read_picture(tmp_path / "a.tif").shape == (40, 40, 3)
    for order in (pages, pages[1:]):
        order[0].save(tmp_path / "b.tif", save_all=True, append_images=order[1:])
        with pytest.raises(ValueError, match="it holds several"):
            read_picture(tmp_path / "b.tif")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_pictures_of_16_bits_keep_their_greys(tmp_path, rng, name):
    pixels = rng.integers(0, 65536, (40, 50), dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / name)
    image = read_picture(tmp_path / name)
    assert image.dtype == np.float32
    expected = np.stack([pixels / np.float32(65535)] * 3, axis=-1)
    np.testing.assert_array_equal(image, expected)


def test_tiff_of_16_bits_with_white_at_0(tmp_path, rng):
    pixels = rng.integers(0, 65536, (40, 50), dtype=np.uint16)
    Image.fromarray(65535 - pixels).save(tmp_path / "a.tif", tiffinfo={262: 0})
    image = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(image[..., 0], pixels / np.float32(65535))


@pytest.mark.parametrize("compression", [None, "tiff_deflate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_that_lies_on_its_side(tmp_path, rng, dtype, compression):
    pixels = rng.integers(0, 256, (40, 50)).astype(dtype)
    turned = Image.Exif()
    turned[274] = 6  # to be shown a quarter turn clockwise
    path = tmp_path / "a.tif"
    Image.fromarray(pixels).save(path, exif=turned, compression=compression)
    expected = np.rot90(pixels, -1) / np.float32(np.iinfo(dtype).max)
    np.testing.assert_allclose(read_picture(path)[..., 0], expected, atol=1e-7)


def write_tiff(path, data, shape, bits, planes, sign=1):
    """Write a TIFF by hand: Pillow writes neither 12 bits nor separate planes."""
    *channels, height, width = shape
    count = channels[0] if channels else 1
    parts = count if planes == 2 else 1
    size = len(data) // parts
    tags = {256: [width], 257: [height], 258: [bits] * count, 259: [1]}
    tags |= {262: [2 if channels else 1], 273: [8 + i * size for i in range(parts)]}
    tags |= {277: [count], 278: [height], 279: [size] * parts, 284: [planes]}
    tags |= {339: [sign] * count}
    content, entries = struct.pack("<2sHI", b"II", 42, 0) + data, b""
    for tag, numbers in tags.items():
        value = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            value, content = struct.pack("<I", len(content)), content + value
        entries += struct.pack("<HHI", tag, 4, len(numbers)) + value
    first = struct.pack("<I", len(content))
    content += struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(content[:4] + first + content[8:])


def test_tiff_of_12_bits(tmp_path, rng):
    pixels = rng.integers(0, 4096, (40, 50))
    first, second = pixels.reshape(-1, 2).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1)
    data = packed.astype(np.uint8).tobytes()
    write_tiff(tmp_path / "a.tif", data, pixels.shape, bits=12, planes=1)
    image = read_picture(tmp_path / "a.tif")
    np.testing.assert_allclose(image[..., 0], pixels / 4095, atol=1e-7)


def test_tiff_of_one_channel_behind_the_other(tmp_path, rng):
    pixels = rng.integers(0, 256, (3, 40, 50))
    path = tmp_path / "a.tif"
    write_tiff(path, pixels.astype("u1").tobytes(), pixels.shape, bits=8, planes=2)
    expected = np.moveaxis(pixels, 0, -1) / 255
    np.testing.assert_allclose(read_picture(path), expected, atol=1e-7)
    write_tiff(path, pixels.astype("<u2").tobytes(), pixels.shape, bits=16, planes=2)
    with pytest.raises(ValueError, match=r"a\.tif.*are not interleaved"):
        read_picture(path)


def test_refuses_tiff_of_numbers_with_a_sign(tmp_path):
    path, pixels = tmp_path / "a.tif", np.full((40, 50), -1, "i1")
    write_tiff(path, pixels.tobytes(), pixels.shape, bits=8, planes=1, sign=2)
    with pytest.raises(ValueError, match=r"a\.tif.*have a sign"):
        read_picture(path)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_refuses_numbers_without_a_known_range(tmp_path, dtype):
    Image.fromarray(np.ones((40, 40), dtype)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif.*white"):
        read_picture(tmp_path / "a.tif")


def test_refuses_what_is_no_picture(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    np.save(tmp_path / "array.npy", np.zeros((40, 40, 3)))
    Image.fromarray(np.zeros((8, 40, 3), np.uint8)).save(tmp_path / "small.png")
    for name in ("notes.txt", "array.npy", "missing.png", ".", "small.png"):
        with pytest.raises(ValueError, match=r"cannot read|smaller than"):
            read_picture(tmp_path / name)


# Folders of pictures


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


def test_a_sheet_holds_every_frame():
    frames = np.arange(1, 6)[:, None, None] / 10 * np.ones((5, 8, 6))
    sheet = contact_sheet(frames)
    assert sheet.shape == (2 * 8 + 2, 3 * 6 + 2 * 2)
    for i, value in enumerate((0.1, 0.2, 0.3, 0.4)):
        top, left = (i // 3) * 10, (i % 3) * 8
        assert np.allclose(sheet[top : top + 8, left : left + 6], value)
    assert np.allclose(sheet[8:10], 0.5)


def test_pictures_and_animations(tmp_path):
    ramp = np.linspace(-0.5, 1.5, 32)[None] * np.ones((20, 1))
    save_picture(tmp_path / "a.png", ramp)
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(pixels[0], np.round(255 * np.clip(ramp[0], 0, 1)))
    frames = np.stack([ramp, ramp[:, ::-1], 0 * ramp])
    save_animation(tmp_path / "a.gif", frames, seconds=0.05)
    with Image.open(tmp_path / "a.gif") as film:
        assert (film.n_frames, film.info["duration"], film.info["loop"]) == (3, 50, 0)
        assert film.size == (32, 20)


def test_colours_and_masks_are_pictures_too(tmp_path, rng):
    image = rng.random((6, 5, 3), dtype=np.float32)
    save_picture(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as picture:
        assert np.array_equal(np.asarray(picture), np.rint(255 * image))
    save_picture(tmp_path / "a.png", image[..., 0] > 0.5)
    with Image.open(tmp_path / "a.png") as picture:
        assert np.array_equal(np.asarray(picture), 255 * (image[..., 0] > 0.5))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_pillow_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"\[train\]"):
        save_picture(tmp_path / "a.png", np.ones((2, 2)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(64, 64), (1, 70), (33, 100)])
def test_every_pixel_is_kept_once_and_seen_with_its_surroundings(shape):
    image = np.arange(np.prod(shape)).reshape(shape)
    found = np.full(shape, -1)
    for seen, inside, kept in tiles(*shape, 32, 8):
        assert (found[kept] == -1).all()
        found[kept] = image[seen][inside]
        for part, whole, length in zip(kept, seen, shape, strict=True):
            assert whole.start == max(0, part.start - 8)
            assert whole.stop == min(length, part.stop + 8)
            assert whole.start % 8 == 0
            assert part.stop - part.start <= 32
    np.testing.assert_array_equal(found, image)
