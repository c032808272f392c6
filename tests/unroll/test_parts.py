"""Pieces of networks: folded pixels, first weights with gains, 3-D convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from svdinv.unroll.arrays import namespace
from svdinv.unroll.networks import TLR, Convolutions
from svdinv.unroll.networks.functional import (
    SCALES,
    blur,
    normalised_fill,
    pixel_shuffle,
    pixel_unshuffle,
)
from svdinv.unroll.networks.weights import first_kernel, first_weights, initial, shapes
from svdinv.unroll.torch import Network, _Chain, _Conv3d


@pytest.mark.parametrize(
    ("fold", "size"),
    [(1, (7, 8)), (2, (7, 8)), (2, (1, 2)), (3, (6, 9)), (3, (7, 8))],
    ids=str,
)
def test_folded_pixels_come_back(arrays, fold, size):
    image = arrays.array(np.random.default_rng(0).standard_normal((2, 3, *size)))
    xp = namespace(image)
    maps = pixel_unshuffle(image, fold, xp)
    height, width = (-(-n // fold) for n in size)
    assert tuple(maps.shape) == (2, 3 * fold**2, height, width)
    back = pixel_shuffle(maps, image, fold, xp)
    np.testing.assert_array_equal(arrays.numpy(back), arrays.numpy(image))


@pytest.mark.parametrize(("fold", "size"), [(2, (8, 10)), (3, (12, 15)), (2, (3, 5))])
def test_folded_pixels_are_those_of_pytorch(fold, size):
    """Of images that it does not fold, those filled up with zeros."""
    image = torch.randn(2, 3, *size)
    wide = F.pad(image, (0, -size[1] % fold, 0, -size[0] % fold))
    found = pixel_unshuffle(image, fold, namespace(image))
    assert torch.equal(found, F.pixel_unshuffle(wide, fold))


def test_a_folded_network_has_folded_widths():
    recipe = TLR(cells=1, features=8, fold=2, side="samples", low_rank_maps=5)
    widths = {k: v[:2] for k, v in shapes(recipe).items() if len(v) == 4}
    assert widths == {
        "cells.0.analysis.0.weight": (8, 24),
        "cells.0.analysis.1.weight": (8, 8),
        "cells.0.analysis.2.weight": (5, 8),
        "cells.0.synthesis.0.weight": (8, 5),
        "cells.0.synthesis.1.weight": (8, 8),
        "cells.0.synthesis.2.weight": (12, 8),
    }


class TestGains:
    """First weights by He et al., and their factors."""

    def test_bounds(self):
        shape = (32, 16, 3, 3, 3)
        for gain in (1.0, 0.25):
            kernel = first_kernel(shape, np.random.default_rng(0), gain)
            limit = gain * np.sqrt(6 / (16 * 27))
            assert 0.99 * limit < abs(kernel).max() <= limit
            assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)

    def test_what_passes_through_keeps_its_size(self):
        torch.manual_seed(0)
        x = torch.randn(1, 16, 24, 24)
        widths = (16, *[64] * 7)

        def size(*gains):
            """Mean square of what comes out, of several draws."""
            sizes = []
            for seed in range(16):
                spec = Convolutions(widths, axes=2, last=True, gains=gains)
                chain, rng = _Chain(spec), np.random.default_rng(seed)
                for name, weight in chain.named_parameters():
                    drawn = first_weights(spec, name, tuple(weight.shape), rng)
                    weight.data = torch.from_numpy(drawn)
                with torch.no_grad():
                    inside = chain(x)[..., 8:-8, 8:-8]  # where no zeros come in
                sizes.append(float(inside.square().mean()))
            return np.mean(sizes)

        # A ReLU passes half of the energy on, and each convolution doubles it.
        kept = size(*[1.0] * 7)
        assert 0.5 < kept < 2
        assert size(*[1.0] * 6, 0.1) == pytest.approx(0.01 * kept, rel=1e-4)
        assert size() < 1e-4  # those of the released networks fade

    def test_each_convolution_has_its_own(self):
        chain = Convolutions((3, 8, 5), axes=2, gains=(1.0, 0.5))
        assert [chain.gain(i) for i in range(2)] == [1.0, 0.5]
        assert Convolutions((3, 8, 5), axes=2).gain(1) is None
        with pytest.raises(ValueError, match="one for each of 2 convolutions"):
            Convolutions((3, 8, 5), axes=2, gains=(1.0,))

    def test_a_residual_network_begins_near_the_identity(self):
        mask = torch.rand(1, 3, 40, 40) < 0.4
        image = torch.rand(1, 3, 40, 40)
        changes = {}
        for kind in ("residual", "released"):
            recipe = TLR(cells=1, features=32, first_weights=kind)
            kernels = initial(recipe, np.random.default_rng(0))
            for name, kernel in kernels.items():
                if kernel.ndim:
                    fan = kernel[0].size
                    last = name.endswith("synthesis.2.weight")
                    small = 0.04 if last else 1.0
                    he = small * np.sqrt(6 / fan)
                    limit = he if kind == "residual" else np.sqrt(1 / fan)
                    assert 0.9 * limit < abs(kernel).max() <= limit, name
            with torch.no_grad():
                found = Network(recipe, seed=0)(image * mask, mask)
            before = image * mask
            changes[kind] = float((found - before)[~mask].norm() / before.norm())
        assert 0 < changes["residual"] < 0.15


CONVOLVED = {
    "single": (1, 4, 5, 9, 8),
    "two": (2, 4, 5, 9, 8),
    "none": (0, 4, 5, 9, 8),
    "single, of many lines": (1, 4, 80, 65, 3),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CONVOLVED)
def test_single_series_are_convolved_alike(name, dtype):
    """Values and derivatives are those of the plain convolution."""
    torch.manual_seed(0)
    layer = _Conv3d(4, 3, 3, padding=1, bias=False).to(dtype)
    x = torch.randn(CONVOLVED[name], dtype=dtype, requires_grad=True)
    weight = layer.weight.detach().clone().requires_grad_()
    found, expected = layer(x), F.conv3d(x, weight, padding=1)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn_like(expected)
    (gx,) = torch.autograd.grad(found, x, cotangent, retain_graph=True)
    (ex,) = torch.autograd.grad(expected, x, cotangent, retain_graph=True)
    torch.testing.assert_close(gx, ex)
    (gw,) = torch.autograd.grad(found, layer.weight, cotangent)
    (ew,) = torch.autograd.grad(expected, weight, cotangent)
    scale = float(ew.abs().max()) if ew.numel() else 0.0
    torch.testing.assert_close(gw, ew, rtol=1e-5, atol=1e-5 * scale + 1e-12)


@pytest.mark.parametrize(
    ("shape", "dtype", "items"),
    [
        ((1, 4, 5, 9, 8), torch.float32, 2),
        ((1, 4, 5, 9, 8), torch.float64, 1),
        ((2, 4, 5, 9, 8), torch.float32, 2),
        ((1, 4, 80, 65, 3), torch.float32, 1),
    ],
    ids=str,
)
def test_which_get_a_second_item(monkeypatch, shape, dtype, items):
    seen = []
    plain = nn.Conv3d.forward

    def forward(self, x):
        seen.append(len(x))
        return plain(self, x)

    monkeypatch.setattr(nn.Conv3d, "forward", forward)
    layer = _Conv3d(4, 3, 3, padding=1, bias=False).to(dtype)
    assert len(layer(torch.zeros(shape, dtype=dtype))) == shape[0]
    assert seen == [items]


def test_what_is_not_finite_stays_where_it_is():
    """The item of zeros leaves no trace, and takes no part in the gradient."""
    layer = _Conv3d(1, 1, 3, padding=1, bias=False)
    x = torch.zeros(1, 1, 3, 9, 9)
    x[..., 0, 0] = torch.nan
    found = layer(x)
    assert found[..., 4:, 4:].isfinite().all()
    assert found[..., 0, 0].isnan().all()


# The first estimate of an image from its samples


def bell(size, width):
    """Blur along an axis: a Gaussian cut at three widths, whose full sum is 1."""
    distance = np.arange(size)[:, None] - np.arange(size)
    radius = max(1, round(3 * width))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-((distance / width) ** 2) / 2) * (np.abs(distance) <= radius)
    return weights / np.exp(-((offsets / width) ** 2) / 2).sum()


def test_one_scale_is_a_mean_weighted_by_a_gaussian(arrays, rng):
    image, mask = rng.random((2, 9, 12)), (rng.random((2, 9, 12)) < 0.4) * 1.0
    rows, columns = bell(9, 1.5), bell(12, 1.5)
    mean = (rows @ (mask * image) @ columns) / (rows @ mask @ columns)
    filled = normalised_fill(arrays.array(mask * image), arrays.array(mask), (1.5,))
    expected = np.where(mask, image, mean)
    np.testing.assert_allclose(arrays.numpy(filled), expected, atol=1e-12)


def test_a_batch_of_one_channel_is_blurred_within_its_memory(arrays, rng):
    """TensorFlow's product of such a batch and a matrix is not, with AVX-512."""
    images = rng.random((2, 1, 12, 13)).astype(np.float32)
    due = bell(12, 4.0) @ images @ bell(13, 4.0)
    for _ in range(50):
        found = arrays.numpy(blur(arrays.array(images), 4.0))
        np.testing.assert_allclose(found, due, atol=1e-5)


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_samples_remain_and_a_constant_image_is_found(rng, rate):
    mask = (rng.random((32, 40)) < rate) * 1.0
    image = rng.random((32, 40))
    filled = normalised_fill(mask * image, mask)
    np.testing.assert_array_equal(filled[mask > 0], image[mask > 0])
    assert filled.min() >= 0
    assert filled.max() <= 1
    np.testing.assert_allclose(normalised_fill(0.7 * mask, mask), 0.7, atol=1e-12)


