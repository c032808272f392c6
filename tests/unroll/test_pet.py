"""Emission tomography: the unrolled EM network, and the task."""

from __future__ import annotations

import re
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from array_frameworks import Framework
from hdf5_files import refused, write_h5

from svdinv.cli import main
from svdinv.unroll.algorithms import EM, solve
from svdinv.unroll.algorithms.em import expected, sensitivities, subsets
from svdinv.unroll.fidelity import PoissonKL
from svdinv.unroll.inference import open_network, task_of_network
from svdinv.unroll.networks import EMNet
from svdinv.unroll.operators import ParallelBeam, dot_test
from svdinv.unroll.problem import Problem, batch
from svdinv.unroll.tasks.measured_files import read_measurement, write_problem
from svdinv.unroll.tasks.task import InputImage
from svdinv.unroll.tasks.tomography import pet
from svdinv.unroll.tasks.tomography.ct import Ct
from svdinv.unroll.tasks.tomography.pet import Factors, Pet, PetOptions, map_em, osem
from svdinv.unroll.torch import Network, save
from svdinv.unroll.training.config import preset

SMALL = PetOptions(views=16, counts=2e4, size=20, seed=3)


def problem(options=SMALL, name="activity-ellipses"):
    task = Pet()
    return task.measure(task.read(name, options), options)


def batched(*problems):
    return batch(problems).replace_arrays(torch.as_tensor)


# The network


