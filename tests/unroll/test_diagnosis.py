from __future__ import annotations

from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from small_trainings import NETWORK, TRAINING, Given, batch_of, colour, noise

from svdinv.unroll.networks import (
    LLS,
    TLR,
    EMNet,
    Generator,
    JointPrimalDual,
    NonLocal,
    PrimalDual,
    Recipe,
    Refined,
)
from svdinv.unroll.networks.recipe import registered
from svdinv.unroll.operators import Sampling
from svdinv.unroll.problem import Problem
from svdinv.unroll.torch import Cell, Network, load
from svdinv.unroll.training.checkpoints import read_checkpoint
from svdinv.unroll.training.config import Training
from svdinv.unroll.training.diagnosis import Breakdown, diagnose
from svdinv.unroll.training.run import CHECKPOINT, WEIGHTS, Run, svd_of

# The singular values that are thresholded are those of the images' own channels.
BARE = replace(NETWORK, cells=3, convs_before=0, convs_after=0, block=None)
# Without a multiplier, and with all pixels known, they are so in every cell.
BARE = replace(BARE, start="adjoint", side="none", step=0.0)


def loss(network, batch):
    batch = batch.replace_arrays(torch.from_numpy)
    return ((network(batch) - batch.truth) ** 2).mean()


def known(*images):
    return Given(list(images)).batch(0, 1, range(len(images)))


def diagonal(*values, size=8):
    """An image, all channels of which have these singular values, in an odd basis."""
    rng = np.random.default_rng(1)
    u, v = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    s = np.zeros(size)
    s[: len(values)] = values
    return np.stack([u @ np.diag(s) @ v.T] * 3)


def whole(*images):
    """A batch of which every pixel is known: the first estimate is the truth."""
    truth = np.stack(images).astype(np.float32)
    return batch_of(truth, (np.ones_like(truth, dtype=bool),), truth + 1)


def test_the_spectrum_is_that_of_the_matrix_at_fault():
    """Two zeros beside distinct values, one of many blocks."""
    image = np.concatenate([diagonal(*range(8, 0, -1)), diagonal(5, 4, 3)], axis=-1)
    image[:, :, 8 + 6 :] = image[:, 6:, 8:] = 0  # exact zeros: two rows, two columns
    expected = np.linalg.svd(image[0, :, 8:].astype(np.float32), compute_uv=False)
    network = Network(replace(BARE, cells=2, block=8), svd=torch.linalg.svd, seed=0)
    found = diagnose(network, 1, whole(image), loss)
    assert (found.layer, found.pass_) == ("cells.1.svt", "backward")
    np.testing.assert_allclose(found.spectrum, expected, atol=1e-6)
    assert (found.spectrum < 1e-6).sum() >= 2


def test_svt_has_nothing_to_be_blamed_for():
    black = np.zeros((3, 8, 8))
    found = diagnose(Network(BARE, seed=0), 1, whole(black), loss)
    assert not found.found
    assert str(found).endswith("not when the step was repeated")


def test_a_weight_that_is_not_finite_is_named():
    network = Network(NETWORK, seed=0)
    for name in ("cells.1.analysis.1.weight", "cells.0.threshold", "cells.0.eta"):
        poisoned = Network(NETWORK, seed=0)
        with torch.no_grad():
            dict(poisoned.named_parameters())[name].fill_(torch.nan)
        found = diagnose(poisoned, 2, known(*noise()), loss)
        assert (found.layer, found.pass_, found.spectrum) == (name, "forward", None)
    assert not diagnose(network, 2, known(*noise()), loss).found


@pytest.mark.parametrize("svd", [None, torch.linalg.svd])
def test_the_first_layer_with_an_overflow_is_named(svd):
    network = Network(NETWORK, svd=svd, seed=0)
    with torch.no_grad():
        network.cells[1].analysis[1].weight.fill_(3e38)
    found = diagnose(network, 2, known(*noise()), loss)
    assert (found.layer, found.pass_) == ("cells.1.analysis.1", "forward")
    assert "an output that is not finite, first in cells.1.analysis.1" in str(found)


def test_a_cell_is_named_where_none_of_its_layers_is_at_fault():
    network = Network(NETWORK, seed=0)
    network.cells[0].eta.data.fill_(3e38)
    images = 1e8 * noise()
    found = diagnose(network, 2, known(*images), loss)
    assert (found.layer, found.pass_) == ("cells.0", "forward")


DECOMPOSING = [
    r
    for r in registered(Recipe).values()
    if not issubclass(r, Generator | EMNet | PrimalDual | JointPrimalDual)
]


