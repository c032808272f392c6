"""The null vector and its derivative, and truncation that keeps multiplets whole."""

from __future__ import annotations

import numpy as np
import pytest
from frameworks import params
from operator_cases import adjoint, difference, matrices, null_vector, with_values

import svdinv.numpy as svn
from svdinv import GaugeMonitor

DTYPES = [np.float64, np.complex128]
SPECTRA = {
    "distinct": (3.0, 2.0, 1.0, 0.3),
    "repeated": (2.0, 2.0, 2.0, 0.3),
    "nearly repeated": (2.0, 2.0 - 1e-9, 1.0, 0.3),
    "singular": (3.0, 2.0, 1.0, 0.0),
    "repeated and singular": (2.0, 2.0, 1.0, 0.0),
    "nearly singular": (3.0, 2.0, 1.0, 1e-14),
}


def gradient(A, g):
    return svn.vjp(svn.null_vector, A)[1](g)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 4), (4, 4)])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_gradient_is_that_of_differences(spectrum, shape, dtype):
    A = with_values(SPECTRA[spectrum], shape, dtype)
    g, d = matrices((4,), dtype, 1), matrices(shape, dtype, 2)
    d /= np.linalg.norm(d)
    (slope,) = difference(lambda A: [null_vector(A)], [A], [d], step=2e-3)
    found = np.vdot(gradient(A, g), d).real
    assert found == pytest.approx(np.vdot(g, slope).real, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_is_the_formula_of_the_pseudoinverse(dtype):
    """Of 8 x 9 matrices, as the eight-point algorithm has them."""
    A, g = matrices((8, 9), dtype), matrices((9,), dtype, 1)
    v = svn.null_vector(A)
    assert np.linalg.norm(A @ v) < 1e-13
    d = matrices((8, 9), dtype, 2)
    dv = -np.linalg.pinv(A) @ (d @ v)
    # The phase keeps the pivot real.
    first = int(np.argmax(np.abs(v) > np.abs(v).max() / 2))
    dv = dv - 1j * dv[first].imag / v[first].real * v if dtype != np.float64 else dv
    assert np.vdot(gradient(A, g), d).real == pytest.approx(np.vdot(g, dv).real)


@pytest.mark.parametrize("framework", params(), indirect=True)
def test_the_phase_is_fixed(framework):
    A = matrices((5, 6, 4), np.complex128 if framework.name != "mlx" else np.complex64)
    turned = A * np.exp(1j * np.linspace(0, 6, 5))[:, None, None].astype(A.dtype)
    (v,), (w,) = (framework.value(framework.module.null_vector, X) for X in (A, turned))
    np.testing.assert_allclose(v, w, atol=1e-5)
    np.testing.assert_allclose(v, null_vector(A), atol=1e-5)


def test_scales_do_no_harm():
    A, g = matrices((6, 4)), matrices((4,), seed=1)
    for scale in (1e-150, 1e150):
        np.testing.assert_allclose(gradient(scale * A, g) * scale, gradient(A, g))


@pytest.mark.parametrize("shape", [(1, 1), (0, 1), (3, 1), (1, 2), (2, 0, 1)])
def test_the_smallest_sizes(shape):
    A = np.ones(shape)
    v = svn.null_vector(A)
    assert v.shape == (*shape[:-2], shape[-1])
    np.testing.assert_allclose(np.linalg.norm(v, axis=-1), 1)
    assert np.isfinite(gradient(A, np.ones(v.shape))).all()


@pytest.mark.parametrize("shape", [(3, 5), (3, 0), (4,)])
def test_no_line_is_refused(shape):
    with pytest.raises((ValueError, TypeError)):
        svn.null_vector(np.ones(shape))


def test_a_repeated_smallest_value_is_finite_and_told_of():
    A = with_values((3.0, 2.0, 0.5, 0.5), (6, 4))
    monitor = GaugeMonitor()
    _, pullback = svn.vjp(lambda A: svn.null_vector(A, gauge=monitor), A)
    assert np.isfinite(pullback(matrices((4,), seed=1))[0]).all()
    assert float(monitor.last) > 1e-3


MULTIPLET = (4.0, 2.0, 2.0, 2.0, 1.0)


@pytest.mark.parametrize("framework", params(), indirect=True)
@pytest.mark.parametrize(
    ("rank", "kept"), [(1, 1), (2, 1), (3, 1), (4, 4), (5, 5), (9, 5)]
)
def test_multiplets_stay_whole(framework, rank, kept):
    single = framework.name == "mlx"
    A = with_values(MULTIPLET, (7, 5)).astype(np.float32 if single else np.float64)
    U, S, Vh = np.linalg.svd(A, full_matrices=False)
    expected = (U[:, :kept] * S[:kept]) @ Vh[:kept]
    f = framework.module
    (found,) = framework.value(lambda A: f.low_rank(A, rank, multiplets=True), A)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if rank <= 5:
        u, s, vh = framework.value(lambda A: f.svd_lowrank(A, rank, multiplets=True), A)
        assert (u.shape, s.shape, vh.shape) == ((7, rank), (rank,), (rank, 5))
        assert np.count_nonzero(s) == min(kept, rank)
        np.testing.assert_allclose((u * s) @ vh, expected, atol=1e-5)


@pytest.mark.parametrize("framework", params(), indirect=True)
@pytest.mark.parametrize(
    ("rank", "most", "kept"),
    [(1, 4, 1), (2, 4, 4), (2, 3, 1), (3, 5, 4), (4, 5, 4), (2, None, 4), (5, None, 5)],
)
def test_multiplets_are_kept_up_to_the_highest_rank(framework, rank, most, kept):
    single = framework.name == "mlx"
    A = with_values(MULTIPLET, (7, 5)).astype(np.float32 if single else np.float64)
    U, S, Vh = np.linalg.svd(A, full_matrices=False)
    expected = (U[:, :kept] * S[:kept]) @ Vh[:kept]
    f, options = framework.module, {"multiplets": "keep", "max_rank": most}
    (found,) = framework.value(lambda A: f.low_rank(A, rank, **options), A)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    u, s, vh = framework.value(lambda A: f.svd_lowrank(A, rank, **options), A)
    size = most or 5
    assert (u.shape, s.shape, vh.shape) == ((7, size), (size,), (size, 5))
    assert np.count_nonzero(s) == kept
    np.testing.assert_allclose((u * s) @ vh, expected, atol=1e-5)


def test_the_highest_rank_is_each_matrix_s_own():
    batch = np.stack([with_values(v, (7, 5)) for v in (MULTIPLET, (5.0, 4, 3, 3, 1))])
    found = svn.low_rank(batch, 2, multiplets="keep", max_rank=4)
    assert np.linalg.matrix_rank(found).tolist() == [4, 2]
    assert not svn.low_rank(batch, 0, multiplets="keep").any()
    pair = (lambda v: batch[0] @ v, lambda u: adjoint(batch[0]) @ u)
    options = {"like": np.zeros(5), "seed": 0, "multiplets": 1e-8}
    for most, kept in ((3, 1), (4, 4)):
        S = svn.svd_lowrank(pair, 2, max_rank=most, **options).S
        assert S.shape == (most,)
        assert np.count_nonzero(S) == kept


def test_their_gradients_are_those_of_the_rank_that_is_kept():
    A, G = with_values(MULTIPLET, (7, 5)), matrices((7, 5), seed=1)

    def product(A, rank, **options):
        U, S, Vh = svn.svd_lowrank(A, rank, seed=0, power=20, **options)
        return (U * S[None, :]) @ Vh

    for kept, options in (1, {"multiplets": True}), (4, {"multiplets": "keep"}):
        expected = svn.vjp(lambda A, r=kept: svn.low_rank(A, r), A)[1](G)[0]
        for f in svn.low_rank, product:
            gA = svn.vjp(lambda A, f=f, o=options: f(A, 3, **o), A)[1](G)[0]
            np.testing.assert_allclose(gA, expected, atol=1e-9)


def test_a_gap_can_be_given():
    A = with_values((4.0, 2.001, 2.0, 1.0), (5, 4))
    for multiplets, rank in ((True, 2), (1e-4, 2), (1e-3, 1), (0, 2)):
        found = svn.low_rank(A, 2, multiplets=multiplets)
        assert np.linalg.matrix_rank(found) == rank
    for multiplets, rank in ((True, 2), (1e-4, 2), (1e-3, 3), ("keep", 2)):
        found = svn.low_rank(A, 2, multiplets=multiplets, max_rank=3)
        assert np.linalg.matrix_rank(found) == rank


def test_products_keep_multiplets_whole():
    A = with_values(MULTIPLET, (7, 5))
    pair = (lambda v: A @ v, lambda u: adjoint(A) @ u)
    options = {"like": np.zeros(5), "seed": 0}
    U, S, Vh = svn.svd_lowrank(pair, 3, multiplets=1e-8, **options)
    assert (S > 0).tolist() == [True, False, False]
    assert not U[:, 1:].any()
    assert not Vh[1:].any()
    assert (svn.svd_lowrank(pair, 4, multiplets=1e-8, **options).S > 0).all()


@pytest.mark.parametrize("scale", [0.0, 1e-200, 1e200])
def test_multiplets_at_any_scale(scale):
    A = scale * with_values(MULTIPLET, (7, 5))
    assert np.linalg.matrix_rank(svn.low_rank(A, 3, multiplets=True)) == (scale > 0)


@pytest.mark.parametrize(("given", "error"), [(1.0, ValueError), (-0.1, ValueError),
                                              (float("nan"), ValueError),
                                              ("yes", TypeError)])  # fmt: skip
def test_bad_multiplets(given, error):
    with pytest.raises(error, match="multiplets must"):
        svn.low_rank(np.eye(3), 1, multiplets=given)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_rank": 3}, ValueError),
        ({"multiplets": "keep", "max_rank": 1}, ValueError),
        ({"multiplets": True, "max_rank": 2.5}, TypeError),
    ],
)
def test_bad_highest_rank(options, error):
    for f in svn.low_rank, svn.svd_lowrank:
        with pytest.raises(error, match="max_rank"):
            f(np.eye(3), 2, **options)
