"""Low rank of groups with learned thresholds: formula, frameworks, gradient, limits."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_networks import check_gradients_of_each_item_by_vmap

import svdinv.unroll.networks.non_local as module
from svdinv.unroll import manual
from svdinv.unroll.algorithms.non_local import denoise_non_local, noise_deviation
from svdinv.unroll.networks import TLR, NonLocal, Refined
from svdinv.unroll.networks.noise import noise_of_kspace
from svdinv.unroll.networks.weights import shapes
from svdinv.unroll.operators import MRI, Sampling
from svdinv.unroll.priors.patch_matching import Groups
from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import Network, save

RECIPE = NonLocal(
    rounds=2, steps=2, patch=3, stride=2, count=9, reach=4, first=0.1, last=0.05
)
NOISY = replace(RECIPE, exact=False, rounds=1)
ALONE = replace(NOISY, alone=True)
REWEIGHTED = replace(RECIPE, rounds=1, reweighted=(4, 3))


def problem(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator, dtype=dtype)
    return x, torch.rand(shape, generator=generator) < 0.6


def network(recipe, dtype=torch.float64):
    """A network whose numbers are not those that it starts with."""
    net = Network(recipe, seed=0).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for number in net.parameters():
            noise = torch.randn(number.shape, generator=generator, dtype=torch.float64)
            number += 0.1 * noise.to(number)
    return net


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("recipe", [RECIPE, ALONE, REWEIGHTED])
def test_the_gradient_of_each_image_by_vmap(recipe):
    check_gradients_of_each_item_by_vmap(network(recipe), *problem(3, 3, 17, 16))


@pytest.mark.parametrize("recipe", [replace(RECIPE, rounds=1), NOISY, ALONE])
def test_formula(recipe):
    """Group by group, with `torch.linalg.svd` and the groups of the prior."""
    net = network(recipe)
    truth, mask = problem(1, 3, 17, 16)
    y = truth * mask
    cell = net.cells[0]

    def number(step, name):
        return getattr(cell, f"group_{step}_{name}")

    x, u = y[0], torch.zeros_like(y[0])
    groups = Groups(x, patch=3, stride=2, count=9, reach=4)
    first, known = groups.cut(x), groups.cut(mask[0].double())
    contrast = (first - first.mean(-2, keepdim=True)).square().mean((-2, -1))
    values = torch.linalg.svdvals(first - first.mean(-2, keepdim=True)) ** 2
    fourth = values.square().sum(-1) / first[0].numel() ** 2
    spread = ((contrast**2 + 1e-12) / (fourth + 1e-12)).log()
    noise = -0.5 * (1 / (contrast + 1e-6)).mean().log() + 4.5
    if recipe.alone:
        noise = y.new_tensor(math.log(noise_deviation(y[0].numpy())) + 4.5)
    density = (known.mean((-2, -1)) + 0.02).log() + 1.2
    first = ("spread", spread - 1) if recipe.alone else ("density", density)
    facts = {
        first[0]: first[1],
        "contrast": 0.5 * (contrast + 1e-6).log() + 3,
        "noise": noise.expand(len(contrast)),
    }
    way = torch.linspace(0, 1, 9, dtype=torch.float64)
    for step in range(2):
        count = 9 if recipe.exact else 1
        power = torch.stack([number(step, f"tau_{k}") for k in range(count)])
        for name, fact in facts.items():
            own = number(step, name)
            if recipe.exact:
                own = own + number(step, f"{name}_tilt") * way
            power = power + fact[:, None] * own
        G = groups.cut(x + u)
        mean = G.mean(-2, keepdim=True) if recipe.exact or recipe.alone else 0.0
        U, S, Vh = torch.linalg.svd(G - mean, full_matrices=False)
        if not recipe.exact:
            S = power.exp() * log_sum(S / power.exp(), 0.25, 0.002)
        else:
            S = (S - power.exp()).clamp_min(0)
        kept = U @ torch.diag_embed(S) @ Vh
        rank = kept.square().mean((-2, -1), keepdim=True) + 1e-6
        lost = (G - mean - kept).square().mean(-1, keepdim=True) + 1e-6
        weight = rank ** -number(step, "kept_power") * lost ** -number(
            step, "taken_power"
        )
        # The mean of the prior, of which all weights are one.
        z = groups.join(weight * (kept + mean)) / groups.join(weight.expand_as(G))
        z = z + number(step, "push") * (z - x)
        if recipe.alone and step == 1:
            x = z
            break
        if recipe.exact:
            x = torch.where(mask[0], y[0], z)
        else:
            mu = (-number(step, "trust") - number(step, "trust_noise") * noise).exp()
            x = (y[0] + mu * (z - u)) / (mask[0] + mu)
        if step == 0 and not recipe.alone:
            u = number(step, "gain") * (x - z)
    found = net(y, mask)[0]
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-10)
    assert (found - y[0]).abs().max() > 0.05


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_reweighting_finds_the_most_likely_image(dtype, monkeypatch):
    """The minimiser over the missing values, by its dense equations."""
    monkeypatch.setattr(module, "_ITERATIONS", 300)
    monkeypatch.setattr(module, "_NEAREST", 8)
    recipe = NonLocal(patch=3, stride=3, count=20, reach=4, channels=2)
    x, mask = problem(1, 2, 9, 8, dtype=dtype)
    given = Problem(x * mask, Sampling(mask))
    groups, nearest = (
        Groups(x[0], patch=3, stride=3, count=n, reach=4) for n in (20, 8)
    )
    G, known = groups.cut(x[0]), groups.cut(mask[0].double())
    G = G - G.mean(-2, keepdim=True)
    contrast = G.abs().square().mean((-2, -1))
    noise = -0.5 * (1 / (contrast + 1e-6)).mean().log() + 4.5
    density = (known.mean((-2, -1)) + 0.02).log() + 1.2
    contrast = (contrast + 1e-6).log() / 2 + 3
    e = torch.exp(-6.4 - 0.8 * density + 0.3 * contrast + 0.2 * noise)
    E = torch.kron(torch.tensor([[1, 0.5], [0.5, 1]]), torch.eye(9))
    C = G.mH @ G / 20 + e[:, None, None] ** 2 * E
    W = torch.linalg.inv(C)

    def gradient(image):
        image = image.clone().requires_grad_()
        G = nearest.cut(image[0])
        G = G - G.mean(-2, keepdim=True)
        (g,) = torch.autograd.grad((G @ W * G.conj()).sum().real, image)
        return g

    found = recipe.reweight(x, mask.double(), given)
    torch.testing.assert_close(found[mask], x[mask])
    slope, first = gradient(found), gradient(x)
    assert slope[~mask].abs().max() < 1e-6 * first[~mask].abs().max()
    assert (found - x).abs().max() > 0.1


def test_reweighted_patches_are_no_larger_than_the_image():
    x, mask = problem(1, 3, 5, 7)
    found, expected = (
        Network(replace(RECIPE, reweighted=(side,)), seed=0).double()(x * mask, mask)
        for side in (8, 5)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert found.isfinite().all()


def log_sum(s, tau, epsilon):
    """The larger root of the derivative of the objective, where that is less."""
    root = ((s + epsilon) ** 2 - 4 * tau).clamp_min(0).sqrt()
    y = ((s - epsilon + root) / 2).clamp_min(0)
    less = tau * torch.log1p(y / epsilon) + (s - y) ** 2 / 2 < s**2 / 2
    return torch.where(less, y, 0.0)


def test_noise_alone_begins_as_the_algorithm():
    generator = torch.Generator().manual_seed(4)
    truth = torch.linspace(0, 1, 48)[:, None] * torch.ones(1, 3, 48, 48)
    truth = torch.where(torch.arange(48) // 6 % 2 == 0, truth, 1 - truth)
    y = truth + 0.1 * torch.randn(truth.shape, generator=generator)
    net = Network(NonLocal(exact=False, alone=True, rounds=4, steps=1, stride=3))
    found = net(y, torch.ones_like(y) > 0).detach()[0].numpy()
    other = denoise_non_local(y[0].numpy())
    errors = [np.sqrt(np.mean((x - truth[0].numpy()) ** 2)) for x in (found, other)]
    assert errors[0] == pytest.approx(errors[1], rel=0.15)
    assert errors[0] < 0.03


@pytest.mark.parametrize("recipe", [RECIPE, NOISY, ALONE, REWEIGHTED])
def test_gradient_is_that_of_finite_differences(recipe):
    net = network(recipe)
    truth, mask = problem(1, 3, 17, 16)

    def loss():
        return (net(truth * mask, mask) - truth).square().sum()

    net.zero_grad()
    loss().backward()
    assert all(p.grad is not None for p in net.parameters())
    generator, h = torch.Generator().manual_seed(2), 1e-6
    way = [torch.randn((), generator=generator).double() for _ in net.parameters()]
    slope = sum(p.grad * d for p, d in zip(net.parameters(), way, strict=True))
    ends = []
    with torch.no_grad():
        for sign in (h, -2 * h):
            for parameter, d in zip(net.parameters(), way, strict=True):
                parameter += sign * d
            ends.append(loss())
    expected = (ends[0] - ends[1]) / (2 * h)
    assert float(slope) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("recipe", [RECIPE, NOISY, ALONE, REWEIGHTED])
def test_solver_of_numpy_finds_the_same_image_and_gradient(recipe, tmp_path):
    net = network(recipe, torch.float32)
    save(net, tmp_path / "net.safetensors")
    truth, mask = problem(2, 3, 17, 16, dtype=torch.float32)
    y = truth * mask
    solver = manual.load(tmp_path / "net.safetensors")
    image = net(y, mask)
    assert np.abs(solver(y.numpy(), mask.numpy()) - image.detach().numpy()).max() < 1e-5
    # In double precision: of single precision the sums of the gradient have 1e-4.
    net.double()
    y, truth = y.double(), truth.double()
    image = net(y, mask)
    found, pullback = solver.vjp(y.numpy(), mask.numpy())
    assert np.abs(found - image.detach().numpy()).max() < 1e-10
    gradient = pullback(found - truth.numpy())
    ((image - truth).square().sum() / 2).backward()
    for name, parameter in net.named_parameters():
        assert gradient[name] == pytest.approx(float(parameter.grad), abs=1e-8), name


def test_samples_without_noise_are_put_back_and_others_are_not():
    truth, mask = problem(1, 3, 12, 12)
    for recipe in (RECIPE, REWEIGHTED):
        exact = network(recipe)(truth * mask, mask)
        torch.testing.assert_close(exact[mask], truth[mask])
    noisy = network(NOISY)(truth * mask, mask)
    assert (noisy[mask] - truth[mask]).abs().max() > 1e-3


def test_begins_with_the_network_inside_and_keeps_its_weights():
    inside = Refined(network=TLR(cells=2, features=3), features=(3, 4))
    recipe = replace(RECIPE, network=inside, cells=0)
    assert shapes(inside).items() <= shapes(recipe).items()
    assert recipe.cells == 2
    net, own = network(recipe), Network(inside).double()
    own.load_state_dict({k: net.state_dict()[k] for k in own.state_dict()})
    truth, mask = problem(1, 3, 12, 12)
    given = Problem(truth * mask, recipe.operator(mask))
    expected = recipe.improve(own(truth * mask, mask), given, net.cells[-1])
    torch.testing.assert_close(net(truth * mask, mask), expected, rtol=0, atol=1e-12)


def test_complex_images_of_k_space():
    recipe = replace(RECIPE, channels=1)
    net = network(recipe)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 12, 12, generator=generator, dtype=torch.complex128)
    mask = torch.rand(2, 1, 12, 12, generator=generator) < 0.5
    A = MRI(mask)
    image = net(Problem(A(x), A))
    torch.testing.assert_close(A(image), A(x))
    turn = torch.tensor(1j, dtype=torch.complex128)
    torch.testing.assert_close(net(Problem(turn * A(x), A)), turn * image)
    (image - x).abs().square().sum().backward()
    assert all(bool(p.grad.isfinite()) for p in net.parameters())


@pytest.mark.parametrize("recipe", [RECIPE, REWEIGHTED])
def test_items_of_a_batch_do_not_see_each_other(recipe):
    net = network(recipe)
    truth, mask = problem(3, 3, 12, 10)
    whole = net(truth * mask, mask)
    for i in range(3):
        alone = net(truth[i : i + 1] * mask[i : i + 1], mask[i : i + 1])
        torch.testing.assert_close(whole[i : i + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reweighted", [(), (4,)])
def test_few_groups_at_a_time_make_the_same_image_in_less_memory(
    monkeypatch, reweighted
):
    recipe = replace(RECIPE, patch=4, stride=2, count=16, reweighted=reweighted)
    solver = manual.Solver(recipe)
    truth, mask = problem(1, 3, 96, 96, dtype=torch.float32)
    y, mask = (truth * mask).numpy(), mask.numpy()
    images, peaks = [], []
    for values in (2**30, 2**15):
        monkeypatch.setattr(module, "_VALUES", values)
        tracemalloc.start()
        images.append(solver(y, mask))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert np.abs(images[0] - images[1]).max() < 1e-5
    # Reweighting holds a matrix for each group, and is split into larger parts.
    assert peaks[1] < peaks[0] / (2 if reweighted else 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_finds_the_same_groups(dtype):
    """These types would round positions above 2048 and 256."""
    truth, mask = problem(1, 3, 50, 50, dtype=torch.float32)
    truth = truth.to(dtype).float()
    expected = network(RECIPE, torch.float32)(truth * mask, mask)
    found = network(RECIPE, dtype)((truth * mask).to(dtype), mask)
    assert found.dtype == dtype
    error = (found - expected).norm() / expected.norm()
    assert error < 10 * torch.finfo(dtype).eps


def test_reweighting_is_not_rounded_by_autocast():
    """The numbers of a new network are such that no product before it matters."""
    net = Network(REWEIGHTED, seed=0)
    truth, mask = problem(1, 3, 17, 16, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(truth * mask, mask)
    assert found.dtype == torch.float32
    assert (found - net(truth * mask, mask)).abs().max() < 1e-4


def test_reweighting_after_set_num_threads(rng):
    """PyTorch's LU of several covariances at once is wrong there."""
    mask = rng.random((1, 3, 24, 16)) < 0.6
    y = torch.tensor(rng.random(mask.shape) * mask, dtype=torch.float32)
    net = Network(NonLocal(rounds=1, steps=1, reweighted=(8,)))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with torch.no_grad():
                found.append(net(y, torch.tensor(mask)))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)


