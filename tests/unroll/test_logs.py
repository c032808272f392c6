from __future__ import annotations

import gc
import math
import os
from contextlib import closing

import pytest
from small_trainings import events, largest_file

from svdinv.unroll.training.logs import EVENTS, LOG, VALIDATION, Logs, read_log


def values(step):
    """Loss, learning rate and length of the gradient that no short decimal is."""
    return 1 / (3 * step), 1e-3 / step, math.sqrt(step)


def written(folder, first, last, at=0):
    with closing(Logs(folder, at)) as logs:
        for step in range(first, last + 1):
            logs.step(step, *values(step))
            if step % 4 == 0:
                logs.validation(step, 20 + 1 / step)


def text(folder):
    return {name: (folder / name).read_text() for name in (LOG, VALIDATION)}


def test_rows_are_read_as_they_were_written(tmp_path):
    written(tmp_path, 1, 9)
    rows = read_log(tmp_path / LOG)
    assert [row["step"] for row in rows] == list(range(1, 10))
    names = ("loss", "learning_rate", "gradient_norm")
    assert [tuple(row[n] for n in names) for row in rows] == [
        *map(values, range(1, 10))
    ]
    validations = read_log(tmp_path / VALIDATION)
    assert validations == [{"step": s, "psnr_db": 20 + 1 / s} for s in (4, 8)]
    assert read_log(tmp_path / "none.csv") == []


def test_from_a_step_on_rows_come_once(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    written(whole, 1, 30)
    written(parts, 1, 17)
    written(parts, 13, 25, at=12)
    written(parts, 26, 27, at=25)
    written(parts, 26, 30, at=25)
    assert text(parts) == text(whole)


def test_a_row_that_was_cut_off_is_dropped(tmp_path):
    written(tmp_path, 1, 9)
    path = tmp_path / LOG
    whole = path.read_text()
    for missing in range(1, len(whole.splitlines()[-1]) + 1):
        path.write_text(whole[:-missing])
        written(tmp_path, 9, 9, at=8)
        assert path.read_text() == whole


def test_from_the_beginning_an_old_log_is_gone(tmp_path):
    (tmp_path / LOG).write_text("something else\n1\n")
    written(tmp_path, 1, 5)
    written(tmp_path, 1, 2)
    assert len(read_log(tmp_path / LOG)) == 2
    assert read_log(tmp_path / VALIDATION) == []
    assert len(list(tmp_path.glob(EVENTS))) == 1


def test_what_is_not_finite_is_written_and_read(tmp_path):
    with closing(Logs(tmp_path, 0)) as logs:
        logs.step(1, math.inf, 0.0, math.nan)
        logs.validation(1, math.inf)
    written(tmp_path, 2, 3, at=1)
    row = read_log(tmp_path / LOG)[0]
    assert (row["loss"], row["learning_rate"]) == (math.inf, 0)
    assert math.isnan(row["gradient_norm"])
    assert read_log(tmp_path / VALIDATION) == [{"step": 1, "psnr_db": math.inf}]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(None, 1, 20)
    assert list(tmp_path.iterdir()) == []


def test_flushed_is_on_the_disk(tmp_path):
    pytest.importorskip("tensorboardX")
    with closing(Logs(tmp_path, 0)) as logs:
        logs.step(10, *values(10))
        logs.validation(10, 25.0)
        logs.flush()
        assert read_log(tmp_path / LOG)[-1]["step"] == 10
        assert events(tmp_path)["validation/psnr_db"] == {10: 25.0}
        assert events(tmp_path)["training/loss"].keys() == {10}


def test_after_a_while_and_after_a_validation_rows_are_seen(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("svdinv.unroll.training.logs.time.monotonic", lambda: now[0])
    with closing(Logs(tmp_path, 0)) as logs:
        logs.step(1, *values(1))
        assert read_log(tmp_path / LOG) == []
        now[0] = 6.0
        logs.step(2, *values(2))
        assert len(read_log(tmp_path / LOG)) == 2
        logs.step(3, *values(3))
        assert len(read_log(tmp_path / LOG)) == 2
        logs.validation(3, 20.0)
        assert len(read_log(tmp_path / LOG)) == 3
        assert len(read_log(tmp_path / VALIDATION)) == 1


def test_rows_are_brought_to_the_disk(tmp_path, monkeypatch):
    with closing(Logs(tmp_path, 0)) as logs:
        logs.step(1, *values(1))
        logs.validation(1, 20.0)
        synced = []
        monkeypatch.setattr("os.fsync", lambda handle: synced.append(os.fstat(handle)))
        logs.sync()
    brought = {(s.st_ino, s.st_size) for s in synced}
    for name in (LOG, VALIDATION):
        there = (tmp_path / name).stat()
        assert (there.st_ino, there.st_size) in brought


@pytest.mark.parametrize("content", [b"loss,foo\n1,2\n", b"step,loss\n", b"\xff\xfe"])
def test_what_is_no_log_is_refused_by_name(tmp_path, content):
    (tmp_path / LOG).write_bytes(content)
    with pytest.raises(ValueError, match=f"{LOG} is not a training log"):
        read_log(tmp_path / LOG)


def test_tensorboard_sees_every_step_once(tmp_path):
    """Also if two files are of the same second, and if one was cut off."""
    pytest.importorskip("tensorboardX")
    written(tmp_path, 1, 44)
    file = max(tmp_path.glob(EVENTS))
    file.write_bytes(file.read_bytes()[:-5])
    written(tmp_path, 31, 60, at=30)
    written(tmp_path, 51, 80, at=50)
    assert len(list(tmp_path.glob(EVENTS))) == 3
    shown = events(tmp_path)
    tens = range(10, 81, 10)
    names = ("training/loss", "training/learning_rate", "training/gradient_norm")
    for name, index in zip(names, range(3), strict=True):
        expected = {step: values(step)[index] for step in tens}
        assert shown[name] == pytest.approx(expected, rel=1e-6)
    expected = {step: 20 + 1 / step for step in range(4, 81, 4)}
    assert shown["validation/psnr_db"] == pytest.approx(expected, rel=1e-6)


def test_does_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr("svdinv.unroll.training.logs.find_spec", lambda name: None)
    written(tmp_path, 1, 20)
    assert sorted(file.name for file in tmp_path.iterdir()) == [LOG, VALIDATION]


@pytest.mark.parametrize("size", [0, 30, 5000])
def test_a_full_disk_is_an_error_at_once_or_when_flushed(tmp_path, size):
    """And every file is closed: none is left to complain of when it is collected."""

    def fill():
        with closing(Logs(tmp_path, 0)) as logs:
            for step in range(1, 1000):
                logs.step(step, *values(step))
            logs.flush()

    with largest_file(size), pytest.raises(OSError, match=r"File too large: .*\.csv"):
        fill()
    gc.collect()
    rows = read_log(tmp_path / LOG)
    # What is there is whole, and can be gone on with.
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert (len(rows) > 0) == (size == 5000)
