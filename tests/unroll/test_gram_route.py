"""Groups by their Gram matrices: as exact as it says, and where it does not apply."""

import numpy as np
import pytest

import svdinv.numpy as sn
from svdinv import kernels
from svdinv.unroll.priors import gram_route
from svdinv.unroll.priors.gram_route import log_sum_by_gram

pytestmark = pytest.mark.skipif(not kernels.is_loaded(), reason="needs the kernels")


def groups(m, n, dtype, seed=0):
    """Groups as those of photographs: a mean that is large, and ever less detail."""
    rng = np.random.default_rng(seed)
    A = 0.05 * np.geomspace(1, 0.01, n) * rng.standard_normal((50, m, n))
    A = A + 0.5 * rng.random((50, 1, n))
    if np.dtype(dtype).kind == "c":
        A = A + 0.03j * rng.standard_normal(A.shape)
    return A.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
@pytest.mark.parametrize("shape", [(64, 48), (32, 36), (20, 48)])
@pytest.mark.parametrize("deviation", [0.3, 0.03, 0.005])
def test_what_it_makes(dtype, shape, deviation):
    A = groups(*shape, dtype)
    tau = (deviation * (shape[0] ** 0.5 + shape[1] ** 0.5) / 2) ** 2
    found = log_sum_by_gram(A, tau, 1e-3)
    if found is None:  # singular values at the cutoff are too small
        assert deviation == 0.005
        return
    assert found.dtype == dtype
    wide = np.complex128 if found.dtype.kind == "c" else np.float64
    exact = sn.log_sum_threshold(A.astype(wide), tau, 1e-3)
    # In the mean: the threshold jumps, and a singular value just there may jump or not.
    error, change = (np.sqrt(np.mean(np.abs(exact - x) ** 2)) for x in (found, A))
    assert error < 0.1 * deviation
    assert error < change / 2


def test_where_it_does_not_apply():
    A = groups(32, 24, np.float32)
    assert log_sum_by_gram(A.astype(np.float64), 0.01, 1e-3) is None
    assert log_sum_by_gram(A, 1e-9, 1e-3) is None
    assert log_sum_by_gram(1e18 * A, 1e30, 1e-3) is None
    assert log_sum_by_gram(np.nan * A, 0.01, 1e-3) is None
    assert log_sum_by_gram(A[:0], 0.01, 1e-3) is None
    assert log_sum_by_gram(0 * A, 0.01, 1e-3) is None


def test_threshold_at_which_it_ends_is_that_of_the_largest_group():
    A = groups(32, 24, np.float32)
    largest = (np.abs(A) ** 2).sum((-2, -1)).max()
    for factor, made in ((1.01, True), (0.99, False)):
        tau = factor * gram_route._LEAST_CUTOFF * largest / 4
        assert (log_sum_by_gram(A, float(tau), 1e-3) is not None) == made
