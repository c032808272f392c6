from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from small_trainings import NETWORK

from svdinv.unroll.networks import TLR
from svdinv.unroll.torch import Network
from svdinv.unroll.training.checkpoints import read_checkpoint, write_checkpoint

CONFIG = 'seed = 0 # "ü"\n'


def made(seed, steps, recipe=NETWORK):
    """Network, means and optimiser, after some steps on data of that seed."""
    network, mean = (Network(recipe, seed=seed + i) for i in range(2))
    optimiser = torch.optim.Adam(network.parameters())
    for step in range(steps):
        advance(network, optimiser, step)
    return network, mean, optimiser


def advance(network, optimiser, step):
    rng = torch.Generator().manual_seed(step)
    truth = torch.rand(2, 3, 16, 16, generator=rng)
    mask = torch.rand(2, 3, 16, 16, generator=rng) < 0.5
    optimiser.zero_grad()
    ((network(truth * mask, mask) - truth) ** 2).mean().backward()
    optimiser.step()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.safetensors"


@pytest.mark.parametrize("steps", [0, 3])
def test_restores_the_states_of_adam_to_the_last_bit(path, steps):
    network, mean, optimiser = made(1, steps)
    write_checkpoint(path, steps, CONFIG, network, mean, optimiser)
    found = read_checkpoint(path)
    assert (found.step, found.config) == (steps, CONFIG)
    other, other_mean, other_optimiser = made(8, 1)
    found.restore(other, other_mean, other_optimiser)
    for module, twin in ((network, other), (mean, other_mean)):
        for name, x in module.state_dict().items():
            twins = twin.state_dict()[name]
            assert torch.equal(x, twins)
            assert x.stride() == twins.stride()
    if steps:
        for one, two in zip(network.parameters(), other.parameters(), strict=True):
            state, twins = optimiser.state[one], other_optimiser.state[two]
            assert state.keys() == twins.keys()
            for name, x in state.items():
                assert torch.equal(x, twins[name])
                assert (x.dtype, x.device) == (twins[name].dtype, twins[name].device)
                assert x.stride() == twins[name].stride()
    for step in range(steps, steps + 3):
        advance(network, optimiser, step)
        advance(other, other_optimiser, step)
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_says_what_else_it_was_made_with(path):
    write_checkpoint(path, 0, CONFIG, *made(1, 0), {"torch": "1.0"})
    assert read_checkpoint(path).origin == {"torch": "1.0"}
    write_checkpoint(path, 0, CONFIG, *made(1, 0))
    assert read_checkpoint(path).origin == {}


def test_restored_tensors_are_no_one_elses(path):
    write_checkpoint(path, 2, CONFIG, *made(1, 2))
    found = read_checkpoint(path)
    before = {name: x.clone() for name, x in found.tensors.items()}
    network, mean, optimiser = made(2, 0)
    found.restore(network, mean, optimiser)
    advance(network, optimiser, 2)
    assert all(torch.equal(x, before[name]) for name, x in found.tensors.items())


@pytest.mark.parametrize("recipe", [TLR(cells=1, features=4), TLR(cells=2, features=5)])
def test_is_not_restored_into_another_network(path, recipe):
    write_checkpoint(path, 1, CONFIG, *made(1, 1))
    with pytest.raises(ValueError, match="checkpoint is of another network"):
        read_checkpoint(path).restore(*made(1, 0, recipe))


def test_what_is_damaged_is_refused_by_name(path):
    write_checkpoint(path, 1, CONFIG, *made(1, 1))
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"{path} is not a checkpoint"):
            read_checkpoint(path)
    path.write_bytes(b"\x93NUMPY" + bytes(1000))
    with pytest.raises(ValueError, match="is not a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "note",
    [
        None,
        {"svdinv": "{}"},
        {"svdinv.training": "no json"},
        {"svdinv.training": "[1]"},
        {"svdinv.training": json.dumps({"step": 1})},
        {"svdinv.training": json.dumps({"step": 1, "config": "", "origin": 1})},
    ],
)
def test_other_files_are_refused(path, note):
    save_file({"a": torch.zeros(2)}, path, note)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        read_checkpoint(path)


def test_missing_files_and_folders(path, tmp_path):
    with pytest.raises(ValueError, match=f"there is no checkpoint {path}"):
        read_checkpoint(path)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        read_checkpoint(tmp_path)
