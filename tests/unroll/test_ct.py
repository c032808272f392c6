"""The task of computed tomography, through the command line and from files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hdf5_files import refused, write_h5
from PIL import Image

from svdinv.cli import main
from svdinv.unroll import pretrained
from svdinv.unroll.data.noise import counted
from svdinv.unroll.inference import reconstruct
from svdinv.unroll.networks import PrimalDual, Skip
from svdinv.unroll.operators import dot_test
from svdinv.unroll.tasks.measured_files import read_measurement, write_problem
from svdinv.unroll.tasks.non_local import NAME
from svdinv.unroll.tasks.reading import source_of
from svdinv.unroll.tasks.task import InputImage
from svdinv.unroll.tasks.tomography.ct import (
    Ct,
    CtOptions,
    Geometry,
    _finer,
    _projector,
    fbp,
    is_limited,
)
from svdinv.unroll.tasks.tomography.htc import read_htc
from svdinv.unroll.torch import Network
from svdinv.unroll.training.config import preset
from svdinv.unroll.untrained import Discrepancy, Fitting, HeldOut, educated
from svdinv.unroll.untrained import Options as Untrained

SMALL = CtOptions(views=12, noise=0.01, size=24)


def problem(options=SMALL, name="walnut-1"):
    task = Ct()
    return task.measure(task.read(name, options), options)


def challenge(path, **changes):
    """A file such as those of the challenge, with a disc in the centre."""
    where = (np.arange(56) - 27.5) * 2.0
    distance = 410.66 * np.abs(where) / np.hypot(where, 553.74)
    row = 2 * np.sqrt(np.maximum(25.0**2 - distance**2, 0)) * 0.04
    parameters = {
        "angles": np.arange(0, 360, 6.0),
        "distanceSourceOrigin": 410.66,
        "distanceSourceDetector": 553.74,
        "pixelSizePost": 2.0,
        **changes,
    }
    data = {"sinogram": np.tile(row, (60, 1)), "parameters": parameters}
    scipy.io.savemat(path, {"CtDataLimited": data})
    return path


@pytest.mark.parametrize("beam", ["parallel", "fan"])
def test_baselines_come_near_and_in_order(beam):
    task = Ct()
    made = problem(CtOptions(views=24, noise=0.01, size=32, beam=beam))
    assert made.y.shape[:2] == (1, 24)
    found = {
        name: task.score(made, task.finished(method(made).image))["PSNR / dB"]
        for name, method in task.baselines().items()
    }
    assert found["TV"] > found["FBP"] + 3
    assert found["NNLS"] > found["SIRT"] > 18
    assert found[NAME] > found["TV"] - 1
    assert dot_test(made.A, made.truth) < 1e-6


def test_noise_is_as_told():
    clean, noisy = (problem(replace(SMALL, noise=n)) for n in (0.0, 0.05))
    found = (noisy.y - clean.y).std() / clean.y.mean()
    np.testing.assert_allclose(found, 0.05, rtol=0.15)
    deviation = Ct().deviation(noisy, replace(SMALL, noise=0.05))
    np.testing.assert_allclose((noisy.y - clean.y).std(), deviation, rtol=0.15)
    assert Ct().deviation(clean, replace(SMALL, noise=0.0)) == 0


def test_photons_are_counted_unless_other_noise_is_asked_for():
    usual = problem(replace(SMALL, noise=None))
    counted = problem(replace(SMALL, noise=None, photons=1e5))
    np.testing.assert_array_equal(usual.y, counted.y)
    assert "100000 photons" in usual.setting
    assert Ct().deviation(usual, replace(SMALL, noise=None)) is None
    clean = problem(replace(SMALL, noise=0.0))
    np.testing.assert_array_equal(clean.y, clean.A(clean.truth))
    assert 0 < np.abs(usual.y - clean.y).max() < 0.1 * clean.y.max()
    assert "photons" not in clean.setting + problem(SMALL).setting


def test_few_photons_are_noisier(rng):
    integrals = np.full(20000, 1.5)
    for photons in (1e3, 1e5):
        found = counted(integrals, photons, rng)
        counts = photons * np.exp(-1.5)
        due = np.sqrt(counts + 25) / counts  # first order
        np.testing.assert_allclose(found.std(), due, rtol=0.05)
    assert np.isfinite(counted(np.full(9, 50.0), 10, rng)).all()


@pytest.mark.parametrize("beam", ["parallel", "fan"])
def test_objects_may_be_finer_than_their_images(beam):
    task = Ct()
    plain = CtOptions(size=48, noise=0, beam=beam, views=20)
    fine = replace(plain, finer=3)
    small, made = (task.measure(task.read("head-1", o), o) for o in (plain, fine))
    assert made.truth.dtype == made.y.dtype == np.float32
    np.testing.assert_allclose(made.truth, small.truth, atol=0.1)
    off = np.linalg.norm(made.y - made.A(made.truth)) / np.linalg.norm(made.y)
    assert 1e-3 < off < 0.05
    # A photograph's pixels that make no whole one at its border are left out.
    image = task.read("density:coffee", replace(fine, size=None, crop=0)).image
    cut = task.measure(InputImage("cut", image[..., :100, :97]), fine)
    np.testing.assert_allclose(
        cut.truth[0, 2, 5], image[0, 6:9, 15:18].mean(), rtol=1e-6
    )
    assert cut.truth.shape == (1, 33, 32)
    items = Ct(size=(16,), projections=(4,), finer=(1, 2)).load()
    assert {items.problem(0, i, 0).setting.endswith("finer") for i in range(9)} == {
        True,
        False,
    }


@pytest.mark.parametrize(
    ("angles", "limited"),
    [
        (np.arange(0, 180, 3.0), False),
        (np.arange(0, 360, 6.0), False),
        (np.arange(24) * 22.5, False),  # three turns
        (np.arange(-80, 90, 2.0), False),
        ([0.0], False),
        ([0.0, 90.0], False),
        ([0.0, 10.0], True),
        (np.arange(0, 150, 2.5), True),
        (np.arange(269, 299.5, 0.5), True),
    ],
)
def test_a_range_of_angles_may_be_missing(angles, limited):
    assert is_limited(angles) == limited


@pytest.mark.parametrize("source", [0.0, 6.0])
def test_finer_rays_are_where_the_others_are(source):
    """By a smooth object, which is the same on both grids."""

    def smooth(size):
        y, x = np.mgrid[:size, :size] * (2 / size) + (1 / size - 1)
        return np.exp(-8 * ((x - 0.2) ** 2 + 2 * (y + 0.1) ** 2))

    geometry = Geometry(48, 48, 2 / 48, 0.05, 0.03, source, source and 9.0)
    views = tuple(np.arange(0, 360, 40.0))
    y = _projector(geometry, views, 64)(smooth(48))
    fine = _finer(smooth(96), geometry, views, 64, 2)
    assert np.linalg.norm(fine - y) < 2e-3 * np.linalg.norm(y)
    for changed in (geometry._replace(offset=0.04), geometry._replace(offset=0.02)):
        moved = _projector(changed, views, 64)(smooth(48))
        assert np.linalg.norm(fine - moved) > 1e-2 * np.linalg.norm(y)


def test_items_have_views_and_noise_as_asked():
    """One setting for a step, and noise between two levels for each item."""
    task = Ct(
        size=(16, 20),
        projections=(4, 7),
        beam=("parallel", "fan"),
        noise=(0.0, 0.2),
        validation=8,
    )
    steps = [task.load().batch(0, step, range(4)) for step in range(40)]
    seen = {(made.truth.shape[-1], *made.y.shape[2:]) for made in steps}
    assert len(seen) == 8  # the beams differ by their detectors
    relative = [
        float(np.abs(made.y - made.A(made.truth))[i].mean() / np.abs(made.y[i]).mean())
        for made in steps
        for i in range(4)
    ]
    assert min(relative) < 0.03 < 0.12 < max(relative) < 0.2
    cases = task.load().validation()
    assert len(cases) == 8
    assert {(m.truth.shape[-1], *m.y.shape[1:]) for m in cases} == seen
    corners = (
        Ct(size=(32,), projections=(4,), rectangles=1.0).load().batch(0, 0, range(1))
    )
    round_ = Ct(size=(32,), projections=(4,)).load().batch(0, 0, range(1))
    assert not np.array_equal(corners.truth, round_.truth)
    limited = Ct(size=(16,), projections=(4,), arc=(0.0, 90.0)).load()
    last = {limited.problem(0, step, 0).scan.angles[-1] for step in range(20)}
    assert last == {135.0, 67.5}
    for name in ("size", "projections", "arc", "beam"):
        with pytest.raises(ValueError, match=f"{name} must have at least one"):
            Ct(**{name: ()})
    with pytest.raises(ValueError, match="beam must be parallel or fan, got"):
        Ct(beam=("cone",))
    with pytest.raises(ValueError, match="noise must not fall"):
        Ct(noise=(0.1, 0.0))


def test_a_generator_sees_the_filtered_back_projection():
    made = problem().single()
    recipe = Skip(
        channels=1, source="adjoint", bounded=False, features=(4,), skips=(2,)
    )
    state = recipe.begin(made)
    due = made.A.approximate_inverse(made.y)
    np.testing.assert_allclose(state["x"], due)
    assert abs(np.corrcoef(due.ravel(), made.truth.ravel())[0, 1]) > 0.8
    assert Network(recipe, seed=0) is not None


def test_data_that_are_held_out_leave_no_streaks_in_what_a_generator_sees():
    options, task = CtOptions(size=48, views=40, noise=0.01), Ct()
    problem = task.measure(task.read("walnut-1", options), options)
    small = {"channels": 1, "bounded": False, "features": (2,), "skips": (1,)}
    recipe = Skip(source="adjoint", **small)
    whole, part = (
        Fitting(problem, recipe, Untrained(rule=rule)).state["z"]
        for rule in (None, HeldOut())
    )
    # With zeros in their place the distance is 0.66.
    assert float((part - whole).norm() / whole.norm()) < 0.1


def test_measured_sinograms_are_written_and_read(tmp_path):
    pytest.importorskip("h5py")
    for beam in ("parallel", "fan"):
        made = problem(replace(SMALL, beam=beam))
        path = tmp_path / f"{beam}.h5"
        write_problem(path, Ct(), made)
        task, found = read_measurement(path)
        assert task.kind == "ct"
        np.testing.assert_allclose(found.y, made.y, rtol=1e-5)
        np.testing.assert_array_equal(found.truth, made.truth)
        np.testing.assert_allclose(found.A(made.truth), made.A(made.truth), rtol=1e-4)


@pytest.mark.parametrize("turns", [0.0, 720.0])
def test_views_of_a_file_may_be_in_any_order(tmp_path, turns):
    made = problem(SMALL)
    held = {k: np.array(v) for k, v in Ct().arrays_to_save(made).items()}
    rng = np.random.default_rng(0)
    order = rng.permutation(len(held["angles"]))
    held["angles"] = held["angles"][order]
    held["angles"][::2] += turns
    held["sinogram"], held["truth"] = held["sinogram"][order], made.truth
    _, found = read_measurement(write_h5(tmp_path / "a.h5", **held))
    np.testing.assert_allclose(found.y, made.y, rtol=1e-5)
    assert (np.diff(np.array(found.scan.angles) % 360) > 0).all()


@pytest.mark.parametrize("factor", [1.0, 1e3])
@pytest.mark.parametrize("beam", ["parallel", "fan"])
def test_files_score_as_the_simulation_does(tmp_path, beam, factor):
    """Streaks and noise are no reason to rescale, nor do units change a score."""
    task = Ct()
    options = CtOptions(views=31, arc=200.0, noise=1.0, size=64, beam=beam)
    made = problem(options, "shepp-logan")
    held = {k: np.array(v) for k, v in task.arrays_to_save(made).items()}
    held["sinogram"] = np.float32(factor) * held["sinogram"]
    held["truth"] = np.float32(factor) * made.truth
    _, found = read_measurement(write_h5(tmp_path / "a.h5", **held))
    assert found.scale == pytest.approx(factor)
    scores = [task.score(p, task.finished(fbp(p).image)) for p in (made, found)]
    assert scores[1] == pytest.approx(scores[0], rel=1e-3)


def test_the_deviation_of_a_fit_is_in_the_unit_of_the_file(tmp_path, monkeypatch):
    made = problem(replace(SMALL, noise=0.05))
    held = {k: 30 * np.array(v) for k, v in Ct().arrays_to_save(made).items()}
    held |= {"angles": held["angles"] / 30, "geometry": held["geometry"] / 30}
    path = write_h5(tmp_path / "a.h5", **held)
    _, found = read_measurement(path)
    used = []

    def rule(deviation):
        used.append(deviation)
        return Discrepancy(deviation=deviation)

    monkeypatch.setattr("svdinv.unroll.untrained.Discrepancy", rule)
    due = 0.05 * float(found.y.mean())
    given = 0.05 * float(held["sinogram"].mean())
    words = ["fit", str(path), "--stop", "discrepancy", "--deviation", str(given)]
    short = ["--iterations", "1", "--device", "cpu", "--output", str(tmp_path)]
    assert main([*words, *short]) == 0
    assert used == [pytest.approx(due, rel=1e-4)]


@pytest.mark.parametrize("factor", [30.0, 3.0, 1.0, 1e-3])
def test_densities_of_any_unit_are_of_about_one(tmp_path, factor):
    """What generators are bounded by; the file's own unit comes back."""
    task, made = Ct(), problem(replace(SMALL, views=24, noise=0.0, size=32))
    held = {k: np.array(v) for k, v in task.arrays_to_save(made).items()}
    held["sinogram"] = np.float32(factor) * held["sinogram"]
    held["truth"] = np.float32(factor) * made.truth
    _, found = read_measurement(write_h5(tmp_path / "a.h5", **held))
    assert (found.scale == 1) == (factor == 1)
    assert 0.4 < found.truth.max() <= 1
    image = found.scale * task.finished(fbp(found).image)
    error = np.linalg.norm(image - factor * made.truth)
    assert error < 0.4 * factor * np.linalg.norm(made.truth)