@pytest.mark.parametrize("recipe", DECOMPOSING)
def test_in_every_network_the_step_is_found_that_cannot_decompose(recipe):
    behind = recipe in (Refined, NonLocal)
    recipe = recipe(network=TLR(cells=2)) if behind else recipe(cells=2)
    rng = np.random.default_rng(2)
    shape = (2, 3, 16, 16)
    truth = rng.standard_normal(shape).astype(np.float32)
    if recipe.axes == "B T H W":
        truth = truth + 0j
    batch = batch_of(truth, (np.ones(shape, dtype=bool),), truth)

    def svd(A, full_matrices=False):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    found = diagnose(Network(recipe, svd=svd, seed=0), 1, batch, size)
    assert (found.layer, found.pass_) == ("cells.0.svt", "forward")


class Stumbling(LLS):
    """Its start fails, or makes something that is not finite."""

    fails = True

    def begin(self, problem):
        if self.fails:
            raise torch.linalg.LinAlgError("failed to converge")
        return super().begin(replace(problem, y=torch.inf * problem.y))


@pytest.mark.parametrize("fails", [True, False])
def test_what_happens_in_front_of_the_cells_is_named(fails, monkeypatch):
    monkeypatch.setattr(Stumbling, "fails", fails)
    network = Network(Stumbling(cells=1, features=2), seed=0)
    series = np.ones((1, 2, 16, 16), np.complex64)
    mask = np.ones(series.shape, dtype=bool)
    found = diagnose(network, 1, batch_of(series, (mask,), series), size)
    assert (found.layer, found.pass_) == ("start", "forward")
    assert "an output that is not finite, first in start" in str(found)


def size(network, batch):
    return network(batch.replace_arrays(torch.from_numpy)).abs().sum()


def test_a_gradient_that_pytorch_refuses_is_not_finite():
    """That of a loss which depends on phases: in one of several processes, too."""
    A = torch.randn(4, 3, dtype=torch.complex64, generator=torch.manual_seed(0))
    A.requires_grad_()
    svd = svd_of("torch.linalg.svd")
    with pytest.raises(RuntimeError, match="svd_backward"):
        torch.linalg.svd(A, full_matrices=False)[0].imag.sum().backward()
    svd(A)[0].imag.sum().backward()
    assert A.grad.isnan().all()
    grads = []
    for decompose in (torch.linalg.svd, svd):
        u, s, vh = decompose(A, full_matrices=False)
        grads += torch.autograd.grad(((u * s**2) @ vh).abs().sum(), A)
    assert torch.equal(*grads)


def test_an_output_of_svt_is_blamed_on_its_matrix():
    images = [diagonal(*(k * np.arange(8, 0, -1))) for k in range(1, 5)]

    def svd(A, full_matrices=False):
        u, s, vh = torch.linalg.svd(A, full_matrices=full_matrices)
        return u, torch.where(s > 23, torch.nan, s), vh

    found = diagnose(Network(BARE, svd=svd, seed=0), 2, whole(*images), loss)
    assert (found.layer, found.pass_) == ("cells.0.svt", "forward")
    np.testing.assert_allclose(found.spectrum, 3 * np.arange(8, 0, -1), rtol=1e-5)


def test_data_loss_and_weights_are_blamed_where_the_layers_are_innocent():
    network = Network(NETWORK, seed=0)
    batch = known(*noise())
    batch.truth[0, 0, 0, 0] = np.inf
    assert diagnose(network, 1, batch, loss).layer == "data"
    batch = known(*noise())
    large = diagnose(network, 1, batch, lambda *given: 1e38 * 1e38 * loss(*given))
    assert (large.layer, large.pass_) == ("loss", "forward")

    def steep(*given):
        value = loss(*given)
        return value + value.detach() * 0 + Steep.apply(value)

    found = diagnose(network, 1, batch, steep)
    assert found.pass_ == "backward"
    assert found.layer in dict(network.named_parameters())


class Steep(torch.autograd.Function):
    """Zero, with a slope whose square is too large for single precision."""

    @staticmethod
    def forward(ctx, x):
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx, g):
        return g * 1e30


def test_the_network_is_left_as_it_was():
    network = Network(NETWORK, svd=torch.linalg.svd, seed=0)
    before = {name: x.clone() for name, x in network.state_dict().items()}
    first = loss(network, known(*noise()))
    diagnose(network, 1, known(np.zeros((3, 16, 16))), loss)
    assert all(p.grad is None for p in network.parameters())
    for module in network.modules():
        assert not module._forward_hooks
        assert not isinstance(module, Cell) or "svt" not in vars(module)
    assert all(torch.equal(x, before[k]) for k, x in network.state_dict().items())
    assert torch.equal(first, loss(network, known(*noise())))


def test_a_breakdown_says_what_is_zero_and_what_repeats():
    spectrum = np.array([4, 2, 2, 2, 1, 1e-7, 0])
    text = str(Breakdown(3, "cells.1.svt", "backward", spectrum))
    assert "singular values there: 4, 2, 2, 2, 1, 1e-07, 0\n" in text
    assert "of 7: 2 zero, 2 as large as the next one" in text
    many = str(Breakdown(3, "cells.1.svt", "backward", np.arange(20, 0, -1.0)))
    assert "20, 19, 18, 17, 16, 15, 14, 13, ...\n" in many
    assert str(Breakdown(3, "data", "forward")) == "step 3: the data are not finite"


