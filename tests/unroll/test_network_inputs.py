"""What the networks say to inputs that do not fit, and to layers of one framework."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from svdinv.unroll.algorithms import ISTA, LowRankPlusSparse
from svdinv.unroll.manual import Solver
from svdinv.unroll.networks import (
    LS,
    TLR,
    LearnedPrior,
    LowRank,
    Number,
    Unrolled,
    register,
)
from svdinv.unroll.networks.weights import initial, shapes
from svdinv.unroll.operators import MRI, Sampling
from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import LSNet, Network, load, save


@register
@dataclass(frozen=True)
class Own(LearnedPrior):
    """Multiplies by a number, and has a layer of PyTorch's."""

    def layers(self, axes):
        return {
            "number": Number(0.5),
            "own": lambda: torch.nn.Conv2d(3, 3, 1, bias=False),
        }

    def prox(self, v, step, layers):
        return layers.number * layers.own(v)


@pytest.mark.parametrize(
    "prior", [LowRank, "low rank", None, 3, (LowRank(), Own)], ids=repr
)
def test_prior_must_be_one(prior):
    algorithm = LowRankPlusSparse() if isinstance(prior, tuple) else ISTA()
    with pytest.raises(TypeError, match="prior must be a LearnedPrior"):
        Unrolled(algorithm=algorithm, prior=prior)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (TLR(), "TLR needs .*: mask, or"),
        (Unrolled(images="image"), "Unrolled needs .*: mask, or"),
        (LS(), r"LS needs .*: mask\[, maps\]"),
        (Unrolled(), r"Unrolled needs .*: mask\[, maps\]"),
    ],
)
@pytest.mark.parametrize("count", [0, 3])
def test_number_of_arguments(recipe, message, count):
    with pytest.raises(TypeError, match=f"{message}.* got {count} arguments"):
        recipe.operator(*[np.ones((1, 2, 8, 8), dtype=bool)] * count)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((1, 8, 8), "axes of length 1 to add in front: 1"),
        ((8, 8), "axes of length 1 to add in front: 2"),
        ((1, 2, 3, 8, 8), "maps"),
    ],
)
@pytest.mark.parametrize("recipe", [TLR(), Unrolled(images="image"), LS()], ids=type)
def test_images_of_other_axes_are_refused_with_a_hint(recipe, shape, hint):
    A = Sampling(np.ones(shape, dtype=bool))
    problem = Problem(np.ones(shape, complex), A)
    with pytest.raises(ValueError, match=rf"axes B \w H W, .*{hint}"):
        recipe.begin(problem)


def test_slope_of_low_rank_plus_sparse():
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(1, 4, 8, 8, dtype=torch.complex64, generator=rng)
    mask = torch.rand(1, 4, 8, 8, generator=rng) < 0.5
    options = {"cells": 1, "features": 2, "seed": 0}
    relu, leaky = LSNet(**options, slope=0.0), LSNet(**options)
    assert shapes(relu.recipe) == shapes(leaky.recipe)
    with torch.no_grad():
        # A chain with slope 1 is linear: the sum of its values at x and at -x is 0.
        x = torch.randn(1, 4, 3, 8, 8, generator=rng)
        linear = LSNet(**options, slope=1.0).cells[0].sparse
        assert (linear(x) + linear(-x)).abs().max() < 1e-5
        assert (relu(y, mask) - leaky(y, mask)).abs().max() > 1e-3


def test_own_layers_have_no_common_weights():
    recipe = Unrolled(cells=2, prior=Own(), images="image")
    with pytest.raises(TypeError, match=r"cells\.0\.prior_own is a layer of one"):
        shapes(recipe)
    drawn = initial(recipe, np.random.default_rng(0))
    assert list(drawn)[:2] == ["cells.0.log_step", "cells.0.prior_number"]


def test_own_torch_layers_are_saved(tmp_path):
    network = Network(Unrolled(cells=2, prior=Own(), images="image"))
    save(network, tmp_path / "own.safetensors")
    again = load(tmp_path / "own.safetensors")
    mask = torch.rand(1, 3, 6, 6) < 0.5
    y = torch.rand(1, 3, 6, 6) * mask
    assert torch.equal(again(y, mask), network(y, mask))
    assert "cells.1.prior_own.weight" in network.state_dict()


def _series(coils=None):
    rng = torch.Generator().manual_seed(0)
    series = torch.randn(2, 4, 8, 8, dtype=torch.complex64, generator=rng)
    mask = torch.rand(2, 4, 8, 8, generator=rng) < 0.5
    if coils is None:
        return MRI(mask)(series), {"mask": mask}
    maps = torch.randn(2, coils, 8, 8, dtype=torch.complex64, generator=rng)
    return MRI(mask, maps[:, None])(series), {"mask": mask, "maps": maps}


@pytest.mark.parametrize("coils", [None, 3])
def test_torch_takes_names(coils):
    network = LSNet(cells=2, features=2)
    kspace, given = _series(coils)
    image = network(kspace, *given.values())
    assert torch.equal(network(kspace, **given), image)
    with pytest.raises(TypeError, match="mask is passed twice"):
        network(kspace, given["mask"], **given)
    with pytest.raises(TypeError, match="unexpected argument 'masks'; expected mask"):
        network(kspace, masks=given["mask"])
    with pytest.raises(TypeError, match="needs after the measured values"):
        network(kspace)


def test_solver_takes_names():
    kspace, given = _series(3)
    kspace, given = kspace.numpy(), {k: v.numpy() for k, v in given.items()}
    solver = Solver(Unrolled(cells=2))
    image = solver(kspace, *given.values())
    assert np.array_equal(solver(kspace, **given), image)
    assert np.array_equal(solver.vjp(kspace, **given)[0], image)


def test_an_operator_that_is_given_comes_first():
    kspace, given = _series()
    mask = given["mask"]
    own = LSNet(cells=1, features=2, seed=0, operator=MRI(torch.ones_like(mask)))
    plain = LSNet(cells=1, features=2, seed=0)
    assert torch.equal(own(kspace, MRI(mask)), plain(kspace, mask))


def test_maps_of_each_series_or_of_each_frame():
    mask = np.ones((3, 3, 8, 8), dtype=bool)
    maps = np.ones((3, 2, 8, 8), dtype=np.complex64)
    with pytest.raises(ValueError, match=r"maps\[:, None\] or maps\[None\]"):
        MRI(mask, maps)
    series = np.ones((3, 3, 8, 8), dtype=np.complex64)
    assert MRI(mask, maps[:, None])(series).shape == (3, 3, 2, 8, 8)
    assert MRI(mask, maps[None])(series).shape == (3, 3, 2, 8, 8)
