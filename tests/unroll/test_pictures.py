from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from svdinv.unroll.display.pictures import contact_sheet, save_animation, save_picture


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
