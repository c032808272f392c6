from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from svdinv.unroll import inference, pretrained
from svdinv.unroll.algorithms import PDHG, solve
from svdinv.unroll.algorithms.non_local import denoise_non_local
from svdinv.unroll.data import centre_crop, photograph
from svdinv.unroll.inference import NAMES, apply, learned
from svdinv.unroll.metrics import psnr, snr
from svdinv.unroll.networks import TLR, NonLocal
from svdinv.unroll.priors import TotalVariation
from svdinv.unroll.tasks.cine.baselines import view_sharing
from svdinv.unroll.tasks.cine.hearts import heart_series
from svdinv.unroll.tasks.cine.task import Cine, CineOptions
from svdinv.unroll.tasks.cine.training import unseen_series
from svdinv.unroll.tasks.colour.task import (
    Colour,
    ColourOptions,
    channels_first,
    sampled,
)
from svdinv.unroll.tasks.task import InputImage, zero_filled
from svdinv.unroll.tasks.tomography.ct import Ct, CtOptions, penalised
from svdinv.unroll.tasks.tomography.pet import Pet, PetOptions, map_em, mlem
from svdinv.unroll.tasks.tomography.spectral import SpectralCt, SpectralOptions
from svdinv.unroll.torch import Network, save
from svdinv.unroll.training.config import preset


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "_FOLDER", tmp_path)
    return tmp_path


def test_weights_in_the_package_by_name(folder):
    network = Network(TLR(cells=1, features=2), seed=3)
    save(network, folder / "colour.safetensors")
    assert pretrained.names() == ["colour"]
    assert pretrained.path("colour") == folder / "colour.safetensors"
    loaded = pretrained.load("colour", svd=torch.linalg.svd)
    assert loaded.recipe == network.recipe
    assert loaded.cells[0].svd is torch.linalg.svd
    assert not loaded.training


@pytest.mark.parametrize("name", ["cine", "../colour", ""])
def test_others_are_refused_with_a_list_of_what_there_is(folder, name):
    with pytest.raises(ValueError, match="there are none"):
        pretrained.path(name)
    (folder / "colour.safetensors").touch()
    with pytest.raises(ValueError, match="there are colour"):
        pretrained.load(name)


def test_what_comes_with_the_package_can_be_loaded():
    assert pretrained.names() == [
        "cine",
        "colour",
        "colour-groups",
        "ct",
        "ct-limited",
        "denoise",
        "denoise-refined",
        "frame",
        "frame-coils",
        "pet",
        "pet-frames",
        "spectral-ct",
        "tlr",
    ]
    kinds = {"frame": "cine", "frame-coils": "cine", "pet-frames": "pet"}
    kinds["ct-limited"] = "ct"
    tomography = "pet", "ct", "spectral-ct"
    for name in pretrained.names():
        network = pretrained.load(name)
        task = inference.task_of_network(network)
        kind = kinds.get(name, name)
        assert task.kind == (kind if kind in ("cine", *tomography) else "colour")
        assert network.recipe.axes == ("B T H W" if kind == "cine" else "B C H W")


@pytest.mark.parametrize(
    "name", ["cine", "ct", "ct-limited", "pet", "pet-frames", "spectral-ct"]
)
def test_training_can_go_on_from_the_weights(name):
    assert pretrained.load(name).recipe == preset(name).network


def test_a_network_of_one_channel_is_for_series_whatever_their_number(tmp_path):
    recipe = NonLocal(images="series", channels=1, rounds=1, steps=1)
    save(Network(recipe), tmp_path / "a.safetensors")
    task = inference.task_of_network(inference.open_network(tmp_path / "a.safetensors"))
    assert task == Cine()


def test_the_refined_weights_for_colour_are_ahead_of_those_they_refine():
    """On a photograph that neither saw."""
    image = centre_crop(photograph("coffee"), 96)
    case = sampled("coffee", image, 0.3, seed=0)
    one, other = (
        Colour().decibels(case, apply(pretrained.load(name), Colour(), case).image)
        for name in ("tlr", "colour")
    )
    assert other > one + 0.2


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("noise", "gain"), [(0.0, 0.0), (0.05, 2.0)])
def test_noise_that_completed_pictures_keep_is_removed(noise, gain, together, tmp_path):
    """As deviating as predicts samples that are left out, by any network's image."""
    given = InputImage("coffee", channels_first(centre_crop(photograph("coffee"), 128)))
    options = ColourOptions(rate=0.4, noise=noise)
    if together:
        mask = np.random.default_rng(0).random((128, 128)) < 0.4
        np.save(tmp_path / "mask.npy", mask)
        options = replace(options, rate=None, mask=str(tmp_path / "mask.npy"))
    case = replace(Colour().measure(given, options), truth=None)
    network = pretrained.load("colour")
    before = apply(network, Colour(), case).image
    found = learned(network, Colour())[NAMES[False]](case)
    before, after = (psnr(given.image, x, peak=1) for x in (before, found.image))
    assert after >= before + gain
    if noise:
        deviation = float(found.note.rpartition(" ")[2])
        assert 0.7 * noise < deviation < 1.4 * noise
    else:
        assert (after, found.note) == (before, "")


