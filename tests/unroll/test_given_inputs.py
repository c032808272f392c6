from __future__ import annotations

import os
from functools import partial

import h5py
import numpy as np
import pytest
from array_frameworks import draw
from hdf5_files import read_input, write_h5
from scipy.io import savemat

from svdinv.cli import main
from svdinv.unroll.data import photograph
from svdinv.unroll.data.masks import radial_mask
from svdinv.unroll.display.pictures import save_picture
from svdinv.unroll.operators import MRI
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks import InputImage
from svdinv.unroll.tasks.cine.phantom import coil_maps
from svdinv.unroll.tasks.cine.task import Cine, CineOptions
from svdinv.unroll.tasks.cine.training import unseen_series
from svdinv.unroll.tasks.colour.task import Colour, ColourOptions
from svdinv.unroll.tasks.measured_files import read_measurement
from svdinv.unroll.tasks.reading import files_of, read_all

SIZE = (4, 24, 20)


def measured(path):
    """Measured data of series."""
    task, problem = read_input(path)
    assert task == Cine()
    assert isinstance(problem, Problem)
    return problem


@pytest.fixture
def series(rng):
    return draw(np.complex64, rng, *SIZE)


@pytest.fixture
def mask(rng):
    mask = rng.random(SIZE) < 0.5
    mask[:, 8:16, 6:14] = True
    return mask


def test_k_space_may_come_in_an_archive(tmp_path, series, mask, rng):
    """By the same names as in HDF5, and with the same checks."""
    arrays = {"kspace": MRI(mask)(series).astype(np.complex64), "mask": mask}
    arrays["truth"] = series
    np.savez(tmp_path / "raw.npz", **arrays)
    found, same = (
        measured(tmp_path / "raw.npz"),
        measured(write_h5(tmp_path / "raw.h5", **arrays)),
    )
    np.testing.assert_array_equal(found.y, same.y)
    np.testing.assert_array_equal(found.A.mask, same.A.mask)
    np.testing.assert_array_equal(found.truth, same.truth)
    assert (found.name, found.setting) == ("raw", "as measured")
    np.savez(tmp_path / "bad.npz", **arrays | {"mask": mask[:, :-1]})
    with pytest.raises(ValueError, match=r"bad\.npz: mask must have the shape"):
        measured(tmp_path / "bad.npz")
    pickled = arrays | {"maps": np.array([{}])}
    np.savez(tmp_path / "worse.npz", **pickled)
    with pytest.raises(ValueError, match="maps is not an array of numbers"):
        measured(tmp_path / "worse.npz")
    # As an image, k-space would be transformed and sampled again.
    np.savez(tmp_path / "alone.npz", kspace=arrays["kspace"], sampling=mask, x=series)
    savemat(tmp_path / "raw.mat", arrays)
    with h5py.File(tmp_path / "new.mat", "w") as file:
        file.update(arrays)
    for name in ("alone.npz", "raw.mat", "new.mat"):
        for key in (None, "kspace"):
            with pytest.raises(ValueError, match=rf"{name}: kspace holds .* hold mask"):
                read_input(tmp_path / name, key=key)
    for name in ("ksp", "kdata", "k_space", "K-Space", "kspace_full", "mask"):
        np.savez(tmp_path / "named.npz", **{name: arrays["kspace"]})
        with pytest.raises(ValueError, match=f"{name} has the name of measured data"):
            read_input(tmp_path / "named.npz")
        assert read_input(tmp_path / "named.npz", key=name)[0].kind == "cine"
    # By another name, with what no image has beside it.
    data = rng.random((20, 24))
    for name, angles in (("sino", "Angles"), ("a/Counts", "a/n"), ("y", "currents")):
        path = write_h5(tmp_path / "sino.h5", **{name: data, angles: data[0]})
        with pytest.raises(ValueError, match="measured data"):
            read_input(path)
    assert read_input(path, key="y")[0].kind == "cine"
    np.savez(tmp_path / "views.npz", angles=data[0], sinogram=data)
    with pytest.raises(ValueError, match=r"sinogram .* hold angles and geometry"):
        read_input(tmp_path / "views.npz")
    photons = {"counts": 1 + data, "angles": 3.0, "samples": data[0]}
    np.savez(tmp_path / "photons.npz", **photons)
    with pytest.raises(ValueError, match=r"counts holds .* by key \(--key\)"):
        read_input(tmp_path / "photons.npz")
    assert read_input(tmp_path / "photons.npz", key="counts")[0].kind == "cine"
    np.savez(tmp_path / "one.npz", kspace=1.0, x=series)  # a note of something
    for name, key in (("alone.npz", "x"), ("raw.mat", "truth"), ("one.npz", None)):
        image = read_input(tmp_path / name, key=key)[1].image
        np.testing.assert_allclose(image / image.max(), series / series.max(), 1e-5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("coffee", "colour"),
        ("head-1", "ct"),
        ("spectral:head-1", "spectral-ct"),
        ("kinetic-sum", "pet"),
        ("tank-1", "eit"),
    ],
)
def test_data_of_each_task_by_the_names_of_the_arrays(tmp_path, name, kind):
    """Without the attribute that names the task, in HDF5 and in an archive."""
    task, given = read_input(name)
    problem = given
    if isinstance(given, InputImage):
        problem = task.measure(given, task.options())
    arrays = task.arrays_to_save(problem)
    np.savez(tmp_path / "a.npz", **arrays)
    write_h5(tmp_path / "a.h5", **arrays)
    (found, archived), (same, given) = map(
        read_input, (tmp_path / "a.npz", tmp_path / "a.h5")
    )
    assert found.kind == same.kind == kind
    np.testing.assert_array_equal(archived.y, given.y)
    assert archived.y.size == problem.y.size