def test_one_channel_and_images_with_few_patches():
    recipe = replace(RECIPE, channels=1, count=64, reweighted=(3, 2))
    net = network(recipe)
    for size in ((3, 3), (4, 3), (5, 8)):
        truth, mask = problem(1, 1, *size)
        image = net(truth * mask, mask)
        assert image.shape == truth.shape
        assert bool(image.isfinite().all())


def test_wrong_input_is_refused():
    net = network(RECIPE)
    truth, mask = problem(1, 3, 12, 12)
    with pytest.raises(ValueError, match="at least a patch, 3,"):
        net(truth[..., :2, :], mask[..., :2, :])
    with pytest.raises(ValueError, match="3 channels"):
        net(truth[:, :1], mask[:, :1])
    with pytest.raises(FloatingPointError, match="whose patches are compared"):
        net(truth * math.nan, mask)
    net = network(REWEIGHTED)
    A = MRI(mask)
    with pytest.raises(TypeError, match=r"reweighted needs .* a mask, not MRI"):
        net(Problem(A(truth + 0j), A))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 5}, "stride must be at most patch, 4, got 5"),
        ({"count": 0}, "count must be an integer of at least 1"),
        ({"first": 0.0}, "first must be positive"),
        ({"cells": 2}, "cells must be 0 or 1, got 2"),
        ({"alone": True}, "alone needs exact=False, no network and no series"),
        ({"alone": True, "exact": False, "images": "series"}, "no network and no ser"),
        ({"images": "volume"}, "images must be 'image' or 'series', got 'volume'"),
        ({"phase": -1.0, "images": "series"}, "phase must be 0 or more"),
        ({"phase": 2.0}, "phase is of images='series'"),
        ({"reweighted": (4, 0)}, "reweighted must be positive"),
        ({"reweighted": (4,), "exact": False}, "reweighted needs exact=True"),
        ({"reweighted": (4,), "images": "series"}, "reweighted needs exact=True"),
        ({"network": TLR(), "images": "series"}, "images must be 'image' with network"),
        ({"network": TLR(channels=1)}, "with 3 channels"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NonLocal(**options)


@pytest.mark.parametrize(("coils", "phase"), [(0, 0.0), (2, 0.0), (2, 1.5)])
def test_a_frame_of_kspace_takes_mask_and_maps(coils, phase, tmp_path):
    generator = torch.Generator().manual_seed(3)
    frame = replace(NOISY, images="series", channels=1, data_steps=2, phase=phase)
    net = network(frame)
    assert net.recipe.axes == "B T H W"
    truth = torch.randn(2, 1, 12, 11, generator=generator, dtype=torch.complex128)
    mask = torch.rand(2, 1, 12, 11, generator=generator) < 0.6
    given = [mask]
    if coils:
        maps = torch.randn(2, 2, 12, 11, generator=generator, dtype=torch.complex128)
        given.append(maps / maps.abs().square().sum(1, keepdim=True).sqrt())
    A = MRI(mask, given[1][:, None] if coils else None)
    y = A(truth)
    found = net(y, *given)
    assert found.shape == truth.shape
    torch.testing.assert_close(found, net(Problem(y, A)))
    turned = net(1j * y, *given)  # a phase of all has no say
    torch.testing.assert_close(turned, 1j * found)
    save(net, tmp_path / "net.safetensors")
    solver = manual.load(tmp_path / "net.safetensors")
    other, pullback = solver.vjp(y.numpy(), *(x.numpy() for x in given))
    np.testing.assert_allclose(other, found.detach().numpy(), atol=1e-12)
    gradient = pullback(other)
    (found.abs().square().sum() / 2).backward()
    for name, parameter in net.named_parameters():
        assert gradient[name] == pytest.approx(float(parameter.grad), abs=1e-9), name
    with pytest.raises(TypeError, match="k-space must be complex"):
        net(y.real, *given)
    more = torch.cat([y, y], 1), torch.cat([mask, mask], 1), *given[1:]
    with pytest.raises(ValueError, match="must have 1 channels"):
        net(*more)


def test_formula_without_phase():
    """Real and imaginary part, each in the groups of both, of a frame without it."""
    recipe = replace(NOISY, steps=1, images="series", channels=1, phase=1.5)
    net = network(recipe)
    cell = net.cells[0]
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(1, 1, 17, 16, generator=generator, dtype=torch.complex128)
    A = MRI(torch.ones(1, 1, 17, 16, dtype=torch.bool))
    found = net(Problem(A(x), A))[0]

    line = (-((torch.arange(-4, 5) / 1.5) ** 2) / 2).exp().double()
    window = (line[:, None] * line)[None, None]
    local = [torch.conv2d(part, window, padding=4) for part in (x.real, x.imag)]
    turn = torch.exp(-1j * torch.complex(*local).angle())[0]
    plain = torch.view_as_real(x[0] * turn)[0].permute(2, 0, 1)
    groups = Groups(plain, patch=3, stride=2, count=9, reach=4)
    whole = groups.cut(plain)
    contrast = (whole - whole.mean(-2, keepdim=True)).square().sum((-2, -1)) / 81
    noise = (noise_of_kspace(A(x), A, torch.zeros(1).double()) + 1e-4).log() + 4.5
    power = cell.group_0_tau_0 + cell.group_0_contrast * (
        0.5 * (contrast + 1e-6).log() + 3
    )
    power = power + cell.group_0_noise * noise
    power = power + cell.group_0_density * (math.log(1.02) + 1.2)
    parts = []
    for k in (0, 1):
        G = whole[..., 9 * k : 9 * k + 9]
        tau = (power + k * cell.group_0_imaginary).exp()[:, None]
        U, S, Vh = torch.linalg.svd(G, full_matrices=False)
        kept = U @ torch.diag_embed(tau * log_sum(S / tau, 0.25, 0.002)) @ Vh
        rank = kept.square().mean((-2, -1), keepdim=True) + 1e-6
        lost = (G - kept).square().mean(-1, keepdim=True) + 1e-6
        weight = rank**-cell.group_0_kept_power * lost**-cell.group_0_taken_power
        # The prior's groups are of two channels.
        both = groups.join(torch.cat([weight * kept] * 2, -1))
        parts.append(both[0] / groups.join(weight.expand_as(whole))[0])
    z = torch.complex(*parts) * turn.conj()
    z = z + cell.group_0_push * (z - x[0])
    mu = (-cell.group_0_trust - cell.group_0_trust_noise * noise).exp()
    torch.testing.assert_close(found, (x[0] + mu * z) / (1 + mu))


def test_more_steps_towards_the_data_explain_them_better():
    """Of several coils, where one does not suffice."""
    generator = torch.Generator().manual_seed(5)
    maps = torch.randn(1, 3, 12, 11, generator=generator, dtype=torch.complex128)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    mask = torch.rand(1, 1, 12, 11, generator=generator) < 0.4
    truth = torch.randn(1, 1, 12, 11, generator=generator, dtype=torch.complex128)
    A = MRI(mask, maps[:, None])
    y, left = A(truth), []
    for exact in (True, False):
        for count in (1, 3, 9):
            recipe = replace(RECIPE, images="series", channels=1, exact=exact)
            found = network(replace(recipe, data_steps=count))(Problem(y, A))
            left.append(float((A(found) - y).abs().detach().square().mean().sqrt()))
    assert left[0] > 1.5 * left[1] > 2 * left[2]
    assert left[3] > 1.2 * left[4] > 1.2 * left[5]


def test_number_of_weights():
    assert len(shapes(NonLocal())) == 12 * (48 + 6 + 2 + 3) - 2 == 706