def without_learning(recipe):
    network = Network(recipe, seed=0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "correction" in name:
                parameter.zero_()
    return network


def test_without_corrections_it_is_em():
    made = problem()
    count = len(made.A.operators)
    network = without_learning(EMNet(cells=2 * count, features=2, start=1))
    with torch.no_grad():
        found = network(batched(made))[0].numpy()
    flat = (made.y - made.fidelity.background).sum() / made.A.adjoint(
        np.ones_like(made.y)
    ).sum()
    start = np.full(made.truth.shape, flat, np.float32)
    due = solve(made, None, algorithm=EM(), iterations=3, x0=start, rtol=0).image
    np.testing.assert_allclose(found, due, rtol=2e-3, atol=2e-4 * due.max())


def test_counts_are_kept_and_images_positive(rng):
    A = ParallelBeam((12, 12), np.arange(0, 180, 20.0))
    y = rng.poisson(A(rng.random((2, 3, 12, 12)))).astype(np.float64)
    network = Network(EMNet(cells=3, features=3, weight=5.0), seed=1).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        x = network(torch.from_numpy(y), A).numpy()
    assert (x >= 0).all()
    assert np.std(x) > 0
    seen = A.adjoint(np.ones(A.data_shape))
    np.testing.assert_allclose(
        (seen * x).sum(axis=(-2, -1)), y.sum(axis=(-2, -1)), rtol=1e-10
    )


def test_frames_and_items_do_not_depend_on_each_other():
    first, other = (problem(replace(SMALL, seed=s)) for s in (0, 1))
    network = Network(EMNet(cells=2, features=3), seed=2)
    with torch.no_grad():
        both = network(batched(first, other)).numpy()
        alone = network(batched(other)).numpy()
        series = problem(replace(SMALL, frames=3), "kinetic")
        frames = network(batched(series)).numpy()[0]
    np.testing.assert_allclose(both[1], alone[0], atol=1e-5)
    task, scan = Pet(), series.scan
    for k in range(3):
        held = task.arrays_to_save(series)
        y, background = (held[n][k : k + 1] for n in ("counts", "background"))
        one = scan.problem(y, held["factors"], background)
        with torch.no_grad():
            found = network(batched(one)).numpy()[0, 0]
        np.testing.assert_allclose(found, frames[k], atol=1e-5)


# All frames together


def frames(seed=0, count=6, counts=2e4):
    options = replace(SMALL, size=24, frames=count, counts=counts, seed=seed)
    return problem(options, "kinetic")


def test_without_corrections_frames_are_of_low_rank():
    """Singular values of the frames, each over the deviation of its noise."""
    made = frames()
    count = len(made.A.operators)
    recipe = EMNet(cells=2 * count, features=2, components=2, weight=1e4)
    low = without_learning(recipe)
    with torch.no_grad():
        for cell in low.cells:
            cell.log_threshold.fill_(-20.0)
        plain = low(batched(made))[0].numpy()
        for cell in low.cells:
            cell.log_threshold.fill_(-0.8)
        found = low(batched(made))[0].numpy()
    em = without_learning(EMNet(cells=2 * count, features=2, start=1))
    with torch.no_grad():
        due = em(batched(made))[0].numpy()
    np.testing.assert_allclose(plain, due, atol=2e-3 * due.max())
    values = [np.linalg.svdvals(x.reshape(6, -1)) for x in (plain, found)]
    assert values[0][3] > 0.02 * values[0][0]
    assert values[1][3] < 0.5 * values[0][3]
    task = Pet()
    assert task.decibels(made, found) > task.decibels(made, plain) + 2


def test_one_threshold_serves_all_counts():
    """In units of the noise: untrained, it helps few counts and many."""
    task, gains = Pet(), []
    for counts in (3e3, 3e4, 3e5):
        made = frames(counts=counts)
        images = [
            without_learning(recipe)(batched(made))[0].detach().numpy()
            for recipe in (
                EMNet(cells=12, features=2),
                EMNet(cells=12, features=2, components=3, weight=2.0),
            )
        ]
        gains.append(np.diff([task.decibels(made, x) for x in images])[0])
    assert min(gains) > 1


def joint(made, **options):
    recipe = EMNet(cells=3, features=3, components=3, **options)
    network = Network(recipe, seed=4).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
    double = made.replace_arrays(lambda x: torch.as_tensor(x).double())
    return network, double


def test_frames_together_keep_counts_and_items_apart():
    one, other = frames(0), frames(1)
    network, both = joint(batch([one, other]))
    _, alone = joint(other.single())
    with torch.no_grad():
        found, due = network(both), network(alone)
    np.testing.assert_allclose(found[1], due[0], rtol=1e-9, atol=1e-12)
    assert (found >= 0).all()
    with torch.no_grad():
        cut = Network(replace(network.recipe, cells=2), seed=0).double()
        cut.load_state_dict(
            {n: x for n, x in network.state_dict().items() if "cells.2" not in n}
        )
        before = cut(both)
    part = list(subsets(both, before))[2]
    due, s = expected(before, part, sensitivities(both, before), 2)
    np.testing.assert_allclose((s * found).sum((-2, -1)), due.sum((-2, -1)), rtol=1e-9)


def test_the_order_of_frames_has_no_say():
    made = frames()
    network, given = joint(made.single())
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    held = Pet().arrays_to_save(made)
    y, background = (held[n][order.numpy()] for n in ("counts", "background"))
    turned = made.scan.problem(y, held["factors"], background)
    _, other = joint(turned.single())
    with torch.no_grad():
        one, two = network(given), network(other)
    np.testing.assert_allclose(one[:, order], two, rtol=1e-4, atol=1e-6)


def test_the_gradient_through_frames_is_that_of_finite_differences():
    """Of the numbers of the last cell, before which no component has changed."""
    network, given = joint(frames(count=4).single())
    cell = network.cells[-1]
    for weight in (cell.log_threshold, cell.log_weight, *cell.correction.parameters()):
        network.zero_grad()
        network(given).square().sum().backward()
        step = 1e-5 * torch.ones_like(weight)
        with torch.no_grad():
            values = []
            for sign in (1, -2):
                weight += sign * step
                values.append(network(given).square().sum())
            weight += step
        found = (weight.grad * 2 * step).sum()
        np.testing.assert_allclose(found, values[0] - values[1], rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_any_number_of_frames_has_finite_gradients(count):
    made = frames(count=count) if count > 1 else problem(replace(SMALL, size=24))
    empty = np.array(made.y)
    empty[: count // 2] = 0  # nothing was counted in some
    network, given = joint(replace(made, y=empty).single(), start=2)
    image = network(given)
    assert image.shape == (1, count, 24, 24)
    image.square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize("name", ["jax", "tensorflow", "array_api_strict"])
def test_every_framework_begins_alike(name):
    framework, made = Framework(name), problem().single()
    recipe = EMNet(cells=1, start=2)
    due = recipe.begin(made)["x"]
    found = recipe.begin(made.replace_arrays(framework.array))["x"]
    np.testing.assert_allclose(framework.numpy(found), due, rtol=1e-4)


def test_no_counts_at_all_have_finite_gradients():
    made = problem()
    empty = replace(made, y=0 * made.y, fidelity=PoissonKL(0.0))
    network = Network(EMNet(cells=2, features=2), seed=0)
    image = network(batched(empty))
    image.square().sum().backward()
    assert not image.detach().any()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters())


def test_the_network_refuses_what_it_cannot_do():
    network, y = Network(EMNet(cells=1, features=2)), torch.ones(1, 1, 9, 17)
    with pytest.raises(TypeError, match="EMNet needs a problem, or an operator"):
        network(y)
    A = ParallelBeam((12, 12), np.arange(0, 180, 20.0))
    with pytest.raises(TypeError, match="EMNet is for the data fidelity PoissonKL"):
        network(Problem(y, A))
    for name, value in (
        ("weight", 0.0), ("convs", 0), ("start", -1), ("components", -1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            EMNet(**{name: value})


# The task


def test_counts_and_background_are_as_told():
    made = problem(replace(SMALL, counts=1e6, background=0.3))
    np.testing.assert_allclose(made.y.sum(), 1e6, rtol=0.01)
    np.testing.assert_allclose(made.fidelity.background.sum(), 3e5, rtol=0.01)
    mean = made.A(made.truth) + made.fidelity.background
    np.testing.assert_allclose(((made.y - mean) ** 2 / mean).mean(), 1, atol=0.15)
    assert dot_test(made.A, made.truth) < 1e-6
    free = problem(replace(SMALL, counts=1e6, background=0.0, attenuation=0.0))
    assert not free.fidelity.background.any()
    assert np.ptp(Pet().arrays_to_save(free)["factors"]) == 0


def test_objects_may_be_finer_than_their_images():
    for name, extra in (("activity-ellipses", {}), ("kinetic", {"frames": 3})):
        options = replace(SMALL, counts=1e12, **extra)
        plain, fine = (problem(replace(options, finer=n), name) for n in (1, 3))
        assert fine.truth.dtype == fine.y.dtype == np.float32
        np.testing.assert_allclose(fine.truth, plain.truth, atol=0.3)
        expected = fine.A(fine.truth) + fine.fidelity.background
        error = np.linalg.norm(fine.y - expected) / np.linalg.norm(fine.y)
        # More than noise, and no shift of the rays, by one of whose widths:
        moved = np.linalg.norm(np.diff(fine.y)) / np.linalg.norm(fine.y)
        assert 1e-3 < error < 0.2 * moved
    task = Pet(size=16, projections=8, finer=(1, 2), slices=0.5)
    drawn = [task.load().problem(0, i, 0) for i in range(9)]
    assert {made.setting.endswith("finer") for made in drawn} == {True, False}
    assert {made.name for made in drawn} == {"tissues", "ellipses"}
    for share, name in ((0.0, "ellipses"), (1.0, "tissues")):
        items = replace(task, finer=(1,), slices=share).load()
        made = [items.problem(0, i, 0) for i in range(5)]
        assert {p.name for p in made} == {name}
        # Of tissues, pixels have many values; of ellipses, mostly a few.
        many = [len(np.unique(p.truth)) > 100 for p in made]
        assert all(many) == (name == "tissues")


def test_pictures_and_finer_phantoms_within_the_sizes():
    for finer in (1, 3):
        thin = InputImage("thin", np.ones((1, 16 * finer, 10 * finer)))
        with pytest.raises(
            ValueError, match=r"must have 11 pixels a side, has 16 x 10"
        ):
            Pet().measure(thin, replace(SMALL, finer=finer))
    for task, name in ((Pet(), "kinetic-sum"), (Ct(), "head-1")):
        options = task.options(size=2048, finer=3)
        with pytest.raises(ValueError, match="at most 4096, got 3 x 2048"):
            task.read(name, options)


def test_baselines_come_in_order():
    task, made = Pet(), problem(replace(SMALL, counts=1e5, size=32))
    found = {}
    for name, method in task.baselines().items():
        estimate = method(made)
        assert estimate.note.startswith("best ")
        found[name] = task.score(made, task.finished(estimate.image))["SNR / dB"]
    assert found["OSEM, filtered"] > found["OSEM"]
    assert found["MAP-EM, TV"] > found["MLEM"] + 0.5
    blind = replace(made, truth=None)
    for name, method in task.baselines().items():
        estimate = method(blind)
        assert "best" not in estimate.note
        assert task.score(made, estimate.image)["SNR / dB"] > found[name] - 6


def test_low_rank_helps_frames():
    options = PetOptions(size=24, frames=8, views=16, counts=2e4)
    task, made = Pet(), problem(options, "kinetic")
    assert made.y.shape[0] == 8
    alone = task.baselines()["OSEM, filtered"](made).image
    joint = map_em(made)
    assert task.decibels(made, joint.image) > task.decibels(made, alone)
    assert joint.note.startswith(("best Casorati", "best blocks"))
    assert task.moves(made)
    assert not task.moves(problem())


def test_a_step_has_series_of_one_length():
    source = Pet(size=16, projections=8, frames=(2, 5), counts=(1e3, 1e4)).load()
    lengths = set()
    for step in range(12):
        made = source.batch(0, step, range(2))
        assert made.truth.shape == (2, *made.y.shape[1:2], 16, 16)
        lengths.add(made.y.shape[1])
        assert made.truth.max() == 1
        assert made.truth.min() >= 0
    assert lengths == {2, 3, 4, 5}
    with pytest.raises(ValueError, match="frames must not fall"):
        Pet(frames=(3, 2))


def test_frames_and_single_images_have_weights_of_their_own():
    task, series, image = Pet(), frames(), problem()
    assert task.weights_for(series) == "pet-frames"
    assert task.weights_for(image) == "pet"
    assert task.suits_network(series, EMNet(components=2))
    assert not task.suits_network(image, EMNet(components=2))
    assert task.suits_network(image, EMNet())


def test_measured_counts_are_written_and_read(tmp_path):
    pytest.importorskip("h5py")
    made = problem(replace(SMALL, frames=3, views=14), "kinetic")
    write_problem(tmp_path / "a.h5", Pet(), made)
    task, found = read_measurement(tmp_path / "a.h5")
    assert task.kind == "pet"
    np.testing.assert_allclose(found.scale * found.truth, made.truth, rtol=1e-6)
    np.testing.assert_allclose(
        found.value(found.truth), made.value(made.truth), rtol=1e-5
    )
    again = found.scale * task.baselines()["OSEM"](found).image
    due = task.baselines()["OSEM"](made).image
    np.testing.assert_allclose(again, due, rtol=1e-3, atol=1e-5)
    scores = [task.score(p, osem(p).image) for p in (made, found)]
    assert scores[1] == pytest.approx(scores[0], rel=1e-3)
    durations = Pet().arrays_to_save(made) | {"factors": np.ones(3)}
    write_h5(tmp_path / "b.h5", **durations)
    with pytest.raises(
        ValueError, match=r"got \(3,\): for frames reshape it to \(3, 1"
    ):
        read_measurement(tmp_path / "b.h5")


def test_activities_of_any_unit(tmp_path):
    """Whole counts, and factors of a strange unit: images are about 1 all the same."""
    made = problem()
    held = Pet().arrays_to_save(made)
    held |= {"factors": 1e-4 * held["factors"], "truth": 1e4 * made.truth}
    held["counts"] = held["counts"].astype(np.int32)
    task, found = read_measurement(write_h5(tmp_path / "a.h5", **held))
    assert 0.5 < found.truth.max() < 2
    np.testing.assert_allclose(found.scale * found.truth, held["truth"], rtol=1e-5)
    np.testing.assert_array_equal(found.y[0], held["counts"][0])
    task.save(tmp_path / "b.npy", found.truth, found)
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), held["truth"], rtol=1e-5)
    write_problem(tmp_path / "c.h5", task, found)
    _, again = read_measurement(tmp_path / "c.h5")
    np.testing.assert_allclose(again.y, found.y, rtol=1e-6)
    np.testing.assert_allclose(again.scale, found.scale, rtol=1e-5)


def test_counts_that_no_image_explains_are_told(tmp_path, capsys):
    """The deviance is 1 of Poisson noise, and large for detectors that are dead."""
    made = Pet().arrays_to_save(problem(PetOptions(size=32, views=30, counts=3e5)))
    path = tmp_path / "a.h5"
    dead = made["counts"] * (np.arange(made["counts"].shape[-1]) % 8 != 3)
    for counts, told in ((made["counts"], False), (dead, True)):
        write_h5(path, **{**made, "counts": counts.astype(int)})
        assert main(["reconstruct", str(path), "--output", str(tmp_path)]) == 0
        printed = capsys.readouterr().out
        assert ("None of these images explains the data" in printed) == told
        task, read = read_measurement(path)
        image = task.baselines()["MLEM"](read).image
        deviance = 2 * read.fidelity.distance(read.A(image), read.y) / read.y.size
        assert task.score(read, image) == {"deviance": pytest.approx(deviance)}
        assert (0.7 < deviance < 1.3) != told


def test_damaged_files_are_refused(tmp_path, capsys):
    made = Pet().arrays_to_save(problem())
    negative = made["counts"].copy()
    negative[0, 2, 3] = -1
    changes = (
        ("geometry", np.ones(3), "geometry must have the shape"),
        ("geometry", np.r_[20.0, 20, -1, 0], "is invalid"),
        ("geometry", np.r_[20.5, 20, 1, 0], "geometry must begin with integer rows"),
        ("geometry", np.r_[20.0, 1e6, 1, 0], "geometry must have 11 to 4096 pixels"),
        ("geometry", np.r_[20.0, 20, 1, 500], "must lie on lines through the image"),
        ("angles", np.ones(3), "angles must have the shape"),
        ("counts", negative, "counts must not be negative: do not subtract randoms"),
        ("counts", 0 * negative, "counts must not be all 0"),
        ("background", np.ones((3, 2)), "background must broadcast"),
        ("background", 2 * made["counts"], "background adds up to .*, more than the"),
        ("factors", -np.ones(1), "factors must not be negative$"),
        ("truth", np.zeros((1, 20, 20)), "truth must be positive somewhere"),
        ("factor", np.ones(1), r"factor would not be used: pet .* mean factors\?"),
        ("randoms", np.ones(2), "randoms would not be used: pet reads angles, backgr"),
    )
    refused(tmp_path / "d.h5", made, changes)
    # A background is of no account where there are no detectors.
    there = np.arange(made["counts"].shape[-1]) > 4
    most = np.where(there, made["background"], made["counts"].sum())
    dead = {"counts": made["counts"] * there, "factors": made["factors"] * there}
    write_h5(tmp_path / "d.h5", **{**made, **dead, "background": most})
    assert read_measurement(tmp_path / "d.h5")
    few = {key: made[key] for key in ("counts", "angles", "geometry")}
    few["weight"] = np.array(70.0)  # of the patient: a note
    path = write_h5(tmp_path / "d.h5", **few)
    with h5py.File(path, "a") as file:
        file["same"] = file["counts"]
        file["link"] = h5py.SoftLink("/counts")
        file["scale"] = np.arange(3.0)
        file["scale"].make_scale("view")
        file["elsewhere/notes"] = np.ones(3)
    _, found = read_measurement(path)
    assert main(["data", "inspect", str(tmp_path / "d.h5")]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"\n  factors .*, all 1\n  background .*, all 0\n", shown)
    image = Pet().baselines()["OSEM"](found).image
    assert 0.3 < image.max() < 3


def test_factors_of_a_batch_are_stacked(rng):
    one, other = (Factors(rng.random((4, 5))) for _ in range(2))
    both = one.stacked([other], np.ones((2, 4, 5)))
    x = rng.random((2, 2, 4, 5))
    np.testing.assert_allclose(both(x)[1], other(x[1]))
    with pytest.raises(ValueError, match="cannot form a batch"):
        one.stacked([ParallelBeam((4, 4), [0])], x)


def test_weights_know_their_task(tmp_path):
    config = preset("pet")
    assert config.task.kind == "pet"
    assert isinstance(config.network, EMNet)
    network = Network(EMNet(cells=1, features=2), seed=0)
    assert task_of_network(network).kind != "pet"  # by its images alone
    network.task = "pet"
    save(network, tmp_path / "weights.safetensors")
    assert task_of_network(open_network(tmp_path)).kind == "pet"


def test_it_is_trained_and_reconstructs(tmp_path, capsys):
    pytest.importorskip("h5py")
    tiny = ["task.size=16", "task.projections=8", "task.validation=1"]
    tiny += ["network.features=2", "network.cells=2"]
    sets = [word for text in tiny for word in ("--set", text)]
    run = str(tmp_path / "run")
    train = ["train", "pet", "--steps", "2", "--device", "cpu", *sets]
    assert main([*train, "--output", run]) == 0
    scan = str(tmp_path / "scan.h5")
    small = ["--size", "16", "--views", "8", "--frames", "3"]
    assert main(["data", "write", "kinetic", *small, "--output", scan]) == 0
    assert main(["data", "inspect", scan]) == 0
    assert "3 frames of 16x16 pixels" in capsys.readouterr().out
    common = ["--weights", run, "--device", "cpu", "--output", str(tmp_path)]
    assert main(["reconstruct", scan, "--no-baselines", *common]) == 0
    assert np.load(tmp_path / "scan-network.npz")["series"].shape == (3, 16, 16)
    assert (tmp_path / "scan-network-animation.gif").exists()
    still = ["reconstruct", "kinetic-sum", "--size", "16", "--no-baselines", *common]
    assert main(still) == 0
    assert not list(tmp_path.glob("*sum*.gif"))
    assert list(tmp_path.glob("*sum*-panel.png"))
    fit = ["fit", scan, "--prior", "deep-decoder", "--iterations", "3"]
    assert main([*fit, "--device", "cpu", "--output", str(tmp_path)]) == 0
    capsys.readouterr()


def test_weights_are_looked_for_as_far_as_they_help(monkeypatch):
    """A weight that leaves nothing of the image ends EM early, and loses."""
    made = problem(replace(SMALL, size=24, counts=1e5, seed=0))
    scores = []
    for usual in (0.1, 0.3):
        monkeypatch.setitem(pet._FIXED_WEIGHT, "image", usual)
        estimate = map_em(made, priors=("image",))
        scores.append(Pet().decibels(made, estimate.image))
    assert abs(scores[0] - scores[1]) < 0.2
    mlem = Pet().baselines()["MLEM"](made).image
    assert min(scores) > Pet().decibels(made, mlem) - 0.2
    monkeypatch.setitem(pet._FIXED_WEIGHT, "image", 100.0)
    assert not map_em(replace(made, truth=None), priors=("image",)).image.any()