def test_linear_in_the_samples(rng):
    mask = (rng.random((16, 16)) < 0.3) * 1.0
    one, two = mask * rng.random((2, 16, 16))
    found = normalised_fill(2 * one - two, mask)
    parts = 2 * normalised_fill(one, mask) - normalised_fill(two, mask)
    np.testing.assert_allclose(found, parts, atol=1e-12)


def test_without_any_sample_nearby_it_is_black():
    nothing = np.zeros((80, 5), np.float32)
    np.testing.assert_array_equal(normalised_fill(nothing, nothing), 0)
    one = nothing.copy()
    one[0, 0] = 1
    filled = normalised_fill(one, one)
    assert filled[0, 0] == 1
    assert np.isfinite(filled).all()
    assert not filled[3 * int(SCALES[0]) + 1 :].any()


def test_a_finer_scale_counts_where_there_are_samples():
    """Every other pixel is known: the fill follows a slope better than one scale."""
    mask = np.indices((24, 24)).sum(axis=0) % 2 * 1.0
    image = np.add.outer(np.arange(24.0), np.arange(24.0)) / 46
    coarse = normalised_fill(mask * image, mask, SCALES[:1])
    fine = normalised_fill(mask * image, mask)
    assert np.abs(fine - image).max() < np.abs(coarse - image).max() / 4
