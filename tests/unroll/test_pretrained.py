from __future__ import annotations

import pytest
import torch

from svdinv.unroll import pretrained
from svdinv.unroll.networks import TLR
from svdinv.unroll.torch import Network, save


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "_FOLDER", tmp_path)
    return tmp_path


def test_weights_in_the_package_by_name(folder):
    network = Network(TLR(cells=1, features=2), seed=3)
    save(network, folder / "colour.safetensors")
    assert pretrained.names() == ["colour"]
    assert pretrained.path("colour") == folder / "colour.safetensors"
    loaded = pretrained.load("colour", svd=torch.linalg.svd)
    assert loaded.recipe == network.recipe
    assert loaded.cells[0].svd is torch.linalg.svd
    assert not loaded.training


@pytest.mark.parametrize("name", ["cine", "../colour", ""])
def test_others_are_refused_with_a_list_of_what_there_is(folder, name):
    with pytest.raises(ValueError, match="there are none"):
        pretrained.path(name)
    (folder / "colour.safetensors").touch()
    with pytest.raises(ValueError, match="there are colour"):
        pretrained.load(name)


def test_what_comes_with_the_package_can_be_loaded():
    for name in pretrained.names():
        assert pretrained.load(name).recipe.cells > 0
