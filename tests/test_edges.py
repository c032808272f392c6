"""Edges of the operators: nothing at all, numbers without squares, crowded spectra."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from frameworks import params
from operator_cases import adjoint, with_values

import svdinv.numpy
from svdinv.core.functions import Threshold
from svdinv.core.tensors import Tiling
from svdinv.core.thresholds import Firm, Hard, Huber, LogSum, Schatten, Soft

EMPTY = [(0, 3), (3, 0), (2, 0, 3), (0, 4, 3), (0, 0)]
OF_NOTHING = {
    "svt": lambda f, A: f.svt(A, 0.5),
    "relative svt": lambda f, A: f.svt(A, 0.5, relative=True),
    "low_rank": lambda f, A: f.low_rank(A, 1),
    "nuclear_norm": lambda f, A: f.nuclear_norm(A),
    "schatten_norm": lambda f, A: f.schatten_norm(A, 1.5),
    "sure": lambda f, A: f.sure(A, 0.1, 0.1),
    "svdvals": lambda f, A: f.svdvals(A),
    "kabsch": lambda f, A: f.kabsch(A, A).rmsd,
}


@pytest.mark.parametrize("shape", EMPTY, ids=str)
@pytest.mark.parametrize("name", OF_NOTHING)
def test_nothing_has_a_derivative_of_its_shape(name, shape):
    torch = pytest.importorskip("torch")
    import svdinv.torch

    if name == "kabsch" and shape[-1] == 0:
        with pytest.raises(RuntimeError, match="at least one coordinate"):
            svdinv.torch.kabsch(torch.zeros(shape), torch.zeros(shape))
        return
    A = torch.zeros(shape, requires_grad=True)
    OF_NOTHING[name](svdinv.torch, A).sum().backward()
    assert A.grad.shape == shape
    value, pullback = svdinv.numpy.vjp(
        lambda A: OF_NOTHING[name](svdinv.numpy, A), np.zeros(shape)
    )
    assert pullback(np.ones_like(value))[0].shape == shape


@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (3, 2, 0)], ids=str)
def test_tensors_of_nothing(shape):
    value, pullback = svdinv.numpy.vjp(svdinv.numpy.tsvt, np.zeros(shape), 0.5)
    gX, gtau = pullback(value)
    assert value.shape == gX.shape == shape
    assert gtau == 0


@pytest.mark.parametrize("size", [1e-300, 1e-308, 1e-310, 1e-320])
def test_estimates_of_risk_at_numbers_without_squares(size):
    A = np.diag([3.0, 2.0, 1.0])
    value, pullback = svdinv.numpy.vjp(svdinv.numpy.svt_divergence, A, 1.5)
    small, small_pullback = svdinv.numpy.vjp(
        svdinv.numpy.svt_divergence, A * size, 1.5 * size
    )
    # Subnormal numbers have a few digits.
    rtol = 1e-12 if size > 1e-308 else 1e-2
    np.testing.assert_allclose(small, value, rtol=rtol)
    with np.errstate(over="ignore"):
        gA = small_pullback(1.0)[0]
        scaled = pullback(1.0)[0] / size
    assert not np.isnan(gA).any()
    if np.isfinite(scaled).all():
        np.testing.assert_allclose(gA, scaled, rtol=rtol)
    risk, pullback = svdinv.numpy.vjp(svdinv.numpy.sure, A * size, 1.5 * size, size)
    assert np.isfinite(risk)
    assert all(np.isfinite(g).all() for g in pullback(1.0))


def test_thresholds_broadcast_while_shapes_are_dynamic():
    torch = pytest.importorskip("torch")
    import svdinv.torch

    compiled = torch.compile(
        svdinv.torch.svt, dynamic=True, fullgraph=True, backend="aot_eager"
    )
    generator = torch.Generator().manual_seed(0)
    for shape in ((2, 3, 6, 5), (4, 3, 7, 5)):
        A = torch.randn(shape, generator=generator)
        for tau in (torch.rand(3), torch.rand(shape[0], 3, 5)):
            torch.testing.assert_close(compiled(A, tau), svdinv.torch.svt(A, tau))


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "graph"])
def test_tensorflow_solves_a_crowded_spectrum_to_the_end(traced):
    tf = pytest.importorskip("tensorflow")
    import svdinv.tf

    rng = np.random.default_rng(0)
    U = np.linalg.qr(rng.standard_normal((60, 40)))[0]
    V = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    S = np.concatenate([[3.0, 2.0, 1.0], 0.999 - 1e-4 * np.arange(37)])
    A, G = (U * S) @ V.T, rng.standard_normal((60, 40))
    _, pullback = svdinv.numpy.vjp(lambda A: svdinv.numpy.low_rank(A, 3), A)

    def gradient(A):
        with tf.GradientTape() as tape:
            tape.watch(A)
            x = svdinv.tf.svd_lowrank(A, 3, oversampling=37, power=40, seed=0)
            loss = tf.reduce_sum(G * ((x.U * x.S) @ x.Vh))
        return tape.gradient(loss, A)

    found = (tf.function(gradient) if traced else gradient)(tf.constant(A))
    exact = pullback(G)[0]
    assert np.abs(found - exact).max() <= 1e-10 * np.abs(exact).max()


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "graph"])
def test_tensorflow_keeps_nan_in_its_matrix_by_gram(traced):
    tf = pytest.importorskip("tensorflow")
    import svdinv.tf

    def threshold(A):
        return svdinv.tf.svt(A, 0.5, method="gram")

    A = np.ones((2, 3, 3))
    A[0, 0, 0] = np.nan
    found = (tf.function(threshold) if traced else threshold)(tf.constant(A)).numpy()
    assert np.isnan(found[0]).any()
    np.testing.assert_allclose(found[1], svdinv.numpy.svt(A[1], 0.5), rtol=1e-12)


def test_gauge_dependence_of_eigenvectors():
    torch = pytest.importorskip("torch")
    import svdinv
    import svdinv.torch

    monitor = svdinv.GaugeMonitor()
    A = torch.diag(torch.tensor([2.0, 2.0, 1.0])).requires_grad_()
    w, V = svdinv.torch.eigh(A, gauge=monitor)
    ((V * w) @ V.mT).sum().backward()
    assert monitor.last < 1e-6

    def dependent(gauge):  # whichever basis of the repeated pair it is
        V = svdinv.torch.eigh(A, gauge=gauge).V
        return V[0, 1] + 2 * V[0, 2]

    dependent(monitor).backward()
    assert monitor.last > 0.1
    with pytest.raises(svdinv.GaugeError):
        dependent("error").backward()
    with pytest.raises(ValueError, match="gauge"):
        svdinv.torch.eigh(A, gauge="loud")


def test_tensorflow_takes_the_svd_where_the_smaller_side_is_unknown():
    tf = pytest.importorskip("tensorflow")
    import svdinv.tf

    blind = tf.function(
        lambda A: svdinv.tf.svt(A, 0.5, method="gram"),
        input_signature=[tf.TensorSpec([None, None, None], tf.float64)],
    )
    A = np.random.default_rng(0).standard_normal((2, 5, 3))
    np.testing.assert_allclose(blind(A), svdinv.numpy.svt(A, 0.5), rtol=1e-12)


@pytest.mark.parametrize("framework", params(), indirect=True)
@pytest.mark.parametrize("rank", [2**31, 10**20, 10**400], ids=["31", "20", "400"])
def test_rank_beyond_any_integer_of_the_framework_keeps_all(framework, rank):
    A = np.random.default_rng(0).standard_normal((4, 3)).astype("f")
    (found,) = framework.value(lambda A: framework.module.low_rank(A, rank), A)
    np.testing.assert_allclose(found, A, atol=1e-6)


@pytest.mark.parametrize("framework", params(), indirect=True)
@pytest.mark.parametrize("tau", [0.0, 0.7])
def test_infinite_parameters_are_their_limits(framework, tau):
    A, X = np.random.default_rng(1).standard_normal((2, 5, 4)).astype("f")
    W = np.random.default_rng(2).standard_normal((5, 4)).astype("f")
    given = (A, np.float32(tau)), (X, np.float32(0.3)), (W,)
    f = framework.module
    pairs = [
        (
            lambda A, tau: f.huber_threshold(A, tau, np.inf),
            lambda A, tau: f.svt(A, 0 * tau),
        ),
        (lambda A, tau: f.firm_threshold(A, tau, np.inf), lambda A, tau: f.svt(A, tau)),
    ]
    for one, other in pairs:
        for found, expected in zip(
            framework.derivatives(one, *given),
            framework.derivatives(other, *given),
            strict=True,
        ):
            for x, y in zip(found or (), expected or (), strict=True):
                np.testing.assert_allclose(x, y, atol=2e-5)


KEEPING_ALL = {
    **{
        f"svt, {method}": lambda f, A, method=method: f.svt(A, 0.0, method=method)
        for method in ("auto", "svd", "gram", "matmul")
    },
    "svt of a ratio": lambda f, A: f.svt(A, 0.0, relative=True),
    "svt of each value": lambda f, A: f.svt(A, np.zeros(3, "f")),
    "svht": lambda f, A: f.svht(A, 0.0),
    "firm": lambda f, A: f.firm_threshold(A, 0.0),
    "log_sum": lambda f, A: f.log_sum_threshold(A, 0.0, 0.5),
    "schatten": lambda f, A: f.schatten_prox(A, 0.0, 0.5),
    "huber": lambda f, A: f.huber_threshold(A, 0.0, 0.5),
    "low_rank of all": lambda f, A: f.low_rank(A, 3),
    "low_rank of more": lambda f, A: f.low_rank(A, 10**20, method="gram"),
}


@pytest.mark.parametrize("framework", params(), indirect=True)
@pytest.mark.parametrize("name", KEEPING_ALL)
def test_what_keeps_all_is_the_identity_at_zero_singular_values(framework, name):
    rng = np.random.default_rng(4)
    X, G = rng.standard_normal((2, 3, 70, 3)).astype("f")
    A = np.stack([0 * X[0], X[1][:, :1] * [1, 2, 0], X[2]]).astype("f")

    def f(A):
        return KEEPING_ALL[name](framework.module, A)

    for A_, X_, G_ in (A, X, G), (A[:, :3], X[:, :3], G[:, :3]):
        found = framework.derivatives(f, [A_], [X_], [G_])
        for x, expected in zip(found, (A_, G_, X_, 0 * A_), strict=True):
            if x is not None:
                np.testing.assert_allclose(x[0], expected, atol=2e-5)


@dataclass(frozen=True)
class ElasticNet(Threshold):
    """Proximal operator of tau s + s^2 / 2, which halves what it keeps."""

    has_tau = True

    def kept(self, s, tau, xp):
        return s > tau

    def solve(self, s, tau, xp):
        return (s - tau) / 2

    def q0(self, y, tau, xp):
        return xp.ones_like(y)

    def r1(self, y1, y2, tau, xp):
        return 1.0

    def r2(self, y1, y2, y3, tau, xp):
        return 0.0


def test_a_penalty_of_tau_that_has_none_is_refused():
    """It had the right value, and a gradient without the penalty."""
    A = np.diag([2.0, 1.0, 1.0])

    class Penalty:
        q0 = q1 = ElasticNet.q0

    class Wrong(Penalty, Threshold):
        def kept(self, s, tau, xp):
            return s > 0

    with pytest.raises(TypeError, match=r"defines q0, q1 .* has_tau = True"):
        svdinv.numpy.spectral_operator(A, Wrong())

    class Half(Wrong):
        r1 = ElasticNet.r1

    with pytest.raises(TypeError, match="defines r1 and must define r2"):
        svdinv.numpy.spectral_operator(A, Half())

    class Solved(Wrong):
        q0, q1, solve = Threshold.q0, Threshold.q1, ElasticNet.solve
        has_tau = True

    with pytest.raises(TypeError, match="defines solve and must define q0, q1 and q2"):
        svdinv.numpy.spectral_operator(A, Solved(), 0.5)
    for own in (Hard(), Soft(), Huber(1.0), Schatten(0.5), LogSum(1.0), Firm(2.0)):
        svdinv.numpy.spectral_operator(A, own, 0.5)

    class Ridge(Threshold):
        """s / 2: without a parameter, of which r is y."""

        def kept(self, s, tau, xp):
            return s > 0

        def solve(self, s, tau, xp):
            return s / 2

        r1, r2 = ElasticNet.r1, ElasticNet.r2

    _, pullback = svdinv.numpy.vjp(
        lambda A: svdinv.numpy.spectral_operator(A, Ridge()), A
    )
    np.testing.assert_allclose(pullback(A)[0], A / 2, atol=1e-14)


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_a_penalty_that_is_not_proportional_to_tau_at_zero_singular_values(tau):
    G = np.random.default_rng(7).standard_normal((4, 3))
    for A in (np.zeros((4, 3)), 2 * np.eye(4, 3), np.diag([2.0, 1.0, 0.0, 0.0])[:, :3]):
        _, pullback = svdinv.numpy.vjp(
            lambda A: svdinv.numpy.spectral_operator(A, ElasticNet(), tau), A
        )
        _, expected = svdinv.numpy.vjp(lambda A: svdinv.numpy.svt(A, tau) / 2, A)
        np.testing.assert_allclose(pullback(G)[0], expected(G)[0], atol=1e-14)


def test_a_ratio_of_the_largest_value_keeps_nothing_of_a_zero_matrix():
    A, G = np.zeros((5, 3)), np.ones((5, 3))
    for method in ("auto", "gram", "matmul"):
        pullback = svdinv.numpy.vjp(
            lambda A, method=method: svdinv.numpy.svt(
                A, 0.5, relative=True, method=method
            ),
            A,
        )[1]
        assert not pullback(G)[0].any()


def test_huber_threshold_scales_small_zero_matrices_in_a_large_batch():
    A = np.random.default_rng(5).standard_normal((4, 1024, 64)).astype("f")
    A[2] = 0
    _, pullback = svdinv.numpy.vjp(
        lambda A: svdinv.numpy.huber_threshold(A, 0.5, 0.25), A
    )
    np.testing.assert_allclose(pullback(np.ones_like(A))[0][2], 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 3), (3, 3), (3, 6)])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_divergence_is_the_trace_of_the_jacobian_at_low_rank(shape, dtype):
    ones, number = np.ones(shape, dtype), np.prod(shape)
    units = np.eye(number).reshape(-1, *shape).astype(dtype)
    units = np.concatenate([units, 1j * units]) if dtype == np.complex128 else units
    for A in (0 * ones, ones, np.eye(*shape, dtype=dtype)):
        for tau in (0.0, 0.3, 1.0):
            _, moved = svdinv.numpy.jvp(
                lambda A, tau=tau: svdinv.numpy.svt(A, tau), (A + 0 * units,), (units,)
            )
            trace = np.sum(np.real(np.conj(units) * moved))
            found = svdinv.numpy.svt_divergence(A, tau)
            np.testing.assert_allclose(found, trace, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tau", [0.0, 0.1, 4.0])
def test_second_derivatives_of_risk_at_values_whose_squares_are_0(tau):
    torch = pytest.importorskip("torch")
    import svdinv.torch

    for values in ([4.0, 1e-3, 1e-20, 1e-22], [4.0, 1e-30, 0.0, 0.0]):
        A = torch.diag(torch.tensor(values)).requires_grad_()
        risk = svdinv.torch.sure(A, tau, 0.5)
        (gradient,) = torch.autograd.grad(risk, A, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), A)
        assert torch.isfinite(gradient).all()
        assert torch.isfinite(second).all()


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_schatten_2_norm_has_the_second_derivative_of_the_frobenius_norm(dtype):
    rng = np.random.default_rng(6)
    X = rng.standard_normal((4, 3)).astype(dtype)

    def gradient(A):
        _, pullback = svdinv.numpy.vjp(lambda A: svdinv.numpy.schatten_norm(A, 2.0), A)
        return pullback(np.ones(()))[0]

    for A in (X[:, :1] * X[:1], X[:, :1] * X[:1] * [1, 0, 0], X):
        _, tangent = svdinv.numpy.jvp(gradient, (A,), (X,))
        size = np.linalg.norm(A)
        expected = X / size - A * np.sum(np.real(np.conj(A) * X)) / size**3
        np.testing.assert_allclose(tangent, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
def test_schatten_norm_refuses_powers_whose_roots_overflow(dtype):
    A = np.diag([2.0, 2.0, 0.0]).astype(dtype)
    bits = 1024 if dtype == np.float64 else 128
    for p in (0.9 / bits, 1e-300, 5e-324):
        with pytest.raises(ValueError, match=f"p must be at least 1/{bits}"):
            svdinv.numpy.schatten_norm(A, p)
    p = 4 / bits
    value, pullback = svdinv.numpy.vjp(lambda A: svdinv.numpy.schatten_norm(A, p), A)
    assert np.isclose(value, 2 * 2 ** (1 / p), rtol=1e-4)
    assert np.isfinite(pullback(np.ones_like(value))[0]).all()


def test_blocks_of_an_empty_batch_are_not_gone_through(monkeypatch):
    count, cut = [], Tiling.cut
    monkeypatch.setattr(Tiling, "cut", lambda *x: count.append(1) or cut(*x))
    x = np.zeros((0, 5, 64, 64))
    value, pullback = svdinv.numpy.vjp(
        lambda x, tau: svdinv.numpy.local_low_rank(x, tau, 16, stride=1), x, 0.5
    )
    assert [g.shape for g in pullback(value)] == [x.shape, ()]
    assert len(count) == 1


@pytest.mark.parametrize("shape", [(24, 4), (80, 70)])
def test_lapack_sees_no_infinity_of_which_it_may_not_return(monkeypatch, shape):
    def finite(A, original=np.linalg.svd, **options):
        assert not np.isinf(A).any()
        return original(A, **options)

    monkeypatch.setattr(np.linalg, "svd", finite)
    A = np.random.default_rng(3).standard_normal((3, *shape)).astype("F")
    A[1, 8], A[1, 8, 0] = 0, np.inf
    for full in (False, True):
        factors = svdinv.numpy.svd(A, full_matrices=full)
        assert all(np.isnan(x[1]).all() for x in factors)
        values = svdinv.numpy.svdvals(A[::2])
        np.testing.assert_allclose(factors.S[::2], values, rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
@pytest.mark.parametrize("framework", params("cupy", "jax", "torch"), indirect=True)
def test_batches_of_columns_that_depend_on_others_exactly(framework, dtype):
    """Of these, cuBLAS's QR decomposition of batches is wrong, or NaN."""
    rows = with_values([1, 0.5], (8, 2, 40), np.complex128)
    rows = (rows if np.dtype(dtype).kind == "c" else rows.real).astype(dtype)
    for m in (40, 60):
        A = np.concatenate([rows, np.repeat(rows[:, :1], m - 2, 1)], 1)
        module = framework.module

        def polar(A, module=module):
            return (module.polar(A, method="gram"),)

        def lowrank(A, module=module):
            return tuple(module.svd_lowrank(A, 6, oversampling=6))

        U, S, Vh = framework.value(lowrank, A)
        unitary = [U, adjoint(Vh)]
        if m == 40:
            unitary += framework.value(polar, A)
        eps = np.finfo(dtype).eps
        for Q in unitary:
            assert np.abs(adjoint(Q) @ Q - np.eye(Q.shape[-1])).max() < 100 * eps
        assert np.abs((U * S[..., None, :]) @ Vh - A).max() < 100 * eps


