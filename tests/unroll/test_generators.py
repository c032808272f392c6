"""Networks that make an image of noise: what they are, whatever the framework."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from svdinv.unroll.networks import (
    Bilinear,
    Decoder,
    LowRankAndSparse,
    Recipe,
    Skip,
)
from svdinv.unroll.networks.functional import doubled, halved
from svdinv.unroll.networks.weights import shapes
from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import Network

T, H, W = 3, 13, 10

SMALL = {"features": (3, 4), "depth": 2}
GENERATORS = {
    "skip": Skip(**SMALL, skips=(1, 0)),
    "skip, unbounded, adjoint": Skip(
        **SMALL, skips=(2, 1), bounded=False, source="adjoint"
    ),
    "skip, residual": Skip(
        **SMALL, skips=(2, 1), bounded=False, source="adjoint", residual=True
    ),
    "skip, one pixel below": Skip(features=(2,) * 5, skips=(1,) * 5, depth=2),
    "skip, series": Skip(**SMALL, skips=(1, 1), images="series", channels=T),
    "skip, series, adjoint": Skip(
        **SMALL, skips=(1, 1), images="series", channels=T, source="adjoint"
    ),
    "along time": Skip(**SMALL, skips=(1, 0), images="series", along_time=True),
    "deep decoder": Decoder(**SMALL),
    "ConvDecoder": Decoder(**SMALL, side=3),
    "bilinear": Bilinear(channels=T, rank=2, depth=2, space=Decoder(**SMALL)),
    "bilinear, time": Bilinear(
        channels=T, rank=3, depth=2, time=(3, 4), space=Decoder(**SMALL)
    ),
    "bilinear, skip": Bilinear(
        channels=T, rank=3, depth=2, space=Skip(**SMALL, skips=(1, 0))
    ),
    "bilinear, rank 1": Bilinear(
        channels=T, rank=1, depth=2, space=Decoder(**SMALL, side=3)
    ),
    "low rank and sparse": LowRankAndSparse(
        channels=T,
        depth=2,
        low_rank=Bilinear(rank=2, space=Decoder(**SMALL)),
        sparse=Decoder(**SMALL),
    ),
}
each = pytest.mark.parametrize("name", GENERATORS)


def measured(recipe: Recipe, batch: int = 2):
    """Data and mask, as the recipe's operator takes them."""
    rng = np.random.default_rng(0)
    channels = T if recipe.images == "series" else 3
    y = rng.standard_normal((2, batch, channels, H, W)).astype(np.float32)
    mask = rng.random((batch, channels, H, W)) < 0.5
    return (y[0] + 1j * y[1] if recipe.images == "series" else y[0]), mask


def network(recipe: Recipe, dtype=torch.float32):
    """Make a network none of whose weights is as it was drawn."""
    net = Network(recipe, seed=1).to(dtype)
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            generator = torch.Generator().manual_seed(i)
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return net


@each
def test_images_are_like_what_was_measured(name):
    recipe = GENERATORS[name]
    y, mask = map(torch.from_numpy, measured(recipe))
    x = network(recipe)(y, mask)
    assert x.shape == y.shape
    assert x.dtype == y.dtype
    assert x.isfinite().all()
    assert x.std() > 1e-4
    if recipe.images == "image" and recipe.bounded:
        assert 0 < x.min() < x.max() < 1


@each
def test_noise_depends_on_the_seed_alone_and_is_the_same_for_all(name):
    recipe = GENERATORS[name]
    y, mask = map(torch.from_numpy, measured(recipe))
    net = network(recipe)
    alone = net(y[1:], mask[1:])
    torch.testing.assert_close(net(y, mask)[1:], alone, rtol=1e-4, atol=1e-5)
    if recipe.source == "noise" and recipe.images == "image":
        torch.testing.assert_close(net(2 * y, mask)[1:], alone, rtol=1e-4, atol=1e-5)