def test_pictures_by_name_and_from_files(tmp_path):
    task, given = read_input("coffee")
    assert (task, given.image.shape) == (Colour(), (3, 400, 600))
    np.testing.assert_array_equal(given.image[1], photograph("coffee")[..., 1])
    save_picture(tmp_path / "cup.png", photograph("coffee")[:50, :80])
    assert read_input(tmp_path / "cup.png")[1].image.shape == (3, 50, 80)
    assert read_input(tmp_path / "cup.png", crop=40)[1].image.shape == (3, 40, 40)


def test_series_are_scaled_to_one(tmp_path, series):
    np.savez(tmp_path / "a.npz", other=series, images=np.moveaxis(7 * series, 0, 2))
    task, given = read_input(tmp_path / "a.npz", key="images", time_axis=2)
    assert (task, given.image.shape, given.name) == (Cine(), SIZE, "a")
    assert np.abs(given.image).max() == pytest.approx(1)
    np.testing.assert_allclose(given.scale * given.image, 7 * series, rtol=1e-5)


@pytest.mark.parametrize("coils", [0, 3])
@pytest.mark.parametrize("known", [True, False])
def test_measured_k_space_is_not_sampled_again(tmp_path, series, mask, coils, known):
    maps = coil_maps(coils, *SIZE[1:], seed=0) if coils else None
    operator = MRI(mask, maps)
    arrays = {"kspace": 5 * operator(series), "mask": mask.astype(np.uint8)}
    if coils:
        arrays["maps"] = maps
    if known:
        arrays["truth"] = 5 * series
    problem = measured(write_h5(tmp_path / "raw.h5", **arrays))
    assert (problem.name, problem.setting) == ("raw", "as measured")
    np.testing.assert_array_equal(problem.A.mask, mask)
    np.testing.assert_allclose(
        problem.y * problem.scale, 5 * operator(series), rtol=1e-4, atol=1e-5
    )
    if known:
        assert np.abs(problem.truth).max() == pytest.approx(1)
        np.testing.assert_allclose(operator(problem.truth), problem.y, atol=1e-5)
    else:
        assert problem.truth is None
        assert np.abs(operator.H(problem.y)).max() == pytest.approx(1, rel=1e-5)


def test_maps_are_estimated_where_there_are_none(tmp_path):
    pytest.importorskip("sigpy")
    x = unseen_series(0, 4, 32)
    maps, mask = coil_maps(3, 32, 32, seed=1), np.ones(x.shape, bool)
    path = write_h5(tmp_path / "raw.h5", kspace=MRI(mask, maps)(x), mask=mask)
    problem = measured(path)
    assert problem.setting == "as measured, phase unknown"
    found = problem.A.maps
    assert found.shape == maps.shape
    image = MRI(mask, found).H(problem.y) * problem.scale
    inside = np.abs(x) > 0.1
    error = np.abs(np.abs(image) - np.abs(x))[inside]
    assert np.median(error / np.abs(x)[inside]) < 0.05


