"""Fits along the directions in which weights have moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from subspace import directions, fit_in_subspace, fit_with_snapshots

from svdinv.unroll.fidelity import PoissonKL
from svdinv.unroll.networks import PrimalDual, Skip
from svdinv.unroll.operators import Sampling
from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import Network
from svdinv.unroll.untrained import fit

GENERATOR = Skip(features=(4, 6), skips=(1, 0), depth=4)


def picture(size=16):
    rows, columns = np.mgrid[:size, :size] / size
    return np.stack([rows, columns, rows * columns]).astype(np.float32)


def noisy(deviation=0.1):
    truth = picture()
    noise = np.random.default_rng(0).standard_normal(truth.shape)
    y = (truth + deviation * noise).astype(np.float32)
    return Problem(y, Sampling(np.ones(y.shape, bool)), truth=truth)


def sampled():
    A = Sampling(np.random.default_rng(1).random((3, 16, 16)) < 0.5)
    return Problem(A(picture()), A, truth=picture())


def test_directions_are_those_of_the_snapshots():
    rng = torch.Generator().manual_seed(0)
    names = {"a": (2, 3), "b": (4,)}
    along = {n: torch.randn(2, *s, generator=rng) for n, s in names.items()}
    snapshots = []
    for _ in range(5):
        c = torch.randn(2, generator=rng)
        snapshots.append(
            {n: 1 + torch.tensordot(c, x, dims=1) for n, x in along.items()}
        )
    found = directions(snapshots, 2)
    Q = torch.cat([found[n].flatten(1) for n in names], dim=1)
    true = torch.cat([along[n].flatten(1) for n in names], dim=1)
    torch.testing.assert_close(Q @ Q.mT, torch.eye(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(true @ Q.mT @ Q, true, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="rank must be"):
        directions(snapshots, 5)
    with pytest.raises(ValueError, match="of one network"):
        directions([*snapshots, {"a": torch.zeros(2)}], 2)


def test_few_steps_fit_as_well_as_many_of_adam():
    problem = sampled()
    how = {"iterations": 100, "rule": None, "seed": 2}
    first, snapshots = fit_with_snapshots(problem, GENERATOR, 5, **how)
    assert len(snapshots) == 20
    for name, weight in first.network.state_dict().items():
        assert torch.equal(weight, snapshots[-1][name])
    basis = directions(snapshots, 12)
    start = snapshots[3]
    network = Network(GENERATOR, seed=0)
    network.load_state_dict(start)
    found = fit_in_subspace(problem, network, basis, steps=15)
    values = [r.data for r in found.trajectory]
    assert values == sorted(values, reverse=True)
    how = {"iterations": 15, "rule": None, "input_noise": 0.0, "progress": False}
    adam = fit(problem, GENERATOR, weights=network, **how)
    assert values[-1] < 0.5 * adam.trajectory[-1].data
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, start[name])
    y, mask = (torch.from_numpy(x)[None] for x in (problem.y, problem.A.mask))
    with torch.no_grad():
        again = found.network(y, mask)[0].numpy()
    np.testing.assert_allclose(again, found.image, atol=1e-5)


def test_networks_of_several_cells():
    problem = noisy()
    recipe = PrimalDual(cells=2, features=4, memory=2, channels=3)
    first = Network(recipe, seed=1)
    how = {"weights": first, "recorrupted": 0.1, "rule": None, "iterations": 12}
    _, snapshots = fit_with_snapshots(problem, recipe, 2, **how)
    basis = directions(snapshots, 3)
    found = fit_in_subspace(problem, first, basis, steps=3)
    values = [r.data for r in found.trajectory]
    assert values == sorted(values, reverse=True)
    with torch.no_grad():
        image = first(torch.from_numpy(problem.y[None]), problem.A)[0].numpy()
        again = found.network(torch.from_numpy(problem.y[None]), problem.A)[0]
    rest = np.sum((image - problem.y) ** 2) / 2 / problem.y.size
    assert values[0] < 0.99 * rest
    np.testing.assert_allclose(again.numpy(), found.image, atol=1e-5)


def test_other_likelihoods_are_refused():
    problem = replace(noisy(), fidelity=PoissonKL())
    with pytest.raises(TypeError, match="L2 fidelity"):
        fit_in_subspace(problem, Network(GENERATOR, seed=0), {})