@pytest.mark.parametrize("framework", params(), indirect=True)
@pytest.mark.parametrize("epsilon", [1e-3, 0.9, 1.1, 1e3, 1e6, 1e10, 1e16, 1e30])
def test_log_sum_threshold_is_stationary_whatever_epsilon(framework, epsilon):
    s, tau = np.float32([3, 1, 0.2]), 0.005
    f = framework.module.log_sum_threshold
    (found,) = framework.value(lambda A: f(A, tau, epsilon), np.diag(s))
    y = np.diag(found).astype(float)
    np.testing.assert_allclose(y[y > 0] + tau / (y[y > 0] + epsilon), s[y > 0], 1e-6)
    assert (y[:2] > 0).all()
    assert y[2] > 0 or epsilon < 0.01


def test_log_sum_threshold_refuses_an_infinite_epsilon():
    with pytest.raises(ValueError, match="epsilon must be finite"):
        svdinv.numpy.log_sum_threshold(np.eye(3), 0.1, np.inf)


@pytest.mark.parametrize(
    ("name", "slope"), [("svt", 0.55), ("svht", 1.0), ("firm_threshold", 0.825)]
)
@pytest.mark.parametrize("shape", [(4, 1), (1, 3), (2, 1, 1)])
def test_relative_thresholds_of_one_singular_value_are_linear(
    framework, shape, name, slope
):
    f = getattr(framework.module, name)
    for size in (0.0, 2.0):
        A = np.full(shape, size)
        (y,), pullback = framework.vjp(lambda A: f(A, 0.45, relative=True), A)
        np.testing.assert_allclose(y, slope * A, atol=1e-15)
        np.testing.assert_allclose(pullback(A + 1)[0], slope * (A + 1), atol=1e-14)


def test_nan_in_one_column_fails_for_relative_thresholds_too():
    for shape in ((3, 1), (3, 2)):
        with pytest.raises(np.linalg.LinAlgError):
            svdinv.numpy.svt(np.full(shape, np.nan), 0.3, relative=True)
