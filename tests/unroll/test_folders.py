"""Folders of pictures, and CIFAR."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from svdinv.unroll.data import patches, read_folder
from svdinv.unroll.data.cifar import read_cifar


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


def write_cifar(folder, classes, count, rng):
    """Write the files by the description of the format, return what is in them."""
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
    held = {}
    for name in names if classes == 10 else ["train.bin", "test.bin"]:
        labels = rng.integers(0, classes, count, dtype=np.uint8)
        planes = rng.integers(0, 256, (count, 3, 1024), dtype=np.uint8)
        with (folder / name).open("wb") as file:
            for label, (red, green, blue) in zip(labels, planes, strict=True):
                file.write(bytes([label] if classes == 10 else [label // 5, label]))
                file.write(red.tobytes() + green.tobytes() + blue.tobytes())
        held[name] = labels, planes.reshape(count, 3, 32, 32).transpose(0, 2, 3, 1)
    return held


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_of_a_folder(tmp_path, rng, classes):
    held = write_cifar(tmp_path, classes, 7, rng)
    test = held.pop("test_batch.bin" if classes == 10 else "test.bin")
    cifar = read_cifar(tmp_path)
    np.testing.assert_array_equal(
        cifar.labels, np.concatenate([labels for labels, _ in held.values()])
    )
    np.testing.assert_array_equal(
        cifar.pixels, np.concatenate([pixels for _, pixels in held.values()])
    )
    np.testing.assert_array_equal(read_cifar(tmp_path, part="test").pixels, test[1])
    assert len(cifar) == 7 * len(held)


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("renamed", [False, True])
def test_cifar_of_a_file(tmp_path, rng, classes, renamed):
    name, (labels, pixels) = next(iter(write_cifar(tmp_path, classes, 5, rng).items()))
    file = tmp_path / name
    if renamed:
        file = file.rename(tmp_path / "pictures.bin")
    cifar = read_cifar(file)
    np.testing.assert_array_equal(cifar.labels, labels)
    np.testing.assert_array_equal(cifar.pixels, pixels)


def test_cifar_makes_floats_on_demand(tmp_path, rng):
    pixels = write_cifar(tmp_path, 100, 6, rng)["test.bin"][1]
    cifar = read_cifar(tmp_path / "test.bin")
    assert cifar[2].dtype == np.float32
    np.testing.assert_array_equal(cifar[2], pixels[2] / np.float32(255))
    np.testing.assert_array_equal(cifar[1:4], pixels[1:4] / np.float32(255))
    assert len(list(cifar)) == 6
    assert patches(cifar, 4, 16, rng).shape == (4, 16, 16, 3)
    with pytest.raises(ValueError, match="smaller than a patch"):
        patches(cifar, 1, 33, rng)


@pytest.mark.parametrize("length", [0, 1, 3072, 3074 * 4 - 1])
def test_a_truncated_cifar_is_named(tmp_path, rng, length):
    write_cifar(tmp_path, 100, 4, rng)
    data = (tmp_path / "test.bin").read_bytes()
    (tmp_path / "test.bin").write_bytes(data[:length])
    with pytest.raises(ValueError, match=rf"test\.bin has {length} bytes.*3074"):
        read_cifar(tmp_path, part="test")


def test_cifar_with_labels_out_of_range(tmp_path):
    (tmp_path / "data.bin").write_bytes(b"\xff" * 3073 * 2)
    with pytest.raises(ValueError, match="label 255"):
        read_cifar(tmp_path / "data.bin")


def test_cifar_that_is_not_there(tmp_path, rng):
    with pytest.raises(ValueError, match="neither data_batch_1"):
        read_cifar(tmp_path)
    with pytest.raises(ValueError, match="no file or folder"):
        read_cifar(tmp_path / "missing")
    write_cifar(tmp_path, 10, 2, rng)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(ValueError, match=r"lacks data_batch_4\.bin"):
        read_cifar(tmp_path)
    with pytest.raises(ValueError, match="part"):
        read_cifar(tmp_path, part="valid")
    with pytest.raises(ValueError, match="classes"):
        read_cifar(tmp_path, classes=20)


def test_the_pickled_version_is_not_read(tmp_path):
    import pickle

    for name in ("data_batch_1", "test_batch"):
        (tmp_path / name).write_bytes(pickle.dumps({b"data": np.zeros((2, 3072))}))
    with pytest.raises(ValueError, match="neither data_batch_1"):
        read_cifar(tmp_path)
    with pytest.raises(ValueError, match="whole number of pictures"):
        read_cifar(tmp_path / "data_batch_1")
