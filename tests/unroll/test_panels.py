from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from svdinv.unroll.display import panels
from svdinv.unroll.display.panels import (
    Entry,
    save_panel,
    save_series_animation,
    save_series_panel,
)


@pytest.fixture
def entries(rng):
    truth = rng.random((40, 60, 3), dtype=np.float32)
    noise = 0.1 * rng.standard_normal(truth.shape).astype(np.float32)
    return Entry("truth", truth, "t"), [
        Entry("samples", np.zeros_like(truth), "s"),
        Entry("found", np.clip(truth + noise, 0, 1), "f"),
    ]


def test_writes_a_picture_and_nothing_else(tmp_path, entries):
    save_panel(tmp_path / "a.png", *entries, title="title")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    with Image.open(tmp_path / "a.png") as picture:
        picture.load()
        assert picture.width > 600
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 500


def test_equal_pictures_have_no_error_to_scale_by(tmp_path, entries):
    truth, _ = entries
    save_panel(tmp_path / "a.png", truth, [truth], title="title")
    assert (tmp_path / "a.png").stat().st_size > 0


def test_pictures_smaller_than_a_window(tmp_path, entries):
    truth, found = entries
    small = [replace(each, image=each.image[:11, :13]) for each in (truth, *found)]
    save_panel(tmp_path / "a.png", small[0], small[1:], title="title")
    assert (tmp_path / "a.png").stat().st_size > 0


def test_a_failure_leaves_the_old_picture(tmp_path, entries, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(self, stream, **options):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save_panel(path, *entries, title="title")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_pictures_without_their_truth(tmp_path, entries):
    _, found = entries
    save_panel(tmp_path / "a.png", None, found, title="title")
    save_panel(tmp_path / "b.png", *entries, title="title")
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "b.png") as b:
        assert a.width < b.width
        assert a.height < b.height


@pytest.fixture
def beating(rng):
    """A square that is bright in the third frame only."""
    x = 0.2 * np.ones((5, 40, 60)) * np.exp(1j)
    x[2, 20:30, 40:50] += 1
    noise = 0.05 * rng.standard_normal(x.shape)
    first = Entry("zero-filled", 0 * x, "z")
    return Entry("truth", x, "t"), [first, Entry("found", x + noise, "f")]


def test_series_are_looked_at_where_they_move(beating):
    truth, _ = beating
    frame, top, left, side = panels._moving_window(np.abs(truth.image))
    assert frame == 2
    assert side == 16
    assert top <= 20
    assert top + side >= 30
    assert left <= 40
    assert left + side >= 50
    assert 20 <= top + side // 2 < 30


def test_a_single_frame_is_looked_at_where_it_varies(tmp_path, beating):
    truth, found = beating
    frame, top, left, side = panels._moving_window(np.abs(truth.image[2:3]))
    assert frame == 0
    assert top < 30 < top + side
    assert left < 50 < left + side
    heights = []
    for name, frames in (("a.png", slice(2, 3)), ("b.png", slice(2, 4))):
        each = [replace(e, image=e.image[frames]) for e in (truth, *found)]
        save_series_panel(tmp_path / name, each[0], each[1:], title="t")
        with Image.open(tmp_path / name) as picture:
            heights.append(picture.height)
    assert heights[0] < heights[1]  # without the profile over time


@pytest.mark.parametrize("known", [True, False])
def test_a_panel_of_series(tmp_path, beating, known):
    truth, found = beating
    save_series_panel(tmp_path / "a.png", truth if known else None, found, title="t")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    with Image.open(tmp_path / "a.png") as picture:
        width, height = picture.size
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 200
    assert width == pytest.approx(110 * (1.07 + 3 * (2 + known)), abs=2)
    assert height > 500 + 200 * known


def test_a_single_frame_and_a_black_series_have_panels(tmp_path):
    still = Entry("still", np.zeros((1, 20, 20)), "")
    save_series_panel(tmp_path / "a.png", still, [still], title="t")
    save_series_animation(tmp_path / "a.gif", still, [still])
    assert (tmp_path / "a.png").stat().st_size > 0
    with Image.open(tmp_path / "a.gif") as picture:
        assert getattr(picture, "n_frames", 1) == 1


def test_an_animation_has_every_frame_of_every_series(tmp_path, beating):
    truth, found = beating
    save_series_animation(tmp_path / "a.gif", truth, found, seconds=0.05)
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 5
        assert picture.info["duration"] == 50
        assert picture.info["loop"] == 0
        shown = []
        for t in range(5):
            picture.seek(t)
            shown.append(np.asarray(picture.convert("L"))[-120:].astype(int))
    columns = np.array_split(np.stack(shown), 3, axis=2)
    bright = [column.max(axis=(1, 2)) for column in columns]
    assert bright[0].argmax() == bright[2].argmax() == 2
    assert bright[0][2] > 250
    assert bright[1].max() < 30
