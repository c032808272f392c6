"""Shared fixtures."""

from __future__ import annotations

import gc
import os
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

PINS = Path(__file__).parents[1] / "requirements" / "test.txt"


def pinned(package):
    """Whether a package is installed as test.txt pins it, or not at all."""
    try:
        found = f"{package}=={version(package).partition('+')[0]}"
    except PackageNotFoundError:
        return True
    return found in PINS.read_text(encoding="utf-8").split()


# Before they are imported: TensorFlow's C++ side logs about the processor, of a test in
# JAX nearly all of the time is that of compiling, and OpenMP's threads spin after every
# call, while another process of pytest-xdist could have their core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# XLA's fusions are compiled by way of MLIR, which takes as long again as all the rest,
# and programs in parts, side by side, which makes one core a seventh slower.
# A flag that a version does not know ends the process, so they are for the pinned ones.
if all(map(pinned, ("jaxlib", "tensorflow", "tensorflow-cpu"))):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
        " --xla_cpu_parallel_codegen_split_count=1",
    )
sys.path.insert(0, str(Path(__file__).parent))

# Collecting the tests imports and makes much, and leaves no garbage worth the search.
gc.disable()

from frameworks import params


@pytest.fixture(autouse=True)
def _interruptible():
    """What a shell starts in the background ignores Ctrl-C, which some tests send."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep tests of a file together: what they compile or a fixture holds is shared."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.option.dist == "load" else None


def pytest_collection_finish():
    """Let the garbage collector no longer go through all modules and tests.

    Nor often through what frameworks keep of programs: that took a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 10)
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def _programs_are_forgotten():
    """JAX keeps what it compiled: gigabytes, of which other files use little."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()


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