def test_images_are_written_as_numbers(tmp_path):
    task, made = Ct(), replace(problem(), scale=3.0)
    shown = task.for_display(made.truth)
    assert shown.shape == (24, 24, 3)
    for name in ("a.npy", "b.png", "c.npz"):
        task.save(tmp_path / name, shown, made)
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), 3 * made.truth, rtol=1e-6)
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.size == (24, 24)


def test_noise_is_known_from_what_was_measured():
    options = replace(SMALL, views=60, size=48, noise=0.3)
    task, made = Ct(), problem(options)
    noise = made.y - made.A(made.truth)
    assert abs(task.deviation(made, options) / noise.std() - 1) < 0.05


def test_the_challenge_is_read(tmp_path):
    path = challenge(tmp_path / "ta.mat")
    assert source_of(path).task.kind == "ct"
    task = Ct()
    found = task.read(path, CtOptions(size=32))
    image = task.baselines()["FBP"](found).image[0] * found.scale
    width = 512 * 0.2 * 410.66 / 553.74  # 560 detectors of 0.2 mm, 512 pixels
    np.testing.assert_allclose(found.scan.geometry.pixel, width / 32)
    y, x = (np.mgrid[:32, :32] - 15.5) * width / 32
    inside = np.hypot(x, y) < 20
    np.testing.assert_allclose(image[inside].mean(), 0.04, rtol=0.05)
    assert abs(image[np.hypot(x, y) > 30].mean()) < 0.004
    assert task.files(tmp_path) == [path]


