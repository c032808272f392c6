from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hdf5_files import write_h5
from small_trainings import environment

from svdinv.cli import main
from svdinv.unroll.data import PHOTOS
from svdinv.unroll.data.noise import noisy
from svdinv.unroll.display.pictures import save_picture
from svdinv.unroll.formats.series import save_series
from svdinv.unroll.operators import MRI
from svdinv.unroll.tasks.cine import task as cine
from svdinv.unroll.tasks.cine.kspace import sampling
from svdinv.unroll.tasks.cine.phantom import coil_maps, heart
from svdinv.unroll.tasks.cine.task import Cine
from svdinv.unroll.tasks.colour import task as colour
from svdinv.unroll.tasks.colour.task import Colour
from svdinv.unroll.tasks.measured_files import (
    measured_entry,
    read_measurement,
    write_problem,
)

h5py = pytest.importorskip("h5py")
pillow = pytest.importorskip("PIL.Image")


def sampled_heart(pattern, series, maps, seed):
    mask = sampling(pattern, series.shape, np.random.default_rng(seed))
    problem = cine.sampled("heart", series, mask, maps)
    return replace(problem, setting=pattern)


@pytest.fixture(scope="module")
def series():
    return heart(3, 32, 40, seed=0).series


@pytest.fixture
def with_coils(series):
    maps = coil_maps(2, 32, 40, seed=0)
    return sampled_heart("vista", series, maps, seed=3)


@pytest.fixture
def photo(rng):
    image = rng.random((12, 14, 3), dtype=np.float32)
    return colour.sampled("photo", image, 0.5, seed=1)


FULL = """
import sys
import numpy as np
from small_trainings import largest_file
from svdinv.unroll.formats.series import save_series
from svdinv.unroll.operators import Sampling
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.colour.task import Colour
from svdinv.unroll.tasks.measured_files import write_problem

image = np.random.default_rng(0).random((3, 200, 200), dtype=np.float32)
problem = Problem(image, Sampling(image < 0.5), name="a", setting="b")
tries = (
    lambda: write_problem("a.h5", Colour(), problem),
    lambda: save_series("b.h5", image),
)
for write in tries:
    try:
        with largest_file(5000):
            write()
    except OSError as error:
        print(error)
"""


