"""Fixtures of the tests of the networks and of the command line."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from array_frameworks import FRAMEWORKS, Framework


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(params=FRAMEWORKS)
def arrays(request):
    """The arrays of each installed framework in turn, and of array-api-strict."""
    framework = Framework(request.param)
    with framework.double():
        yield framework


@pytest.fixture(autouse=True)
def _one_thread():
    """More threads than cores, as with pytest-xdist, are slower by far than one."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)  # a command may have set another number


@pytest.fixture
def one_line(capsys):
    """Give what a command said that refused to work: one line, on stderr."""

    def said():
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err

    return said


@pytest.fixture(scope="session")
def fork(tmp_path_factory):
    """Start ``svdinv train``, or some code, in processes that need no imports."""
    from forks import forking

    with forking(tmp_path_factory.mktemp("forks")) as start:
        yield start


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Pictures to train on, which no test may change."""
    from small_trainings import pictures

    return pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory):
    """A folder with weights of small networks, by the names of those in the package."""
    from svdinv.unroll.networks import LS, TLR, NonLocal, Refined
    from svdinv.unroll.torch import Network, save

    folder = tmp_path_factory.mktemp("weights")
    alone = NonLocal(exact=False, alone=True, rounds=2, steps=1)
    refined = Refined(network=alone, features=(2,), exact=False)
    save(Network(refined, seed=0), folder / "denoise-refined.safetensors")
    recipe = TLR(cells=1, features=2, block=8, start="fill", side="samples")
    save(Network(recipe, seed=0), folder / "colour.safetensors")
    save(Network(LS(cells=2, features=2), seed=0), folder / "cine.safetensors")
    return folder


@pytest.fixture
def small_methods(small_weights, monkeypatch):
    """Let the command line use small networks, and classical methods that stop early.

    Gives the folder of the weights.
    """
    from svdinv.unroll import pretrained
    from svdinv.unroll.algorithms import non_local
    from svdinv.unroll.algorithms.search import best_solution
    from svdinv.unroll.tasks.cine import baselines as cine_baselines
    from svdinv.unroll.tasks.colour import task as colour

    monkeypatch.setattr(non_local, "DEVIATIONS", (0.1, 0.01))
    monkeypatch.setattr(pretrained, "_FOLDER", small_weights)
    monkeypatch.setattr(cine_baselines, "_ITERATIONS", 3)
    early = functools.partial(best_solution, iterations=3, tolerance=1)
    for module in (cine_baselines, colour):
        monkeypatch.setattr(module, "best_solution", early)
    return small_weights
