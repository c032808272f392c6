"""Fixtures of the tests of the networks and of the command line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from array_frameworks import FRAMEWORKS, Framework
from threadpoolctl import threadpool_limits


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
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1, user_api="blas"):
        yield
    torch.set_num_threads(threads)
