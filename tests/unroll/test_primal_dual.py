"""The learned primal-dual network."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from array_frameworks import Framework

from svdinv.unroll.algorithms import FISTA, solve
from svdinv.unroll.fidelity import L2
from svdinv.unroll.networks import JointPrimalDual, PrimalDual
from svdinv.unroll.networks.primal_dual import _nonnegative
from svdinv.unroll.operators import (
    MRI,
    FanBeam,
    ParallelBeam,
    Sampling,
    WrappedNonlinear,
)
from svdinv.unroll.problem import Problem, batch
from svdinv.unroll.tasks.tomography.ct import Ct, CtOptions
from svdinv.unroll.tasks.tomography.spectral import SpectralCt, SpectralOptions
from svdinv.unroll.torch import Network

SMALL = CtOptions(views=12, noise=0.01, size=24)


def problem(**options):
    task = Ct()
    options = replace(SMALL, **options)
    return task.measure(task.read("walnut-1", options), options)


def batched(*problems):
    return batch(problems).replace_arrays(torch.as_tensor)


def without_learning(recipe):
    """A network whose last convolution of each chain is 0."""
    network = Network(recipe, seed=0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "2.weight" in name:
                parameter.zero_()
    return network


def test_without_learning_it_is_filtered_back_projection():
    network = without_learning(PrimalDual(cells=3, features=2))
    for beam in ("parallel", "fan"):
        made = problem(beam=beam)
        with torch.no_grad():
            found = network(batched(made))[0].numpy()
        projector, unit = made.A.operator, made.scan.unit
        due = projector.filtered_back_projection(unit * made.y)
        np.testing.assert_allclose(found, due, rtol=1e-5, atol=1e-5)


def test_one_tap_is_the_classical_iteration(rng):
    """Chains of one convolution that looks at no neighbour, and nothing carried."""
    A = 0.1 * ParallelBeam((9, 8), np.arange(0, 180, 20.0))
    y = rng.standard_normal((2, 1, 9, 13))
    recipe = PrimalDual(cells=3, convs=1, memory=1)
    network = Network(recipe, seed=0).double()
    sigma, tau = 0.7, 0.4
    with torch.no_grad():
        for parameter in network.parameters():
            taps = {3: [-0.3, sigma, -sigma], 2: [0.0, -tau]}[parameter.shape[1]]
            parameter.zero_()
            parameter[0, :, 1, 1] = torch.tensor(taps, dtype=torch.float64)
        found = network(torch.from_numpy(y), A).numpy()
    x, h = A.approximate_inverse(y), np.zeros_like(y)
    for _ in range(3):
        h = 0.7 * h + sigma * (A(x) - y)
        x = x - tau * A.adjoint(h)
    np.testing.assert_allclose(found, x, rtol=1e-10, atol=1e-12)


def spectral(bins=5, photons=1e5, **options):
    task = SpectralCt(bins=bins)
    options = SpectralOptions(size=24, views=16, bins=bins, photons=photons, **options)
    return task.measure(task.read("spectral:head-1", options), options)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_without_learning_it_has_the_leading_components(count):
    """Of the data, each channel in units of its root mean inverse variance."""
    made = spectral()
    recipe = JointPrimalDual(cells=2, features=2, components=count, data_steps=0)
    network = without_learning(recipe)
    with torch.no_grad():
        found = network(batched(made))[0].numpy()
    deviation = made.fidelity.weight.mean(axis=(1, 2)) ** -0.5
    y = (made.y / deviation[:, None, None]).reshape(5, -1)
    U = np.linalg.svd(y, full_matrices=False)[0][:, :count]
    image = made.A.approximate_inverse(made.y)
    within = (U @ U.T) @ (image.reshape(5, -1) / deviation[:, None])
    due = (deviation[:, None] * within).reshape(image.shape)
    np.testing.assert_allclose(found, due, atol=2e-5 * abs(due).max())


@pytest.mark.parametrize("start", [0, 4])
@pytest.mark.parametrize("recipe", [PrimalDual, JointPrimalDual])
def test_each_cell_brings_the_image_closer_to_the_data(recipe, start):
    """To the argmin of |A x - y|^2 + mu |x - z|^2, with mu of the first numbers."""
    joint = recipe is JointPrimalDual
    made = spectral(bins=4) if joint else problem()
    recipe = recipe(cells=1, features=2, data_steps=300, start=start)
    double = batched(made).replace_arrays(torch.Tensor.double)
    state = recipe.begin(double)
    channels, (first, *powers) = (4, (-4, 3, -1.3)) if joint else (1, (2.6, 2.8, -3.1))
    z, y = state["primal"][:, :channels], double.y
    y = state["y"][:, :channels] if joint else y
    expected = first + powers[0] * state["residual"] + powers[1] * state["noise"]
    mu = float(expected.exp())
    with torch.no_grad():
        network = without_learning(recipe).double()
        x = network(double)
    if joint:
        x = (state["V"].mT @ (state["W"] * x).flatten(2)).reshape(z.shape)
    slope = double.A.adjoint(double.A(x) - y) + mu * (x - z)
    before = double.A.adjoint(double.A(z) - y)
    assert slope.norm() < 1e-6 * before.norm()
    assert (x - z).norm() > 1e-3 * z.norm()


def test_misfit_and_noise_of_the_start():
    """Where noise is all that is left, both are its size."""
    few, many = (
        JointPrimalDual(start=60).begin(batched(spectral(photons=n)))
        for n in (1e3, 1e6)
    )
    for name in ("residual", "noise"):
        change = float(few[name] - many[name])
        assert 0.5 * np.log(1e3) - 1 < change < 0.5 * np.log(1e3) + 0.5, name


def test_misfit_and_noise_of_one_channel():
    """The residual is that after twice the iterations; noise is of neighbours."""
    made = problem()
    state = PrimalDual(start=5, data_steps=1).begin(batched(made))
    (x,) = _nonnegative(
        np.maximum(made.A.approximate_inverse(made.y[None]), 0), made.single(), [10]
    )
    size = np.mean(made.y**2)
    residual = np.mean((made.A(x)[0] - made.y) ** 2) / size
    rough = np.diff(made.y, n=2, axis=-1)
    ends = np.diff(made.y, axis=-1)[..., [0, -1]]
    noise = (np.abs(rough).sum() + np.abs(ends).sum()) ** 2 / made.y.size**2 / size
    for name, due in {"residual": residual, "noise": noise}.items():
        assert float(state[name][0]) == pytest.approx(np.log(due) / 2 + 4.4, abs=1e-4)


def test_signs_are_fixed_and_images_are_in_the_units_of_the_data():
    """And a factor of all weights has no effect."""
    made = spectral()
    network = Network(JointPrimalDual(cells=2, features=4, start=3), seed=0)
    with torch.no_grad():
        found = network(batched(made)).numpy()
        fidelity = L2(9 * made.fidelity.weight)
        other = replace(made, y=7 * made.y, fidelity=fidelity)
        scaled = network(batched(other)).numpy()
    np.testing.assert_allclose(scaled, 7 * found, atol=1e-4 * scaled.max())
    state = network.recipe.begin(batched(made))
    assert state["V"].shape == (1, 5, 4)
    assert state["V"][0, :, 0].sum() > 0
    assert (torch.arange(2.0, -3, -1) @ state["V"][0, :, 1:] >= 0).all()


def test_a_channel_without_weight_is_not_used():
    made = spectral()
    weight = made.fidelity.weight.copy()
    weight[2] = 0
    network = Network(JointPrimalDual(cells=2, features=4, start=3), seed=0)
    found = []
    for value in (0, 5):
        y = made.y.copy()
        y[2] = value
        image = network(batched(replace(made, y=y, fidelity=L2(weight))))
        found.append(image.detach().numpy())
        image.sum().backward()
    np.testing.assert_array_equal(*found)
    assert not found[0][0, 2].any()
    assert found[0][0, [0, 1, 3, 4]].all(axis=0).any()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_weights_of_zero_alone_leave_an_image_of_zeros():
    made = spectral()
    network = Network(JointPrimalDual(cells=1, features=4, start=2), seed=0)
    given = batched(made, made)
    weight = given.fidelity.weight.clone()
    weight[1] = 0
    image = network(replace(given, fidelity=L2(weight)))
    image.sum().backward()
    assert image[0].any()
    assert not image[1].any()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_nonnegative_channels_of_the_start():
    """The start comes closer to the data, in channels that are hardly negative."""
    made, misfits = batched(spectral(photons=1e7)), []
    for start in (0, 10, 40):
        x = JointPrimalDual(start=start).begin(made)["x"]
        misfits.append(float((made.A(x) - made.y).norm() / made.y.norm()))
    assert misfits[0] > misfits[1] > misfits[2]
    assert x.min() > -0.05 * x.max()


def test_fewer_channels_than_components_are_refused():
    network = Network(JointPrimalDual(cells=1, features=2), seed=0)
    with pytest.raises(ValueError, match="at least 4 channels and measurements"):
        network(batched(spectral(bins=3)))
    square = WrappedNonlinear(*[np.square] * 3, (3, 4), (3, 4))
    with pytest.raises(TypeError, match="JointPrimalDual needs a linear operator"):
        JointPrimalDual().begin(Problem(np.ones((1, 4, 3, 4)), square))
    with pytest.raises(ValueError, match="components"):
        JointPrimalDual(components=0)
    few = Problem(np.ones((1, 4, 1, 2)), Sampling(np.ones((1, 2), bool)))
    with pytest.raises(ValueError, match="4 channels and measurements in each"):
        JointPrimalDual().begin(few)


def test_it_may_start_from_nonnegative_least_squares():
    made = problem(arc=90.0)
    start = np.maximum(made.A.approximate_inverse(made.y), 0)
    nonnegative = SimpleNamespace(
        value=lambda x: 0.0, prox=lambda x, step: np.maximum(x, 0)
    )
    steps = {"parameters": {"step": 1.0}, "iterations": 7, "rtol": 0}
    due = solve(made, nonnegative, algorithm=FISTA(), x0=start, **steps).image
    state = PrimalDual(start=7).begin(made.single())
    np.testing.assert_allclose(state["x"][0], due, rtol=1e-5, atol=1e-6)
    assert np.abs(due - start).max() > 0.1
    for name in ("start", "data_steps"):
        with pytest.raises(ValueError, match=name):
            PrimalDual(**{name: -1})


@pytest.mark.parametrize(("start", "data_steps"), [(0, 0), (3, 0), (0, 2), (3, 2)])
@pytest.mark.parametrize("name", ["jax", "tensorflow"])
def test_every_framework_begins_alike(name, start, data_steps):
    framework, made = Framework(name), problem().single()
    recipe = PrimalDual(start=start, data_steps=data_steps)
    due = recipe.begin(made)
    found = recipe.begin(made.replace_arrays(framework.array))
    for key, array in due.items():
        np.testing.assert_allclose(framework.numpy(found[key]), array, atol=1e-5)


def test_it_refuses_what_it_cannot_do():
    network = Network(PrimalDual(cells=1, features=2))
    A = FanBeam((12, 12), np.arange(0, 360, 30.0), source=30, distance=40)
    with pytest.raises(ValueError, match="must have 1 channels"):
        network(torch.ones(1, 2, *A.data_shape), A)
    with pytest.raises(ValueError, match="axes B C H W"):
        network(torch.ones(1, *A.data_shape), A)
    mask = torch.ones(1, 3, 4, 4, dtype=torch.bool)
    with pytest.raises(TypeError, match="real and floating point"):
        network(torch.ones(1, 3, 4, 4, dtype=torch.complex64), MRI(mask))
    with pytest.raises(TypeError, match="needs after the measured values: mask"):
        network(torch.ones(1, 1, 4, 4))
    with pytest.raises(ValueError, match="two axes after"):
        PrimalDual().begin(Problem(np.ones((1, 1, 3, 4, 4)), _Sum()))
    for name in ("cells", "features", "convs", "memory", "channels"):
        with pytest.raises(ValueError, match=name):
            PrimalDual(**{name: 0})


class _Sum(Sampling):
    """Measures several copies of an image."""

    def __init__(self):
        super().__init__(np.ones(1, bool))

    def adjoint(self, y):
        return y.sum(axis=2)

    approximate_inverse = adjoint