@each
def test_derivatives(name):
    recipe = GENERATORS[name]
    y, mask = map(torch.from_numpy, measured(recipe, batch=1))
    y = y.to(torch.complex128 if recipe.images == "series" else torch.float64)
    net = network(recipe, torch.float64)
    names, weights = zip(*net.named_parameters(), strict=True)
    torch.manual_seed(0)
    lines = [torch.randn(w.shape, dtype=w.dtype) for w in weights]

    def along(t):
        moved = [w.detach() + t * line for w, line in zip(weights, lines, strict=True)]
        given = dict(zip(names, moved, strict=True))
        x = torch.func.functional_call(net, given, (y, mask))
        return torch.view_as_real(x) if x.is_complex() else x

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    h = 1e-6
    expected = (along(t + h) - along(t - h)) / (2 * h)
    direction = torch.randn(expected.shape, dtype=expected.dtype)
    (found,) = torch.autograd.grad(along(t), t, direction)
    expected = torch.sum(direction * expected).detach()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_residual_is_added_to_what_is_seen():
    recipe = GENERATORS["skip, residual"]
    y, mask = map(torch.from_numpy, measured(recipe))
    net = network(recipe)
    whole = Network(replace(recipe, residual=False), seed=1)
    whole.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(y, mask), torch.where(mask, y, 0) + whole(y, mask))


def test_rank_of_a_bilinear_series():
    recipe = GENERATORS["bilinear"]
    y, mask = map(torch.from_numpy, measured(recipe))
    series = network(recipe, torch.float64)(y.to(torch.complex128), mask)
    values = torch.linalg.svdvals(series.flatten(2))
    assert (values[:, 2] < 1e-12 * values[:, 0]).all()
    assert (values[:, 1] > 1e-3 * values[:, 0]).all()


def test_parts_of_low_rank_and_sparse():
    recipe = GENERATORS["low rank and sparse"]
    y, mask = map(torch.from_numpy, measured(recipe))
    net = network(recipe)
    state = net(y, mask, return_state=True)
    torch.testing.assert_close(state["x"], state["low_rank"] + state["sparse"])
    _, penalty = net(y, mask, penalty=True)
    scale = recipe.begin(_problem(recipe, y, mask))["scale"]
    torch.testing.assert_close(penalty, (scale * state["sparse"].abs()).sum())


def _problem(recipe, y, mask):
    return Problem(y, recipe.operator(mask))


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (5, 3), (2, 7)])
def test_doubled_is_linear_interpolation(shape):
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((2, 3, *shape))
    found = doubled(maps)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps), scale_factor=2, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-14)


def test_halved_is_a_mean_with_zeros_beyond():
    maps = np.arange(15.0).reshape(1, 1, 3, 5)
    expected = [[[[3, 5, 6.5 / 2], [5.25, 6.25, 3.5]]]]
    np.testing.assert_allclose(halved(maps, np), expected)


def test_number_of_weights_of_a_deep_decoder():
    recipe = Decoder(features=(8, 8, 8), depth=8)
    count = sum(math.prod(shape) for shape in shapes(recipe).values())
    assert count == 3 * (8 * 8 + 2 * 8) + 8 * 3 + 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Skip(features=(4,), skips=(1, 1)), "skips must be one for each"),
        (lambda: Skip(features=()), "features must be integers"),
        (lambda: Skip(features=(0,), skips=(0,)), "features must be integers"),
        (lambda: Skip(cells=2), "cells must be 1"),
        (lambda: Skip(source="else"), "source must be 'noise' or"),
        (lambda: Skip(images="film"), "images must be 'image' or"),
        (lambda: Skip(along_time=True), "along_time is for series"),
        (lambda: Skip(residual=True), "residual needs source .adjoint. and"),
        (lambda: Decoder(side=5), "side must be 1 or 3"),
        (lambda: Decoder(source="adjoint"), "source must be 'noise'"),
        (lambda: Bilinear(rank=0), "rank must be"),
        (lambda: Bilinear(time=(0,)), "time must be integers from 1"),
        (lambda: Bilinear(images="image"), "images must be 'series'"),
        (
            lambda: Bilinear(space=Skip(source="adjoint")),
            "space must have source 'noise'",
        ),
        (
            lambda: LowRankAndSparse(sparse=Decoder(features=(4,))),
            "the same number of scales",
        ),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_another_number_of_frames():
    recipe = GENERATORS["bilinear"]
    y, mask = map(torch.from_numpy, measured(recipe))
    with pytest.raises(ValueError, match="for 3 frames"):
        network(recipe)(y[:, :2], mask[:, :2])