def test_a_truth_without_a_phase_is_compared_with_magnitudes(tmp_path):
    x, mask = unseen_series(0, 4, 32), np.ones((4, 32, 32), bool)
    kspace = MRI(mask)(x)
    problem = measured(
        write_h5(tmp_path / "a.h5", kspace=kspace, mask=mask, truth=np.abs(x))
    )
    assert problem.setting == "as measured, phase unknown"
    assert Cine().score(problem, x / problem.scale)["SNR / dB"] > 100


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_truth_that_is_real_has_a_phase(tmp_path, noise, rng):
    x, mask = np.abs(unseen_series(0, 4, 32)), np.ones((4, 32, 32), bool)
    kspace = MRI(mask)(x)
    kspace = kspace + noise * rng.standard_normal(kspace.shape).astype(np.float32)
    problem = measured(write_h5(tmp_path / "a.h5", kspace=kspace, mask=mask, truth=x))
    assert problem.setting == "as measured"
    assert Cine().score(problem, 1j * x / problem.scale)["SNR / dB"] < 0


def test_the_phase_of_estimated_maps_does_not_count(tmp_path):
    """The metrics are those of magnitudes: of the true ones they are perfect."""
    pytest.importorskip("sigpy")
    x = unseen_series(0, 4, 32)
    maps, mask = coil_maps(3, 32, 32, seed=1), np.ones(x.shape, bool)
    kspace = MRI(mask, maps)(x)
    known = write_h5(tmp_path / "a.h5", kspace=kspace, mask=mask, maps=maps, truth=x)
    found = write_h5(tmp_path / "b.h5", kspace=kspace, mask=mask, truth=x)
    with_maps, without = measured(known), measured(found)
    turned, score = 1j * with_maps.truth, Cine().score
    assert score(with_maps, turned)["SNR / dB"] < 0
    assert score(without, turned)["SNR / dB"] > 100
    assert score(without, 0.9 * turned)["SNR / dB"] == pytest.approx(20, abs=1e-3)