def test_low_rank_of_groups_is_ahead_of_what_it_stands_behind():
    """On a crop that it never saw; and what was learned, of where it began."""
    name = "motorcycle_left"
    case = sampled(name, centre_crop(photograph(name), 64), 0.4, seed=0)
    learned = pretrained.load("colour-groups")
    inside, plain = pretrained.load("colour"), replace(learned.recipe, reweighted=())
    first, steps = Network(plain, seed=0), Network(plain)
    first.load_state_dict(first.state_dict() | inside.state_dict())
    steps.load_state_dict(learned.state_dict())
    before, fixed, found, reweighted = (
        Colour().decibels(case, apply(net, Colour(), case).image)
        for net in (inside, first, steps, learned)
    )
    assert found > before + 2
    assert found > fixed + 1
    assert reweighted > found + 0.05


def test_the_weights_for_noise_are_ahead_of_what_is_less_learned():
    """In the mean of crops that they never saw, told no noise."""
    gains = []
    for name in ("rocket", "motorcycle_left"):
        given = InputImage(name, channels_first(centre_crop(photograph(name), 128)))
        case = Colour().measure(given, ColourOptions(rate=1.0, noise=25 / 255))
        images = (
            denoise_non_local(case.y),
            apply(pretrained.load("denoise"), Colour(), case).image,
            apply(pretrained.load("denoise-refined"), Colour(), case).image,
        )
        fixed, learned, refined = (Colour().decibels(case, x) for x in images)
        gains.append((learned - fixed, refined - learned))
    first, second = (sum(gain) / len(gains) for gain in zip(*gains, strict=True))
    assert first > 0.05
    assert second > 0.15


def test_the_weights_for_tomography_are_ahead_of_total_variation():
    """On a kind of phantom that they never saw, whose best weight TV is told."""
    task, options = Ct(), CtOptions(views=60, noise=0.01, size=128, finer=2)
    case = task.measure(task.read("walnut-1", options), options)
    image = apply(pretrained.load("ct"), task, case).image
    rival = penalised(replace(case, truth=None), TotalVariation, 1.6e-4).image
    assert task.decibels(case, image) > task.decibels(case, rival) + 2.01


@pytest.mark.parametrize(("arc", "lead"), [(60, 0.7), (120, 1.0), (170, None)])
def test_views_of_less_than_half_a_turn_have_weights_of_their_own(arc, lead):
    """Ahead of the others, and of total variation, whose best weight is told."""
    task, options = Ct(), CtOptions(views=60, arc=arc, noise=0.01, size=96, finer=2)
    case = task.measure(task.read("walnut-1", options), options)
    assert task.weights_for(case) == ("ct" if lead is None else "ct-limited")
    if lead is None:
        return
    limited, usual = (
        task.decibels(case, apply(pretrained.load(name), task, case).image)
        for name in ("ct-limited", "ct")
    )
    assert limited > usual + lead
    rival = penalised(replace(case, truth=None), TotalVariation, 1e-5).image
    assert limited > task.decibels(case, rival) + 0.7


@pytest.mark.parametrize("counts", [1e4, 1e6, 1e8])
@pytest.mark.parametrize(
    ("name", "lead"),
    [("activity-ellipses", 0.4), ("kinetic-sum", 0.4), ("activity:head-1", -0.3)],
)
def test_the_weights_for_counts_beside_em(name, lead, counts):
    """Ahead, where objects are finer than their images; EM is told its iteration.

    Of a head, whose like they never saw, they are level.
    """
    task, options = Pet(), PetOptions(counts=counts, finer=2, seed=1000)
    case = task.measure(task.read(name, options), options)
    image = apply(pretrained.load("pet"), task, case).image
    assert snr(case.truth, image) > snr(case.truth, mlem(case).image) + lead


