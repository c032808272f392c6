"""The gradients by hand: svdinv.numpy, and svdinv.cupy as far as no GPU goes."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest
from oracle import FUNCTIONS, draw, relative_error

from svdinv.numpy import svd, svd_jvp, svd_vjp, svdvals


def test_forward_is_that_of_numpy():
    A = np.random.default_rng(0).standard_normal((3, 5, 4))
    for ours, theirs in zip(svd(A), np.linalg.svd(A, full_matrices=False), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(svd(A, True), np.linalg.svd(A), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(svdvals(A), svd(A).S)
    np.testing.assert_array_equal(svd(A, compute_uv=False), svd(A).S)


def test_missing_cotangents_are_zero():
    problem = draw("pair", (7, 6), draws=2, seed=1)
    (U, S, Vh), pullback = svd_vjp(problem.A)
    gU, gS, gVh = problem.cotangents((U, S, Vh), FUNCTIONS["tanh"])
    zeros = [np.zeros_like(x) for x in (U, S, Vh)]
    for given in [(gU, None, None), (None, gS, None), (None, None, gVh),
                  (gU, gS, None), (None, gS, gVh), (gU, None, gVh)]:  # fmt: skip
        filled = [z if g is None else g for g, z in zip(given, zeros, strict=True)]
        np.testing.assert_allclose(
            pullback(*given), pullback(*filled), rtol=1e-13, atol=1e-14
        )
    np.testing.assert_array_equal(pullback(None, None, None), np.zeros_like(problem.A))


def test_pullback_can_be_called_again_and_changes_nothing():
    problem = draw("triple", (7, 6), draws=2, dtype=np.complex128, seed=2)
    A = problem.A.copy()
    A.flags.writeable = False
    factors, pullback = svd_vjp(A)
    given = problem.cotangents(factors, FUNCTIONS["tanh"])
    copies = [g.copy() for g in given]
    np.testing.assert_array_equal(pullback(*given), pullback(*given))
    for g, copy in zip(given, copies, strict=True):
        np.testing.assert_array_equal(g, copy)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ((np.ones((7, 7)), None, None), ValueError, r"gU must have shape \(7, 6\)"),
        ((None, np.ones(5), None), ValueError, r"gS must have shape \(6,\)"),
        ((None, None, np.ones((6, 7))), ValueError, r"gVh must have shape \(6, 6\)"),
        ((None, 1j * np.ones(6), None), TypeError, "gS must be real"),
        ((None, None, None, None), TypeError, "gU, gS, gVh"),
    ],
)
def test_bad_cotangents_are_named(bad, error, message):
    _, pullback = svd_vjp(np.random.default_rng(3).standard_normal((7, 6)))
    with pytest.raises(error, match=message):
        pullback(*bad)


def test_cotangents_by_name():
    factors, pullback = svd_vjp(np.random.default_rng(3).standard_normal((7, 6)))
    gS = factors.S
    np.testing.assert_array_equal(pullback(gS=gS), pullback(None, gS, None))
    with pytest.raises(TypeError, match="gU, gS, gVh, got 0 cotangents and gV"):
        pullback(gV=None)
    with pytest.raises(TypeError, match="gU, gS, gVh, got 1 cotangents and gU"):
        pullback(None, gU=None)


def test_bad_tangent_is_named():
    with pytest.raises(ValueError, match=r"dA must have shape \(3, 2\)"):
        svd_jvp(np.ones((3, 2)), np.ones((2, 3)))


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("shape", [(6, 6), (9, 6), (6, 9)])
def test_pushforward_against_finite_differences(shape, full, dtype):
    problem = draw("distinct", shape, draws=3, dtype=dtype, seed=4)
    (U, S, Vh), (dU, dS, dVh) = svd_jvp(problem.A, problem.G.astype(dtype), full)
    step = 1e-6
    plus, minus = (svd(problem.A + t * problem.G, full) for t in (step, -step))
    np.testing.assert_allclose((plus.S - minus.S) / (2 * step), dS, atol=1e-8)

    def product(U, Vh):  # U f(1..k) V^H is free of phases and of null-space bases
        k = S.shape[-1]
        return (U[..., :k] * np.arange(1.0, k + 1)) @ Vh[..., :k, :]

    difference = (product(plus.U, plus.Vh) - product(minus.U, minus.Vh)) / (2 * step)
    tangent = product(dU, Vh) + product(U, dVh)
    assert relative_error(tangent, difference).max() < 1e-7
    identity = np.swapaxes(U.conj(), -1, -2) @ dU
    np.testing.assert_allclose(identity, -np.swapaxes(identity.conj(), -1, -2),
                               atol=1e-12)  # fmt: skip


def test_half_precision_is_computed_in_single():
    A = np.random.default_rng(5).standard_normal((4, 3)).astype(np.float16)
    (U, S, Vh), pullback = svd_vjp(A)
    assert U.dtype == S.dtype == Vh.dtype == np.float16
    gA = pullback(np.zeros_like(U), 2 * S, np.zeros_like(Vh))
    assert gA.dtype == np.float16
    np.testing.assert_allclose(gA.astype(float), 2 * A.astype(float), rtol=5e-3,
                               atol=5e-3)  # fmt: skip
    _, tangents = svd_jvp(A, A)
    assert all(x.dtype == np.float16 for x in tangents)


def test_lists_are_taken_as_numpy_takes_them():
    np.testing.assert_allclose(svdvals([[3.0, 0.0], [0.0, 4.0]]), [4.0, 3.0])


class TestCuPy:
    """What can be told without a GPU."""

    @pytest.fixture(autouse=True)
    def _cupy(self):
        pytest.importorskip("cupy")

    @pytest.mark.parametrize("name", ["svd", "svdvals", "svd_vjp", "svd_jvp"])
    def test_same_signatures_as_numpy(self, name):
        import svdinv.cupy

        ours, theirs = (
            [
                (p.name, p.kind, p.default)
                for p in inspect.signature(f).parameters.values()
            ]
            for f in (getattr(svdinv.cupy, name), getattr(svdinv.numpy, name))
        )
        assert ours == theirs

    def test_same_functions_as_numpy(self):
        import svdinv.cupy

        assert svdinv.cupy.__all__ == svdinv.numpy.__all__
        for name in svdinv.cupy.__all__:
            function = getattr(svdinv.cupy, name)
            assert pickle.loads(pickle.dumps(function)) == function

    def test_bad_options_are_found_before_the_device(self):
        import svdinv.cupy

        with pytest.raises(ValueError, match="repeated must be one of"):
            svdinv.cupy.svd_vjp(None, repeated="average")

    def test_the_namespace_has_all_that_core_uses(self):
        """Every function that core names exists in CuPy's namespace."""
        import re
        from pathlib import Path

        from array_api_compat import cupy as xp

        import svdinv.core

        used = set()
        for path in Path(svdinv.core.__file__).parent.glob("*.py"):
            used |= set(
                re.findall(r"\bxp\.((?:linalg\.|fft\.)?\w+)\(", path.read_text())
            )
        used -= {"dynamic_shape"}  # for unknown shapes, which CuPy has not
        assert {"where", "linalg.svd"} <= used
        for name in used:
            namespace = xp
            for part in name.split("."):
                namespace = getattr(namespace, part)


@pytest.mark.gpu
class TestCuPyOnAGPU:
    """The same numbers as NumPy."""

    @pytest.fixture(autouse=True)
    def _gpu(self):
        cupy = pytest.importorskip("cupy")
        if not cupy.is_available():
            pytest.skip("no CUDA GPU")

    @pytest.mark.parametrize(
        "dtype", [np.float32, np.float64, np.complex64, np.complex128]
    )
    @pytest.mark.parametrize("spectrum", ["distinct", "pair", "zeros", "all equal"])
    def test_exact(self, spectrum, dtype):
        import cupy as cp

        import svdinv.cupy

        problem = draw(spectrum, (9, 6), draws=20, dtype=dtype, seed=6)
        f = FUNCTIONS["tanh"]
        factors, pullback = svdinv.cupy.svd_vjp(cp.asarray(problem.A))
        given = problem.cotangents(tuple(map(cp.asnumpy, factors)), f, "schatten")
        gA = cp.asnumpy(pullback(*map(cp.asarray, given)))
        error = relative_error(gA, problem.exact_gradient(f, "schatten"))
        assert np.median(error) < 50 * np.finfo(dtype).eps
        assert error.max() < 1e-3
