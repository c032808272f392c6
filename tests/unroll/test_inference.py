from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from svdinv.cli import main
from svdinv.unroll import inference
from svdinv.unroll.data import photograph
from svdinv.unroll.inference import START, VIEWS, apply, learned, task_of_network
from svdinv.unroll.metrics import psnr, snr, ssim
from svdinv.unroll.networks import LLS, LS, TLR
from svdinv.unroll.operators import Blur, Sampling
from svdinv.unroll.tasks import Task
from svdinv.unroll.tasks.cine import task as cine
from svdinv.unroll.tasks.cine.kspace import sampling
from svdinv.unroll.tasks.cine.phantom import coil_maps
from svdinv.unroll.tasks.cine.task import Cine
from svdinv.unroll.tasks.colour import task as colour
from svdinv.unroll.tasks.colour.task import Colour
from svdinv.unroll.tasks.task import Reconstruction, zero_filled
from svdinv.unroll.torch import Network, save

COLOUR, CINE = Colour(), Cine()


@dataclass(frozen=True, kw_only=True)
class OnlyTrained(Task):
    """A task without the options of reading and measuring."""

    kind: ClassVar[str] = "only-trained"


@pytest.fixture(scope="module")
def photo():
    return colour.sampled("cup", photograph("coffee")[100:180, 100:190], 0.4, seed=0)


def series(height, width, coils):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, height, width)) + 1j * rng.random((4, height, width))
    maps = coil_maps(coils, height, width, seed=0) if coils else None
    mask = sampling("radial", x.shape, np.random.default_rng(0))
    return cine.sampled("noise", x.astype(np.complex64), mask, maps)


@pytest.fixture(scope="module")
def network():
    options = {"block": 8, "start": "fill", "side": "samples", "low_rank_maps": 3}
    return Network(TLR(cells=1, features=4, **options), seed=0).eval()


@pytest.mark.parametrize("coils", [0, 3])
@pytest.mark.parametrize("size", [(20, 24), (21, 17)])
def test_views_of_a_series_are_views_of_its_k_space(size, coils):
    """Zero-filling every view, and turning it back, gives one and the same series."""
    problem = series(*size, coils)
    expected = zero_filled(problem).image
    views = list(CINE.views(problem))
    assert len(views) == VIEWS
    for view, undo in views:
        np.testing.assert_allclose(undo(zero_filled(view).image), expected, atol=1e-5)
    assert len({view.y.tobytes() for view, _ in views}) == VIEWS


@pytest.mark.parametrize("change", ["operator", "nothing sampled", "grey", "exact"])
def test_what_is_not_searched_for_noise(photo, change):
    """What a network found is returned, and no part is completed again."""
    mask = np.asarray(photo.A.pixel_mask)
    given = replace(photo, truth=None)
    if change == "operator":
        given = replace(given, A=Blur(np.ones((1, 1), np.float32)))
    elif change == "nothing sampled":
        given = replace(given, y=0 * photo.y, A=Sampling(mask & False))
    elif change == "grey":
        noise = np.random.default_rng(0).standard_normal(photo.y.shape[1:])
        grey = (photo.truth[:1] + 0.1 * noise).astype(np.float32)
        given = replace(given, y=np.where(mask, grey, np.float32(0)))
    else:
        given = photo
    found = Reconstruction(given.y)
    assert COLOUR.after_network(given, found, None) is found
    if change == "exact":
        with pytest.raises(TypeError, match="not callable"):  # of which it would ask
            COLOUR.after_network(replace(photo, truth=None), found, None)


def test_views_of_a_picture_turn_back(photo):
    views = list(COLOUR.views(photo))
    assert len({view.y.tobytes() for view, _ in views}) == VIEWS
    for view, undo in views:
        np.testing.assert_array_equal(undo(view.y), photo.y)
        mask = view.A.mask
        assert (view.y[~mask] == 0).all()


@pytest.fixture
def shapes(monkeypatch):
    """Give the shapes of what a network is applied to, in their order."""
    seen, reconstruct = [], inference.reconstruct

    def noted(network, problem, *rest):
        seen.append(problem.y.shape)
        return reconstruct(network, problem, *rest)

    monkeypatch.setattr(inference, "reconstruct", noted)
    return seen


def test_an_ensemble_is_the_mean_over_the_views(network, photo, shapes):
    image = apply(network, COLOUR, photo, ensemble=True).image
    assert len(shapes) == VIEWS
    images = [
        undo(inference.reconstruct(network, view)) for view, undo in COLOUR.views(photo)
    ]
    np.testing.assert_allclose(image, np.clip(np.mean(images, 0), 0, 1), atol=1e-6)
    assert np.abs(images[0] - images[3]).max() > 1e-4