@pytest.mark.parametrize("side", [7, 9])
def test_maps_need_a_middle_that_is_sampled(tmp_path, side):
    """In any frame; and of that the largest square, should it be small."""
    pytest.importorskip("sigpy")
    x = unseen_series(0, 4, 32)
    mask = np.zeros(x.shape, bool)
    middle = slice(16 - side // 2, 16 - side // 2 + side)
    mask[1, middle, middle] = True
    mask[2, ::5] = True
    kspace = MRI(mask, coil_maps(3, 32, 32, seed=1))(x)
    path = write_h5(tmp_path / "raw.h5", kspace=kspace, mask=mask)
    if side == 9:
        assert measured(path).A.maps.shape == (3, 32, 32)
        return
    with pytest.raises(ValueError, match="7 x 7 points of k-space, but 8 x 8"):
        read_input(path)


def test_a_single_frame_may_miss_the_centre(tmp_path):
    x = unseen_series(0, 1, 32)
    mask = np.zeros(x.shape, bool)
    mask[:, ::12] = True
    path = write_h5(tmp_path / "raw.h5", kspace=MRI(mask)(x), mask=mask)
    assert measured(path).A.mask.shape == (1, 32, 32)


def test_one_coil_without_a_map_is_no_coil(tmp_path, series, mask):
    kspace = MRI(mask)(series)[:, None]
    problem = measured(write_h5(tmp_path / "raw.h5", kspace=kspace, mask=mask))
    assert problem.y.shape == SIZE
    assert problem.A.maps is None


def test_measured_colours(tmp_path, rng):
    samples = rng.random((3, 40, 36), dtype=np.float32)
    mask = rng.random(samples.shape) < 0.5
    path = write_h5(tmp_path / "c.h5", samples=samples, mask=mask, truth=samples)
    task, problem = read_input(path)
    assert task == Colour()
    assert problem.y.dtype == problem.truth.dtype == np.float32
    np.testing.assert_array_equal(problem.y, samples)
    np.testing.assert_array_equal(problem.A.mask, mask)


def test_colours_of_another_range_are_refused(tmp_path, rng):
    samples = rng.random((3, 40, 36), dtype=np.float32)
    mask = rng.random(samples.shape) < 0.1
    noisy = samples + rng.standard_normal(samples.shape, dtype=np.float32)
    read_input(write_h5(tmp_path / "noisy.h5", samples=noisy, mask=mask))
    path = write_h5(tmp_path / "bytes.h5", samples=255 * samples * mask, mask=mask)
    with pytest.raises(ValueError, match=r"bytes.h5: samples must be in \[0, 1\]"):
        read_input(path)
    dark = 0.1 * samples + 0.3 * rng.standard_normal(samples.shape, dtype=np.float32)
    read_input(write_h5(tmp_path / "dark.h5", samples=dark, mask=mask))
    path = write_h5(tmp_path / "signed.h5", samples=1 - 2 * samples**2, mask=mask)
    with pytest.raises(ValueError, match=r"samples .* seem to be in \[-1, 1\]"):
        read_input(path)
    arrays = {"samples": samples, "mask": mask, "truth": 255 * samples}
    with pytest.raises(ValueError, match=r"truth must be in \[0, 1\]"):
        read_input(write_h5(tmp_path / "bytes.h5", **arrays))


def test_an_inverted_mask_of_colours_is_refused(tmp_path, rng):
    image = rng.random((3, 40, 36), dtype=np.float32)
    mask = rng.random(image.shape[1:]) < 0.9
    path = write_h5(
        tmp_path / "a.h5",
        samples=image * mask,
        mask=np.broadcast_to(~mask, (3, 40, 36)),
    )
    with pytest.raises(ValueError, match="all 0 where mask is true; is mask inverted"):
        read_input(path)
    given = InputImage("a", image * mask)
    options = ColourOptions(mask=saved(tmp_path / "m.npy", ~mask))
    with pytest.raises(ValueError, match=r"a is black wherever .*m\.npy is true"):
        Colour().measure(given, options)


def sample(given, **options):
    return Cine().measure(given, CineOptions(**options))


def saved(path, mask):
    np.save(path, mask)
    return str(path)


def test_sampling(series, mask, tmp_path):
    given = InputImage("a", series, scale=3.0)
    problem = sample(given, mask="vista", coils=2, seed=1)
    assert (problem.setting, problem.scale) == ("vista, 2 coils", 3)
    assert problem.y.shape == (4, 2, 24, 20)
    assert sample(given, mask="vista", coils=1).setting == "vista, 1 coil"
    problem = sample(given, mask=saved(tmp_path / "m.npy", mask))
    assert problem.setting == f"mask {tmp_path / 'm.npy'}"
    np.testing.assert_array_equal(problem.A.mask, mask)
    problem = sample(given, mask=saved(tmp_path / "m.npy", mask[0]))
    np.testing.assert_array_equal(problem.A.mask, [mask[0]] * 4)
    photo = InputImage("b", np.ones((3, 50, 40), np.float32))
    problem = Colour().measure(photo, ColourOptions(rate=0.2, seed=3))
    assert problem.setting == "rate 0.2"
    assert problem.A.mask.mean() == pytest.approx(0.2, abs=0.01)
    np.testing.assert_array_equal(problem.y, problem.A.mask)
    again = Colour().measure(photo, ColourOptions(rate=0.2, seed=4))
    assert (again.y != problem.y).any()


def test_masks_that_do_not_fit(series, mask, tmp_path, rng):
    given = InputImage("a", series)
    with pytest.raises(ValueError, match=r"\(4, 24, 20\), or \(24, 20\)"):
        sample(given, mask=saved(tmp_path / "m.npy", mask[:3]))
    corners = np.zeros(SIZE, bool)
    corners[:, ::8, 0] = True
    lines = np.fft.ifftshift(radial_mask(SIZE, 5, rng=rng), axes=(-2, -1))
    dense = rng.random(SIZE) < 0.4
    dense[:, 8:16, 6:14] = True
    sample(given, mask=saved(tmp_path / "m.npy", dense))
    dense = np.fft.ifftshift(dense, axes=(-2, -1))
    for wrong in (corners, lines, dense):  # of lines some end in the middle
        with pytest.raises(ValueError, match="fftshift"):
            sample(given, mask=saved(tmp_path / "m.npy", wrong))


def test_folders_and_files_of_one_name(tmp_path, series):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "scan.npy", series)
    (tmp_path / "a" / "notes.txt").touch()
    files = files_of([tmp_path / "a", tmp_path / "b" / "scan.npy"], Cine())
    assert [f.name for f in files] == ["scan.npy", "scan.npy"]
    names = [given.name for given in read_all(files, Cine(), CineOptions())]
    assert names == [str(file) for file in files]
    (given,) = read_all(files[:1], Cine(), CineOptions())
    assert given.name == "scan"
    with pytest.raises(ValueError, match=r"scan\.npy is of the kind cine"):
        read_all(files, Colour(), ColourOptions())
    with pytest.raises(ValueError, match="no series in"):
        files_of([tmp_path], Cine())
    with pytest.raises(ValueError, match="no picture in"):
        files_of([tmp_path / "a"], Colour())


