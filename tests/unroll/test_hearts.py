"""Real series of the heart: those built in, and files of them to train on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from svdinv.unroll.tasks.cine.hearts import (
    HEARTS,
    cropped_series,
    heart_series,
    read_hearts,
    smooth_phase,
)
from svdinv.unroll.tasks.cine.kspace import PATTERNS, sampling
from svdinv.unroll.tasks.cine.task import Cine

FEW = {"series": 1, "frames": 6, "size": 32, "validation": 1, "textures": 0.0}


def write(path, count=3, shape=(8, 40, 48)):
    """Write integer series of one level each, to tell them by, with a bright corner."""
    series = {f"s{i}": np.full(shape, 10 * (i + 1), np.int16) for i in range(count)}
    for x in series.values():
        x[:, ::9, ::9] = 100
    np.savez(path, **series)
    return str(path)


@pytest.mark.parametrize("name", HEARTS)
def test_built_in_series_show_a_beating_heart(name):
    series = heart_series(name)
    assert (series.shape, series.dtype) == ((20, 96, 96), np.float32)
    assert 0 <= series.min() < 0.05
    assert series.max() == 1
    # One beat: the last frame leads to the first, and both differ from the middle.
    differences = [np.abs(series[0] - series[t]).mean() for t in (-1, 10)]
    assert 0 < differences[0] < differences[1]


def test_other_names_are_refused():
    with pytest.raises(ValueError, match="no series 'dog'; there are short-axis"):
        heart_series("dog")


def test_what_comes_with_the_package_is_small():
    folder = Path(sys.modules["svdinv.unroll.tasks.cine.hearts"].__file__).parent
    assert sum(file.stat().st_size for file in folder.glob("*.npz")) < 1.5e6


# Files


def test_every_array_of_a_file_is_a_series(tmp_path):
    archive = write(tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", 2j * np.ones((4, 16, 16)))
    (tmp_path / "note.txt").write_text("no series")
    found = read_hearts([archive, str(tmp_path)])  # the first is there twice
    assert list(found) == ["s0", "s1", "s2", "b"]
    assert found["s1"].dtype == np.float32
    np.testing.assert_allclose(np.unique(found["s1"]), [0.2, 1])
    np.testing.assert_array_equal(found["b"], 1)


def test_series_of_one_name_are_told_apart(tmp_path):
    (tmp_path / "c").mkdir()
    places = [write(tmp_path / f"{name}.npz", count=1) for name in ("a", "b", "c/b")]
    assert list(read_hearts(places)) == ["s0", "b/s0", f"{places[2]}/s0"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones((4, 16)), r"one must be \(T, H, W\) with at least 4 frames of 16"),
        (np.ones((3, 16, 16)), "at least 4 frames"),
        (np.ones((4, 15, 16)), "of 16 pixels a side"),
        (np.full((4, 16, 16), np.nan), "one has numbers that are not finite"),
        (np.zeros((4, 16, 16)), "one must be finite and not all 0"),
        (np.tri(16) - 0.5 * np.ones((4, 16, 16)), "one has negative numbers"),
        (np.full((4, 16, 16), "a"), "one.npy must hold numbers"),
        (np.array([{}]), "cannot read .* as an array"),
    ],
    ids=["axes", "frames", "pixels", "NaN", "zeros", "signed", "text", "objects"],
)
def test_what_is_no_series_is_refused(tmp_path, content, message):
    path = tmp_path / "one.npy"
    np.save(path, content)
    with pytest.raises(ValueError, match=message) as error:
        read_hearts([str(path)])
    assert str(path) in str(error.value)


def test_missing_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=f"there is no {tmp_path / 'a'}"):
        read_hearts([str(tmp_path / "a")])
    (tmp_path / "b.npz").write_bytes(b"PK\3\4 and nothing more")
    with pytest.raises(ValueError, match=r"cannot read .*b\.npz as an archive"):
        read_hearts([str(tmp_path / "b.npz")])


# Parts of series


def test_parts_differ_in_place_time_and_detail():
    series = heart_series("short-axis")
    parts = [
        cropped_series(series, 9, 48, np.random.default_rng(seed)) for seed in range(30)
    ]
    again = cropped_series(series, 9, 48, np.random.default_rng(3))
    np.testing.assert_array_equal(again, parts[3])
    exact = 0
    for part in parts:
        assert (part.shape, part.dtype) == ((9, 48, 48), np.float32)
        assert part.min() >= 0
        assert part.max() == pytest.approx(1)
        # Parts of pixels as they are have ratios that the series has somewhere.
        windows = np.lib.stride_tricks.sliding_window_view(series, (48, 48), (1, 2))
        corner = part[0, 0, 0] / part[0, 20, 20]
        ratios = windows[..., 0, 0] / np.maximum(windows[..., 20, 20], 1e-9)
        exact += np.isclose(ratios, corner, rtol=1e-5).any()
    assert 5 < exact < 30
    changes = [np.abs(np.diff(part, axis=0)).mean() for part in parts]
    assert max(changes) > 1.5 * min(changes)


def test_short_and_small_series_are_mirrored():
    frames = np.arange(1.0, 5)[:, None, None] * np.ones((4, 16, 16))
    frames = (frames / 4).astype(np.float32)
    for seed in range(8):
        part = cropped_series(frames, 12, 24, np.random.default_rng(seed))
        assert part.shape == (12, 24, 24)
        levels = 4 * part[:, 12, 12] / part.max() * part.max()
        steps = np.abs(np.diff(levels / levels.min()))
        assert steps.max() <= 3 + 1e-3  # no jump from the last frame to the first
        assert len(np.unique(levels.round(3))) > 1


def test_the_phase_is_smooth_and_turns_a_little():
    for seed in range(5):
        phase = smooth_phase(8, 64, np.random.default_rng(seed))
        assert (phase.shape, phase.dtype) == ((8, 64, 64), np.complex64)
        np.testing.assert_allclose(np.abs(phase), 1, atol=1e-6)
        for axis, least in ((0, 0.0), (1, 1e-4), (2, 1e-4)):
            pairs = np.moveaxis(phase, axis, 0)
            turned = np.abs(np.angle(pairs[1:] * pairs[:-1].conj()))
            assert least < turned.max() < 0.6


# The task


def still(truth):
    """Whether a series does not change; the phantom does, with a few exceptions."""
    return np.abs(np.diff(np.abs(truth), axis=-3)).max() < 1e-5


def test_training_takes_real_series_but_none_that_are_held_out(tmp_path):
    path = tmp_path / "a.npz"
    flicker = np.resize([1, 2], 8)[:, None, None] * np.ones((8, 40, 48))
    flat = {f"s{i}": (i + 2) * np.ones((8, 40, 48), np.int16) for i in range(2)}
    np.savez(path, **flat, flicker=flicker)
    options = FEW | {"real": (str(path),), "real_share": 1.0}
    (task, every) = (Cine(**options, held_out=h) for h in (("flicker",), ()))
    source, whole = task.load(), every.load()
    batches = [source.batch(0, step, range(2)).truth for step in range(30)]
    assert all(map(still, batches))
    assert not all(still(whole.batch(0, step, range(2)).truth) for step in range(30))
    (case,) = source.validation()
    assert case.name == "flicker"
    assert case.truth.shape == (6, 40, 40)
    np.testing.assert_allclose(np.abs(case.truth[:, 5, 7]), [0.5, 1] * 3, rtol=1e-5)
    A = case.A
    np.testing.assert_allclose(A(case.truth), case.y, atol=1e-5)
    again = task.load().validation()[0]
    np.testing.assert_array_equal(again.y, case.y)


def test_real_series_are_the_share_that_was_said(tmp_path):
    path = write(tmp_path / "a.npz")
    flat = []
    for share in (0.0, 0.5, 1.0):
        source = Cine(**FEW, real=(path,), real_share=share).load()
        truths = [source.batch(0, step, range(1)).truth for step in range(40)]
        flat.append(np.mean(list(map(still, truths))))
    assert flat[0] < 0.1
    assert 0.3 < flat[1] < 0.7
    assert flat[2] == 1


def test_noise_of_a_ratio():
    quiet = Cine(**FEW, coils=(0, 2)).load()
    loud = Cine(**FEW, coils=(0, 2), snr=(19.0, 21.0), noisy=1.0).load()
    for step in range(1, 9):
        one, other = (source.batch(0, step, range(2)) for source in (quiet, loud))
        np.testing.assert_array_equal(one.truth, other.truth)
        for i in range(2):
            sampled = one.A.project_to_samples(np.ones_like(one.y))[i] != 0
            noise = np.mean(np.abs(other.y[i] - one.y[i])[sampled] ** 2)
            ratio = 10 * np.log10(np.mean(np.abs(one.truth[i]) ** 2) / noise)
            assert 18.5 < ratio < 21.5
    some = Cine(**FEW, coils=(0,), snr=(20.0, 20.0), noisy=0.5).load()
    silent = []
    for step in range(30):
        batch = some.batch(0, step, range(1))
        A = batch.A
        silent.append(np.allclose(A(batch.truth), batch.y, atol=1e-5))
    assert 8 < sum(silent) < 22


def test_items_have_their_own_rates_and_patterns():
    patterns = tuple(PATTERNS)
    task = Cine(**FEW, masks=patterns, accelerations=(2, 8), coils=(0,))
    source = task.load()
    rates = [source.batch(0, s, range(1)).A.mask.mean() for s in range(40)]
    assert min(rates) < 0.2
    assert max(rates) > 0.4
    assert not any(0.26 < rate < 0.34 for rate in rates)


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_at_other_rates(name):
    for rate in (4, 12):
        mask = sampling(name, (6, 64, 64), np.random.default_rng(0), rate)
        assert mask.mean() == pytest.approx(1 / rate, rel=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accelerations": ()}, "accelerations must have at least one"),
        ({"accelerations": (8, 0.5)}, r"accelerations must lie in \[1, 16\]"),
        ({"accelerations": (17,)}, r"accelerations must lie in \[1, 16\]"),
        ({"snr": (10,)}, "snr must be two numbers of dB"),
        ({"snr": (40, 10)}, "snr must not fall"),
        ({"snr": (10, 90)}, r"snr must lie in \[0, 80\]"),
        ({"snr": (10, 40), "noise": 0.1}, "snr and noise are alternatives"),
        ({"noisy": 1.5}, r"noisy must lie in \[0, 1\], got 1.5"),
        ({"real_share": -0.5}, r"real_share must lie in \[0, 1\], got -0.5"),
        ({"held_out": ("a",)}, "held_out names real series, but real names no files"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Cine(**options)


def test_series_held_out_must_be_there_and_leave_some(tmp_path):
    path = write(tmp_path / "a.npz", count=2)
    with pytest.raises(
        ValueError, match=r"task\.held_out: no series 's2'; there are s0"
    ):
        Cine(**FEW, real=(path,), held_out=("s2",)).load()
    with pytest.raises(ValueError, match=r"task\.real has no series to train on"):
        Cine(**FEW, real=(path,), held_out=("s0", "s1")).load()
    with pytest.raises(ValueError, match=r"task\.real: there is no "):
        Cine(**FEW, real=(str(tmp_path / "b"),)).load()
