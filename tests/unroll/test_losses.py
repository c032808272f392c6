"""What a training makes small, and in which precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_trainings import cine, colour, pictures

from svdinv.unroll.networks import TLR
from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import Network
from svdinv.unroll.training.run import Run, svd_of

EXPECTED = {
    "l1": lambda errors: np.mean([e.mean() for e in errors]),
    "mse": lambda errors: np.mean([(e**2).mean() for e in errors]),
    "log-l1": lambda errors: np.mean([np.log(e.mean()) for e in errors]),
    "log-mse": lambda errors: np.mean([np.log((e**2).mean()) for e in errors]),
}


@pytest.fixture(scope="module", params=[colour, cine], ids=["real", "complex"])
def config(request, tmp_path_factory):
    if request.param is cine:
        return cine()
    return colour(pictures(tmp_path_factory.mktemp("data") / "pictures"))


def run_with(config, **options):
    return Run(replace(config, training=replace(config.training, **options)))


@pytest.mark.parametrize("name", EXPECTED)
def test_losses_by_definition(config, name):
    run = run_with(config, loss=name)
    batch = run.source.batch(0, 1, range(2))
    given = [batch.replace_arrays(torch.from_numpy)]
    with torch.no_grad():
        images = run.network(*given).numpy()
        found = run._loss(run.network, batch).item()
    errors = [np.abs(x - y) for x, y in zip(images, batch.truth, strict=True)]
    assert found == pytest.approx(EXPECTED[name](errors), rel=1e-5)


@pytest.mark.parametrize("name", ["l1", "mse", "log-l1", "log-mse"])
def test_a_truth_of_another_shape_is_refused(config, name):
    """It would be broadcast, and each image be compared with the truth of all items."""
    run = run_with(config, loss=name)
    batch = run.source.batch(0, 1, range(2))
    for truth in (batch.truth[:, :1], batch.truth[:, 0]):
        with pytest.raises(ValueError, match="the truth must have the shape"):
            run._loss(run.network, replace(batch, truth=truth))


@pytest.mark.parametrize("name", EXPECTED)
def test_an_item_without_error_gives_no_nan(config, name):
    run = run_with(config, loss=name)
    zeros = [np.zeros_like(x) for x in run.source.batch(0, 1, range(1)).truth[None]]
    batch = run.source.batch(0, 1, range(1))
    batch = Problem(np.zeros_like(batch.y), batch.A, truth=zeros[0])
    loss = run._loss(run.network, batch)
    loss.backward()
    assert torch.isfinite(loss)
    for parameter in run.network.parameters():
        assert torch.isfinite(parameter.grad).all()


def test_bfloat16_is_for_the_convolutions_alone(config):
    # Of squares: where an error is small, the sign of that matters to no other loss.
    runs = (run_with(config, loss="mse", precision=p) for p in ("float32", "bfloat16"))
    whole, low = runs
    seen = set()

    def note(module, given, result):
        seen.add(result.dtype)

    for module in low.network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
            module.register_forward_hook(note)
    batch = whole.source.batch(0, 1, range(2))
    losses = [run._loss(run.network, batch) for run in (whole, low)]
    assert seen == {torch.bfloat16}
    assert losses[1].dtype == torch.float32
    assert losses[0].item() != losses[1].item()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=0.02)
    for loss in losses:
        loss.backward()
    gradients = [
        torch.cat([p.grad.flatten() for p in run.network.parameters()])
        for run in (whole, low)
    ]
    assert gradients[1].dtype == torch.float32
    difference = (gradients[0] - gradients[1]).norm()
    assert 0 < difference < 0.2 * gradients[0].norm()


@pytest.mark.parametrize("name", ["svt", "consistent", "torch.linalg.svd"])
def test_the_low_rank_step_is_never_in_half_precision(name):
    network = Network(TLR(cells=1, features=4), svd=svd_of(name), seed=0)
    (cell,) = network.cells
    A = torch.randn(5, 8, 8, generator=torch.manual_seed(0), requires_grad=True)
    found = []
    for low in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            result = cell.svt(A, torch.tensor(0.1))
        found += [result, *torch.autograd.grad(result.square().sum(), A)]
    assert result.dtype == torch.float32
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