def test_pictures_are_densities(tmp_path):
    pixels = np.arange(40 * 36 * 3, dtype=np.uint8).reshape(40, 36, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    task = Ct()
    (place,) = task.files(tmp_path)
    given = task.read(place, CtOptions())
    assert (given.name, given.image.shape) == ("a", (1, 40, 36))
    assert source_of(str(place)).task.kind == "ct"
    assert source_of(str(tmp_path / "a.png")).task.kind == "colour"


def test_a_small_object_off_the_centre_leaves_detectors_dark(tmp_path):
    """Between few views; this is no damage."""
    y, x = np.mgrid[:64, :64] - 31.5
    image = (np.hypot(x + 19, y + 13) < 2).astype(np.float32)[None]
    for views in (8, 12):
        options = CtOptions(views=views, noise=0)
        made = Ct().measure(InputImage("dot", image), options)
        seen = np.flatnonzero(made.y.any(axis=(0, 1)))
        assert len(seen) < np.ptp(seen)
        path = tmp_path / f"{views}.h5"
        write_problem(path, Ct(), made)
        assert read_measurement(path)[1].y.shape == made.y.shape


def test_detectors_that_do_not_cover_the_object_are_told(tmp_path):
    made = Ct().arrays_to_save(problem())
    path = write_h5(tmp_path / "a.h5", **made)
    task, whole = read_measurement(path)
    assert "truncated" not in task.describe(whole)
    lit = np.flatnonzero((made["sinogram"] != 0).all(axis=-2))
    half = made["sinogram"][..., lit[len(lit) // 4] : lit[3 * len(lit) // 4]]
    write_h5(path, **{**made, "sinogram": half})
    task, cut = read_measurement(path)
    assert "truncated" in task.describe(cut)
    # Half of the detectors are enough in a whole turn.
    count = made["sinogram"].shape[-1]
    shift = np.zeros(7)
    shift[4] = -made["geometry"][3] * (count - count // 2 - 2) / 2
    for turn, known in ((180, True), (360, False)):
        options = CtOptions(views=24, noise=0, size=24, arc=float(turn))
        whole = Ct().arrays_to_save(problem(options))
        side = whole["sinogram"][..., : count // 2 + 2]
        geometry = whole["geometry"] + shift
        write_h5(path, **{**whole, "sinogram": side, "geometry": geometry})
        task, cut = read_measurement(path)
        assert ("truncated" in task.describe(cut)) == known


def test_invalid_data_are_estimated(tmp_path):
    """From the others; views without data are left out."""
    options = CtOptions(views=24, noise=0, size=32)
    made = Ct().arrays_to_save(problem(options))
    mask = np.ones(made["sinogram"].shape, bool)
    mask[:, 20:22] = mask[5, :7] = False
    mask[[3, 11]] = False
    broken = np.where(mask, made["sinogram"], -7)
    path = write_h5(tmp_path / "a.h5", **{**made, "sinogram": broken, "mask": mask})
    task, repaired = read_measurement(path)
    kept = np.delete(np.arange(24), [3, 11])
    y = repaired.y[0] * repaired.scan.unit
    shown = mask[kept]
    np.testing.assert_allclose(y[shown], made["sinogram"][kept][shown], rtol=1e-6)
    due = made["sinogram"][kept]
    assert np.linalg.norm(y - due) < 0.03 * np.linalg.norm(due)
    np.testing.assert_array_equal(repaired.fidelity.weight[0], shown)
    share = 100 * (1 - shown.mean())
    assert f"{share:.2g} % of the data estimated" in str(repaired.scan)
    assert len(repaired.scan.angles) == 22
    errors = []
    for each in (problem(options), repaired):
        image = task.baselines()["NNLS"](each).image
        errors.append(np.linalg.norm(image - problem(options).truth))
    assert errors[1] < 1.5 * errors[0]
    # Views that the mask leaves out count, too.
    mask = np.ones_like(mask)
    mask[4] = False
    empty = made["sinogram"] * (np.arange(24) != 9)[:, None]
    write_h5(path, **{**made, "mask": mask, "sinogram": empty})
    with pytest.raises(ValueError, match=r"invalid views \[9\], of which"):
        read_measurement(path)
    for wrong, match in (
        (mask[0], "mask must have the shape of the sinogram"),
        (mask * 3, "mask must contain only 0 and 1"),
        (~mask & mask, "mask samples nothing"),
    ):
        write_h5(path, **{**made, "mask": wrong})
        with pytest.raises(ValueError, match=match):
            read_measurement(path)


def test_gaps_between_objects_are_not_invalid(tmp_path):
    """Few views may see them, and an object may leave a detector by and by."""
    made = Ct().arrays_to_save(problem(CtOptions(views=3, noise=0)))
    made["sinogram"][:, 60:70] = 0
    assert read_measurement(write_h5(tmp_path / "a.h5", **made))
    image = np.zeros((1, 32, 32), np.float32)
    image[0, 14:18, 22:27] = 1
    options = CtOptions(views=48, noise=0, arc=360.0)
    made = Ct().arrays_to_save(Ct().measure(InputImage("dot", image), options))
    count = made["sinogram"].shape[-1]
    made["sinogram"] = made["sinogram"][:, : count // 2 + 3]
    made["geometry"][4] = -made["geometry"][3] * (count - count // 2 - 3) / 2
    unseen = (made["sinogram"] == 0).all(axis=1)
    assert unseen.any()
    shuffled = np.random.default_rng(0).permutation(48)
    for order in (slice(None), shuffled):
        views = {name: made[name][order] for name in ("sinogram", "angles")}
        _, found = read_measurement(write_h5(tmp_path / "b.h5", **{**made, **views}))
        assert len(found.scan.angles) == 48


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_noise_is_neither_an_object_nor_unexplained(noise, tmp_path, capsys):
    made = problem(CtOptions(views=60, size=64, noise=noise), "head-1")
    path = tmp_path / "a.h5"
    write_problem(path, Ct(), made, truth=False)
    assert main(["reconstruct", str(path), "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "larger object" not in printed
    assert "None of these images" not in printed
    fbp = ["reconstruct", str(path), "--output", str(tmp_path), "--method", "fbp"]
    assert main([*fbp, "--no-baselines"]) == 0
    assert "None of these images" not in capsys.readouterr().out


def test_data_that_no_image_explains_are_told(tmp_path, capsys):
    """With the wrong centre of rotation no image has the measured data."""
    made = Ct().arrays_to_save(problem(CtOptions(views=60, noise=0.01)))
    path = write_h5(tmp_path / "a.h5", **made)
    task, right = read_measurement(path)
    image = task.baselines()["NNLS"](right).image
    residual = np.linalg.norm(right.A(image) - right.y) / np.linalg.norm(right.y)
    (name, value), *others = task.score(right, image).items()
    assert (name, others) == ("misfit / %", [])
    assert value == pytest.approx(100 * residual)
    command = ["reconstruct", str(path), "--output", str(tmp_path)]
    for offset, told in ((0.0, False), (5.0, True)):
        made["geometry"][4] = offset * made["geometry"][3]
        write_h5(path, **made)
        assert main(command) == 0
        printed = capsys.readouterr().out
        assert "misfit / %" in printed
        assert ("None of these images explains the data" in printed) == told


def test_an_object_larger_than_the_image_is_told(tmp_path):
    made = Ct().arrays_to_save(problem(CtOptions(views=24, noise=0)))
    path = write_h5(tmp_path / "a.h5", **made)
    task, whole = read_measurement(path)
    assert "larger" not in task.describe(whole)
    size = made["geometry"][0] // 3
    made["geometry"][:2] = size
    write_h5(path, **made)
    task, part = read_measurement(path)
    assert f"{size:.0f}x{size:.0f} pixels, of a larger object" in task.describe(part)


def test_damaged_files_are_refused(tmp_path):
    path = challenge(tmp_path / "a.mat", angles=np.arange(7.0))
    with pytest.raises(ValueError, match="must have a row for each of 7 angles"):
        read_htc(path)
    with pytest.raises(ValueError, match="there is no file"):
        read_htc(Path(tmp_path / "b.mat"))
    (tmp_path / "c.mat").write_bytes(b"nothing")
    assert not Ct.entry.recognises(tmp_path / "c.mat")
    made = Ct().arrays_to_save(problem())
    changes = (
        ("geometry", np.ones(3), "geometry must have the shape"),
        ("geometry", np.r_[made["geometry"][:2], np.zeros(5)], "is invalid"),
        ("geometry", np.r_[1e12, made["geometry"][1:]], "must have 11 to 4096 pixels"),
        (
            "geometry",
            made["geometry"] * [1, 1, 1, 0.05, 1, 1, 1],
            r"detectors that cover .* pixels: is their spacing in its unit",
        ),
        ("geometry", np.r_[made["geometry"][:4], 1e3, 0, 0], "no ray runs through"),
        ("geometry", np.r_[made["geometry"][:5], 1, 9], "source must lie beyond"),
        ("geometry", np.r_[made["geometry"][:5], 0, 9], "distance must be 0"),
        ("geometry", np.r_[made["geometry"][:5], 99, 9], "must be at least source"),
        ("angles", np.radians(made["angles"]), "angles must be in degrees"),
        ("angles", np.ones(3), "angles must have the shape"),
        ("sinogram", np.full((12, 34), np.nan), "^(?!.*geometry).*sinogram has num"),
        ("sinogram", np.zeros((12, 34)), "sinogram must have line integrals"),
        ("sinogram", -made["sinogram"], "sinogram must have line integrals"),
        (
            "sinogram",
            1e5 * np.exp(-made["sinogram"] / made["sinogram"].max()),
            "not intensities",
        ),
        (
            "sinogram",
            made["sinogram"] * (np.arange(34) != 15),
            r"invalid detectors \[15\], which measure 0 in all views: set mask",
        ),
        (
            "sinogram",
            made["sinogram"] * (abs(np.arange(34) - 15.5) > 2),
            r"invalid detectors \[14, 15, 16, 17\], which measure 0",
        ),
        (
            "sinogram",
            made["sinogram"] * (np.arange(12) % 7 != 3)[:, None],
            r"invalid views \[3, 10\], of which all detectors measure 0",
        ),
        ("truth", problem().truth / 1e3, r"is that of truth times 1e\+03"),
        ("weights", made["sinogram"], "weights would not be used: ct reads angles"),
    )
    refused(tmp_path / "d.h5", made, changes)


def test_the_preset_is_a_generator_of_the_filtered_back_projection():
    config = preset("ct-edip")
    assert config.task.kind == "ct"
    assert config.network.source == "adjoint"
    assert isinstance(preset("ct").network, PrimalDual)


def test_an_educated_prior_is_trained_and_fitted(tmp_path, capsys):
    """Trained for a moment it is nearer than an untrained one from the start."""
    tiny = ["task.size=[24]", "task.projections=[12]", "task.validation=1"]
    tiny += ["network.features=[8,8]", "network.skips=[2,2]"]
    sets = [word for text in tiny for word in ("--set", text)]
    weights = tmp_path / "run"
    train = ["train", "ct-edip", "--steps", "30", "--device", "cpu", *sets]
    assert main([*train, "--output", str(weights)]) == 0
    common = ["--size", "24", "--views", "12", "--noise", "0.01", "--stop", "none"]
    common += ["--iterations", "20", "--learning-rate", "1e-3", "--device", "cpu"]
    first = {}
    for name, more in (
        ("dip", []),
        ("edip", ["--weights", str(weights)]),
        ("edip", ["--weights", str(weights), "--trained", "singular-values"]),
    ):
        folder = tmp_path / f"{name}{len(more)}"
        fit = ["fit", "walnut-1", "--prior", name, *more, *common]
        assert main([*fit, "--output", str(folder)]) == 0
        rows = (folder / f"walnut-1-fit-{name}-iterations.csv").read_text().splitlines()
        first[folder.name] = float(rows[1].split(",")[-1])
        assert (folder / f"walnut-1-fit-{name}.npz").exists()
    assert first["edip2"] > first["dip0"] + 1.5
    assert first["edip4"] > first["dip0"] + 1.5
    capsys.readouterr()


def test_the_weights_of_the_package_are_fitted(tmp_path, capsys):
    common = ["--size", "48", "--noise", "0.01", "--device", "cpu"]
    fit = ["fit", "walnut-1", "--prior", "edip", *common, "--iterations", "10"]
    assert main([*fit, "--output", str(tmp_path)]) == 0
    rows = (tmp_path / "walnut-1-fit-edip-iterations.csv").read_text().splitlines()
    found = float(rows[-1].split(",")[-1])
    made = problem(replace(SMALL, size=48, views=60))
    network = pretrained.load("ct")
    usual = problem(replace(SMALL, size=128, views=60))
    estimated = educated(usual, network).recorrupted / float(usual.y.mean())
    assert estimated == pytest.approx(0.01, rel=0.05)
    begun = Ct().decibels(made, reconstruct(network, made))
    assert found > begun + 0.4
    pytest.importorskip("h5py")
    path = tmp_path / "sinogram.h5"
    write_problem(path, Ct(), replace(made, truth=None))
    short = ["--iterations", "2", "--device", "cpu", "--output", str(tmp_path)]
    assert main(["fit", str(path), "--prior", "edip", *short]) == 0
    assert "iteration 2 of 2" in capsys.readouterr().out