@pytest.mark.parametrize("name", ["no-such.png", "no-such.npz", "no-such.h5", "coffe"])
def test_what_is_missing(tmp_path, name):
    with pytest.raises(ValueError, match=name):
        read_input(tmp_path / name)


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.ones((4, 9, 20)), "16 pixels"),
        (np.ones((2, 4, 24, 20)), "one series"),
        (np.zeros(SIZE), "zero everywhere"),
    ],
)
def test_arrays_that_are_no_series(tmp_path, array, complaint):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=complaint):
        read_input(tmp_path / "a.npy")


def _changes():
    maps = np.ones((2, *SIZE[1:])) + 0j
    kspace = np.ones(SIZE) + 0j
    coils = np.ones((4, 2, *SIZE[1:])) + 0j
    corner = np.zeros(SIZE)
    corner[:, ::8, 0] = 1
    yield {"mask": None}, "mask is missing$"
    yield {"mask": None, "masks": np.ones(SIZE)}, r"missing; did you mean masks\?"
    yield {"kspace": kspace * (np.arange(4) != 2)[:, None, None]}, "of frame 2 is exac"
    yield (
        {"kspace": coils * np.array([1, 0])[:, None, None], "maps": maps / 2**0.5},
        "of coil 1 is exactly 0, its map is not",
    )
    spike = np.ones(SIZE) + 0j
    spike[1, 23, 4] = 20
    yield {"kspace": spike}, r"is largest at \(1, 23, 4\), .* false at spikes"
    aside = np.zeros(SIZE)
    aside[..., 3:6] = 1
    yield {"mask": aside}, "mask samples nothing near the centre of k-space"
    lines = np.arange(24)[:, None] % 2 == np.arange(2)[:, None, None]
    swapped = np.broadcast_to(np.where(lines, 1 + 0j, 0), (4, 2, *SIZE[1:]))
    yield {"kspace": swapped}, r"it must be \(T, C, H, W\), and seems to be \(C, T"
    yield {"mask": np.ones(19)}, "mask must have"
    yield {"mask": corner}, "fftshift"
    yield {"mask": np.ones((4, 8, 8)), "kspace": np.ones((4, 8, 8)) + 0j}, "16 pixels"
    yield {"kspace": 0 * kspace}, "kspace is zero"
    yield {"kspace": 0 * kspace, "truth": np.ones(SIZE) + 0j}, "kspace is zero"
    yield {"kspace": 0 * coils}, "kspace is zero"
    yield (
        {"kspace": coils, "maps": maps},
        r"^[^:]*: the squared .* divide them by 1\.41",
    )
    yield {"kspace": coils, "maps": 0 * maps}, "maps are 0 everywhere"
    yield {"kspace": coils, "maps": maps / 20}, r"are 0\.005 at most: .* by 0\.0707"
    some = np.random.default_rng(0).random(SIZE[1:]) < 0.2
    yield {"kspace": kspace * some}, "80% of the samples"
    without = np.ones(SIZE[1:])
    without[6:18] = 0
    yield {"kspace": kspace * without}, "mask samples 100% of the corners"
    yield {"truth": 0 * kspace}, "zero everywhere"
    yield {"maps": maps}, "if the file has maps"
    yield {"kspace": None, "samples": np.ones(SIZE)}, r"must be \(3, H, W\)"


