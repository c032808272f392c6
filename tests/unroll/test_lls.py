"""LLS-Net beside the classical iteration that it begins as, written down in NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from array_frameworks import gauss
from mri_reference import fourier, operators

from svdinv.unroll.data.masks import radial_mask
from svdinv.unroll.networks import LLS
from svdinv.unroll.operators import MRI, Identity, Wrapped
from svdinv.unroll.problem import Problem
from svdinv.unroll.tasks.cine.kspace import sampling
from svdinv.unroll.tasks.cine.phantom import coil_maps, heart
from svdinv.unroll.torch import Network

B, T, C = 2, 6, 3
SMALL = {"cells": 3, "features": 4}
SIZES = {"blocks that fit": (12, 8), "blocks that do not": (10, 7)}


def problem(size, coils, seed=0):
    """K-space, mask, and maps or None, in double precision."""
    rng = np.random.default_rng(seed)
    mask = rng.random((B, T, *size)) < 0.4
    if not coils:
        return mask * gauss(rng, B, T, *size), mask, None
    maps = gauss(rng, B, C, *size)
    maps /= np.linalg.norm(maps, axis=1, keepdims=True)
    return mask[:, :, None] * gauss(rng, B, T, C, *size), mask, maps


def reconstruct(net, kspace, mask, maps):
    given = [torch.from_numpy(x) for x in (kspace, mask, maps) if x is not None]
    with torch.no_grad():
        return net(*given).numpy()


def soft(s, tau):
    return np.maximum(s - tau, 0)


def log_sum(s, tau):
    """Minimise (x - s)^2 / 2 + 1.5 tau^2 log(1 + x / (1.5 tau)) over x >= 0."""
    e = 1.5 * tau
    stationary = (s - e + np.sqrt(np.maximum((s + e) ** 2 - 4 * e * tau, 0))) / 2
    return np.where(s > tau, stationary, 0)


def low_rank(v, block, index, tau, threshold=soft):
    """Threshold every block of (T, H, W), where it lies: nothing is filled up."""
    H, W = v.shape[-2:]
    down, right = 3 * index % block, 5 * index % block
    result = np.empty_like(v)
    for top in range(0, H, block):
        for left in range(0, W, block):
            rows = (down + np.arange(top, min(top + block, H))) % H
            columns = (right + np.arange(left, min(left + block, W))) % W
            place = np.ix_(range(len(v)), rows, columns)
            matrix = v[place].reshape(len(v), -1)
            u, s, vh = np.linalg.svd(matrix, full_matrices=False)
            matrix = (u * threshold(s, tau)) @ vh
            result[place] = matrix.reshape(v[place].shape)
    return result


def classical(recipe, y, mask, maps, cells=None):
    """Iterate as the network without its corrections, on one series."""
    A, AH = operators(mask, maps)
    x = AH(y)
    H, W = x.shape[-2:]
    unit = np.linalg.norm(x) / np.sqrt(H * W)

    # In front of all: gradient steps on one image for all frames.
    before = x
    for i in range(recipe.static):
        v = x + i / (i + 3) * (x - before)
        still = np.repeat(v.mean(axis=0, keepdims=True), len(v), axis=0)
        before, x = x, still - AH(A(still) - y)

    # In front of the first cell: thresholds fall, and momentum is begun anew.
    (coarse, fine), (first, middle, last) = recipe.start, recipe.start_thresholds
    least = 0.0
    if maps is not None:
        factor, deviations = recipe.start_coils
        last *= factor
        measured = Problem(y[None], MRI(mask[None], maps[None, None]))
        told = replace(recipe, noise=True, static=0, start=(0, 0))
        deviation = told.begin(measured)["deviation"][0]
        least = deviations * deviation**2 / (deviation + 0.004 * unit)
    before, age = x, 0
    for i in range(coarse + fine):
        if i < coarse:
            block, ends, progress = recipe.start_block, (first, middle), i / coarse
        else:
            progress = min(1, (i - coarse) / (fine / 3))
            block, ends = recipe.block, (middle, last)
        share = np.exp((1 - progress) * np.log(ends[0]) + progress * np.log(ends[1]))
        age = 0 if share > last * (1 + 1e-9) and i % 10 == 0 else age + 1
        v = x + age / (age + 3) * (x - before)
        L = low_rank(v, block, i, max(share * block * unit, least), log_sum)
        before, x = x, L - AH(A(L) - y)

    beta = 1 / (1 + np.exp(-recipe.momentum))
    share = 1 / (1 + np.exp(-recipe.threshold))
    if coarse + fine == 0:
        before = x
    for i in range(recipe.cells if cells is None else cells):
        v = x + beta * (x - before)
        L = low_rank(v, recipe.block, i, share * recipe.block * unit)
        before, x = x, L - recipe.step * AH(A(L) - y)
    return x


def without_corrections(net):
    with torch.no_grad():
        for cell in net.cells:
            cell.correction[-1].weight.zero_()
    return net


@pytest.mark.parametrize("coils", [False, True], ids=["one coil", "coils"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("static", "start"), [(0, (0, 0)), (0, (4, 21)), (0, (0, 5)), (7, (12, 0))], ids=str
)
def test_without_corrections_it_is_the_classical_iteration(static, start, size, coils):
    # Numbers that are exact in single precision, of which the weights are.
    steps = {"static": static, "start": start, "start_block": 6}
    recipe = LLS(**SMALL, block=4, **steps, step=0.75, momentum=-0.5)
    net = without_corrections(Network(recipe, seed=0).double())
    kspace, mask, maps = problem(SIZES[size], coils)
    found = reconstruct(net, kspace, mask, maps)
    for i in range(B):
        given = kspace[i], mask[i], None if maps is None else maps[i]
        expected = classical(recipe, *given)
        np.testing.assert_allclose(found[i], expected, atol=1e-11)
        zero_filled = operators(mask[i], given[2])[1](kspace[i])
        change = np.linalg.norm(expected - zero_filled)
        assert change > 0.05 * np.linalg.norm(zero_filled)


@pytest.mark.parametrize("deviations", [0.0, 0.5, 3.0])
def test_of_several_coils_thresholds_fall_farther_but_not_below_the_noise(deviations):
    steps = {"start": (6, 9), "start_coils": (0.25, deviations)}
    recipe = LLS(**SMALL, block=4, **steps)
    kspace, mask, maps = problem((10, 7), coils=True)
    state = recipe.begin(Problem(kspace, MRI(mask, maps[:, None])))
    usual = replace(recipe, start_coils=(1.0, 0.0))
    differs = usual.begin(Problem(kspace, MRI(mask, maps[:, None])))["x"]
    for i in range(B):
        expected = classical(recipe, kspace[i], mask[i], maps[i], cells=0)
        np.testing.assert_allclose(state["x"][i], expected, atol=1e-11)
    assert np.abs(state["x"] - differs).max() > 1e-3
    one = np.ones_like(maps[:, None, :1])
    for y, A in ((kspace[:, :, 0], MRI(mask)), (kspace[:, :, :1], MRI(mask, one))):
        alone, same = (r.begin(Problem(y, A))["x"] for r in (recipe, usual))
        np.testing.assert_array_equal(alone, same)


def finished(recipe, x, y, mask, maps, deviation):
    """Iterate behind the last cell, on one series."""
    A, AH = operators(mask, maps)
    network, before = x, x
    relative = min(1, deviation / np.sqrt(np.mean(np.abs(network) ** 2)))
    trust = 1 / (1 + (relative / recipe.finish_noise[maps is not None]) ** 4)
    tau = recipe.finish_threshold * np.linalg.norm(network)
    for i in range(recipe.finish):
        v = (x + i / (i + 3) * (x - before)).reshape(len(x), -1)
        u, s, vh = np.linalg.svd(v, full_matrices=False)
        L = ((u * log_sum(s, tau)) @ vh).reshape(x.shape)
        data = L - AH(A(L) - y)
        before, x = x, trust * data + (1 - trust) * network
    return x


@pytest.mark.parametrize("coils", [False, True], ids=["one coil", "coils"])
@pytest.mark.parametrize("noise", [False, True])
def test_behind_the_last_cell_it_iterates_near_the_network(coils, noise):
    recipe = LLS(**SMALL, noise=noise, step=0.75)
    # Levels of noise at which both the samples and the network count.
    steps = {"finish": 7, "finish_threshold": 0.05, "finish_noise": (0.8, 1.2)}
    kspace, mask, maps = problem((10, 7), coils)
    net = Network(recipe, seed=0).double()
    more = Network(replace(recipe, **steps), seed=0).double()
    before = reconstruct(net, kspace, mask, maps)
    found = reconstruct(more, kspace, mask, maps)
    known = Problem(kspace, more.recipe.operator(mask, maps))
    deviation = more.recipe.begin(known)["deviation"]
    for i in range(B):
        given = kspace[i], mask[i], None if maps is None else maps[i]
        expected = finished(more.recipe, before[i], *given, deviation[i])
        np.testing.assert_allclose(found[i], expected, atol=1e-11)
        change = np.linalg.norm(expected - before[i]) / np.linalg.norm(before[i])
        assert change > 0.005


def test_where_the_noise_is_not_known_there_are_no_last_iterations():
    kspace, mask, _ = problem((10, 7), coils=False)
    A, AH = operators(mask[0], None)
    measured = Problem(torch.from_numpy(kspace[:1]), MRI(torch.from_numpy(mask[:1])))
    other = replace(measured, A=Wrapped(A, AH, (T, 10, 7), (T, 10, 7)))
    recipe = LLS(**SMALL, step=0.75)
    finished = replace(recipe, finish=5, finish_noise=(1.0, 1.0))
    net, more = (Network(r, seed=0).double() for r in (recipe, finished))
    with torch.no_grad():
        torch.testing.assert_close(more(other), net(other), rtol=0, atol=0)
        assert (more(measured) - net(measured)).abs().max() > 1e-3


def test_with_much_noise_the_last_iterations_leave_the_network_alone():
    """Also where the network gives nothing, and nothing was measured."""
    kspace, mask, maps = problem((10, 7), coils=True)
    recipe = LLS(**SMALL, finish=5, finish_noise=(1e-3, 1e-3))
    net = Network(recipe, seed=0).double()
    alone = Network(replace(recipe, finish=0), seed=0).double()
    found, expected = (reconstruct(n, kspace, mask, maps) for n in (net, alone))
    np.testing.assert_allclose(found, expected, atol=1e-8)
    nothing = reconstruct(net, 0 * kspace, mask, maps)
    np.testing.assert_array_equal(nothing, np.zeros_like(nothing))


@pytest.mark.parametrize("size", [(12, 8), (11, 7)], ids=str)
def test_folded_corrections_see_squares_of_pixels_as_channels(size):
    """One convolution with the weights of the middle alone: each square by itself."""
    recipe = LLS(cells=1, convs=1, fold=2, block=4)
    net = Network(recipe, seed=0).double()
    (layer,) = [m for m in net.cells[0].correction if hasattr(m, "weight")]
    assert layer.weight.shape == (8, 16, 3, 3, 3)
    kspace, mask, _ = problem(size, coils=False)
    A, AH = operators(mask[0], None)
    with torch.no_grad():
        layer.weight.zero_()
        # The lower right pixel of each square: from the v of its upper left one.
        real_part, imaginary, upper_left, lower_right = 2, 3, 0, 3
        layer.weight[0 * 4 + lower_right, real_part * 4 + upper_left, 1, 1, 1] = 1
        layer.weight[1 * 4 + lower_right, imaginary * 4 + upper_left, 1, 1, 1] = 1
    v = AH(kspace[0])
    unit = 4 * np.linalg.norm(v) / np.sqrt(size[0] * size[1])
    z = low_rank(v, 4, 0, unit / (1 + np.exp(-recipe.threshold)))
    H, W = size
    z[:, 1::2, 1::2] += v[:, : H // 2 * 2 : 2, : W // 2 * 2 : 2]
    expected = z - AH(A(z) - kspace[0])
    found = reconstruct(net, kspace[:1], mask[:1], None)[0]
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_the_first_weights_correct_little():
    mask = radial_mask((T, 32, 32), 8)[None]
    kspace = mask * fourier(heart(T, 32, 32, seed=0).series[None])
    net = Network(LLS(cells=6), seed=0).double()
    found = reconstruct(net, kspace.astype(complex), mask, None)
    without = without_corrections(net)
    expected = reconstruct(without, kspace.astype(complex), mask, None)
    change = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-3 < change < 0.1


def told(net):
    """The same network, knowing the noise, but doing nothing about it."""
    other = Network(replace(net.recipe, noise=True)).double()
    weights = other.state_dict()
    for name, x in net.state_dict().items():
        weights[name].zero_()
        weights[name][tuple(map(slice, x.shape))] = x
    other.load_state_dict(weights)
    return other


@pytest.mark.parametrize("fold", [1, 2])
def test_a_network_that_knows_the_noise_may_do_nothing_about_it(fold):
    """So weights that were trained without are weights to begin with."""
    kspace, mask, maps = problem((8, 6), coils=True)
    net = Network(LLS(**SMALL, block=4, fold=fold), seed=0).double()
    before = reconstruct(net, kspace, mask, maps)
    new = told(net)
    # The convolutions have one channel more, of zeros: rounding may differ.
    found = reconstruct(new, kspace, mask, maps)
    np.testing.assert_allclose(found, before, rtol=0, atol=1e-13 * np.abs(before).max())
    for name in ("threshold_noise", "gamma_noise", "correction.0.weight"):
        changed = told(net)
        with torch.no_grad():
            weight = changed.state_dict()[f"cells.1.{name}"]
            weight[(slice(None), -1) if weight.ndim else ()] = 0.1
        found = reconstruct(changed, kspace, mask, maps)
        assert np.abs(found - before).max() > 1e-4 * np.abs(before).max(), name


@pytest.mark.parametrize("coils", [0, 3])
@pytest.mark.parametrize("pattern", ["radial", "variable-density", "vista"])
def test_the_noise_is_estimated_from_the_outer_samples(pattern, coils):
    rng = np.random.default_rng(2)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    smooth = np.exp(-8 * (x**2 + y**2)) * (1 + 0.2 * rng.random((6, 1, 1)))
    mask = sampling(pattern, smooth.shape, rng)[None]
    maps = coil_maps(coils, 64, 64, seed=0)[None] if coils else None
    A = LLS().operator(mask, maps)
    clean = A(smooth[None].astype(complex))
    noise = gauss(rng, *clean.shape) / np.sqrt(2)
    found = []
    for deviation in (0.1, 0.01):
        # What stands where nothing is sampled is no measurement.
        state = LLS(noise=True).begin(Problem(clean + deviation * noise, A))
        found.append(float(state["deviation"][0]) / deviation)
    np.testing.assert_allclose(found, 1, atol=0.1)


@pytest.mark.parametrize("deviation", [0.0, 0.02])
def test_what_all_coils_see_of_a_series_is_not_taken_for_noise(deviation):
    """A series with noise of its own, which is not that of the measurement."""
    rng = np.random.default_rng(0)
    series = 1 + 0.05 * gauss(rng, 6, 64, 64)
    mask = sampling("radial", series.shape, rng)[None]
    maps = coil_maps(4, 64, 64, seed=5)[None]
    A = LLS().operator(mask, maps)
    clean = A(series[None])
    noise = gauss(rng, *clean.shape) / np.sqrt(2)
    recipe = LLS(noise=True)
    state = recipe.begin(Problem(clean + deviation * noise, A))
    alone = Problem(clean[:, :, 0] + deviation * noise[:, :, 0], MRI(mask))
    found, one = float(state["deviation"][0]), recipe.begin(alone)["deviation"][0]
    assert abs(found - deviation) < 0.45 * abs(one - deviation)


def measured(maps):
    """Noisy k-space of a series by given maps, and its operator, all of NumPy."""
    rng = np.random.default_rng(0)
    series = 1 + 0.05 * gauss(rng, 2, 6, 16, 16)
    A = MRI(rng.random((6, 16, 16)) < 0.5, maps)
    clean = A(series)
    return Problem(clean + 0.02 * A.project_to_samples(gauss(rng, *clean.shape)), A)


def noise_of(problem):
    return np.asarray(LLS(noise=True).begin(problem)["deviation"])


def test_a_coil_that_is_switched_off_says_nothing_of_the_noise():
    maps = coil_maps(4, 16, 16, seed=0)
    off = np.arange(4) == 2
    known = measured(np.where(off[:, None, None], 0, maps))
    y = np.where(off[:, None, None], 0, known.y)
    others = Problem(y[:, :, ~off], MRI(known.A.mask, maps[~off]))
    found = noise_of(replace(known, y=y))
    np.testing.assert_allclose(found, noise_of(others), rtol=1e-6)


def test_maps_of_numpy_and_of_each_frame_go_with_data_of_pytorch():
    maps = coil_maps(3, 16, 16, seed=0)
    known = measured(np.stack([maps] * 6))
    y = torch.from_numpy(known.y)
    expected = noise_of(Problem(known.y, MRI(known.A.mask, maps)))
    assert expected.shape == (2,)
    for given in (maps, known.A.maps):
        found = noise_of(Problem(y, MRI(known.A.mask, given)))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_other_operators_leave_the_noise_unknown():
    y = gauss(np.random.default_rng(0), 2, 4, 8, 8)
    state = LLS(noise=True).begin(Problem(y, Identity()))
    np.testing.assert_array_equal(state["deviation"], [0, 0])
    nothing = LLS(noise=True).begin(Problem(0 * y, MRI(np.ones(y.shape, bool))))
    np.testing.assert_array_equal(nothing["deviation"], [0, 0])


def test_noise_is_yes_or_no():
    with pytest.raises(TypeError, match="noise must be true or false, got 1"):
        LLS(noise=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 0}, "block must be an integer of at least 1, got 0"),
        ({"block": 2.0}, "block must be an integer"),
        ({"convs": 0}, "convs must be an integer of at least 1, got 0"),
        ({"fold": 0}, "fold must be an integer of at least 1, got 0"),
        ({"static": -1}, "static must be an integer of at least 0, got -1"),
        ({"start": (2, -1)}, "start must be two integers of at least 0"),
        ({"start": (2, 1.5)}, "start must be two integers of at least 0"),
        ({"start": (2,)}, "start must be two integers of at least 0"),
        ({"start_block": 0}, "start_block must be an integer of at least 1"),
        ({"features": 0}, "features must be an integer of at least 1, got 0"),
        ({"start_thresholds": (0.1, 0.2, 0.1)}, "must be three falling positive"),
        ({"start_thresholds": (0.1, 0.1, 0.0)}, "must be three falling positive"),
        ({"start_thresholds": (float("nan"), 0.1, 0.1)}, "three falling positive"),
        ({"start_thresholds": (0.2, 0.1)}, "must be three falling positive"),
        ({"start_coils": (0.0, 1.0)}, r"start_coils must be a number in \(0, 1\]"),
        ({"start_coils": (1.5, 1.0)}, "start_coils must be a number in"),
        ({"start_coils": (1.0, -1.0)}, "start_coils must be a number in"),
        ({"start_coils": (1.0, float("nan"))}, "start_coils must be a number in"),
        ({"start_coils": (1.0,)}, "start_coils must be a number in"),
        ({"finish": -1}, "finish must be an integer of at least 0, got -1"),
        ({"finish_threshold": 0.0}, "finish_threshold must be a positive number"),
        ({"finish_noise": (0.1, 0.0)}, "finish_noise must be two positive numbers"),
        ({"finish_noise": (0.1,)}, "finish_noise must be two positive numbers"),
    ],
    ids=str,
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LLS(**options)
