"""The task of electrical impedance tomography."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

scipy_io = pytest.importorskip("scipy.io")

from hdf5_files import refused, write_h5

from svdinv.cli import main
from svdinv.unroll.evaluation import classical
from svdinv.unroll.networks import Skip
from svdinv.unroll.operators import dot_test
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.impedance import baselines, eit
from svdinv.unroll.tasks.impedance.eit import Eit, EitOptions
from svdinv.unroll.tasks.impedance.model import Picture
from svdinv.unroll.tasks.impedance.operator import Impedance, adjacent, disc
from svdinv.unroll.tasks.impedance.tank import calibrated, deviations, read_tank
from svdinv.unroll.tasks.measured_files import read_measurement, write_problem
from svdinv.unroll.tasks.reading import source_of
from svdinv.unroll.training.config import preset
from svdinv.unroll.untrained import fit
from svdinv.unroll.untrained.presets import generator_for

SMALL = EitOptions(size=16, electrodes=8, noise=1e-5, seed=2)


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    """A mesh of 150 triangles, and a grid of one weight."""
    monkeypatch.setattr(eit, "_RINGS", 5)
    weights = {"Tikhonov": (0.01,), "TV": (0.1,), "Gauss-Newton": (1.0,)}
    monkeypatch.setattr(baselines, "_WEIGHTS", weights)
    for cache in (eit._model, eit._tank):
        cache.cache_clear()
    yield
    for cache in (eit._model, eit._tank):
        cache.cache_clear()


def problem(options=SMALL, name="tank"):
    task = Eit()
    return task.measure(task.read(name, options), options)


def challenge(folder, *, broken=False):
    """Files such as those of the challenge, of a tank with a thing that conducts."""
    mesh = disc(5, 8, radius=0.115)
    currents, pairs = adjacent(8)[:, :5], adjacent(8)
    A = Impedance(mesh, currents, pairs, 2e-3)
    water = np.full(len(mesh.triangles), 0.8)
    inside = np.linalg.norm(mesh.centres - [0.04, 0.03], axis=1) < 0.035
    level = folder / "level_1"
    level.mkdir()
    elements = np.empty((1, 8), object)
    for k, edges in enumerate(mesh.electrodes):
        elements[0, k] = edges + 1
    triangles = mesh.triangles + 1
    scipy_io.savemat(
        folder / "Mesh_sparse.mat",
        {"g": mesh.nodes, "H": triangles, "elfaces": elements[:, : 7 if broken else 8]},
    )
    shown = A(np.where(inside, 4.0, water))
    shown[1, 2] = np.nan
    Uel = {"Inj": currents, "Mpat": pairs, "Uel": shown.reshape(-1, 1)}
    scipy_io.savemat(level / "data1.mat", Uel)
    scipy_io.savemat(level / "ref.mat", {"Uelref": A(water).reshape(-1, 1)})
    truth = np.zeros((256, 256), np.uint8)
    truth[60:130, 140:210] = 2
    scipy_io.savemat(folder / "true1.mat", {"truth": truth})
    return level / "data1.mat"


def test_the_derivative_is_that_of_the_voltages(rng):
    made = problem()
    x, dx = made.truth.astype(np.float64), rng.standard_normal(made.truth.shape)
    D = made.A.derivative(x)
    assert dot_test(D, x) < 1e-12
    h = 1e-5
    due = (made.A(x + h * dx) - made.A(x - h * dx)) / (2 * h)
    np.testing.assert_allclose(D(dx), due, atol=1e-6 * np.abs(due).max())


def test_pictures_of_water_are_water():
    picture = Picture(disc(5, 8), 16)
    water = np.full(picture.image_shape, 0.5)
    np.testing.assert_allclose(picture(water), 1, rtol=1e-12)
    np.testing.assert_allclose(picture(water + 0.25), 10**0.5, rtol=1e-12)
    ramp = 0.5 + np.linspace(-0.2, 0.2, 16) * np.ones((1, 16, 16))
    found = np.log10(picture(ramp)) / 2
    inner = np.abs(picture.mesh.centres[:, 0]) < 0.8
    due = picture.mesh.centres[:, 0] * 0.4 * 8 / 15
    np.testing.assert_allclose(found[inner], due[inner], atol=1e-9)
    np.testing.assert_allclose(
        picture.approximate_inverse(picture(ramp))[0, 8, 4:12], ramp[0, 8, 4:12],
        atol=0.06,
    )  # fmt: skip


def test_noise_is_as_told():
    quiet, loud = (problem(replace(SMALL, noise=n)) for n in (0.0, 1e-2))
    clean = loud.A(loud.truth.astype(np.float64))
    np.testing.assert_allclose((loud.y - clean).std(), 1, rtol=0.25)
    np.testing.assert_allclose(quiet.y, quiet.A(quiet.truth), rtol=1e-3, atol=1)
    assert Eit().deviation(loud, replace(SMALL, noise=1e-2)) == 1
    assert Eit().deviation(quiet, replace(SMALL, noise=0.0)) == 0


def test_dbar_finds_things_where_they_are():
    """And has nothing to say of tanks of which not all of the boundary is known."""
    task, made = Eit(), problem(EitOptions(size=24, electrodes=8, noise=1e-6), "lungs")
    found, truth = task.baselines()["D-bar"](made).image[0], made.truth[0]
    turned = (found, found[::-1], found.T, found[::-1].T)
    likeness = [np.corrcoef(x.ravel(), truth.ravel())[0, 1] for x in turned]
    assert likeness[0] > max(0.6, *likeness[1:])
    blind = task.baselines()["D-bar"](replace(made, truth=None))
    assert blind.note.startswith("cutoff ")
    fewer = problem(replace(SMALL, missing=1))
    every, some = (list(classical(task, each)) for each in (made, fewer))
    assert some == [name for name in every if name != "D-bar"] != every
    with pytest.raises(ValueError, match="D-bar needs electrodes all around"):
        task.baselines()["D-bar"](fewer)
    voltages = made.scan.voltages  # as of a conductor without any resistance
    useless = replace(made, y=-voltages.weight * voltages.reference)
    assert (task.baselines()["D-bar"](useless).image == 0.5).all()


def test_a_phantom_is_shown_as_it_is_read(tmp_path):
    path, options = tmp_path / "a.png", EitOptions(size=16)
    Eit().save_picture_of("tank-1", options, path)
    shown = np.asarray(Image.open(path)) / 255
    assert np.abs(shown - Eit().read("tank-1", options).image[0]).max() < 0.01


def test_missing_electrodes_measure_nothing():
    made = problem(replace(SMALL, missing=2))
    zero = (made.y == 0).sum()
    assert made.y.size == 49
    assert zero == 49 - 25
    assert not made.A.project_to_samples(np.ones_like(made.y))[-2:].any()
    task = Eit()
    image = task.baselines()["TV"](made).image
    assert task.score(made, image)["SNR / dB"] > 1
    with pytest.raises(ValueError, match="missing must leave 4 of 8 electrodes"):
        problem(replace(SMALL, missing=5))


def test_baselines_find_what_is_there():
    task, made = Eit(), problem(replace(SMALL, electrodes=16), "lungs")
    assert list(task.baselines())[:2] == ["TSVD, discrepancy", "TSVD, SURE"]
    found = {}
    for name, method in task.baselines().items():
        estimate = method(made)
        found[name] = task.score(made, task.finished(estimate.image))["SNR / dB"]
        chosen = {"TSVD": "kept", "D-ba": "best cutoff"}.get(name[:4], "best weight")
        assert chosen in estimate.note
    assert found["TV, Gauss-Newton"] > found["TV"] + 0.5
    assert found["TV"] > found["Tikhonov"]
    assert min(found.values()) > 2
    blind = task.baselines()["TV"](replace(made, truth=None))
    assert "best" not in blind.note


def test_the_score_is_one_for_the_truth():
    pytest.importorskip("skimage")
    task, made = Eit(), problem(replace(SMALL, size=32))
    perfect = task.score(made, made.truth)
    assert perfect["score"] > 0.95
    water = task.score(made, np.full_like(made.truth, 0.5))
    assert water["score"] < 0.5
    assert water["SNR / dB"] == pytest.approx(0, abs=1e-6)


def test_a_generator_is_fitted_through_the_model():
    made = problem(replace(SMALL, noise=1e-2))
    options = {"iterations": 100, "progress": False, "rule": None, "average": 0.9}
    found = fit(made, generator_for("dip", made), **options)
    first, last = found.trajectory[0].data, found.trajectory[-1].data
    assert last < first / 8
    assert Eit().decibels(made, found.last) > 2


def test_a_fit_steps_back_from_conductivities_without_voltages():
    made = problem(replace(SMALL, noise=1e-2))
    sizes = {"features": (4,), "skips": (2,), "depth": 4}
    generator = Skip(channels=1, bounded=False, **sizes)
    options = {"iterations": 60, "progress": False, "rule": None}
    found = fit(made, generator, rate=1e30, **options)
    assert found.ending == "broken"
    assert np.isfinite(found.image).all()
    with pytest.raises(ValueError, match="must be positive"):
        made.scan.voltages.model(np.full(made.scan.voltages.image_shape, -1.0))


def test_a_network_sees_one_linear_step():
    source = Eit(size=16, electrodes=8).load()
    whole = source.batch(3, 5, range(2))
    assert whole.truth.shape == (2, 1, 16, 16)
    assert len(source.validation()) == 4
    recipe = Skip(
        channels=1, source="adjoint", bounded=False, features=(4,), skips=(2,)
    )
    state = recipe.begin(whole)
    for x, truth in zip(state["x"], whole.truth, strict=True):
        assert np.corrcoef(x.ravel(), truth.ravel())[0, 1] > 0.4
    assert preset("eit").network.source == "adjoint"


def test_measured_voltages_are_written_and_read(tmp_path):
    made = problem(replace(SMALL, missing=1))
    write_problem(tmp_path / "a.h5", Eit(), made)
    task, found = read_measurement(tmp_path / "a.h5")
    assert task.kind == "eit"
    np.testing.assert_allclose(found.y, made.y, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(
        found.A(made.truth), made.A(made.truth), rtol=1e-3, atol=1
    )
    held = Eit().arrays_to_save(made)
    model = made.scan.voltages.model
    radii = np.linalg.norm(model.mesh.nodes[model.mesh.triangles], axis=-1)
    inside = model.mesh.triangles[radii.max(1).argmin()][:2]  # the ends of an edge
    water = np.full(len(model.mesh.triangles), made.scan.voltages.water)
    absolute = np.where(held["deviation"] > 0, held["voltages"] + model(water), 0)
    changes = (
        ("edges", held["edges"][2:-2], "electrode 0 is missing"),
        ("currents", held["currents"][:-1], "do not fit"),
        ("deviation", -held["deviation"], "deviation must not be negative, nor 0"),
        ("deviation", 0 * held["deviation"], "nor 0 everywhere"),
        ("water", np.zeros(1), "water must be positive, got 0"),
        ("edges", held["edges"] - [[0, 0, 1]], "electrode 7 is missing"),
        ("edges", np.r_[held["edges"], [[0, 1, 8]]], "electrodes from 0 to 7"),
        ("edges", held["edges"][:, :2], "edges must have the shape"),
        ("edges", np.r_[held["edges"], [[*inside, 0]]], "must lie on the boundary"),
        ("water", np.ones(2), "water must be one number"),
        ("voltages", 1e3 * held["voltages"], "times those of the water alone"),
        *(
            ("voltages", unit * absolute, "must be differences from the voltages of wa")
            for unit in (1, -1, 0.6, 1000)
        ),
        ("references", absolute, "references would not be used: eit reads contact"),
        (
            "reference",
            np.roll(model(water), 1, axis=0),
            "reference differs by .*order?",
        ),
        ("reference", 0 * absolute, "the reference is 0 everywhere"),
        ("reference", absolute[:-1], "reference must have the shape of the voltages"),
        (
            "voltages",
            held["voltages"] * (np.arange(len(absolute)) != 2)[:, None],
            "voltages are 0 in pattern 2: .* set deviation to 0",
        ),
        ("currents", np.ones(()), "currents must have the shape"),
        ("contact", None, "contact is missing"),
        (
            "contact",
            held["contact"][:-1],
            "must have 8 numbers, one for each row",
        ),
        ("contact", -held["contact"], "arrays do not fit: contact must be positive"),
        ("triangles", held["triangles"] + 0.4, "triangles must be integers"),
        ("nodes", held["nodes"] + 1, r"nodes must lie around \(0, 0\)"),
        (
            "nodes",
            np.r_[held["nodes"], [[0.1, 0.1]]],
            "corners of triangles, 1 are not",
        ),
        ("truth", np.full((1, 40, 40), 0.5), "truth must not be water"),
        ("voltages", 0 * held["voltages"], "voltages are 0 everywhere"),
        ("pairs", held["pairs"][:, 1:], "make voltages .* but there are"),
    )
    refused(tmp_path / "d.h5", held, changes)
    flat = model(water)
    for unit in (1, -1e-3):  # of volts, and of the other polarity
        measured = {
            "voltages": unit * np.where(held["deviation"] > 0, absolute, flat),
            "deviation": abs(unit) * held["deviation"],
            "reference": unit * flat,
        }
        _, again = read_measurement(write_h5(tmp_path / "f.h5", **{**held, **measured}))
        np.testing.assert_allclose(
            again.y, found.y, rtol=1e-3, atol=1e-3 * found.y.max()
        )
    whole = {name: held[name].astype(np.int32) for name in ("triangles", "edges")}
    whole["water"] = held["water"].reshape(())
    _, again = read_measurement(write_h5(tmp_path / "e.h5", **{**held, **whole}))
    np.testing.assert_array_equal(again.y, found.y)


def test_files_without_truth_keep_the_size(tmp_path, capsys):
    path = tmp_path / "a.h5"
    write_problem(path, Eit(), problem(), truth=False)
    assert read_measurement(path)[1].scan.picture.size == SMALL.size
    held = Eit().arrays_to_save(problem())
    changes = (
        ("size", np.array([0.0]), r"size must be an integer in \[16, 1024\]"),
        ("size", np.array([32.9]), r"size must be an integer .* got 32\.9"),
    )
    refused(tmp_path / "b.h5", held, changes)
    # The deviations are those of the file, and no other.
    fit = ["fit", str(path), "--stop", "discrepancy", "--prior", "deep-decoder"]
    fit += ["--iterations", "2", "--device", "cpu", "--output", str(tmp_path)]
    assert main(fit) == 0
    assert main([*fit, "--deviation", "1e-6"]) == 2
    assert "does not apply to conductivities" in capsys.readouterr().err


def test_the_challenge_is_read(tmp_path, capsys):
    path = challenge(tmp_path)
    assert source_of(path).task.kind == "eit"
    task = Eit()
    assert task.files(path.parent) == [path]
    found = task.read(path, SMALL)
    assert isinstance(found, Problem)
    assert (found.y == 0).sum() == 1
    assert found.truth.shape == (1, 16, 16)
    voltages = found.scan.voltages
    assert voltages.water == pytest.approx(0.8, rel=0.01)
    np.testing.assert_allclose(voltages.model.contact, 2e-3, rtol=0.1)
    image = task.baselines()["TV"](found).image
    assert task.decibels(found, image) > 1
    assert main(["data", "inspect", str(path)]) == 0
    assert "34 voltages" in capsys.readouterr().out
    tank = read_tank(path.parent, 1)
    _, _, misfit = calibrated(voltages.model.mesh, tank)
    assert misfit < 1e-3
    y = tank.data - tank.reference
    assert (deviations(tank.reference, y, 0.1) > deviations(tank.reference, y, 0)).all()


def test_what_will_not_do_is_said_in_one_line(tmp_path, one_line):
    path = challenge(tmp_path, broken=True)
    for words, message in (
        (["tank", "--electrodes", "2"], "argument --electrodes: must lie in"),
        (["tank", "--missing", "14"], "argument --missing: must leave 4 of 16"),
        (["tank", "--views", "14"], "argument --views: does not apply"),
        ([str(path)], "currents must be (7, patterns)"),
    ):
        assert main(["reconstruct", *words, "--device", "cpu"]) == 2
        assert message in one_line()
    (tmp_path / "whole").mkdir()
    path = challenge(tmp_path / "whole")
    segmentation = path.parents[1] / "true1.mat"
    for damage, message in (
        (lambda: scipy_io.savemat(segmentation, {"x": 1}), "true1.mat has no truth"),
        (lambda: scipy_io.savemat(segmentation, {"truth": [[3]]}), "of 0, 1 and 2"),
        (lambda: segmentation.write_bytes(b"nothing"), "true1.mat as a MATLAB file"),
    ):
        damage()
        assert main(["reconstruct", str(path), "--device", "cpu"]) == 2
        assert message in one_line()
    (path.parent / "ref.mat").unlink()
    assert main(["reconstruct", str(path), "--device", "cpu"]) == 2
    assert "ref.mat, which does not exist" in one_line()
    assert main(["reconstruct", "tank", "--ensemble", "--device", "cpu"]) == 2
    assert "argument --ensemble: does not apply to conductivities" in one_line()


def test_without_weights_classical_methods_reconstruct(tmp_path, capsys):
    small = ["--size", "16", "--electrodes", "8", "--device", "cpu"]
    output = ["--output", str(tmp_path)]
    assert main(["reconstruct", "lungs", *small, *output]) == 0
    said = capsys.readouterr().out
    # The last of them is what is written, and made before those it is compared with.
    assert said.index("Gauss-Newton") < said.index("D-bar") < said.index("Tikhonov")
    assert "The image is that of the method: TV, Gauss-Newton." in said
    assert (tmp_path / "lungs-tv-gauss-newton.npz").exists()
    evaluate = ["evaluate", "eit", "--images", "lungs", *small, "--noise", "1e-4"]
    assert main([*evaluate, "--no-baselines", *output]) == 0
    assert "classical methods, on 1 image, " in capsys.readouterr().out
    fitted = ["fit", "lungs", "--prior", "deep-decoder", "--iterations", "3"]
    picture = str(tmp_path / "lungs.png")
    assert main([*fitted, *small, "--output", picture]) == 0
    assert (tmp_path / "lungs-iterations.csv").exists()
    with Image.open(picture) as picture:
        assert picture.size == (16, 16)
