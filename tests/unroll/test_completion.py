from __future__ import annotations

import numpy as np
import pytest

from svdinv.unroll.algorithms.completion import (
    best_on_path,
    soft_impute,
    soft_impute_path,
    svt,
)
from svdinv.unroll.data.masks import uniform_mask


def _low_rank(rng, shape=(60, 50), rank=3):
    return rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))


def test_svt_shrinks_the_singular_values_and_keeps_the_vectors(rng):
    matrices = rng.standard_normal((2, 7, 5))
    u, s, vt = np.linalg.svd(matrices, full_matrices=False)
    expected = np.einsum("bij,bj,bjk->bik", u, np.maximum(s - 1.3, 0), vt)
    np.testing.assert_allclose(svt(matrices, 1.3), expected, atol=1e-12)


def test_svt_is_the_proximal_operator_of_the_nuclear_norm(rng):
    """X - svt(X) is tau times a subgradient of the nuclear norm at svt(X)."""
    matrix, tau = rng.standard_normal((8, 6)), 1.0
    low = svt(matrix, tau)
    subgradient = (matrix - low) / tau
    assert np.linalg.norm(subgradient, 2) <= 1 + 1e-12
    assert np.vdot(subgradient, low) == pytest.approx(np.linalg.norm(low, "nuc"))


def test_recovers_a_low_rank_matrix_from_some_of_its_entries(rng):
    truth = _low_rank(rng, (40, 30), 2)
    mask = uniform_mask(truth.shape, 0.7, rng)
    thresholds = np.geomspace(0.3, 1e-4, 8)
    *_, (_, found) = soft_impute_path(
        truth, mask, thresholds, iterations=300, rtol=1e-5
    )
    error = np.linalg.norm(found - truth) / np.linalg.norm(truth)
    assert error < 1e-3
    assert np.linalg.norm(truth * mask - truth) / np.linalg.norm(truth) > 0.5


def test_minimises_its_objective(rng):
    """Optimality: the residual is tau times a subgradient of the nuclear norm."""
    truth = _low_rank(rng)
    mask = uniform_mask(truth.shape, 0.6, rng)
    tau = 2.0
    found = soft_impute(truth, mask, tau, iterations=1000, rtol=1e-9)
    subgradient = mask * (truth - found) / tau
    assert np.linalg.norm(subgradient, 2) <= 1 + 1e-6
    assert np.vdot(subgradient, found) == pytest.approx(
        np.linalg.norm(found, "nuc"), rel=1e-6
    )


def test_looks_at_samples_only_and_keeps_them(rng):
    truth = _low_rank(rng)[None].astype(np.float32)
    mask = uniform_mask(truth.shape, 0.5, rng)
    hidden = np.where(mask, truth, np.float32(np.nan))
    for _, found in soft_impute_path(hidden, mask, [0.1, 0.01], iterations=20):
        assert found.dtype == np.float32
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found[mask], truth[mask])


def test_best_on_path_is_the_best(rng):
    shape = (30, 20)
    truth = _low_rank(rng, shape, 1) + 0.3 * rng.standard_normal(shape)
    mask = uniform_mask(truth.shape, 0.5, rng)
    thresholds = [0.5, 0.1, 0.05, 0.001]

    def score(x):
        return -float(np.linalg.norm(x - truth))

    scores = {t: score(x) for t, x in soft_impute_path(truth, mask, thresholds)}
    threshold, found = best_on_path(truth, mask, score, thresholds)
    assert scores[threshold] == max(scores.values()) == score(found)
    assert len(set(scores.values())) == len(thresholds)


def test_best_of_nothing(rng):
    with pytest.raises(ValueError, match="thresholds"):
        best_on_path(np.eye(3), np.eye(3) > 0, np.sum, [])
