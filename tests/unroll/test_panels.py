from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from svdinv.unroll.jobs.panels import Entry, save_panel


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