def test_a_full_disk_is_an_error(tmp_path):
    """In a process of its own: HDF5 could end it."""
    paths = f"{environment()['PYTHONPATH']}:{Path(__file__).parent}"
    done = subprocess.run(
        [sys.executable, "-c", FULL],
        env=environment(PYTHONPATH=paths),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("File too large") == 2
    assert list(tmp_path.iterdir()) == []


def same(task, a, b):
    """Whether they are of one name, and nothing was changed on the way."""
    one, other = task.arrays_to_save(a), task.arrays_to_save(b)
    return (a.name, a.setting, list(one)) == (b.name, b.setting, list(other)) and all(
        one[k].dtype == other[k].dtype and np.array_equal(one[k], other[k]) for k in one
    )


def test_a_series_with_coils_comes_back(with_coils, tmp_path):
    path = tmp_path / "a.h5"
    options = {"seed": 3, "noise": 0.5, "word": "x"}
    write_problem(path, Cine(), with_coils, options=options)
    task, problem = read_measurement(path)
    assert task == Cine()
    assert same(task, problem, with_coils)
    assert np.array_equal(problem.truth, with_coils.truth)
    with h5py.File(path) as file:
        assert file.attrs["kind"] == "cine"
        assert file.attrs["seed"] == 3
        assert {k: (v.shape, v.dtype) for k, v in file.items()} == {
            "kspace": ((3, 2, 32, 40), np.complex64),
            "mask": ((3, 32, 40), bool),
            "maps": ((2, 32, 40), np.complex64),
            "truth": ((3, 32, 40), np.complex64),
        }


def test_names_of_options_that_are_taken_are_refused(photo, tmp_path):
    with pytest.raises(ValueError, match="kind"):
        write_problem(tmp_path / "a.h5", Colour(), photo, options={"kind": "x"})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_leaves_the_old_one(photo, tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    path.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(h5py.Group, "create_dataset", fail)
    with pytest.raises(OSError, match="disk full"):
        write_problem(path, Colour(), photo)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_files_of_other_programs_may_have_other_types(tmp_path, series):
    mask = np.ones(series.shape, dtype=np.uint8)
    mask[:, ::2] = 0
    arrays = {"kspace": series.astype(np.complex128), "mask": mask}
    write_h5(tmp_path / "mine.h5", {"kind": np.bytes_("cine")}, **arrays)
    _, problem = read_measurement(tmp_path / "mine.h5")
    assert problem.y.dtype == np.complex64
    assert problem.A.mask.dtype == bool
    assert (problem.name, problem.truth) == ("mine", None)


def test_what_kind_of_data_it_is_need_not_be_said(tmp_path, with_coils, photo):
    for task, problem in ((Cine(), with_coils), (Colour(), photo)):
        dataset = task.dataset
        path = tmp_path / f"{dataset}.h5"
        write_problem(path, task, problem)
        with h5py.File(path, "a") as file:
            del file.attrs["kind"]
            assert dataset in file
        assert measured_entry(path)
        own, found = read_measurement(path)
        assert own == task
        assert same(task, found, problem)
    save_series(tmp_path / "whole.h5", with_coils.truth)
    assert not measured_entry(tmp_path / "whole.h5")


def test_no_array_is_read_before_all_shapes_are_checked(tmp_path, monkeypatch):
    write_h5(tmp_path / "a.h5", **{**COILS, "maps": COILS["kspace"]})

    def read(self, key):
        raise AssertionError("an array was read")

    monkeypatch.setattr(h5py.Dataset, "__getitem__", read)
    with pytest.raises(ValueError, match=r"maps must have the shape \(C, H, W\)"):
        read_measurement(tmp_path / "a.h5")


CINE = {"kspace": np.ones((2, 4, 5), np.complex64), "mask": np.ones((2, 4, 5), bool)}
COILS = {**CINE, "kspace": np.ones((2, 3, 4, 5), np.complex64)}
COLOUR = {
    "samples": np.ones((3, 14, 15), np.float32),
    "mask": np.ones((3, 14, 15), bool),
}
NOT_FINITE = np.full((2, 4, 5), np.nan, np.complex64)
INFINITE = np.full((3, 14, 15), np.inf)


@pytest.mark.parametrize(
    ("kind", "arrays", "complaint"),
    [
        ("film", CINE, "kind"),
        (3, CINE, "kind"),
        ("cine", {"mask": CINE["mask"]}, "kspace is missing"),
        ("cine", {"kspace": CINE["kspace"]}, "mask is missing"),
        (None, {"mask": CINE["mask"]}, "neither a dataset samples nor kspace"),
        (None, {**COLOUR, "samples": np.ones((4, 5))}, "samples must have"),
        ("cine", {**CINE, "maps": CINE["kspace"]}, r"kspace must be \(T, C, H, W\)"),
        ("cine", {**COILS, "maps": np.ones((2, 4, 5), complex)}, "maps must have"),
        ("cine", {**CINE, "kspace": np.ones((4, 5), complex)}, "kspace must have"),
        ("cine", {**CINE, "kspace": np.ones((0, 4, 5), complex)}, "kspace must have"),
        ("cine", {**CINE, "mask": np.ones((3, 4, 5), bool)}, "mask must have"),
        ("cine", {**CINE, "mask": np.ones((2, 4, 1, 1), bool)}, "mask must have"),
        ("cine", {**CINE, "kspace": np.ones((2, 4, 5))}, "kspace must be complex"),
        (
            "cine",
            {**CINE, "mask": np.full((2, 4, 5), 2)},
            "mask must contain only 0 and 1",
        ),
        (
            "cine",
            {**CINE, "mask": np.full((2, 4, 5), 0.5)},
            "mask must contain only 0 and 1",
        ),
        ("cine", {**CINE, "mask": np.bytes_("abc")}, "mask must be an array"),
        ("cine", {**CINE, "mask": np.zeros((2, 4, 5), bool)}, "mask samples nothing"),
        ("cine", {**CINE, "kspace": NOT_FINITE}, "kspace has numbers"),
        ("cine", {**CINE, "truth": NOT_FINITE}, "truth has numbers"),
        ("cine", {**CINE, "truth": np.ones((2, 4, 4))}, "truth must have"),
        ("cine", {**CINE, "kspace": np.bytes_("abc")}, "kspace must be an array"),
        ("colour", {"mask": COLOUR["mask"]}, "samples is missing"),
        ("colour", {**COLOUR, "mask": np.ones((14, 15), bool)}, "mask must have"),
        ("colour", {**COLOUR, "samples": np.full((3, 14, 15), 99)}, "samples must be"),
        ("colour", {**COLOUR, "samples": INFINITE}, "samples has numbers"),
        ("colour", {**COLOUR, "truth": np.ones((3, 14, 16))}, "truth must have"),
    ],
)
def test_files_of_another_form_are_refused(kind, arrays, complaint, tmp_path):
    path = tmp_path / "bad.h5"
    write_h5(path, {} if kind is None else {"kind": kind}, **arrays)
    with pytest.raises(ValueError, match=complaint) as raised:
        read_measurement(path)
    assert "bad.h5" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_groups_and_other_files_are_refused(tmp_path):
    path = tmp_path / "bad.h5"
    with h5py.File(path, "w") as file:
        file.attrs["kind"] = "cine"
        file.create_group("kspace")
    with pytest.raises(ValueError, match="kspace must be an array"):
        read_measurement(path)
    path.write_bytes(b"no HDF5 at all")
    with pytest.raises(ValueError, match=r"bad\.h5"):
        read_measurement(path)
    with pytest.raises(ValueError, match="there is no file"):
        read_measurement(tmp_path / "none.h5")


def test_h5py_that_is_missing_is_named(monkeypatch, photo, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    for call in (
        lambda: read_measurement(tmp_path / "a.h5"),
        lambda: write_problem(tmp_path / "a.h5", Colour(), photo),
    ):
        with pytest.raises(ImportError, match=r"\[mri\]"):
            call()


def test_noise_has_the_deviation_where_there_are_samples(series):
    series = 5 * series
    maps = coil_maps(4, *series.shape[1:], seed=0)
    clean = sampled_heart("variable-density", series, maps, seed=0)
    noise = noisy(clean, 0.1, seed=1).y - clean.y
    mask = np.broadcast_to(clean.A.mask[:, None], noise.shape)
    assert not noise[~mask].any()
    expected = 0.1 * np.abs(series).max()
    assert np.sqrt(np.mean(np.abs(noise[mask]) ** 2)) == pytest.approx(expected, 0.1)
    assert noise.dtype == np.complex64


def test_list_names_all_there_is(capsys):
    assert main(["data", "list"]) == 0
    shown = capsys.readouterr().out
    names = (*PHOTOS, *cine.PATTERNS, *cine.PHANTOMS)
    assert [name for name in names if name not in shown] == []
    lines = {line.split()[0]: line for line in shown.splitlines() if line}
    assert "300 x 451" in lines["chelsea"]
    assert "test" in lines["chelsea"]
    assert lines["retina"].endswith("training")
    assert "other view" in lines["motorcycle_right"]


@pytest.mark.parametrize(
    ("name", "suffix", "size"),
    [
        ("chelsea", ".png", (451, 300)),
        ("uniform", ".png", (128, 128)),
        ("radial", ".png", (66, 66)),
        ("cine", ".gif", (32, 32)),
        ("perfusion", ".png", (66, 66)),
    ],
)
def test_show_writes_a_picture(name, suffix, size, tmp_path):
    path = tmp_path / "new" / f"a{suffix}"
    small = ["--size", "32", "--frames", "4"]
    options = [] if name in ("chelsea", "uniform") else small
    assert main(["data", "show", name, *options, "--output", str(path)]) == 0
    with pillow.open(path) as picture:
        assert picture.size == size
        assert getattr(picture, "n_frames", 1) == (4 if suffix == ".gif" else 1)


def test_written_series_obey_the_model(tmp_path, capsys):
    path = tmp_path / "heart.h5"
    options = "--coils 3 --frames 4 --size 48 --mask radial"
    write = ["data", "write", "perfusion", "--output", str(path), *options.split()]
    assert main(write) == 0
    assert "4 x 3 x 48 x 48" in capsys.readouterr().out
    _, problem = read_measurement(path)
    own = MRI(problem.A.mask, problem.A.maps)
    assert np.allclose(problem.y, own(problem.truth), atol=1e-6)
    with h5py.File(path) as file:
        assert file.attrs["source"] == "perfusion"
        assert file.attrs["coils"] == 3
        assert "svdinv" in file.attrs
    assert main([*write, "--noise", "0.1", "--no-truth"]) == 0
    _, noisier = read_measurement(path)
    assert noisier.truth is None
    assert not np.array_equal(noisier.y * noisier.scale, problem.y)


@pytest.mark.parametrize("factor", [1, 7])
def test_a_series_of_ones_own(tmp_path, series, factor):
    save_series(tmp_path / "mine.npy", np.moveaxis(factor * series, 0, -1))
    path = tmp_path / "a.h5"
    write = ["data", "write", str(tmp_path / "mine.npy")]
    write += ["--time-axis", "2", "--output", str(path), "--coils", "2"]
    assert main([*write, "--mask", "variable-density"]) == 0
    _, problem = read_measurement(path)
    assert problem.scale == pytest.approx(factor * np.abs(series).max())
    with h5py.File(path) as file:
        np.testing.assert_allclose(file["truth"], factor * series, rtol=1e-6)
    if factor == 1:
        assert np.array_equal(problem.truth, series)
    assert problem.y.shape == (3, 2, 32, 40)
    assert problem.name == "mine"


def test_photographs_are_written(tmp_path, rng):
    path = tmp_path / "a.h5"
    write = ["--output", str(path), "--crop", "40"]
    assert main(["data", "write", "chelsea", *write, "--rate", "0.2"]) == 0
    _, problem = read_measurement(path)
    assert problem.y.shape == (3, 40, 40)
    assert problem.name == "chelsea"
    mask = problem.A.mask
    assert mask.mean() == pytest.approx(0.2, abs=0.02)
    assert np.array_equal(problem.y, np.where(mask, problem.truth, 0))
    save_picture(tmp_path / "mine.png", rng.random((50, 60, 3)))
    assert main(["data", "write", str(tmp_path / "mine.png"), *write]) == 0
    assert read_measurement(path)[1].name == "mine"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["show", "mona_lisa", "--output", "a.png"], "mona_lisa"),
        (["show", "chelsea", "--output", "a.gif"], "--output"),
        (["show", "cine", "--output", "a.avi"], "--output"),
        (["show", "cine", "--output", "a.gif", "--size", "8"], "--size"),
        (["show", "cine"], "--output"),
        (["show", "cine", "--output", f"{__file__}/a.gif"], "--output"),
        (["write", "cine"], "--output"),
        (["write", "cine", "--output", "a.txt"], "--output"),
        (["write", "cine", "--output", "a.h5", "--mask", "spiral"], "--mask"),
        (["write", "cine", "--output", "a.h5", "--coils", "-1"], "--coils"),
        (["write", "cine", "--output", "a.h5", "--noise", "-1"], "--noise"),
        (["write", "cine", "--output", "a.h5", "--key", "x"], "--key"),
        (["write", "no.npy", "--output", "a.h5"], "no.npy"),
        (["write", "n.npy", "--output", "a.h5", "--size", "64"], "--size"),
        (["write", "coffee", "--output", "a.h5", "--rate", "1.5"], "--rate"),
        (["write", "coffee", "--output", "a.h5", "--coils", "2"], "--coils"),
        (["write", "cine", "--output", "a.h5", "--rate", "0.3"], "--rate"),
        (["show", "cine", "--output", ""], "--output"),
        (["inspect", "no.h5"], "no.h5"),
        (["inspect", "coffee", "--coils", "2"], "--coils"),
        (["inspect", "cine", "--acceleration", "0.5"], "--acceleration"),
    ],
)
def test_bad_arguments_of_data(options, word, one_line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", *options]) == 2
    assert word in one_line()
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_of_data(monkeypatch, capsys):
    monkeypatch.setattr(
        "svdinv.cli.arguments.find_spec",
        lambda name: None if name == "h5py" else object(),
    )
    assert main(["data", "write", "cine", "--output", "a.h5"]) == 2
    assert "[mri]'" in capsys.readouterr().err


def test_inspect_says_what_is_in_a_file(tmp_path, with_coils, rng, capsys):
    path = tmp_path / "a.h5"
    write_problem(path, Cine(), with_coils, truth=False)
    assert main(["data", "inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    for words in (
        "task cine",
        "3 frames of 32x40 pixels",
        "kspace     complex64 3 x 2 x 32 x 40",
        f"mask       bool 3 x 32 x 40, {with_coils.A.mask.mean():.1%} sampled",
        "maps       complex64 2 x 32 x 40",
        "truth      not known",
        "measured data",
    ):
        assert words in shown
    save_series(tmp_path / "scan.npy", 3 * with_coils.truth)
    assert main(["data", "inspect", str(tmp_path / "scan.npy")]) == 0
    shown = capsys.readouterr().out
    assert "complex64 3 x 32 x 40, divided by 3\n" in shown
    assert "--time-axis" in shown
    assert "--rate" not in shown
    save_picture(tmp_path / "cup.png", rng.random((40, 50, 3)))
    assert main(["data", "inspect", str(tmp_path / "cup.png")]) == 0
    shown = capsys.readouterr().out
    assert "task colour" in shown
    assert "3 x 40 x 50\n" in shown
    assert "--rate" in shown


def test_measured_data_are_not_measured_again(tmp_path, photo, one_line):
    write_problem(tmp_path / "a.h5", Colour(), photo)
    words = [str(tmp_path / "a.h5"), "--output", str(tmp_path / "b.h5")]
    assert main(["data", "write", *words]) == 2
    assert "measured data" in one_line()
    assert not (tmp_path / "b.h5").exists()


def test_accelerations_and_noise_are_written(tmp_path, series):
    save_series(tmp_path / "mine.npy", series)
    path = tmp_path / "a.h5"
    write = ["data", "write", str(tmp_path / "mine.npy"), "--output", str(path)]
    options = ["--mask", "vista", "--acceleration", "4", "--noise", "0.01"]
    assert main([*write, *options]) == 0
    _, problem = read_measurement(path)
    assert problem.A.mask.mean() == pytest.approx(1 / 4, abs=0.05)
    assert problem.setting == "vista, 4 x, noise 0.01"
    with h5py.File(path) as file:
        assert (file.attrs["acceleration"], file.attrs["noise"]) == (4, 0.01)
        assert file.attrs["option_mask"] == "vista"