@pytest.mark.parametrize(("changes", "complaint"), list(_changes()))
def test_measured_files_that_make_no_sense(tmp_path, changes, complaint):
    arrays = {"kspace": np.ones(SIZE) + 0j, "mask": np.ones(SIZE)} | changes
    arrays = {name: array for name, array in arrays.items() if array is not None}
    path = write_h5(tmp_path / "raw.h5", **arrays)
    with pytest.raises(ValueError, match=complaint) as error:
        read_input(path)
    assert str(path) in str(error.value)


def test_a_mask_of_other_frames(tmp_path):
    mask = (np.arange(20) + np.arange(4)[:, None]) % 3 == 0
    mask = np.broadcast_to(mask[:, None], SIZE) | (abs(np.arange(20) - 10) < 4)
    kspace = MRI(mask)(unseen_series(0, SIZE[0], 32)[:, :24, :20])
    path = write_h5(tmp_path / "raw.h5", kspace=kspace, mask=mask[0])
    with pytest.raises(ValueError, match="mask does not agree with kspace"):
        read_input(path)
    assert measured(write_h5(tmp_path / "raw.h5", kspace=kspace, mask=mask))
    whole = MRI(np.ones(SIZE, bool))(unseen_series(0, SIZE[0], 32)[:, :24, :20])
    assert measured(write_h5(tmp_path / "raw.h5", kspace=whole, mask=mask[0]))
    # As a scanner fills what it did not measure.
    whole[..., :5] = 0
    whole[..., 22:, :] = 0
    whole[0, 3, 8] = 0
    found = measured(write_h5(tmp_path / "raw.h5", kspace=whole, mask=mask[0]))
    expected = np.broadcast_to(mask[0], SIZE).copy()
    expected[..., :5] = expected[..., 22:, :] = False
    np.testing.assert_array_equal(found.A.mask, expected)
    whole = MRI(np.ones(SIZE, bool))(unseen_series(0, SIZE[0], 32)[:, :24, :20])
    whole[:, :7] = whole[:, 17:] = whole[..., :6] = whole[..., 14:] = 0
    found = measured(write_h5(tmp_path / "raw.h5", kspace=whole, mask=np.ones(SIZE)))
    assert found.A.mask.sum() == 4 * 10 * 8


def test_k_space_that_no_series_explains_is_told(tmp_path, capsys, rng):
    """Of coil maps that are not those of the data, beside noise."""
    mask = rng.random(SIZE) < 0.5
    mask[:, 8:16, 6:14] = True
    maps = coil_maps(4, *SIZE[1:], seed=0)
    kspace = MRI(mask, maps)(unseen_series(0, SIZE[0], 32)[:, :24, :20])
    error = rng.standard_normal((2, *kspace.shape))
    path = tmp_path / "raw.h5"
    for noise, changed, told in ((0, 0, 0), (0.5, 0, 0), (0, 1, 1), (0.02, 1, 1)):
        size = noise * np.sqrt((abs(kspace) ** 2).mean())
        y = np.where(mask[:, None], kspace + size * (error[0] + 1j * error[1]), 0)
        write_h5(path, kspace=y, mask=mask, maps=np.roll(maps, changed, axis=0))
        command = ["reconstruct", str(path), "--output", str(tmp_path / "a.npy")]
        assert main([*command, "--no-baselines"]) == 0
        printed = capsys.readouterr().out
        assert "4 frames of 24x20 pixels, 4 coils" in printed
        assert ("None of these images explains the data" in printed) == bool(told)


def test_spikes_outside_the_mask_and_zeros_of_a_coil_are_taken(tmp_path, rng):
    kspace = rng.standard_normal((1, 4, *SIZE[1:])) + 1j
    kspace[0, 2, 3, 3] = 0  # of one frame
    mask = np.ones(SIZE[1:])
    assert measured(write_h5(tmp_path / "a.h5", kspace=kspace[:, :1], mask=mask))
    maps = np.ones((4, *SIZE[1:])) / 2 + 0j
    files = {"kspace": kspace, "mask": mask, "maps": maps}
    assert measured(write_h5(tmp_path / "a.h5", **files))
    files["kspace"] = np.concat([kspace, kspace + 0.1])
    files["kspace"][0, 1, 22, 3] = 1e3
    mask[22, 3] = 0
    assert measured(write_h5(tmp_path / "a.h5", **files))


