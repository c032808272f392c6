"""Shared fixtures."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Before they are imported: TensorFlow's C++ side logs about the processor, and of a
# test in JAX nearly all of the time is that of compiling.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from frameworks import params


# MLX has single precision alone: tests that mind the dtype name it.
@pytest.fixture(params=params(without=("mlx",)))
def framework(request):
    """Each installed framework in turn, or those that a test names."""
    return request.param.require()


@pytest.fixture
def run(framework):
    """The SVD of a framework: (A, **options) -> U, S, Vh and their pullback."""

    def vjp(A, **options):
        factors, pullback = framework.vjp(lambda A: framework.svd(A, **options), A)
        return factors, lambda *cotangents: pullback(*cotangents)[0]

    return vjp
