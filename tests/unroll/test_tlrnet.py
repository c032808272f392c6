from __future__ import annotations

import pytest
import torch

from svdinv.unroll.networks import TLR
from svdinv.unroll.torch import TLRNet

SMALL = {
    "cells": 2,
    "features": 4,
    "block": 32,
    "start": "fill",
    "side": "samples",
}


def _network(**changes):
    return TLRNet(seed=3, **(SMALL | changes))


def _problem(height=12, width=16, channels=3):
    torch.manual_seed(4)
    image = torch.rand(2, channels, height, width)
    return image, torch.rand_like(image) < 0.4


VARIANTS = [
    {"cells": 1},
    {"cells": 4},
    {"channels": 1, "low_rank_maps": 2},
    {"low_rank_maps": 5, "bypass_maps": 3},
    {"block": None},
    {"block": 5},
    {"start": "adjoint", "side": "none"},
    {"side": "mask"},
    {"convs_before": 0},
    {"convs_before": 1, "convs_after": 0},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_samples_are_kept_exactly_and_every_weight_learns(changes):
    network = _network(**changes)
    image, mask = _problem(channels=changes.get("channels", 3))
    found = network(image * mask, mask)
    assert found.shape == image.shape
    assert torch.equal(found[mask], image[mask])
    assert not torch.equal(found[~mask], image[~mask])
    ((found - image) ** 2).mean().backward()
    for name, weight in network.named_parameters():
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


def _dark_problem(kind):
    image, mask = _problem()
    if kind == "black":
        image[0] = 0
    elif kind == "half black":
        image[0, :, :, :9] = 0
    elif kind == "constant":
        image[0] = 0.5
        mask[0] = True
    return image, mask


def _gradients_finite(network, image, mask):
    ((network(image, mask) - image) ** 2).mean().backward()
    return all(bool(p.grad.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize("kind", ["black", "half black", "constant"])
@pytest.mark.parametrize("convs_before", [0, 3])
def test_gradient_is_finite_where_maps_are_dead_or_constant(kind, convs_before):
    network = _network(convs_before=convs_before, block=4)
    assert _gradients_finite(network, *_dark_problem(kind))


def test_dead_feature_maps_leave_a_finite_gradient():
    network = _network()
    with torch.no_grad():
        network.cells[0].analysis[-1].weight[1].zero_()
    assert _gradients_finite(network, *_problem())


@pytest.mark.parametrize(
    "changes",
    [
        {"cells": 0},
        {"features": 0},
        {"channels": 0},
        {"low_rank_maps": 0},
        {"bypass_maps": -1},
        {"convs_after": -1},
        {"block": 0},
        {"start": "zeros"},
        {"side": "both"},
        {"convs_before": 0, "low_rank_maps": 4},
        {"convs_after": 0, "bypass_maps": 1},
    ],
    ids=str,
)
def test_refuses_what_makes_no_network(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        TLR(**changes)
