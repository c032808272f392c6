"""Training of layers of one's own: their buffers, their draws, weights left alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from small_trainings import colour, pictures
from torch import nn

from svdinv.unroll.algorithms import ISTA
from svdinv.unroll.networks import LearnedPrior, Unrolled, register
from svdinv.unroll.training.config import Training
from svdinv.unroll.training.run import Run


def convolution():
    return nn.Conv2d(3, 3, 3, padding=1)


def bounded():
    return nn.utils.parametrizations.spectral_norm(convolution())


def dropping():
    return nn.Sequential(convolution(), nn.Dropout(0.3))


def unused():
    layer = convolution()
    layer.register_parameter("extra", nn.Parameter(torch.zeros(3)))
    return layer


LAYERS = {f.__name__: f for f in (bounded, dropping, unused)}


@register
@dataclass(frozen=True)
class OfLayer(LearnedPrior):
    layer: str = "bounded"

    def layers(self, axes):
        return {"net": LAYERS[self.layer]}

    def prox(self, v, step, layers):
        return v - layers.net(v)


class Growing(torch.optim.SGD):
    """Its step grows by a number that it keeps in its options."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["momentum"] += 0.01
        return super().step(closure)


TRAINING = Training(steps=6, batch=2, checkpoint_every=3, validate_every=6)


def config(tmp_path, layer):
    network = Unrolled(cells=1, algorithm=ISTA(), prior=OfLayer(layer), images="image")
    return colour(pictures(tmp_path / "photos"), network=network, training=TRAINING)


def test_the_mean_starts_as_the_network_and_has_its_buffers(tmp_path):
    run = Run(config(tmp_path, "bounded"))
    for name, x in run.network.state_dict().items():
        assert torch.equal(x, run.mean.state_dict()[name]), name
    run.train()
    buffers = dict(run.mean.named_buffers())
    assert buffers
    for name, x in run.network.named_buffers():
        assert torch.equal(x, buffers[name]), name


@pytest.mark.parametrize("layer", LAYERS)
def test_a_resumed_training_ends_in_the_same_bits(layer, tmp_path):
    made = config(tmp_path, layer)
    for name, stops in (("whole", False), ("begun", True)):
        torch.manual_seed(0)  # of which layers of one's own are drawn
        (tmp_path / name).mkdir()
        run = Run(made, output=tmp_path / name)
        run.train(stop=lambda run=run, stops=stops: stops and run.step == 3)
    assert run.step == 3
    torch.manual_seed(1)
    resumed = Run(made, output=tmp_path / "begun", resume=True)
    resumed.train()
    torch.manual_seed(0)
    whole = Run(made, output=tmp_path / "whole", resume=True)
    for name, x in whole.network.state_dict().items():
        assert torch.equal(x, resumed.network.state_dict()[name]), name
    for name, x in whole.mean.state_dict().items():
        assert torch.equal(x, resumed.mean.state_dict()[name]), name


def test_an_optimiser_that_changes_its_options_is_refused(tmp_path):
    training = replace(TRAINING, optimiser=f"{__name__}:Growing")
    with pytest.raises(ValueError, match="Growing changes its option 'momentum'"):
        Run(replace(config(tmp_path, "unused"), training=training))