def test_k_space_is_no_series_of_images(tmp_path):
    series = unseen_series(0, SIZE[0], 32)
    kspace = MRI(np.ones(series.shape, bool))(series)
    np.save(tmp_path / "a.npy", kspace)
    with pytest.raises(ValueError, match="seems to be k-space, with"):
        read_input(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", series)
    assert read_input(tmp_path / "a.npy")
    rows, columns = np.mgrid[-32:32, -32:32]
    tube = np.where(np.hypot(rows, columns) < 4, 1 + 1j, 0.01j)
    np.save(tmp_path / "a.npy", tube[None])
    assert read_input(tmp_path / "a.npy")


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_k_space_of_other_conventions_than_the_maps(tmp_path, rng, noise):
    mask = rng.random(SIZE) < 0.5
    mask[:, 8:16, 6:14] = True
    maps = coil_maps(4, *SIZE[1:], seed=0)
    A = MRI(mask, maps)
    kspace = A(unseen_series(0, SIZE[0], 32)[:, :24, :20])
    error = rng.standard_normal((2, *kspace.shape)).astype(np.float32)
    size = noise * np.sqrt((abs(kspace) ** 2).mean())
    kspace = kspace + size * A.project_to_samples(error[0] + 1j * error[1])
    moved = kspace * (-1.0) ** np.add.outer(np.arange(24), np.arange(20))
    along = kspace * (-1.0) ** np.arange(20)

    def path(kspace, maps):
        arrays = {"kspace": kspace.astype(np.complex64), "mask": mask, "maps": maps}
        return write_h5(tmp_path / "raw.h5", **arrays)

    assert measured(path(kspace, maps))
    for given, message in (
        ((kspace, maps.conj()), "the complex conjugates of the maps: k-space"),
        ((moved, maps), "but an image moved by half its sides"),
        ((along, maps.conj()), "conjugates of the maps and an image moved by half"),
    ):
        with pytest.raises(ValueError, match=message):
            read_input(path(*given))


@pytest.mark.parametrize("axes", [(-2,), (-1,), (-2, -1)])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_k_space_as_ffts_order_it(tmp_path, rng, axes, share):
    series = unseen_series(0, SIZE[0], 32)[:, :24, :20]
    whole = MRI(rng.random(SIZE) <= share)
    shifted = np.fft.ifftshift(whole(series), axes)
    mask = np.fft.ifftshift(whole.mask, axes)
    path = write_h5(tmp_path / "raw.h5", kspace=shifted, mask=mask)
    with pytest.raises(ValueError, match=rf"over axes \{str(axes)[:-1]}\)"):
        read_input(path)
    back = np.fft.fftshift(shifted, axes)
    path = write_h5(tmp_path / "raw.h5", kspace=back, mask=np.fft.fftshift(mask, axes))
    np.testing.assert_array_equal(read_input(path)[1].A.mask, whole.mask)


def test_k_space_of_another_transform_than_the_truth(tmp_path, rng):
    truth = unseen_series(0, SIZE[0], 32)[:, :24, :20]
    mask = rng.random(SIZE) < 0.4
    mask[:, 8:16, 6:14] = True
    noise = rng.standard_normal(SIZE) + 1j * rng.standard_normal(SIZE)
    path = tmp_path / "raw.h5"

    def read(kspace, truth):
        write_h5(path, kspace=mask * kspace, mask=mask, truth=truth)
        return read_input(path)[1].truth

    fft = partial(np.fft.fft2, norm="ortho")
    centred = np.fft.fftshift(fft(np.fft.ifftshift(truth, (-2, -1))), (-2, -1))
    magnitude = abs(truth) + 0j
    for known in (truth, magnitude):
        for kspace in (centred, centred + noise):
            found = read(kspace, known)
            np.testing.assert_allclose(found, known / abs(known).max(), rtol=1e-6)
        with pytest.raises(ValueError, match=r"that of truth times 2\d"):
            read(np.sqrt(24 * 20) * centred, known)
    with pytest.raises(ValueError, match=r"ifftshift\(truth\)"):
        read(np.fft.fftshift(fft(truth), (-2, -1)), truth)


def test_k_space_of_noise_and_without_a_centre_is_taken(tmp_path, rng):
    for _ in range(20):
        noise = rng.standard_normal(SIZE) + 1j * rng.standard_normal(SIZE)
        path = write_h5(tmp_path / "raw.h5", kspace=noise, mask=np.ones(SIZE))
        read_input(path)
    series = unseen_series(0, SIZE[0], 32)[:, :24, :20]
    mask = np.ones(SIZE, bool)
    mask[:, ::2] = False
    read_input(write_h5(tmp_path / "raw.h5", kspace=MRI(mask)(series), mask=mask))


@pytest.mark.parametrize("shape", [(24, 20), (4, 1, 20), (1, 24, 1), (20,)])
def test_masks_of_files_broadcast(tmp_path, series, rng, shape):
    mask = rng.random(shape) < 0.5
    whole = np.array(np.broadcast_to(mask, SIZE))
    path = write_h5(tmp_path / "raw.h5", kspace=MRI(whole)(series), mask=mask)
    np.testing.assert_array_equal(measured(path).A.mask, whole)


@pytest.mark.parametrize("coils", [0, 2])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("factor", [1e-42, 1e-30, 1e30])
def test_series_of_any_scale(tmp_path, series, mask, factor, known, coils):
    """Even of numbers that single precision cannot hold with all digits."""
    maps = coil_maps(coils, *SIZE[1:], seed=0) if coils else None
    rtol = 2e-2 if factor < 1e-38 else 1e-5
    small = (factor * series.astype(complex)).astype(np.complex64)
    np.save(tmp_path / "a.npy", small)
    _, given = read_input(tmp_path / "a.npy")
    peak = np.abs(series).max()
    assert given.scale == pytest.approx(factor * peak, rel=rtol)
    np.testing.assert_allclose(given.image, series / peak, atol=rtol)
    problem = sample(given, mask="vista", coils=coils)
    assert np.isfinite(problem.y).all()
    Cine().save(tmp_path / "b.npy", problem.truth, problem)
    saved_again = np.load(tmp_path / "b.npy") / np.complex128(factor)
    np.testing.assert_allclose(saved_again, series, atol=peak * rtol)

    operator = MRI(mask, maps)
    arrays = {"kspace": factor * operator(series).astype(complex), "mask": mask}
    if coils:
        arrays["maps"] = maps
    if known:
        arrays["truth"] = factor * series.astype(complex)
    problem = measured(write_h5(tmp_path / "raw.h5", **arrays))
    usual = measured(
        write_h5(
            tmp_path / "usual.h5",
            **arrays
            | {"kspace": operator(series)}
            | ({"truth": series} if known else {}),
        )
    )
    assert problem.scale / factor == pytest.approx(usual.scale, rel=rtol)
    np.testing.assert_allclose(problem.y, usual.y, atol=rtol)
    if known:
        np.testing.assert_allclose(problem.truth, usual.truth, atol=rtol)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz", ".mat", ".h5"])
def test_pipes_and_folders_are_no_input(tmp_path, suffix):
    """They are refused, and nothing waits for a pipe that nobody writes to."""
    os.mkfifo(tmp_path / f"pipe{suffix}")
    with pytest.raises(ValueError, match=f"pipe{suffix} .*is not a regular file"):
        read_input(tmp_path / f"pipe{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(ValueError, match=f"folder{suffix} .*is a folder"):
        read_input(tmp_path / f"folder{suffix}")
    with pytest.raises(ValueError, match="is a folder"):
        read_input(tmp_path)


def test_masked_arrays_are_refused(series):
    """Their values under the mask would be taken for measured ones."""
    with pytest.raises(TypeError, match="masked array"):
        InputImage("a", np.ma.masked_greater(np.abs(series), 1))


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 40, 10)])
def test_measured_colours_that_are_too_small(tmp_path, rng, shape):
    samples = rng.random(shape, dtype=np.float32)
    path = write_h5(tmp_path / "c.h5", samples=samples, mask=np.ones(shape, bool))
    with pytest.raises(ValueError, match=r"c\.h5: samples must have 11 pixels a side"):
        read_measurement(path)
