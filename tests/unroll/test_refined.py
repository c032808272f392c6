"""A network with a refinement behind it: the formula, and what it begins as."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_trainings import NETWORK, TRAINING, colour
from torch.nn import functional as F

from svdinv.unroll.algorithms.non_local import noise_deviation
from svdinv.unroll.networks import LS, TLR, Convolved, NonLocal, Refined, Unrolled
from svdinv.unroll.networks.weights import WEIGHTS, shapes
from svdinv.unroll.operators import gaussian_sensing
from svdinv.unroll.torch import Network, load, save
from svdinv.unroll.training.command import train
from svdinv.unroll.training.run import Run

RECIPE = Refined(network=NETWORK, features=(3, 4, 5))


def problem(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator, dtype=dtype)
    return x, torch.rand(shape, generator=generator) < 0.4


def trained(recipe, dtype=torch.float32):
    """A network whose refinement does something."""
    net = Network(recipe, seed=1).to(dtype)
    last = net.cells[-1].refinement_image[0].weight
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        last.copy_(0.1 * torch.randn(last.shape, generator=generator))
    return net


@pytest.mark.parametrize("size", [(16, 12), (13, 9), (1, 1)])
@pytest.mark.parametrize("fold", [1, 2])
def test_begins_as_the_network_inside_bit_for_bit(size, fold):
    truth, mask = problem(2, 3, *size)
    inside = Network(NETWORK, seed=4)
    refined = Network(replace(RECIPE, fold=fold), seed=5)
    refined.load_state_dict(refined.state_dict() | inside.state_dict())
    found = refined(mask * truth, mask)
    assert torch.equal(found, inside(mask * truth, mask))


@pytest.mark.parametrize("size", [(16, 24), (13, 10)])
@pytest.mark.parametrize("fold", [1, 2])
def test_formula(size, fold):
    """With PyTorch's own functions."""
    recipe = replace(RECIPE, fold=fold)
    net = trained(recipe, torch.float64)
    truth, mask = problem(2, 3, *size, dtype=torch.float64)
    inside = Network(NETWORK).double()
    own = {k: v for k, v in net.state_dict().items() if k in inside.state_dict()}
    inside.load_state_dict(own)
    x = inside(mask * truth, mask)

    detail = x - local_mean(x)
    contrast = (local_mean(detail.square().mean(1, keepdim=True)) + 1e-5).sqrt()
    seen = detail / contrast
    maps = torch.cat([seen, mask * seen, mask], 1)
    H, W = size
    maps = F.pixel_unshuffle(F.pad(maps, (0, -W % fold, 0, -H % fold)), fold)

    def chain(name, x):
        for convolution in getattr(net.cells[-1], f"refinement_{name}"):
            x = F.leaky_relu(F.conv2d(x, convolution.weight, padding=1), 0.1)
        return x

    first = chain("encoder_0", maps)
    second = chain("encoder_1", halved(first))
    third = chain("encoder_2", halved(second))
    up = chain("decoder_1", torch.cat([doubled(third, second), second], 1))
    up = chain("decoder_0", torch.cat([doubled(up, first), first], 1))
    (image,) = net.cells[-1].refinement_image
    change = F.pixel_shuffle(F.conv2d(up, image.weight, padding=1), fold)
    expected = torch.where(mask, truth, x + contrast * change[..., :H, :W])
    found = net(mask * truth, mask)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert (found - x).abs().max() > 1e-3


def test_formula_of_noise_alone():
    inside = NonLocal(exact=False, alone=True, rounds=1, steps=1, count=9, reach=3)
    recipe = Refined(network=inside, features=(3,), fold=1, exact=False)
    net = trained(recipe, torch.float64)
    y, mask = problem(2, 3, 20, 17, dtype=torch.float64)
    mask = torch.ones_like(mask)
    behind = Network(inside).double()
    own = {k: v for k, v in net.state_dict().items() if k in behind.state_dict()}
    behind.load_state_dict(own)
    x = behind(y, mask)
    noise = y.new_tensor([noise_deviation(item.numpy()) for item in y])
    noise = noise[:, None, None, None]

    seen = [(x - local_mean(x)) / noise, (y - x) / noise, torch.ones_like(x)]
    maps = torch.cat(seen, 1)
    for name in ("encoder_0", "image"):
        for convolution in getattr(net.cells[-1], f"refinement_{name}"):
            maps = F.conv2d(maps, convolution.weight, padding=1)
            maps = F.leaky_relu(maps, 0.1) if name == "encoder_0" else maps
    found = net(y, mask)
    torch.testing.assert_close(found, x + noise * maps, rtol=1e-10, atol=1e-12)
    assert (found - x).abs().max() > 1e-3