# What a run makes of it


def broken(run, output):
    """Train to the breakdown; what is kept has to be good, and of the step before."""
    outcome = run.train()
    assert outcome.ending == "broken"
    assert outcome.saved == outcome.step == outcome.breakdown.step - 1
    assert len(outcome.losses) == outcome.step
    assert all(x.isfinite().all() for x in load(output / WEIGHTS).parameters())
    checkpoint = read_checkpoint(output / CHECKPOINT)
    assert checkpoint.step == outcome.step
    assert all(x.isfinite().all() for x in checkpoint.tensors.values())
    return outcome.breakdown


THEIRS = replace(TRAINING, svd="torch.linalg.svd")


def test_black_patches_break_torch_and_nothing_else(tmp_path):
    images = [*noise(3), np.zeros((3, 16, 16))]
    config = colour(training=THEIRS)
    found = broken(Run(config, Given(images), tmp_path), tmp_path)
    assert (found.step, found.layer, found.pass_) == (1, "cells.1.svt", "backward")
    # Without a bias, black in, black out.
    np.testing.assert_array_equal(found.spectrum, np.zeros(8))
    names = get_args(get_type_hints(Training)["svd"])
    assert {"svt", "consistent", "torch.linalg.svd"} < set(names)
    for svd in set(names) - {"none", "torch.linalg.svd"}:
        ours = colour(training=replace(TRAINING, svd=svd, steps=3))
        assert Run(ours, Given(images)).train().ending == "finished"


def test_data_that_are_not_finite_stop_the_run(tmp_path):
    for i, svd in enumerate(("svt", "torch.linalg.svd")):
        config = colour(training=replace(TRAINING, svd=svd))
        output = tmp_path / str(i)
        output.mkdir()
        found = broken(Run(config, Given(noise(), bad_step=8), output), output)
        assert (found.step, found.layer) == (8, "data")


@pytest.mark.parametrize("svd", ["svt", "torch.linalg.svd"])
@pytest.mark.parametrize("value", [torch.nan, 3e38], ids=["nan", "diverged"])
def test_poisoned_weights_are_not_saved(tmp_path, svd, value):
    """What the disk has from the step before them stays, even if they are finite."""
    run = Run(colour(training=replace(TRAINING, svd=svd)), Given(noise()), tmp_path)

    def poison(step, loss):
        if step == 8:
            run.network.cells[1].analysis[1].weight.data.fill_(value)

    outcome = run.train(on_step=poison)
    assert outcome.ending == "broken"
    layer = "cells.1.analysis.1.weight" if np.isnan(value) else "cells.1.analysis.1"
    assert (outcome.breakdown.step, outcome.breakdown.layer) == (9, layer)
    assert (outcome.step, outcome.saved) == (8, 6)
    checkpoint = read_checkpoint(tmp_path / CHECKPOINT)
    assert checkpoint.step == 6
    assert all(x.isfinite().all() for x in checkpoint.tensors.values())
    resumed = Run(run.config, Given(noise()), tmp_path, resume=True)
    assert resumed.train().ending == "finished"


def test_a_breakdown_repeats_itself_when_resumed(tmp_path):
    config = colour(training=THEIRS)
    data = Given([*noise(3), np.zeros((3, 16, 16))])
    one = broken(Run(config, data, tmp_path), tmp_path)
    two = broken(Run(config, data, tmp_path, resume=True), tmp_path)
    assert str(one) == str(two)


def test_a_failing_diagnosis_costs_nothing_but_itself(tmp_path, monkeypatch):
    def failing(*given):
        raise TypeError("a mistake of ours")

    monkeypatch.setattr("svdinv.unroll.training.run.diagnose", failing)
    outcome = Run(colour(), Given(noise(), bad_step=8), tmp_path).train()
    assert (outcome.ending, outcome.step, outcome.saved) == ("broken", 7, 6)
    assert "the search for it failed" in str(outcome.breakdown)
    assert not outcome.breakdown.found
    assert read_checkpoint(tmp_path / CHECKPOINT).step == 6


def test_a_validation_that_is_not_finite_is_no_end(tmp_path):
    class Poor(Given):
        def validation(self):
            mask = self.batch(0, 1, range(1)).A.mask
            image = np.full((3, 16, 16), np.nan, np.float32)
            return [Problem(image, Sampling(mask[0]), truth=image, name="poor")]

    told = {}
    run = Run(colour(), Poor(noise()))
    outcome = run.train(on_validation=told.__setitem__)
    assert (outcome.ending, outcome.saved) == ("finished", 20)
    assert told.keys() == {8, 16, 20}
    assert all(map(np.isnan, told.values()))
