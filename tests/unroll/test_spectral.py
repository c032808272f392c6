"""Spectral tomography: bins of energy, and what takes them together."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hdf5_files import refused
from PIL import Image

from svdinv.cli import main
from svdinv.unroll.algorithms import ISTA
from svdinv.unroll.inference import shipped
from svdinv.unroll.networks import JointPrimalDual, LowRank, PrimalDual, Unrolled
from svdinv.unroll.networks.functional import svt
from svdinv.unroll.tasks.measured_files import read_measurement, write_problem
from svdinv.unroll.tasks.reading import source_of
from svdinv.unroll.tasks.tomography.ct import Ct
from svdinv.unroll.tasks.tomography.spectral import SpectralCt, SpectralOptions, bins_of
from svdinv.unroll.torch import Network
from svdinv.unroll.training.config import preset

SMALL = SpectralOptions(views=16, size=24, bins=5, photons=3e4)


def problem(options=SMALL, name="spectral:head-1"):
    task = SpectralCt()
    return task.measure(task.read(name, options), options)


def test_bins_are_those_of_the_tables():
    share, attenuation = bins_of(80)  # of 1 keV
    np.testing.assert_allclose(share.sum(), 1)
    assert (share > 0).all()
    for energy, values in {
        40: (1.06 * 0.2688, 1.92 * 0.6655, 0.06920),
        60: (1.06 * 0.2048, 1.92 * 0.3148, 0.1175),
        100: (1.06 * 0.1693, 1.92 * 0.1855, 0.03109),
    }.items():
        below, above = attenuation[:, energy - 31], attenuation[:, energy - 30]
        assert (below > values).all()
        assert (above < values).all()
        np.testing.assert_allclose(below, above, rtol=0.07)
    rises = np.diff(attenuation) > 0
    assert not rises[:2].any()
    assert set(np.flatnonzero(rises[2])) <= {19, 20}  # the K-edge at 50.24 keV
    assert rises[2].any()
    # A bin is the mean over its photons of narrower ones.
    wide, mean = bins_of(8)
    np.testing.assert_allclose(share.reshape(8, 10).sum(1), wide, rtol=1e-3)
    due = (share * attenuation).reshape(3, 8, 10).sum(-1) / wide
    np.testing.assert_allclose(mean, due, rtol=1e-3)


def test_images_are_of_three_materials():
    image = problem().truth
    assert image.shape == (5, 24, 24)
    assert image.min() >= 0
    values = np.linalg.svd(image.reshape(5, -1), compute_uv=False)
    assert values[2] > 1e-3 * values[0] > 1e3 * values[3]
    other = SpectralCt().read("spectral:head-1", replace(SMALL, seed=1))
    assert not np.allclose(other.image, image)  # gadolinium is elsewhere


def test_photons_make_the_noise_and_the_weights():
    """Noise over its deviation, the root of the inverse count, has variance 1."""
    options = replace(SMALL, photons=1e6, size=48)
    made = problem(options)
    assert made.y.shape[:2] == (5, 16)
    clean = made.A(made.truth)
    share, _ = bins_of(5)
    unit = made.scan.unit
    counts = 1e6 * share[:, None, None] * np.exp(-unit * clean)
    normal = unit * (made.y - clean) * np.sqrt(counts)
    np.testing.assert_allclose((normal**2).mean(axis=(1, 2)), 1, atol=0.15)
    weight = made.fidelity.weight
    assert weight.max() == 1
    ratio = weight / counts
    np.testing.assert_allclose(ratio / ratio.mean(), 1, atol=0.1)
    assert SpectralCt().deviation(made, options) is None


def test_noise_without_photons_is_white():
    options = replace(SMALL, photons=None, noise=0.05)
    made, clean = problem(options), problem(replace(options, noise=1e-9))
    assert made.fidelity.weight is None
    deviation = SpectralCt().deviation(made, options)
    np.testing.assert_allclose((made.y - clean.y).std(), deviation, rtol=0.1)
    assert "photons" not in made.setting
    assert "100000 photons" in problem(replace(SMALL, photons=None)).setting


def test_what_takes_bins_together_is_ahead():
    task, made = SpectralCt(), problem(replace(SMALL, views=24, bins=4))
    found = {}
    for name, method in task.baselines().items():
        estimate = method(made)
        assert (estimate.image >= 0).all()
        found[name] = task.score(made, estimate.image)["SNR / dB"]
    assert found["low rank"] > found["FBP"] + 3
    assert found["TV"] > found["FBP"] + 5
    assert found["TNV"] > found["TV"] + 0.5
    blind = replace(made, truth=None)
    for name in ("low rank", "TNV"):  # the others are those of one image
        image = task.baselines()[name](blind).image
        assert task.score(made, image)["SNR / dB"] > found[name] - 4


def test_weights_help():
    made = problem(replace(SMALL, photons=1e4))
    method = SpectralCt().baselines()["TNV"]
    plain = replace(made, fidelity=type(made.fidelity)())
    scores = [SpectralCt().decibels(made, method(p).image) for p in (made, plain)]
    assert scores[0] > scores[1] + 0.2


def test_files_have_the_scale_of_the_simulation(tmp_path):
    pytest.importorskip("h5py")
    made = problem(replace(SMALL, noise=3.0))
    write_problem(tmp_path / "a.h5", SpectralCt(), made)
    assert read_measurement(tmp_path / "a.h5")[1].scale == 1


def test_measured_sinograms_are_written_and_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    made = problem()
    write_problem(tmp_path / "a.h5", SpectralCt(), made)
    task, found = read_measurement(tmp_path / "a.h5")
    assert task.kind == "spectral-ct"
    np.testing.assert_allclose(found.scale * found.truth, made.truth, rtol=1e-5)
    np.testing.assert_allclose(found.scale * found.y, made.y, rtol=1e-5)
    np.testing.assert_allclose(found.fidelity.weight, made.fidelity.weight)
    changes = (
        ("sinogram", np.ones((4, 5)), r"must have the shape \(bins, views, detectors"),
        ("angles", np.ones(3), "angles must have the shape"),
        ("weights", np.ones((2, 2)), "weights must have the shape"),
        ("weights", -made.fidelity.weight, "weights must be positive for some"),
        ("weights", made.y * (np.arange(5) > 0)[:, None, None], "of each bin"),
        ("truth", np.ones((1, 24, 24)), "truth must have the shape"),
    )
    arrays, kind = SpectralCt().arrays_to_save(made), {"kind": "spectral-ct"}
    refused(tmp_path / "b.h5", arrays, changes, kind)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["weights"][:, :, 0] = 0  # a dead detector
    _, found = read_measurement(tmp_path / "a.h5")
    assert not found.fidelity.weight[:, :, 0].any()
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["weights"]
    _, found = read_measurement(tmp_path / "a.h5")
    due = np.exp(-made.scan.unit * made.y)  # of as many photons in each bin
    np.testing.assert_allclose(found.fidelity.weight, due / due.max(), rtol=1e-4)


def test_bins_of_the_training_are_channels_of_the_network():
    config = preset("spectral-ct")
    four = replace(config.task, bins=4)
    assert replace(config, task=four).network == config.network  # for any number
    with pytest.raises(ValueError, match="channels must be 4 for the task spectral-ct"):
        replace(config, task=four, network=PrimalDual(channels=8))


def test_photons_must_not_fall():
    with pytest.raises(ValueError, match="photons must not fall"):
        SpectralCt(photons=(2e4, 1e4))


def test_low_rank_over_the_bins_is_learned(rng):
    recipe = Unrolled(
        cells=2, algorithm=ISTA(), prior=LowRank(joint=True), images="image"
    )
    x = rng.standard_normal((2, 5, 8, 8)).astype(np.float32)
    network = Network(recipe, seed=0)
    layers = SimpleNamespace(threshold=torch.tensor(-2.0), svt=svt)
    found = recipe.prior.prox(torch.from_numpy(x), 1.0, layers)
    for image, before in zip(found.numpy(), x, strict=True):
        U, s, Vh = np.linalg.svd(before.reshape(5, 64), full_matrices=False)
        s = np.maximum(s - s[0] / (1 + np.exp(2)), 0)
        np.testing.assert_allclose(image.reshape(5, 64), (U * s) @ Vh, atol=1e-5)
    made = problem(SMALL).single().replace_arrays(torch.from_numpy)
    network(made).sum().backward()
    assert all(p.grad.abs() > 0 for p in network.parameters())


def test_pictures_are_materials_too(tmp_path):
    grey = np.uint8(np.linspace(0, 255, 40 * 48).reshape(40, 48))
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "a.png")
    task = source_of(f"spectral:{tmp_path / 'a.png'}").task
    assert task.kind == "spectral-ct"
    (name,) = task.files(tmp_path)
    given = task.read(name, replace(SMALL, size=None))
    assert given.image.shape == (5, 40, 48)
    assert isinstance(source_of("head-1").task, Ct)
    assert source_of("head-1").task.kind == "ct"


def test_weights_for_problems_that_they_suit():
    task, recipe = SpectralCt(), JointPrimalDual()
    for options, named, suited in (
        ({}, "spectral-ct", True),
        ({"arc": 90.0}, "", True),
        ({"bins": 3}, "", False),
    ):
        case = problem(replace(SMALL, **options))
        assert task.weights_for(case) == shipped(task, case) == named
        assert task.suits_network(case, recipe) == suited
        assert task.suits_network(case, LowRank())


def test_it_is_trained_and_reconstructs(tmp_path, capsys):
    pytest.importorskip("h5py")
    assert isinstance(preset("spectral-ct").network, JointPrimalDual)
    tiny = ["task.size=[16]", "task.projections=[8]", "task.validation=1"]
    tiny += ["task.bins=4", "network.kind=PrimalDual", "network.channels=4"]
    tiny += ["network.features=2"]
    sets = [word for text in [*tiny, "network.cells=2"] for word in ("--set", text)]
    run = str(tmp_path / "run")
    train = ["train", "spectral-ct", "--steps", "2", "--device", "cpu", *sets]
    assert main([*train, "--output", run]) == 0
    scan = str(tmp_path / "scan.h5")
    small = ["--size", "16", "--views", "8", "--bins", "4"]
    write = ["data", "write", "spectral:walnut-1", *small, "--output", scan]
    assert main(write) == 0
    assert main(["data", "inspect", scan]) == 0
    assert "4 bins of energy of 16x16 pixels" in capsys.readouterr().out
    common = ["--weights", run, "--device", "cpu", "--output", str(tmp_path)]
    assert main(["reconstruct", scan, "--no-baselines", *common]) == 0
    found = np.load(tmp_path / "scan-network.npz")
    assert found["series"].shape == (4, 16, 16)
    with Image.open(tmp_path / "scan-network-panel.png") as panel:
        colours = np.asarray(panel.convert("RGB"), int)
    assert np.ptp(colours, axis=-1).max() > 20
    more = ["spectral:walnut-1", *small[:4], "--bins", "5", "--device", "cpu"]
    for words in (
        ["reconstruct", *more, "--weights", run],
        ["fit", *more, "--weights", run],
        ["evaluate", run, "--images", *more],
    ):
        assert main([*words, "--output", str(tmp_path / "other")]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert "these are for images with 4 channels, but" in said
        assert "walnut-1 has 5" in said
    show = ["data", "show", "spectral:head-1", *small[:2], "--output"]
    assert main([*show, str(tmp_path / "bins.png")]) == 0
    fit = ["fit", scan, "--prior", "dip", "--iterations", "3", "--device", "cpu"]
    assert main([*fit, "--low-rank", "1e-3", "--output", str(tmp_path)]) == 0
    capsys.readouterr()