@pytest.mark.parametrize("counts", [1e4, 1e5])
def test_the_weights_for_frames_are_ahead_of_low_rank(counts):
    """On tissues that they never saw; low rank is told weight and iteration."""
    task, options = Pet(), PetOptions(counts=counts, frames=8, size=32, views=32)
    case = task.measure(task.read("kinetic", options), options)
    image = apply(pretrained.load("pet-frames"), task, case).image
    rival = map_em(case, priors=("Casorati",)).image
    assert snr(case.truth, image) > snr(case.truth, rival) + 1.5


@pytest.mark.parametrize(
    ("name", "photons", "weight", "lead"),
    [("walnut-1", 1e5, 1.3e-4, 2), ("head-1", 2e4, 4.9e-5, 0.5)],
)
def test_the_weights_for_bins_are_ahead_of_total_nuclear_variation(
    name, photons, weight, lead
):
    """Where objects are finer than their images; TNV is told its best weight."""
    task = SpectralCt()
    options = SpectralOptions(size=64, views=45, photons=photons, finer=2)
    case = task.measure(task.read(f"spectral:{name}", options), options)
    image = apply(pretrained.load("spectral-ct"), task, case).image
    prior = TotalVariation(weight, channels=-3)
    how = PDHG(nonnegative=True)
    found = solve(case, prior, algorithm=how, iterations=400, objective=False)
    quality = [task.score(case, x)["SNR / dB"] for x in (image, found.image)]
    assert quality[0] > quality[1] + lead


def test_lines_of_a_real_heart_are_ahead_of_view_sharing():
    """It has no weight, and is hard to beat where little moves."""
    task, options = Cine(), CineOptions(mask="vista")
    case = task.measure(task.read("long-axis", options), options)
    image = apply(pretrained.load("cine"), task, case).image
    shared = view_sharing(case).image
    assert snr(case.truth, image) > snr(case.truth, shared) + 1


@pytest.mark.parametrize(("coils", "least"), [(None, 22.5), (4, 25.0)])
def test_the_weights_for_one_frame_are_far_ahead_of_those_for_series(coils, least):
    """On a heart that neither saw, a quarter of its k-space with noise.

    Groups of complex patches make 21.0 and 24.2 dB.
    """
    series = unseen_series(3, frames=1, size=64)
    options = CineOptions(mask="radial", acceleration=4, coils=coils, noise=0.01)
    task = Cine()
    case = task.measure(InputImage("heart", series), options)
    name = "frame-coils" if coils else "frame"
    assert task.weights_for(case) == name
    one, other = (
        snr(series, apply(pretrained.load(name), task, case).image)
        for name in (name, "cine")
    )
    assert one > max(other + 2, least)


@pytest.mark.parametrize("noise", [None, 0.01])
def test_one_frame_of_several_coils_has_weights_by_its_noise(noise):
    series, task = heart_series("short-axis")[:1], Cine()
    options = CineOptions(mask="radial", acceleration=4, coils=8, noise=noise)
    case = task.measure(InputImage("heart", series), options)
    assert task.weights_for(case) == ("frame-coils" if noise else "cine")


def test_mirrored_views_of_one_frame():
    series, task = unseen_series(3, frames=1, size=32), Cine()
    case = task.measure(InputImage("heart", series), CineOptions(mask="radial"))
    *_, (turned, _) = task.views(case)  # the last is mirrored, and turned too
    image = apply(pretrained.load("frame"), task, turned).image
    assert image.shape == series.shape


def test_series_have_weights_of_their_own():
    task = Cine()
    series = unseen_series(3, frames=2, size=32)
    case = task.measure(InputImage("heart", series), CineOptions())
    assert task.weights_for(case) == "cine"
    assert not task.suits_network(case, pretrained.load("frame").recipe)
    assert task.suits_network(case, pretrained.load("cine").recipe)


def test_the_weights_for_series_are_far_ahead_of_their_own_start():
    """On a heart that they never saw; of lines there is a real heart above."""
    series = unseen_series(3, frames=8, size=64)
    task = Cine()
    case = task.measure(InputImage("heart", series), CineOptions(mask="radial"))
    network = pretrained.load("cine")
    start, whole = inference.learned(network, task).values()
    began, ended = (snr(series, f(case).image) for f in (start, whole))
    assert ended > began + 0.3
    assert ended > snr(series, zero_filled(case).image) + 5
