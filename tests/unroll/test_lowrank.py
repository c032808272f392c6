from __future__ import annotations

import numpy as np
import pytest
import torch

import svdinv.torch
from svdinv.unroll.completion import svt
from svdinv.unroll.fill import normalised_fill
from svdinv.unroll.lowrank import LowRank, shrink_singular_values

SVDS = [svdinv.torch.svd, torch.linalg.svd]


@pytest.mark.parametrize("svd", SVDS)
def test_thresholds_each_map_relative_to_its_largest_singular_value(rng, svd):
    maps = rng.standard_normal((2, 3, 9, 7))
    found = shrink_singular_values(torch.from_numpy(maps), 0.3, svd=svd)
    for found_map, matrix in zip(
        found.reshape(-1, 9, 7).numpy(), maps.reshape(-1, 9, 7), strict=True
    ):
        top = np.linalg.norm(matrix, 2)
        np.testing.assert_allclose(found_map, svt(matrix, 0.3 * top), atol=1e-12)


@pytest.mark.parametrize("size", [(8, 12), (9, 7), (3, 3)])
def test_blocks_are_matrices_of_their_own(rng, size):
    maps = torch.from_numpy(rng.standard_normal((2, 3, *size)))
    found = shrink_singular_values(maps, 0.3, block=4)
    assert found.shape == maps.shape
    for top in range(0, size[0], 4):
        for left in range(0, size[1], 4):
            here = (..., slice(top, top + 4), slice(left, left + 4))
            torch.testing.assert_close(
                found[here], shrink_singular_values(maps[here], 0.3)
            )


def test_one_block_is_the_whole_map(rng):
    maps = torch.from_numpy(rng.standard_normal((1, 2, 8, 8)))
    torch.testing.assert_close(
        shrink_singular_values(maps, 0.2, block=8), shrink_singular_values(maps, 0.2)
    )


@pytest.mark.parametrize("block", [None, 4])
def test_gradient_of_maps_and_threshold(rng, block):
    maps = torch.from_numpy(rng.standard_normal((1, 2, 6, 5))).requires_grad_()
    fraction = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda m, f: shrink_singular_values(m, f, block=block), (maps, fraction)
    )


def _gradient(maps, svd):
    step = LowRank(-2.0, svd=svd)
    maps = maps.clone().requires_grad_()
    (step(maps) ** 2).sum().backward()
    return maps.grad, step.c.grad


@pytest.mark.parametrize("kind", ["dead", "constant", "identity", "two rows"])
def test_gradient_is_finite_where_singular_values_repeat(kind):
    maps = torch.zeros(1, 1, 8, 8)
    if kind == "constant":
        maps += 0.5
    elif kind == "identity":
        maps[0, 0] = torch.eye(8)
    elif kind == "two rows":
        maps[0, 0, :2] = torch.arange(16.0).reshape(2, 8) / 16
    for gradient in _gradient(maps, svdinv.torch.svd):
        assert gradient.isfinite().all()


def test_torch_gives_nan_for_a_dead_map():
    """What the tests above guard against does happen."""
    gradient, _ = _gradient(torch.zeros(1, 1, 8, 8), torch.linalg.svd)
    assert gradient.isnan().any()


def test_fill_keeps_samples_and_constants(rng):
    mask = torch.from_numpy(rng.random((2, 3, 20, 24)) < 0.3).double()
    filled = normalised_fill(torch.full_like(mask, 0.7), mask)
    torch.testing.assert_close(filled, torch.full_like(mask, 0.7))
    image = torch.from_numpy(rng.random((2, 3, 20, 24)))
    filled = normalised_fill(image, mask)
    torch.testing.assert_close(filled[mask > 0], image[mask > 0])


def test_fill_looks_at_samples_only(rng):
    mask = torch.from_numpy(rng.random((1, 1, 16, 16)) < 0.3).double()
    image = torch.from_numpy(rng.random((1, 1, 16, 16)))
    other = torch.where(mask > 0, image, torch.zeros_like(image) + 9)
    torch.testing.assert_close(
        normalised_fill(image, mask), normalised_fill(other, mask)
    )


def test_fill_of_nothing_is_black():
    nothing = torch.zeros(1, 1, 16, 16)
    torch.testing.assert_close(normalised_fill(nothing + 1, nothing), nothing)
