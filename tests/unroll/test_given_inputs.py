from __future__ import annotations

import h5py
import numpy as np
import pytest
from svdinv.unroll.evaluation.inputs import (
    Input,
    Sampler,
    files_of,
    read_input,
    read_inputs,
    read_mask,
)
from svdinv.unroll.jobs import cine

from svdinv.unroll.data import photograph
from svdinv.unroll.data.phantom import coil_maps
from svdinv.unroll.display.pictures import save_picture
from svdinv.unroll.evaluation.inference import judge
from svdinv.unroll.operators import MRI

SIZE = (4, 24, 20)


@pytest.fixture
def series(rng):
    x = rng.standard_normal(SIZE) + 1j * rng.standard_normal(SIZE)
    return x.astype(np.complex64)


@pytest.fixture
def mask(rng):
    mask = rng.random(SIZE) < 0.5
    mask[:, 8:16, 6:14] = True
    return mask


def write(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file[name] = array
    return path


def test_pictures_by_name_and_from_files(tmp_path):
    given = read_input("coffee")
    assert (given.kind, given.shape) == ("colour", (3, 400, 600))
    np.testing.assert_array_equal(given.truth[1], photograph("coffee")[..., 1])
    save_picture(tmp_path / "cup.png", photograph("coffee")[:50, :80])
    assert read_input(tmp_path / "cup.png").shape == (3, 50, 80)
    assert read_input(tmp_path / "cup.png", crop=40).shape == (3, 40, 40)


def test_series_are_scaled_to_one(tmp_path, series):
    np.savez(tmp_path / "a.npz", other=series, images=np.moveaxis(7 * series, 0, 2))
    given = read_input(tmp_path / "a.npz", key="images", time_axis=2)
    assert (given.kind, given.shape, given.name) == ("cine", SIZE, "a")
    assert np.abs(given.truth).max() == pytest.approx(1)
    np.testing.assert_allclose(given.scale * given.truth, 7 * series, rtol=1e-5)


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
    given = read_input(write(tmp_path / "raw.h5", **arrays))
    assert (given.kind, given.shape) == ("cine", SIZE)
    case = Sampler().case(given)
    np.testing.assert_array_equal(case.measurement[0], mask)
    np.testing.assert_allclose(
        case.samples * given.scale, 5 * operator(series), rtol=1e-4, atol=1e-5
    )
    if known:
        assert np.abs(case.truth).max() == pytest.approx(1)
        np.testing.assert_allclose(operator(case.truth), case.samples, atol=1e-5)
    else:
        assert case.truth is None
        assert np.abs(operator.H(case.samples)).max() == pytest.approx(1, rel=1e-5)


def test_maps_are_estimated_where_there_are_none(tmp_path):
    pytest.importorskip("sigpy")
    x = cine.unseen_series(0, 4, 32)
    maps, mask = coil_maps(3, 32, 32, seed=1), np.ones(x.shape, bool)
    path = write(tmp_path / "raw.h5", kspace=MRI(mask, maps)(x), mask=mask)
    given = read_input(path)
    found = given.measurement[1]
    assert found.shape == maps.shape
    image = MRI(mask, found).H(given.samples) * given.scale
    inside = np.abs(x) > 0.1
    error = np.abs(np.abs(image) - np.abs(x))[inside]
    assert np.median(error / np.abs(x)[inside]) < 0.05


def test_the_phase_of_estimated_maps_does_not_count(tmp_path):
    """The metrics are those of magnitudes: of the true ones they are perfect."""
    pytest.importorskip("sigpy")
    x = cine.unseen_series(0, 4, 32)
    maps, mask = coil_maps(3, 32, 32, seed=1), np.ones(x.shape, bool)
    kspace = MRI(mask, maps)(x)
    known = write(tmp_path / "a.h5", kspace=kspace, mask=mask, maps=maps, truth=x)
    found = write(tmp_path / "b.h5", kspace=kspace, mask=mask, truth=x)
    with_maps, without = (Sampler().case(read_input(path)) for path in (known, found))
    turned = 1j * with_maps.truth
    assert judge(with_maps, turned)["SNR / dB"] < 0
    assert judge(without, turned)["SNR / dB"] > 100
    assert judge(without, 0.9 * turned)["SNR / dB"] == pytest.approx(20, abs=1e-3)


@pytest.mark.parametrize("side", [7, 9])
def test_maps_need_a_middle_that_is_sampled(tmp_path, side):
    """In any frame; and of that the largest square, should it be small."""
    pytest.importorskip("sigpy")
    x = cine.unseen_series(0, 4, 32)
    mask = np.zeros(x.shape, bool)
    middle = slice(16 - side // 2, 16 - side // 2 + side)
    mask[1, middle, middle] = True
    mask[2, ::5] = True
    kspace = MRI(mask, coil_maps(3, 32, 32, seed=1))(x)
    path = write(tmp_path / "raw.h5", kspace=kspace, mask=mask)
    if side == 9:
        assert read_input(path).measurement[1].shape == (3, 32, 32)
        return
    with pytest.raises(ValueError, match="7 x 7 points of k-space, and 8 x 8"):
        read_input(path)


def test_a_single_frame_may_miss_the_centre(tmp_path):
    x = cine.unseen_series(0, 1, 32)
    mask = np.zeros(x.shape, bool)
    mask[:, ::12] = True
    path = write(tmp_path / "raw.h5", kspace=MRI(mask)(x), mask=mask)
    assert read_input(path).measurement[0].shape == (1, 32, 32)


def test_one_coil_without_a_map_is_no_coil(tmp_path, series, mask):
    kspace = MRI(mask)(series)[:, None]
    given = read_input(write(tmp_path / "raw.h5", kspace=kspace, mask=mask))
    assert given.samples.shape == SIZE
    assert len(given.measurement) == 1


def test_measured_colours(tmp_path, rng):
    samples = rng.random((3, 40, 36), dtype=np.float32)
    mask = rng.random(samples.shape) < 0.5
    path = write(tmp_path / "c.h5", samples=samples, mask=mask, truth=samples)
    case = Sampler().case(read_input(path))
    assert case.samples.dtype == case.truth.dtype == np.float32
    np.testing.assert_array_equal(case.samples, samples)
    np.testing.assert_array_equal(case.measurement[0], mask)


def test_colours_of_another_range_are_refused(tmp_path, rng):
    samples = rng.random((3, 40, 36), dtype=np.float32)
    mask = rng.random(samples.shape) < 0.1
    noisy = samples + rng.standard_normal(samples.shape, dtype=np.float32)
    read_input(write(tmp_path / "noisy.h5", samples=noisy, mask=mask))
    path = write(tmp_path / "bytes.h5", samples=255 * samples * mask, mask=mask)
    with pytest.raises(ValueError, match=r"bytes.h5: samples must be in \[0, 1\]"):
        read_input(path)


def test_sampling(series, mask):
    given = Input("a", "cine", series)
    case = Sampler(mask="vista", coils=2, seed=1).case(given)
    assert case.setting == "vista, 2 coils"
    assert case.samples.shape == (4, 2, 24, 20)
    assert Sampler(mask="vista", coils=1).case(given).setting == "vista, 1 coil"
    case = Sampler(mask=mask).case(given)
    np.testing.assert_array_equal(case.measurement[0], mask)
    case = Sampler(mask=mask[0]).case(given)
    np.testing.assert_array_equal(case.measurement[0], [mask[0]] * 4)
    photo = Input("b", "colour", np.ones((3, 50, 40), np.float32))
    case = Sampler(rate=0.2, seed=3).case(photo)
    assert case.setting == "rate 0.2"
    assert case.measurement[0].mean() == pytest.approx(0.2, abs=0.01)
    np.testing.assert_array_equal(case.samples, case.measurement[0])
    again = Sampler(rate=0.2, seed=4).case(photo)
    assert (again.samples != case.samples).any()


def test_masks_that_do_not_fit(series, mask):
    given = Input("a", "cine", series)
    with pytest.raises(ValueError, match=r"\(4, 24, 20\), or \(24, 20\)"):
        Sampler(mask=mask[:3]).case(given)
    corners = np.zeros(SIZE, bool)
    corners[:, ::8, 0] = True
    with pytest.raises(ValueError, match="fftshift"):
        Sampler(mask=corners).case(given)


def test_masks_from_files(tmp_path, mask):
    np.save(tmp_path / "m.npy", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.npy"), mask)
    np.save(tmp_path / "m.npy", mask.astype(float))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.npy"), mask)
    np.save(tmp_path / "m.npy", 0.5 * mask)
    with pytest.raises(ValueError, match="0 and 1"):
        read_mask(tmp_path / "m.npy")
    np.save(tmp_path / "m.npy", 0 * mask)
    with pytest.raises(ValueError, match="samples nothing"):
        read_mask(tmp_path / "m.npy")


def test_folders_and_files_of_one_name(tmp_path, series):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "scan.npy", series)
    (tmp_path / "a" / "notes.txt").touch()
    files = files_of([tmp_path / "a", tmp_path / "b" / "scan.npy"], "cine")
    assert [f.name for f in files] == ["scan.npy", "scan.npy"]
    names = [given.name for given in read_inputs(files)]
    assert names == [str(file) for file in files]
    (given,) = read_inputs(files[:1])
    assert given.name == "scan"
    with pytest.raises(ValueError, match="no series in"):
        files_of([tmp_path], "cine")
    with pytest.raises(ValueError, match="no picture in"):
        files_of([tmp_path / "a"], "colour")


@pytest.mark.parametrize("name", ["no-such.png", "no-such.npz", "no-such.h5", "coffe"])
def test_what_is_missing(tmp_path, name):
    with pytest.raises(ValueError, match=name):
        read_input(tmp_path / name)


@pytest.mark.parametrize(
    ("shape", "complaint"), [((4, 9, 20), "16 pixels"), ((2, 4, 24, 20), "one series")]
)
def test_arrays_that_are_no_series(tmp_path, shape, complaint):
    np.save(tmp_path / "a.npy", np.ones(shape))
    with pytest.raises(ValueError, match=complaint):
        read_input(tmp_path / "a.npy")


def test_a_series_of_nothing(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(SIZE))
    with pytest.raises(ValueError, match="zero everywhere"):
        read_input(tmp_path / "a.npy")


def _changes():
    maps = np.ones((2, *SIZE[1:])) + 0j
    kspace = np.ones(SIZE) + 0j
    coils = np.ones((4, 2, *SIZE[1:])) + 0j
    corner = np.zeros(SIZE)
    corner[:, ::8, 0] = 1
    yield {"mask": None}, "mask is missing"
    yield {"mask": np.ones(20)}, "mask must have"
    yield {"mask": corner}, "fftshift"
    yield {"mask": np.zeros(SIZE)}, "samples nothing"
    yield {"mask": np.ones((4, 8, 8)), "kspace": np.ones((4, 8, 8))}, "16 pixels"
    yield {"kspace": kspace[:3]}, "mask must have"
    yield {"kspace": 0 * kspace}, "kspace is zero"
    yield {"kspace": 0 * coils}, "maps, and they cannot be estimated"
    yield {"kspace": np.full(SIZE, np.nan)}, "finite"
    yield {"maps": maps}, "where there are maps"
    yield {"kspace": coils, "maps": np.ones((3, *SIZE[1:]))}, "maps must have"
    yield {"kspace": coils, "maps": maps}, "add up to 1"
    yield {"truth": kspace[:, :20]}, "truth must have"
    yield {"truth": 0 * kspace}, "zero everywhere"
    yield {"kspace": None, "samples": np.ones(SIZE)}, r"must be \(3, H, W\)"


@pytest.mark.parametrize(("changes", "complaint"), list(_changes()))
def test_measured_files_that_make_no_sense(tmp_path, changes, complaint):
    arrays = {"kspace": np.ones(SIZE) + 0j, "mask": np.ones(SIZE)} | changes
    arrays = {name: array for name, array in arrays.items() if array is not None}
    path = write(tmp_path / "raw.h5", **arrays)
    with pytest.raises(ValueError, match=complaint) as error:
        read_input(path)
    assert str(path) in str(error.value)