def local_mean(x):
    offsets = torch.arange(-12, 13, dtype=torch.float64)
    line = torch.exp(-((offsets / 4) ** 2) / 2)
    window = (line[:, None] * line)[None, None]
    sums = F.conv2d(x.flatten(0, 1)[:, None], window, padding=12)
    weight = F.conv2d(torch.ones_like(x[:1, :1]), window, padding=12)
    return (sums / weight).reshape(x.shape)


def halved(x):
    H, W = x.shape[-2:]
    return F.avg_pool2d(F.pad(x, (0, W % 2, 0, H % 2)), 2)


def doubled(x, like):
    wide = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return wide[..., : like.shape[-2], : like.shape[-1]]


def test_number_of_weights():
    count = sum(map(math.prod, shapes(Refined()).values()))
    inside = sum(map(math.prod, shapes(TLR()).values()))
    down = 36 * 48 + 48**2 + 48 * 96 + 96**2 + 96 * 128 + 128 * 96
    up = 192 * 96 + 96 * 48 + 96 * 48 + 48**2 + 48 * 12
    assert count - inside == 9 * (down + up) == 656_640


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Refined(network=LS()), "images B C H W with channels"),
        (
            lambda: Refined(network=Unrolled(prior=Convolved(), images="image")),
            "with channels",
        ),
        (lambda: Refined(network=TLR(cells=3), cells=4), "cells must be 0 or 3"),
        (lambda: Refined(features=()), "features must be integers"),
        (lambda: Refined(features=(4, 0)), "features must be integers"),
        (lambda: Refined(fold=0), "fold must be an integer of at least 1"),
        (lambda: Refined(network="TLR"), "network must be a Recipe"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize("exact", [True, False])
def test_needs_samples_of_pixels(exact):
    inside = TLR(cells=1, features=2)
    net = Network(Refined(network=inside, features=(2,), exact=exact))
    A = gaussian_sensing(40, (3, 5, 4), 0)
    with pytest.raises(TypeError, match="Refined needs an operator that samples"):
        net(A(torch.rand(1, 3, 5, 4)), A)


# Training


def test_the_refinement_alone_learns_behind_weights_that_stay(folder, tmp_path):
    first = Network(NETWORK, seed=5)
    save(first, tmp_path / "first.safetensors")
    training = replace(TRAINING, steps=3, learned=("refinement",))
    config = colour(folder, network=RECIPE, training=training)
    output = tmp_path / "run"
    output.mkdir()
    given = tmp_path / "first.safetensors"
    assert train(config, output, weights=given, device="cpu") == 0
    ended = load(output / WEIGHTS).state_dict()
    for name, weight in first.state_dict().items():
        assert torch.equal(ended[name], weight), name
    assert ended["cells.1.refinement_image.0.weight"].any()
    # As if it had not been interrupted, and without the file that it began with.
    given.unlink()
    again = Run(config, None, output, resume=True)
    frozen = [n for n, p in again.network.named_parameters() if not p.requires_grad]
    assert frozen == list(first.state_dict())


def test_all_learn_from_scratch(folder):
    training = replace(TRAINING, steps=2)
    run = Run(colour(folder, network=RECIPE, training=training))
    before = {k: v.clone() for k, v in run.network.state_dict().items()}
    run.train()
    after = run.network.state_dict()
    assert [k for k, v in before.items() if torch.equal(v, after[k])] == []


def test_a_part_of_no_name_is_refused(folder):
    training = replace(TRAINING, learned=("refinment",))
    config = colour(folder, network=RECIPE, training=training)
    with pytest.raises(ValueError, match=r"training.learned: no weights are named"):
        Run(config)