def test_tiles_agree_with_the_whole(network, photo, shapes, monkeypatch):
    whole = apply(network, COLOUR, photo).image
    monkeypatch.setattr(inference, "_LARGEST", 64)
    monkeypatch.setattr(inference, "_TILE", 32)
    monkeypatch.setattr(inference, "_MARGIN", 24)
    shapes.clear()
    tiled = apply(network, COLOUR, photo).image
    assert len(shapes) == 9
    # The first estimate reaches far, and hardly counts there.
    assert 0 <= np.abs(tiled - whole).max() < 0.01
    assert np.abs(tiled - whole).mean() < 1e-4


def test_networks_of_whole_images_see_them_whole(photo, shapes, monkeypatch):
    monkeypatch.setattr(inference, "_LARGEST", 64)
    apply(Network(TLR(cells=1, features=2), seed=0), COLOUR, photo)
    given = series(80, 20, 0)
    apply(Network(LS(cells=1, features=2), seed=0), CINE, given)
    assert shapes == [photo.y.shape, given.y.shape]


def test_colours_stay_in_their_range_and_series_complex(network, photo):
    image = apply(network, COLOUR, replace(photo, y=3 * photo.y)).image
    assert image.min() >= 0
    assert image.max() == 1
    problem = series(16, 16, 2)
    image = apply(Network(LS(cells=1, features=2), seed=0), CINE, problem).image
    assert image.dtype == np.complex64
    assert image.shape == problem.truth.shape


def test_metrics_are_those_of_the_package(photo, rng):
    noisy = photo.truth + 0.1 * rng.random(photo.truth.shape, dtype=np.float32)
    x, z = np.moveaxis(photo.truth, 0, -1), np.moveaxis(noisy, 0, -1)
    expected = {"PSNR / dB": psnr(x, z), "SSIM": ssim(x, z)}
    # The order of a sum, and with it the last digits, is the processor's.
    assert COLOUR.score(photo, noisy) == pytest.approx(expected, rel=1e-6)
    problem = series(16, 16, 0)
    values = CINE.score(problem, 0.5 * problem.truth)
    assert values["SNR / dB"] == snr(problem.truth, 0.5 * problem.truth)
    assert list(values) == ["SNR / dB", "PSNR / dB", "SSIM"]
    unknown = COLOUR.score(replace(photo, truth=None), noisy)
    misfit = np.linalg.norm(photo.A(noisy) - photo.y) / np.linalg.norm(photo.y)
    assert unknown == {"misfit / %": pytest.approx(100 * misfit)}


def test_what_a_network_is_for(tmp_path, network, monkeypatch):
    save(network, tmp_path / "a.safetensors")
    assert (
        task_of_network(inference.open_network(tmp_path / "a.safetensors")).kind
        == "colour"
    )
    assert task_of_network(Network(LS(cells=1, features=2))).kind == "cine"
    monkeypatch.setattr(TLR, "axes", "B X Y Z")
    with pytest.raises(ValueError, match="not of images"):
        task_of_network(network)


@pytest.mark.parametrize("coils", [0, 3])
def test_the_start_of_a_network_is_what_it_is_without_cells(coils):
    problem = series(20, 24, coils)
    recipe = LLS(cells=1, features=2, block=4, static=3, start=(2, 4))
    network = Network(recipe, seed=0)
    image = learned(network, CINE)[START](problem).image
    with torch.no_grad():  # a cell that takes no step, and changes nothing
        network.cells[0].correction[-1].weight.zero_()
        network.cells[0].gamma.zero_()
        network.cells[0].threshold.fill_(-100.0)
        network.cells[0].momentum.fill_(-100.0)
    np.testing.assert_allclose(image, apply(network, CINE, problem).image, atol=1e-4)
    assert np.abs(image - zero_filled(problem).image).max() > 0.01


def test_networks_that_start_from_nothing_of_their_own_have_no_such_row(network):
    assert START not in learned(network, COLOUR)
    assert START not in learned(Network(LLS(cells=1, features=2), seed=0), CINE)
    assert START not in learned(Network(LS(cells=1, features=2), seed=0), CINE)


def test_a_file_of_weights_imports_nothing(tmp_path, network, monkeypatch):
    """Not even the module of its task; with that imported the task is found."""
    (tmp_path / "stranger.py").write_text(
        "from pathlib import Path\n"
        "from svdinv.unroll.tasks.colour.task import Colour\n"
        "class Mine(Colour):\n"
        "    kind = 'mine'\n"
        "Path(__file__).with_name('was-run').touch()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(network, "task", "stranger:Mine")
    save(network, tmp_path / "a.safetensors")
    opened = inference.open_network(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="import stranger before"):
        task_of_network(opened)
    assert not (tmp_path / "was-run").exists()
    try:
        importlib.import_module("stranger")
        assert task_of_network(opened).kind == "mine"
    finally:
        sys.modules.pop("stranger", None)


def test_a_task_that_can_only_be_trained_is_not_evaluated(
    tmp_path, network, capsys, monkeypatch
):
    monkeypatch.setattr(network, "task", f"{__name__}:OnlyTrained")
    save(network, tmp_path / "weights.safetensors")
    assert main(["evaluate", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "declares no `options` for its images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
