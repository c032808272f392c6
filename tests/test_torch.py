"""PyTorch's own modes: gradcheck, functorch, compile, autocast, threads."""

from __future__ import annotations

import copy
import pickle
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import operator_cases
import pytest
from frameworks import FRAMEWORKS, as_tuple
from operator_cases import CASES, COMPLEX, bound, problem
from operator_cases import matrices as numbers
from oracle import FUNCTIONS, draw, relative_error

torch = pytest.importorskip("torch")

from torch.autograd import gradcheck, gradgradcheck

import svdinv.torch
from svdinv import kernels
from svdinv.backends import torch as torch_backend
from svdinv.backends import torch_kernels, torch_namespace
from svdinv.backends.torch_namespace import (
    constant,
    eps_of_products,
    full_precision,
)
from svdinv.core.functions import Threshold
from svdinv.core.gram import GramFactors
from svdinv.core.spectral import SVDFactors
from svdinv.core.spectral_operations import Factorise
from svdinv.core.thresholds import Firm, Soft
from svdinv.operators import least_squares
from svdinv.torch import cca, svd, svd_lowrank, svdvals, whiten

# Raised by PyTorch's own forward mode and code generation, on their first use.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)

DTYPES = [torch.float64, torch.complex128]
SHAPES = [(4, 4), (5, 3), (3, 5), (2, 4, 3)]


def matrices(shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=dtype, generator=generator)


def spectral(A, f=torch.tanh):
    U, S, Vh = svd(A)
    return (U * f(S).to(A.dtype)[..., None, :]) @ Vh


def invariants(A):
    """Gauge-invariant functions of all three factors."""
    U, S, _ = svd(A)
    return spectral(A), S, U[..., :2] @ U[..., :2].mH


def full_invariants(A):
    U, S, Vh = svd(A, full_matrices=True)
    k = S.shape[-1]
    U2, V2h = U[..., k:], Vh[..., k:, :]
    return S, U2 @ U2.mH, V2h.mH @ V2h


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("function", [invariants, full_invariants])
def test_gradcheck_backward_forward_and_double(function, shape, dtype):
    A = matrices(shape, dtype).requires_grad_()
    options = {"fast_mode": True, "check_batched_grad": shape == (5, 3)}
    assert gradcheck(function, A, check_forward_ad=True, **options)
    assert gradgradcheck(function, A, check_fwd_over_rev=True, **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_second_derivatives_are_finite_at_repeated_values(dtype):
    for A in (torch.eye(4, dtype=dtype), torch.zeros(4, 3, dtype=dtype)):
        A = A.clone().requires_grad_()
        loss = (spectral(A).real * matrices(A.shape)).sum()
        (gA,) = torch.autograd.grad(loss, A, create_graph=True)
        (hA,) = torch.autograd.grad((gA.real * matrices(A.shape, seed=1)).sum(), A)
        assert gA.isfinite().all()
        assert hA.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_distinct_spectra_agree_with_torch_in_second_order(dtype):
    A = matrices((4, 3), dtype).requires_grad_()
    found = []
    for decompose in (svd, lambda A: torch.linalg.svd(A, full_matrices=False)):
        U, S, Vh = decompose(A)
        loss = ((U * S.to(dtype) ** 2) @ Vh).real.sin().sum()
        (gA,) = torch.autograd.grad(loss, A, create_graph=True)
        (hA,) = torch.autograd.grad(gA.real.square().sum(), A)
        found.append((gA, hA))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def loss(A):
    return spectral(A, lambda S: torch.relu(S - 0.3)).real.sin().sum()


@pytest.mark.parametrize("dtype", DTYPES)
def test_functorch(dtype):
    from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

    A = matrices((5, 4, 3), dtype)
    one_by_one = torch.stack([torch.func.grad(loss)(a) for a in A])
    torch.testing.assert_close(vmap(grad(loss))(A), one_by_one)
    torch.testing.assert_close(grad(lambda A: vmap(loss)(A).sum())(A), one_by_one)
    _, tangent = jvp(loss, (A[0],), (A[1],))
    torch.testing.assert_close(tangent, (one_by_one[0].conj() * A[1]).real.sum())
    if dtype.is_complex:
        return
    torch.testing.assert_close(jacrev(spectral)(A[0]), jacfwd(spectral)(A[0]))
    rev = vmap(jacrev(jacrev(loss)))(A)
    torch.testing.assert_close(vmap(hessian(loss))(A), rev)


@pytest.mark.parametrize("transform", ["vmap", "jacrev"])
def test_functorch_at_repeated_values(transform):
    A = torch.stack([torch.eye(4, dtype=torch.float64), matrices((4, 4))])
    if transform == "vmap":
        gA = torch.func.vmap(torch.func.grad(loss))(A)
    else:
        gA = torch.func.jacrev(lambda A: torch.stack([loss(a) for a in A]))(A).sum(0)
    expected = torch.stack([torch.func.grad(loss)(a) for a in A])
    torch.testing.assert_close(gA, expected)


# Inductor compiles for seconds what aot_eager traces: of that, the harder case.
@pytest.mark.parametrize(
    ("compiler", "dynamic"),
    [("aot_eager", False), ("inductor", True)],
)
def test_compile_without_a_graph_break(compiler, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=compiler, dynamic=dynamic)
    for shape in [(5, 4, 3), (2, 6, 4)] if dynamic else [(5, 4, 3)]:
        A = matrices(shape)
        A[0] = torch.eye(*shape[-2:])
        expected = torch.func.grad(loss)(A)
        A.requires_grad_()
        (gA,) = torch.autograd.grad(compiled(A), A)
        torch.testing.assert_close(gA, expected)


def test_constants_of_a_graph_are_marked_as_pytorch_marks_them():
    own, theirs = constant(lambda: 0), torch.compiler.assume_constant_result(lambda: 0)
    assert vars(own) == vars(theirs) != {}


def test_compile_with_a_functorch_transform_inside():
    torch._dynamo.reset()

    @torch.compile(backend="aot_eager")
    def compiled(A):
        return torch.func.vmap(torch.func.grad(loss))(A)

    A = torch.stack([torch.eye(3, dtype=torch.float64), matrices((3, 3))])
    torch.testing.assert_close(compiled(A), torch.func.vmap(torch.func.grad(loss))(A))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    A = matrices((5, 3), torch.float32).to(dtype).requires_grad_()
    U, S, Vh = svd(A)
    assert U.dtype == S.dtype == Vh.dtype == dtype
    (gA,) = torch.autograd.grad((S.float() ** 2).sum(), A)
    assert gA.dtype == dtype
    torch.testing.assert_close(gA, 2 * A.detach(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e8m0fnu"])
def test_numbers_of_8_bits_are_refused(name):
    A = torch.eye(3).to(getattr(torch, name))
    with pytest.raises(TypeError, match=f"of half to double precision, got .*{name}"):
        svd(A)


@pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning")
def test_complex_half_is_computed_in_single():
    A = matrices((5, 3), torch.complex64).to(torch.complex32)
    U, S, Vh = svd(A)
    assert (U.dtype, S.dtype, Vh.dtype) == (
        torch.complex32,
        torch.float16,
        torch.complex32,
    )


@pytest.mark.parametrize("inside", [False, True])
def test_autocast_leaves_the_derivatives_alone(inside):
    A = matrices((6, 4), torch.float32).requires_grad_()
    G = matrices((6, 4), torch.float32, seed=1)
    U, S, Vh = svd(A)
    given = [g.clone() for g in (U @ torch.diag(S), S, Vh)]
    (expected,) = torch.autograd.grad((U, S, Vh), A, given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        factors = svd(A)
        if inside:
            (gA,) = torch.autograd.grad(factors, A, given)
        low = svd((A @ A.mT)[:3])  # a bfloat16 product
        assert low.U.dtype == torch.bfloat16
        _, tangents = torch.func.jvp(lambda A: tuple(svd(A)), (A.detach(),), (G,))
    if not inside:
        (gA,) = torch.autograd.grad(factors, A, given)
    torch.testing.assert_close(gA, expected, rtol=0, atol=0)
    _, outside = torch.func.jvp(lambda A: tuple(svd(A)), (A.detach(),), (G,))
    torch.testing.assert_close(tangents, outside, rtol=0, atol=0)


def columns(generator, count):
    """Samples (100, 24, count) whose covariance is 1."""
    samples = torch.randn(100, 24, count, generator=generator, dtype=torch.float64)
    centred = samples - samples.mean(-2, keepdim=True)
    return 24**0.5 * torch.linalg.qr(centred).Q


def correlated(generator):
    """Two sets of three features, side by side, with all correlations 0.8."""
    X, Y = columns(generator, 6).tensor_split(2, -1)
    return torch.cat([X, 0.8 * X + 0.6 * Y], -1)


def squares(values):
    def make(generator):
        Q = torch.randn(2, 100, 8, 8, generator=generator, dtype=torch.float64)
        U, V = torch.linalg.qr(Q).Q
        return U @ (torch.tensor(values)[:, None] * V.mT)

    return make


def by_factors(U, S, Vh):
    U, S, Vh = (x.double() for x in (U, S, Vh))
    return (U * torch.relu(S - 0.5)[..., None, :]) @ Vh


def by_components(X):
    white = whiten(X, 0.1, kind="pca").white.double()
    return white @ white.mT


def by_correlations(X):
    found = cca(*X.tensor_split(2, -1))
    return by_factors(found.x_weights, found.correlations, found.y_weights.mT)


LEADING = [1, 1, 1, 0.06, 0.05, 0.04, 0.03, 0.02]
AT_REPEATED_VALUES = {
    "svd": (squares([1.0] * 8), lambda A: by_factors(*svd(A))),
    "svd_lowrank": (squares(LEADING), lambda A: by_factors(*svd_lowrank(A, 3, seed=0))),
    "whiten": (partial(columns, count=4), by_components),
    "cca": (correlated, by_correlations),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", AT_REPEATED_VALUES)
def test_half_precision_at_repeated_values(dtype, name):
    """The factors are rounded, and the cotangents with them: that must be known."""
    make, function = AT_REPEATED_VALUES[name]
    generator = torch.Generator().manual_seed(0)
    A = make(generator).to(dtype).requires_grad_()
    exact = A.detach().double().requires_grad_()
    Y = function(exact)
    G = torch.randn(Y.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(Y, exact, G)
    (gA,) = torch.autograd.grad(function(A), A, G)
    error = (gA.double() - expected).norm(dim=(1, 2)) / expected.norm(dim=(1, 2))
    assert error.median() < 20 * torch.finfo(dtype).eps


def test_batched_gradients_at_repeated_values():
    A = torch.eye(4, dtype=torch.float64).requires_grad_()
    Y = spectral(A)
    G = matrices((3, 4, 4), seed=4)
    (batched,) = torch.autograd.grad(Y, A, G, is_grads_batched=True, retain_graph=True)
    for g, expected in zip(G, batched, strict=True):
        (gA,) = torch.autograd.grad(Y, A, g, retain_graph=True)
        torch.testing.assert_close(gA, expected)
    torch.autograd.functional.jacobian(spectral, A, vectorize=True)


def test_derivatives_nested_thrice():
    A = torch.tensor(numbers((4, 3)))

    def loss(A):
        U, S, Vh = svd(A)
        return ((U * S**3) @ Vh).pow(2).sum()

    nested = torch.func.jacrev(torch.func.jacfwd(torch.func.jacrev(loss)))(A)
    forward = torch.func.jacfwd(torch.func.jacfwd(torch.func.jacrev(loss)))(A)
    torch.testing.assert_close(nested, forward)


# PyTorch's older vmap loses in silence what a Function's backward computes.
@pytest.mark.parametrize(
    "function",
    [
        lambda A: svdinv.torch.svt(A, 0.5) + A**2,
        lambda A: svdinv.torch.svt(A**2, 0.5),
        lambda A: svdinv.torch.polar(A) + A**2,
        lambda A: A @ svdinv.torch.sqrtm(A.mT @ A),
        lambda A: svdinv.torch.pinv(A).mT + A**2,
        lambda A: svdinv.torch.lstsq(A, A[..., :2] ** 2),
        lambda A: svdinv.torch.kabsch(A, 2 * A**2)[0],
        lambda A: svd(A).S,
        lambda A: svdinv.torch.nuclear_norm(A * (1 + 0.1j)),
    ],
    ids=("svt", "svt of", "polar", "sqrtm", "pinv", "lstsq", "kabsch", "svd", "norm"),
)
@pytest.mark.parametrize("with_kernels", [True, False])
def test_batched_gradients_are_differentiated(function, with_kernels, monkeypatch):
    if not with_kernels:
        monkeypatch.setattr(svdinv.kernels._kernels, "indices", {})
    A = torch.tensor(numbers((2, 4, 3))).requires_grad_()
    y = function(A)
    G = torch.randn(3, *y.shape, generator=torch.Generator().manual_seed(0)).to(y)
    (batched,) = torch.autograd.grad(y, A, G, is_grads_batched=True, create_graph=True)
    each = torch.stack([torch.autograd.grad(y, A, g, create_graph=True)[0] for g in G])
    torch.testing.assert_close(batched, each)
    (found,) = torch.autograd.grad((batched**2).sum(), A, retain_graph=True)
    (expected,) = torch.autograd.grad((each**2).sum(), A)
    torch.testing.assert_close(found, expected)


def test_meta_tensors():
    A = torch.empty(2, 4, 3, device="meta", requires_grad=True)
    U, S, Vh = svd(A)
    (gA,) = torch.autograd.grad((U, S, Vh), A, (U, S, Vh))
    assert gA.shape == A.shape


def test_forward_mode_of_a_compiled_function():
    from torch.autograd import forward_ad

    torch._dynamo.reset()
    A = torch.eye(3, dtype=torch.float64)
    compiled = torch.compile(loss, backend="aot_eager")
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(A, torch.ones_like(A))
        tangents = [forward_ad.unpack_dual(f(dual)).tangent for f in (loss, compiled)]
    torch.testing.assert_close(*tangents)


@pytest.mark.parametrize("gauge", ["warn", "error", "monitor"])
def test_gauge_under_vmap(gauge):
    Q = torch.linalg.qr(matrices((3, 4, 4))).Q
    monitor = svdinv.GaugeMonitor()
    option = monitor if gauge == "monitor" else gauge

    G = matrices((4, 4), seed=5)

    def dependent(A):
        return (svd(A, gauge=option).U * G).sum()

    gradient = torch.func.vmap(torch.func.grad(dependent))
    if gauge == "warn":
        with pytest.warns(svdinv.GaugeWarning, match="depends on the arbitrary"):
            gradient(Q)
    elif gauge == "error":
        with pytest.raises(svdinv.GaugeError, match="in 3 of 3 matrices"):
            gradient(Q)
    else:
        gradient(Q)
        assert monitor.last.numpy().shape == (3,)
        assert (monitor.last > 1e-3).all()


def test_unused_factors_and_frozen_input():
    A = matrices((5, 4)).requires_grad_()
    for i in range(3):
        (gA,) = torch.autograd.grad(svd(A)[i].sum(), A)
        assert gA.isfinite().all()
    assert not svd(A.detach()).U.requires_grad
    with torch.no_grad():
        assert not svd(A).U.requires_grad


def test_svdvals():
    A = torch.eye(3, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(svdvals(A), torch.ones(3, dtype=torch.float64))
    (gA,) = torch.autograd.grad(svdvals(A).sum(), A)
    torch.testing.assert_close(gA, A.detach())


def test_the_input_is_not_kept_alive():
    import weakref

    A = matrices((50, 40)).requires_grad_()
    B = A * 1  # what a network would pass in
    alive = weakref.ref(B)
    factors = svd(B)
    del B
    # Only the factors are saved, so nothing holds the matrix itself.
    assert alive() is None
    assert torch.autograd.grad(factors.S.sum(), A)[0].shape == A.shape


def test_nothing_asks_a_device_for_a_value(monkeypatch):
    """On a device no method that synchronises may be called."""

    class NoValues(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = str(function)
            assert "_local_scalar_dense" not in name
            assert "nonzero" not in name
            assert "index_put" not in name
            return function(*args, **(kwargs or {}))

    # The host may be looked at; answer as for a device.
    monkeypatch.setattr(torch_namespace, "any_on_host", lambda mask: None)
    for dtype in (torch.float32, torch.complex64):
        A = torch.eye(5, 4, dtype=dtype).requires_grad_()
        for full in (False, True):
            factors = svd(A, full)
            with NoValues():
                (gA,) = torch.autograd.grad(factors, A, factors)
            assert gA.isfinite().all()


def test_training_through_repeated_values_stays_finite():
    """Gradient descent from the identity, where torch.linalg.svd gives NaN."""
    target = matrices((6, 4), seed=3)
    A = torch.eye(6, 4, dtype=torch.float64).requires_grad_()
    U, S, Vh = torch.linalg.svd(A, full_matrices=False)
    theirs = ((U * torch.relu(S - 0.1)) @ Vh - target).square().sum()
    assert not torch.autograd.grad(theirs, A)[0].isfinite().all()

    optimiser = torch.optim.SGD([A], lr=0.1)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        value = (spectral(A, lambda S: torch.relu(S - 0.1)) - target).square().sum()
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert losses[-1] < 1e-6 * losses[0]


# Of each operator its first case, real, and complex where that has a formula of its
# own, and the variants that call other operations: test_derivatives differentiates all
# cases, and test_torch_transforms maps them.
VARIANTS = "svt, gram", "svt, relative", "svt, weighted", "kabsch, weights"
_REAL_OR_OTHER = [n for n in CASES if "float64" in n or n.startswith(COMPLEX)]
_FIRST = {(n.split(",")[0], n.split()[-1]): n for n in reversed(_REAL_OR_OTHER)}
CHECKED = [n for n in _REAL_OR_OTHER if n in _FIRST.values() or n.startswith(VARIANTS)]


@pytest.mark.parametrize("name", CHECKED)
def test_gradcheck_of_operators(name):
    function = bound(name, FRAMEWORKS["torch"])
    given = [torch.tensor(x, requires_grad=True) for x in problem(name)[0]]

    def call(*arrays):
        if CASES[name][1].hermitian:
            arrays = [(arrays[0] + arrays[0].mH) / 2, *arrays[1:]]
        return as_tuple(function(*arrays))

    # Along one random direction: test_derivatives tries several, against the formulas.
    options = {"fast_mode": True}
    assert torch.autograd.gradcheck(
        call, given, check_forward_ad=True, check_batched_grad=True, **options
    )
    # The vectors that a function of the user's goes through have no forward mode twice.
    through_vectors = name.startswith(("spectral_map", "svdvals", "eigh"))
    assert torch.autograd.gradgradcheck(
        call, given, check_fwd_over_rev=not through_vectors, **options
    )


@pytest.mark.parametrize("spectrum", ["repeated", "all equal", "zeros",
                                      "nearly repeated"])  # fmt: skip
@pytest.mark.parametrize(
    "operator", ["svt", "firm", "log-sum", "schatten 1/2", "schatten 2/3", "schatten 2"]
)
def test_second_derivative_where_values_repeat(operator, spectrum):
    for dtype in (torch.float64, torch.complex128):
        for shape in ((5, 3), (3, 3), (3, 4)):
            check_second_derivative(shape, dtype, operator, spectrum)


def check_second_derivative(shape, dtype, operator, spectrum):
    A = with_values(REPEATED[spectrum], shape, dtype)
    X = torch.tensor(numbers(shape, np.complex128 if dtype.is_complex else float, 3))

    def gradient(A):
        A = A.detach().requires_grad_()
        Y = ABSOLUTE[operator](A)
        value = Y.abs().square().sum() + Y.real.sin().sum()
        return A, torch.autograd.grad(value, A, create_graph=True)[0]

    leaf, g = gradient(A)
    (product,) = torch.autograd.grad((X.conj() * g).real.sum(), leaf)
    h = 1e-5
    differences = (gradient(A + h * X)[1] - gradient(A - h * X)[1]) / (2 * h)
    assert (product - differences).abs().max() < 1e-7 * differences.abs().max()


def smooth(A):
    Y = svdinv.torch.svt(A, 0.3) + svdinv.torch.svt(A, 0.2, relative=True)
    return Y.abs().square().sum() + Y.real.sin().sum()


REPEATED = {
    "repeated": [1.0, 1.0, 0.5],
    "all equal": [1.0, 1.0, 1.0],
    "zeros": [1.0, 0.0, 0.0],
    "nearly repeated": [1.0, 1.0 - 1e-9, 0.5],
}


def with_values(s, shape, dtype=torch.float64):
    U = torch.linalg.qr(torch.tensor(numbers((shape[0], 3), np.complex128, 1)))[0]
    V = torch.linalg.qr(torch.tensor(numbers((shape[1], 3), np.complex128, 2)))[0]
    if not dtype.is_complex:
        U, V = torch.linalg.qr(U.real)[0], torch.linalg.qr(V.real)[0]
    return ((U * torch.tensor(s, dtype=torch.float64)) @ V.mH).to(dtype)


# The largest singular value, which a relative threshold takes, must not be repeated.
ABSOLUTE = {
    "svt": lambda A: svdinv.torch.svt(A, 0.3),
    "firm": lambda A: svdinv.torch.firm_threshold(A, 0.3, 2.0),
    "log-sum": lambda A: svdinv.torch.log_sum_threshold(A, 0.1, 0.3),
    "schatten 1/2": lambda A: svdinv.torch.schatten_prox(A, 0.1, 1 / 2),
    "schatten 2/3": lambda A: svdinv.torch.schatten_prox(A, 0.1, 2 / 3),
    "schatten 2": lambda A: svdinv.torch.schatten_prox(A, 0.1, 2),
}


LOSSES = {
    "svt": smooth,
    "norms": lambda A: (
        svdinv.torch.nuclear_norm(A).sin() + svdinv.torch.spectral_norm(A) ** 2
    ),
    "map": lambda A: svdinv.torch.spectral_map(A, torch.sin).square().sum(),
    "svd": lambda A: svdinv.torch.svdvals(A).sin().sum(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_ways_to_the_hessian_agree(loss):
    A = torch.tensor(numbers((4, 3)))
    ways = (
        torch.func.hessian(loss),
        torch.func.jacrev(torch.func.jacrev(loss)),
        torch.func.jacfwd(torch.func.jacfwd(loss)),
        torch.func.jacrev(torch.func.jacfwd(loss)),
    )
    first, *others = (way(A) for way in ways)
    for other in others:
        assert (first - other).abs().max() < 1e-11


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_roots_of_covariances_that_were_rounded_to_half_precision(dtype):
    X = torch.tensor(numbers((100, 4))) @ torch.tensor(numbers((4, 12), seed=1))
    rounded = (X.mT @ X / 100).to(dtype)
    w, V = torch.linalg.eigh(rounded.double())
    assert w[0] < 0
    root = (V * w.clamp(min=0).sqrt()) @ V.mT
    other = rounded + torch.eye(12, dtype=dtype)
    found = svdinv.torch.sqrtm(rounded).double()
    assert (found - root).abs().max() < 2 * torch.finfo(dtype).eps * root.abs().max()
    for function in (
        svdinv.torch.sqrtm,
        lambda A: svdinv.torch.powm(A, 0.3),
        lambda A: svdinv.torch.bures_distance(A, other),
        lambda A: svdinv.torch.bures_distance(A, other.float()),
    ):
        A = rounded.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(A).sum(), A)
        assert gradient.isfinite().all()
    assert svdinv.torch.sqrtm(rounded - 0.1 * root.max() ** 2).isnan().all()


@pytest.mark.parametrize("name", ["polar", "rotation", "kabsch"])
@pytest.mark.parametrize("seed", range(6))
def test_second_derivatives_are_those_of_the_branch_returned(name, seed):
    """Of a zero singular value, another SVD may have vectors of the other sign."""
    A, G, v = (torch.tensor(numbers((3, 3), seed=3 * seed + i)) for i in range(3))
    A[:, 2] = A[:, 0] - 2 * A[:, 1]
    branch = torch.eye(3, dtype=A.dtype)
    if name == "polar":  # det 1 or -1
        branch[0, 0] = torch.func.vjp(svdinv.torch.polar, A)[0].det().sign()

    def function(A):
        if name == "kabsch":
            return svdinv.torch.kabsch(A, G).rotation
        return svdinv.torch.polar(A, special=name == "rotation")

    def smooth_one(A):
        if name == "kabsch":
            return function(A)
        return svdinv.torch.polar(A @ branch, special=True) @ branch

    def slope(function, A):
        return torch.func.grad(lambda A: (function(A) * G).sum())(A)

    def change(h):
        return slope(smooth_one, A + h * v) - slope(smooth_one, A - h * v)

    expected = (8 * change(1e-4) - change(2e-4)) / 12e-4
    found = torch.func.jvp(partial(slope, function), (A,), (v,))[1]
    hessian = torch.func.hessian(lambda A: (function(A) * G).sum())(A)
    for product in (found, torch.einsum("ijkl,kl->ij", hessian, v)):
        assert (product - expected).norm() < 1e-6 * product.norm()


@pytest.mark.parametrize("loss", [
    smooth,
    lambda A: svdinv.torch.polar(A).sin().sum(),
    lambda A: svdinv.torch.svt(A, A.square().mean(), relative=True).sin().sum(),
    lambda A: svdinv.torch.expm(A.mT @ A).sin().sum(),
], ids=["svt", "polar", "relative", "expm"])  # fmt: skip
def test_products_with_the_hessian_are_linear_in_the_vector(loss):
    A, v, w = (torch.tensor(numbers((4, 3), seed=i)).requires_grad_() for i in range(3))
    (gradient,) = torch.autograd.grad(loss(A), A, create_graph=True)
    product, along = (
        torch.autograd.grad(gradient, A, d, create_graph=True)[0] for d in (v, w)
    )
    (transposed,) = torch.autograd.grad(product, v, w, retain_graph=True)
    assert (transposed - along).abs().max() < 1e-13
    with pytest.raises(NotImplementedError, match="two derivatives, not three"):
        torch.autograd.grad(product.sum(), A)


def test_third_derivatives_are_refused():
    A = torch.tensor(numbers((4, 3)))
    with pytest.raises(NotImplementedError, match="two derivatives, not three"):
        torch.func.jacrev(torch.func.hessian(smooth))(A)


def test_vmap_is_the_batch():
    A = torch.tensor(numbers((5, 4, 3)))
    tau = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    batch = svdinv.torch.svt(A, tau)
    assert (torch.func.vmap(svdinv.torch.svt)(A, tau) - batch).abs().max() < 1e-14
    per_matrix = torch.func.vmap(torch.func.grad(smooth))(A)
    for a, g in zip(A, per_matrix, strict=True):
        assert (torch.func.grad(smooth)(a) - g).abs().max() < 1e-13


def each(f, *arrays):
    """`f` of every element along two leading axes, without vmap."""
    rows = [
        [as_tuple(f(*(x[i, j] for x in arrays))) for j in range(len(arrays[0][0]))]
        for i in range(len(arrays[0]))
    ]
    return tuple(
        torch.stack([torch.stack([y[k] for y in row]) for row in rows])
        for k in range(len(rows[0][0]))
    )


@pytest.mark.parametrize("name", CHECKED)
def test_vmap_nests_around_values_and_derivatives(name):
    inputs, _, _ = problem(name)
    call, positions = CASES[name][1].call, tuple(range(len(inputs)))
    arrays = [torch.tensor(x) for x in inputs]
    many = [torch.stack([x, 1.1 * x, 1.2 * x, 1.3 * x]) for x in arrays]
    many = [x.unflatten(0, (2, 2)) for x in many]

    def values(*x):
        return as_tuple(call(svdinv.torch, *x))

    def loss(*x):
        return sum((y * y.conj()).real.sum() for y in values(*x))

    def hessians(*x):
        rows = torch.func.hessian(loss, positions)(*x)
        return tuple(product for row in rows for product in row)

    functions = [values, torch.func.grad(loss, positions)]
    if not any(x.is_complex() for x in arrays):
        functions.append(hessians)  # PyTorch's own takes real arguments alone
    for f in functions:
        nested = torch.func.vmap(torch.func.vmap(f))(*many)
        for y, expected in zip(nested, each(f, *many), strict=True):
            torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-8)
    inner = torch.func.vmap(torch.func.vmap(values, in_dims=1))  # batch axis second
    swapped = [x.movedim(1, 2) if x.ndim > 2 else x for x in many]
    if all(x.ndim > 2 for x in many):
        for y, expected in zip(inner(*swapped), each(values, *many), strict=True):
            torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("conjugated", [False, True])
def test_vmap_of_gradients_through_complex_eigenvectors(conjugated):
    A = matrices((3, 4, 4), torch.complex128)
    H = (A + A.mH).conj() if conjugated else A + A.mH

    def loss(H):
        w, V = svdinv.torch.eigh(H)
        return ((V * torch.cos(w)) @ V.mH).imag.square().sum()

    gradient = torch.func.grad(loss)
    expected = torch.stack([gradient(x) for x in H])
    torch.testing.assert_close(torch.func.vmap(gradient)(H), expected)


@pytest.mark.parametrize("relative", [False, True])
def test_compiled_whole(relative):
    def call(A, tau):
        return svdinv.torch.svt(A, tau, relative=relative)

    A = torch.tensor(numbers((3, 5, 4))).requires_grad_()
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    gradients = [
        torch.autograd.grad(f(A, tau).square().sum(), (A, tau))
        for f in (call, compiled)
    ]
    for eager, traced in zip(*gradients, strict=True):
        assert (eager - traced).abs().max() < 1e-12


def test_compiled_for_any_shape():
    compiled = torch.compile(
        lambda A: svdinv.torch.svt(A, 0.4), backend="aot_eager", fullgraph=True
    )
    for shape in ((3, 6, 5), (3, 7, 5), (3, 9, 6), (4, 9, 6)):
        A = torch.tensor(numbers(shape)).requires_grad_()
        found, expected = (
            torch.autograd.grad(f(A).square().sum(), A)[0]
            for f in (compiled, lambda A: svdinv.torch.svt(A, 0.4))
        )
        assert (found - expected).abs().max() < 1e-12


def test_a_perfect_fit_has_no_distance():
    P = torch.tensor(numbers((10, 3))).requires_grad_()
    found = svdinv.torch.kabsch(P, P.detach() + 1)
    assert found.rmsd == 0
    assert torch.all(torch.autograd.grad(found.rmsd, P)[0] == 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_of_an_operator(dtype):
    A = torch.tensor(numbers((4, 3))).to(dtype).requires_grad_()
    Y = svdinv.torch.svt(A, 0.3)
    assert Y.dtype == dtype
    exact = svdinv.torch.svt(A.detach().double(), 0.3)
    assert (Y.double() - exact).abs().max() < 0.02
    assert torch.autograd.grad(Y.sum(), A)[0].dtype == dtype


@pytest.mark.parametrize("shape", [(40, 3, 7), (40, 3, 90), (2, 40, 3, 7)])
@pytest.mark.parametrize("size", [1.0, 1e-200])
def test_residuals_of_many_right_hand_sides_in_blocks(monkeypatch, shape, size):
    *batch, m, n, k = shape
    A = size * torch.randn(*batch, m, n, dtype=torch.float64)
    b = torch.randn(*batch, m, k, dtype=torch.float64)
    whole = svdinv.torch.lstsq(A, b)
    monkeypatch.setattr(least_squares, "_BLOCK", 16)
    torch.testing.assert_close(svdinv.torch.lstsq(A, b), whole)


@pytest.mark.parametrize("name", ["kabsch", "procrustes", "lstsq", "cca"])
@pytest.mark.parametrize("swapped", [False, True])
def test_autocast_leaves_half_precision_beside_single(name, swapped):
    """A network's output beside its target; results are in single precision."""
    generator = torch.Generator().manual_seed(0)
    X, Y, weight = (
        torch.randn(*s, generator=generator) for s in ((9, 3), (9, 3), (3, 3))
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = X.requires_grad_() @ weight
        assert half.dtype == torch.bfloat16
        x = (Y, half) if swapped else (half, Y)
        found, exact = (
            as_tuple(
                getattr(svdinv.torch, name)(*(t.to(dtype) if dtype else t for t in x))
            )
            for dtype in (None, torch.float64)
        )
        found, exact = ([t for t in y if t is not None] for y in (found, exact))
        assert all(t.dtype == torch.float32 for t in found)
        torch.testing.assert_close(
            [t.double() for t in found], exact, atol=1e-3, rtol=0
        )
        slopes = torch.autograd.grad([t.sum() for t in found], X)
    assert slopes[0].isfinite().all()
    with pytest.raises(TypeError, match="same dtype"):
        getattr(svdinv.torch, name)(X.double(), Y)


def test_half_precision_beside_single_has_cotangents_in_single():
    """Values closer than the precision of half are not taken for repeated ones."""
    A = torch.diag(torch.tensor([1, 1 + 2**-9, 2, 3])).half().requires_grad_()
    weights = torch.diag(torch.tensor([1.0, -1, 2, 3]))
    _, V = svdinv.torch.eigh_generalized(A, torch.eye(4))
    (V @ weights @ V.mT)[0, 1].backward()
    assert A.grad[0, 1] == pytest.approx(-512, rel=1e-2)


class Product19(torch.autograd.Function):
    """A product of matrices in TensorFloat-32, whose numbers have 19 bits."""

    @staticmethod
    def rounded(x):
        return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

    @classmethod
    def forward(cls, ctx, A, B):
        A, B = cls.rounded(A), cls.rounded(B)
        ctx.save_for_backward(A, B)
        return A @ B

    @classmethod
    def backward(cls, ctx, G):
        A, B = ctx.saved_tensors
        G = cls.rounded(G)
        return G @ B.mT, A.mT @ G


@pytest.mark.parametrize("name", ["svd", "svd_lowrank", "eigh"])
@pytest.mark.parametrize(("rounding", "most"), [("bf16", 2e-2), ("tf32", 2e-3)])
def test_cotangents_may_come_from_rounded_products(rounding, most, name, monkeypatch):
    """Their errors say nothing of the function's slope at repeated values."""
    multiplied = torch.matmul
    if rounding == "tf32":  # as on a GPU
        multiplied = Product19.apply
        monkeypatch.setattr(torch_backend, "eps_of_products", lambda *A: 2.0**-10)

    def function(A):
        if name == "eigh":
            w, V = svdinv.torch.eigh(A)
            return multiplied(V * w.exp(), V.mT)
        rank = {"rank": 4, "seed": 0} if name == "svd_lowrank" else {}
        U, S, Vh = getattr(svdinv.torch, name)(A, **rank)
        return multiplied(U * torch.relu(S - 0.5), Vh)

    size = 6 if name == "svd_lowrank" else 4
    values = [1, 1, 1, 1 - 1e-4, 0.2, 0.1][:size]  # repeated, and close
    for seed in range(50):
        rng = np.random.default_rng(seed)
        Q, R = np.linalg.qr(rng.standard_normal((2, size, size)))[0]
        A = torch.from_numpy(2 * Q * values @ (Q if name == "eigh" else R).T)
        A = A.to(torch.float32).requires_grad_()
        G = torch.from_numpy(rng.standard_normal((size, size)).astype(np.float32))
        operators = svdinv.torch
        exact = operators.expm(A) if name == "eigh" else operators.svt(A, 0.5)
        (exact,) = torch.autograd.grad((exact * G).sum(), A)
        with torch.autocast("cpu", torch.bfloat16, enabled=rounding == "bf16"):
            B = function(A)
        (found,) = torch.autograd.grad((B.float() * G).sum(), A)
        assert torch.linalg.norm(found - exact) < most * torch.linalg.norm(exact)


@pytest.mark.parametrize("name", ["svd", "eigh"])
def test_vectors_within_autocast_keep_their_digits(name):
    """Functions of single ones may have no product, and exact cotangents."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        Q, R = np.linalg.qr(rng.standard_normal((2, 4, 4)))[0]
        given = Q @ np.diag([1, 0.97, 0.94, 0.5]) @ (Q if name == "eigh" else R).T
        g, gradients = torch.from_numpy(rng.standard_normal(4)), []
        for dtype in (torch.float64, torch.float32):
            A = torch.from_numpy(given).to(dtype).requires_grad_()
            with torch.autocast("cpu", torch.bfloat16):
                V = getattr(svdinv.torch, name)(A)[1 if name == "eigh" else 0]
                loss = (V[:, 0] ** 2 * g.to(dtype)).sum()
            gradients += torch.autograd.grad(loss, A)
        torch.testing.assert_close(
            gradients[1].double(), gradients[0], rtol=1e-2, atol=1e-3
        )


def test_to_how_many_digits_products_are_rounded():
    x = torch.ones(2, 2)
    assert eps_of_products(x) is None
    torch.set_autocast_cache_enabled(False)  # which says nothing of autocast
    try:
        assert eps_of_products(x, inside=True) is None
    finally:
        torch.set_autocast_cache_enabled(True)
    with torch.autocast("cpu", torch.bfloat16):
        assert eps_of_products(x) == 2**-7
        assert eps_of_products(x.double()) is None
        assert eps_of_products(x + 0j) is None
        with full_precision(x):
            assert eps_of_products(x) is None
            assert eps_of_products(x, inside=True) == 2**-7
        with torch.autocast("cpu", enabled=False):
            assert eps_of_products(x) is None
    with precision("high"):  # of GPUs; few CPUs have such products
        assert eps_of_products(x) is None


def test_autocast_leaves_the_precision_of_operators_alone():
    A = torch.tensor(numbers((4, 3), np.float32)).requires_grad_()

    def gradient():
        return torch.autograd.grad(svdinv.torch.svt(A, 0.3).square().sum(), A)[0]

    expected = gradient()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (gradient() - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    "call",
    [
        lambda A: svdinv.torch.svt(A, 0.3),
        lambda A: svdinv.torch.procrustes(A, A.flip(0)),
        lambda A: svdinv.torch.lstsq(A, A.flip(0)),
        lambda A: svdinv.torch.whiten(A).white,
    ],
    ids=["svt", "procrustes", "lstsq", "whiten"],
)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_leaves_products_between_operations_alone(call, inside, compiled):
    """In a backward pass within autocast, too, as each is that is compiled."""
    A = torch.tensor(numbers((8, 3), np.float32)).requires_grad_()
    expected = call(A)
    run = torch.compile(call, backend="aot_eager") if compiled else call
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(A)
        if inside:
            (g,) = torch.autograd.grad(found[0].sin().sum(), A)
    if not inside:
        (g,) = torch.autograd.grad(found[0].sin().sum(), A)
    (exact,) = torch.autograd.grad(expected[0].sin().sum(), A)
    for x, y in ((found, expected), (g, exact)):
        assert (x - y).abs().max() < 1e-5


def test_no_compiled_backward_pass_is_rounded_where_autocast_is_off_within_autocast():
    """As it is about an SVD by habit; compiled code differentiates in the outer one."""
    A = torch.tensor(numbers((8, 3), np.float32)).requires_grad_()

    def call(A):
        with torch.autocast("cpu", enabled=False):
            return svdinv.torch.svt(A.float(), 0.3)

    run = torch.compile(call, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(A)
    found, expected = (torch.autograd.grad(y.sum(), A)[0] for y in (found, call(A)))
    assert (found - expected).abs().max() < 1e-5


def test_functions_pickle_and_copy():
    restored = pickle.loads(pickle.dumps(svdinv.torch.svt))
    A = torch.eye(3)
    assert torch.equal(restored(A, 0.5), svdinv.torch.svt(A, 0.5))
    assert torch.equal(copy.deepcopy(svdinv.torch.polar)(A), A)


def test_a_function_of_ones_own():
    A = torch.tensor(numbers((4, 3)))
    own = svdinv.torch.spectral_operator(A, Firm(2.5), 0.6)
    assert torch.equal(own, svdinv.torch.firm_threshold(A, 0.6, 2.5))
    with pytest.raises(TypeError, match="function must be a SpectralFunction"):
        svdinv.torch.spectral_operator(A, torch.relu)
    with pytest.raises(ValueError, match="has a parameter tau"):
        svdinv.torch.spectral_operator(A, Firm(2.5))


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e-30, 1e30, 1e150])
@pytest.mark.parametrize("method", ["auto", "svd", "gram"])
def test_scale_does_not_matter(scale, method):
    A = torch.tensor(numbers((7, 3)))
    G = torch.tensor(numbers((7, 3), seed=1))

    def gradient(scale):
        x = (A * scale).requires_grad_()
        Y = svdinv.torch.svt(x, 0.8 * scale, method=method)
        return Y.detach() / scale, torch.autograd.grad(Y, x, G)[0]

    for found, expected in zip(gradient(scale), gradient(1.0), strict=True):
        assert (found - expected).abs().max() < 1e-13


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("shape", [(4, 3), (40, 3)])
def test_scale_in_single_precision(shape, scale):
    A = torch.tensor(numbers(shape, np.float32))
    x = (A * scale).requires_grad_()
    Y = svdinv.torch.svt(x, 0.8 * scale)
    (gA,) = torch.autograd.grad(Y.sum(), x)
    x = A.double().requires_grad_()
    (exact,) = torch.autograd.grad(svdinv.torch.svt(x, 0.8).sum(), x)
    assert (gA - exact).abs().max() < 1e-5


@pytest.fixture
def decomposed(monkeypatch):
    """What the operators decompose, by name."""
    called = []

    def watched(name):
        decompose = getattr(torch_namespace.linalg, name)

        def call(*arguments, **options):
            called.append(name)
            return decompose(*arguments, **options)

        return call

    for name in ("svd", "eigh"):
        monkeypatch.setattr(torch_namespace.linalg, name, watched(name))
    return called


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_guard_falls_back(dtype, decomposed):
    """A kept singular value that squaring loses must not come from a Gram matrix."""
    # Larger than the kernels' matrices, which always take the SVD.
    U = torch.linalg.qr(torch.randn(160, 72, dtype=torch.float64))[0]
    V = torch.linalg.qr(torch.randn(72, 72, dtype=torch.float64))[0]

    def matrix(least):
        s = torch.linspace(1.0, 0.6, 72, dtype=torch.float64)
        s[-1] = least
        return ((U * s) @ V.mT).to(dtype).expand(6, 160, 72).contiguous()

    def route(A, tau, **options):
        decomposed.clear()
        svdinv.torch.svt(A, tau, **options)
        return decomposed[-1]

    assert route(matrix(0.5), 0.2) == "eigh"
    # Set to 0, it may be as small as it likes.
    assert route(matrix(1e-7), 0.2) == "eigh"
    trap = matrix(1e-6)
    assert route(trap, 1e-9) == "svd"
    assert route(trap, 1e-9, method="gram") == "eigh"

    G = torch.tensor(numbers((160, 72), seed=4)).to(dtype).expand_as(trap)
    trap.requires_grad_()
    (gA,) = torch.autograd.grad(svdinv.torch.svt(trap, 1e-9), trap, G)
    exact = trap.detach().double().requires_grad_()
    Y = svdinv.torch.svt(exact, 1e-9, method="svd")
    (expected,) = torch.autograd.grad(Y, exact, G.double())
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}[dtype]
    assert (gA - expected).norm() < tolerance * expected.norm()


def factors_of(A, tau):
    """Factors that `svt` takes."""
    tau = torch.full((*A.shape[:-2], 1), tau, dtype=A.real.dtype)
    return svdinv.torch._backend.evaluate(Factorise(Soft()), A, tau)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_one_small_value_in_a_batch_is_noticed(dtype, turned):
    """Of a triangle the vectors of the longer side are computed for small values."""
    batch = torch.eye(160, 72, dtype=dtype).repeat(4, 1, 1)
    batch = batch.mT.contiguous() if turned else batch
    assert isinstance(factors_of(batch, 1e-6), GramFactors)
    batch[2, 0, 0] = 1e-5
    found = factors_of(batch, 1e-6)
    assert isinstance(found, SVDFactors)
    for Q in (found.U, found.Vh.mH):
        assert (Q.mH @ Q - torch.eye(72)).abs().max() < 1e-5
    product = (found.U * found.S[..., None, :]) @ found.Vh
    assert (product - batch).abs().max() < 1e-6


@pytest.mark.parametrize("bad", ["zero", "tiny", "huge", "nan"])
def test_unusual_matrices_among_tall_ones(bad):
    """Each matrix of a batch has the threshold that it has alone."""
    batch = torch.tensor(numbers((4, 160, 72)))
    scale = {"zero": 0.0, "tiny": 1e-200, "huge": 1e200}.get(bad)
    if scale is None:
        batch[2, 3, 3] = float(bad)
    else:
        batch[2] *= scale
    if bad == "nan":
        with pytest.raises(torch.linalg.LinAlgError):
            svdinv.torch.svt(batch, 1.0)
        return
    batch.requires_grad_()
    result = svdinv.torch.svt(batch, 1.0)
    (gradient,) = torch.autograd.grad(result, batch, torch.ones_like(result))
    for i in range(4):
        single = batch[i].detach().requires_grad_()
        expected = svdinv.torch.svt(single, 1.0, method="svd")
        scale = expected.abs().max() + 1
        assert (result[i] - expected).abs().max() < 1e-13 * scale
        (alone,) = torch.autograd.grad(expected, single, torch.ones_like(expected))
        assert (gradient[i] - alone).abs().max() < 1e-12


@pytest.mark.skipif(not kernels.variants(), reason="no kernels")
def test_small_matrices_go_to_the_kernels():
    A = torch.ones(100, 6, 5)
    assert torch_namespace.decomposes_quickly(A)
    assert not torch_namespace.decomposes_quickly(A.requires_grad_())


def test_batches_of_two_axes_in_any_order_of_memory():
    A = torch.tensor(numbers((3, 4, 6, 5)))
    expected = svdinv.torch.svt(A, 0.5)
    for given in (
        A.transpose(0, 1).contiguous().transpose(0, 1),
        A.mT.contiguous().mT,
        A.repeat_interleave(2, 1)[:, ::2],
    ):
        assert not given.is_contiguous()
        torch.testing.assert_close(svdinv.torch.svt(given, 0.5), expected)


def test_nan_is_the_decompositions_to_report():
    A = torch.eye(3)
    A[0, 0] = torch.nan
    with pytest.raises(torch.linalg.LinAlgError):
        svdinv.torch.svt(A, 0.1)


def test_sparse_matrices_of_low_rank_converge():
    # Feature maps of an image with flat regions look like this. LAPACK's eigenvalue
    # solver alone gives up on one Gram matrix in fifty of these.
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(1000, *shape, generator=draw)

    A = torch.zeros(1000, 32, 32)
    A[:, :16, :2] = normal(16, 2) * torch.tensor([5e-4, 2.5e-3])
    A[:, 11:14, 2] = 5e-5 * normal(3)
    A[:, :2, 27:30] = 1e-5 * normal(2, 3)
    result = svdinv.torch.svt(A, 0.1, relative=True)
    exact = svdinv.torch.svt(A.double(), 0.1, relative=True, method="svd")
    assert (result - exact).abs().max() < 1e-6 * exact.abs().max()


def test_batches_over_threads_are_the_same():
    torch.manual_seed(0)
    A = torch.randn(3, 300, 24, 24)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            x = A.clone().requires_grad_()
            Y = svdinv.torch.svt(x, 4.0)
            (gA,) = torch.autograd.grad(Y.square().sum(), x)
            results.append((*svdinv.torch.svd(A), Y, gA))
    finally:
        torch.set_num_threads(threads)
    for one, several in zip(*results, strict=True):
        assert torch.equal(one, several)


@contextmanager
def precision(name):
    """Let PyTorch round the products of single precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def test_products_are_not_rounded():
    A, seen = torch.randn(4, 3, requires_grad=True), []

    def tanh(S):
        seen.append(torch.backends.mkldnn.matmul.fp32_precision)
        return S.tanh()

    with precision("medium"):
        svdinv.torch.spectral_map(A, tanh).sum().backward()
        svdinv.torch.spectral_map(A, tanh, tanh).sum().backward()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            svdinv.torch.spectral_map(A, tanh).sum().backward()
        assert set(seen) == {"ieee"}
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        assert torch.get_float32_matmul_precision() == "medium"


@pytest.fixture
def _flags_may_be_set():
    """What PyTorch's own tests import forbids it to the whole process."""
    with getattr(torch.backends, "__allow_nonbracketed_mutation")():
        yield


@pytest.mark.usefixtures("_flags_may_be_set")
def test_an_inherited_precision_stays_inherited():
    library = torch.backends.mkldnn.matmul
    before = torch.backends.fp32_precision, library.fp32_precision
    A = torch.randn(4, 3)
    try:
        library.fp32_precision, torch.backends.fp32_precision = "none", "tf32"
        assert library.fp32_precision == "tf32"
        svdinv.torch.polar(A)
        torch.backends.fp32_precision = "ieee"
        assert library.fp32_precision == "ieee"
    finally:
        torch.backends.fp32_precision, library.fp32_precision = before


def test_products_are_not_rounded_in_threads():
    """The precision is of the process: one that is done leaves it to the others."""
    library = torch.backends.mkldnn.matmul
    x = torch.ones(1)
    with precision("high"):
        one, other = full_precision(x), full_precision(x)
        one.__enter__()
        late = full_precision(x)
        late.__enter__()
        one.__exit__(None, None, None)
        assert library.fp32_precision == "ieee"
        late.__exit__(None, None, None)
        assert library.fp32_precision == "tf32"
        with other:
            assert library.fp32_precision == "ieee"
        assert library.fp32_precision == "tf32"


@pytest.mark.gpu
class TestOnAGPU:
    @pytest.fixture(autouse=True)
    def _gpu(self):
        if not torch.cuda.is_available():
            pytest.skip("no CUDA GPU")

    def test_to_how_many_digits_products_are_rounded(self):
        x = torch.ones(2, 2, device="cuda")
        with precision("high"):
            assert eps_of_products(x) == eps_of_products(x + 0j) == 2**-10
            with full_precision(x):
                assert eps_of_products(x) == 2**-10
        with precision("highest"):
            assert eps_of_products(x) is None

    @pytest.mark.parametrize(
        "dtype", [np.float32, np.float64, np.complex64, np.complex128]
    )
    @pytest.mark.parametrize("spectrum", ["distinct", "pair", "zeros", "all equal"])
    def test_exact(self, spectrum, dtype):
        problem = draw(spectrum, (9, 6), draws=20, dtype=dtype, seed=6)
        f = FUNCTIONS["tanh"]
        A = torch.tensor(problem.A, device="cuda", requires_grad=True)
        factors = svd(A)
        given = problem.cotangents(
            tuple(x.detach().cpu().numpy() for x in factors), f, "schatten"
        )
        given = tuple(torch.tensor(g, device="cuda") for g in given)
        gA = torch.autograd.grad(factors, A, given)[0].cpu().numpy()
        error = relative_error(gA, problem.exact_gradient(f, "schatten"))
        assert np.median(error) < 50 * np.finfo(dtype).eps
        assert error.max() < 1e-3

    @pytest.mark.filterwarnings("ignore:Synchronization debug mode")
    def test_backward_never_synchronises(self):
        A = torch.eye(64, 32, device="cuda").expand(4, 64, 32).clone().requires_grad_()
        factors = svd(A)
        given = tuple(torch.ones_like(x) for x in factors)
        torch.autograd.grad(factors, A, given, retain_graph=True)
        try:
            torch.cuda.set_sync_debug_mode("error")
            torch.autograd.grad(factors, A, given)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @pytest.mark.parametrize("shape", [(48, 40), (40, 56), (40, 40)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
    def test_svd_of_regular_and_singular_matrices(self, shape, dtype):
        spectra = [np.linspace(1, 0.1, 40), np.logspace(0, -4, 40), np.ones(40)]
        A = [operator_cases.with_values(s, shape, np.complex128) for s in spectra]
        A = torch.tensor(np.array([*A, A[0] * 1e-30, A[0] * 1e30] * 2)).cuda()
        A = (A if dtype.is_complex else A.real).to(dtype)
        assert torch_kernels.suits_approximation(A)
        assert not torch_kernels.suits_approximation(A * torch.ones(1).double().cuda())
        low = A[:1].clone()
        low[..., 2:, :] = low[..., :1, :]
        for batch in (A, torch.cat((A, low, torch.zeros_like(low))), low[0] * 0):
            U, S, Vh = svd(batch)
            top = S[..., :1, None].double().clamp(min=1e-37)
            scaled = U.to(torch.complex128) * (S[..., None, :] / top)
            error = scaled @ Vh.to(torch.complex128)
            error -= batch.to(torch.complex128) / top
            assert error.abs().max() < 1e-6
            for Q in (U, Vh.mH):
                assert (Q.mH @ Q - torch.eye(40).cuda()).abs().max() < 2e-6
            expected = torch.linalg.svdvals(batch.to(torch.complex128))
            torch.testing.assert_close(
                svdvals(batch).double() / top[..., 0],
                expected / top[..., 0],
                rtol=0,
                atol=1e-6,
            )
        bad = A.clone()
        bad[1, 2, 3] = torch.nan
        with pytest.raises(torch.linalg.LinAlgError, match="element 1"):
            svd(bad)

    @pytest.mark.parametrize("compiled", [False, True])
    @pytest.mark.parametrize("method", ["auto", "svd", "gram", "matmul"])
    def test_products_are_not_rounded(self, method, compiled):
        def svt(A):
            return svdinv.torch.svt(A, 0.7, method=method)

        values = np.array([3, 3, 1, 1, 0.5, 0.5 + 1e-5])
        A = torch.tensor(
            operator_cases.with_values(values, (5, 9, 6)).astype(np.float32)
        ).cuda()
        G = torch.randn_like(A)
        precise = A.double().requires_grad_()
        (expected,) = torch.autograd.grad(svt(precise), precise, G.double())
        A.requires_grad_()
        svt = torch.compile(svt) if compiled else svt
        with precision("high"):
            found = [Y := svt(A), *torch.autograd.grad(Y, A, G)]
        for x, y in zip(found, (svdinv.torch.svt(precise, 0.7), expected), strict=True):
            error = relative_error(*(t.detach().cpu().numpy() for t in (x, y)))
            assert error.max() < 3e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_any_step_along_an_axis_of_length_one(dtype):
    """PyTorch calls such arrays contiguous, whatever the step."""
    base = torch.randn(6, 3, 3, dtype=dtype, generator=torch.manual_seed(0))
    for shape, steps in (
        ((6, 1, 3, 3), (9, 2, 3, 1)),
        ((1, 6, 1, 3, 3), (5, 9, 7, 3, 1)),
        ((2, 3, 1, 3, 3), (27, 9, 3, 3, 1)),
        ((6, 1, 9, 1), (9, 4, 1, 3)),
        ((6, 1, 1, 9), (9, 4, 2, 1)),
    ):
        A = base.as_strided(shape, steps).requires_grad_()
        copied = A.detach().clone(memory_format=torch.contiguous_format)
        copied.requires_grad_()
        assert A.is_contiguous()
        results = [svdinv.torch.svt(x, 0.3) for x in (A, copied)]
        torch.testing.assert_close(*results, rtol=0, atol=0)
        given = results[0].detach().as_strided(shape, steps)
        pulled = [
            torch.autograd.grad(y, x, given)[0]
            for y, x in zip(results, (A, copied), strict=True)
        ]
        torch.testing.assert_close(*pulled, rtol=0, atol=0)
        for x, y in zip(svdinv.torch.svd(A), svdinv.torch.svd(copied), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0)


def test_numbers_beside_a_mode_of_torch_function():
    """Such modes, a default device and export, make every object look like a tensor."""
    A = torch.randn(4, 3, dtype=torch.float64)
    expected = svdinv.torch.svt(A, 0.3)
    with torch.device("cpu"):
        torch.testing.assert_close(svdinv.torch.svt(A, 0.3), expected)
    program = torch.export.export(Thresholding(), (A,)).module()
    torch.testing.assert_close(program(A), expected)


class Thresholding(torch.nn.Module):
    def forward(self, A, tau=0.3):
        return svdinv.torch.svt(A, tau)


def test_an_exported_batch_may_be_as_long_as_thresholds():
    A, tau = torch.randn(2, 3, 5, 4), torch.rand(3)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(
        Thresholding(), (A, tau), dynamic_shapes=({0: batch}, None)
    )
    A = torch.randn(3, 3, 5, 4)
    expected = svdinv.torch.svt(A, tau)
    torch.testing.assert_close(program.module()(A, tau), expected)


@pytest.mark.parametrize("f", [torch.square, torch.zeros_like])
def test_slopes_of_functions_under_hooks_on_what_is_saved(f):
    """As of a checkpoint, which torch.func refuses."""
    A = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(svdinv.torch.spectral_map(A, f).sum(), A)
    with torch.autograd.graph.save_on_cpu():
        y = svdinv.torch.spectral_map(A, f)
    (found,) = torch.autograd.grad(y.sum(), A)
    torch.testing.assert_close(found, expected)


# With a parameter without axes: PyTorch gives its product with a number a tangent of
# double precision.
OF_A_SIZE = {
    "robust_pca": lambda A: svdinv.torch.robust_pca(A, iterations=5).low_rank,
    "lstsq": lambda A: svdinv.torch.lstsq(A, A.new_ones(5), damping=0.1 * A.norm()),
    "psd_project": lambda A: svdinv.torch.psd_project(A.mT @ A, 0.1 * A.norm()),
    "whiten": lambda A: svdinv.torch.whiten(A, 0.1 * A.norm()).white,
    "svt": lambda A: svdinv.torch.svt(A, 0.1 * A.norm()),
}


@pytest.mark.parametrize("name", OF_A_SIZE)
def test_forward_mode_of_a_single_matrix_in_single_precision(name):
    f, A = (
        OF_A_SIZE[name],
        torch.randn(5, 3, generator=torch.Generator().manual_seed(0)),
    )
    along = torch.vmap(lambda A: torch.func.jvp(f, (A,), (A,))[1])
    for derivative in (
        torch.func.jacfwd(f),
        torch.func.hessian(lambda A: f(A).square().sum()),
        lambda A: along(A[None]),
    ):
        expected = derivative(A.double())
        error = (derivative(A) - expected).norm() / expected.norm()
        assert error < 1e-3


@pytest.mark.parametrize(
    "function",
    [
        lambda A: svdinv.torch.svt(A, 0.3),
        svdinv.torch.polar,
        lambda A: svdinv.torch.whiten(A, 0.1)[0],
        lambda A: svdinv.torch.expm(A.mT @ A),
    ],
)
def test_forward_mode_over_a_backward_pass_without_a_graph(function):
    """Tangents were lost where `create_graph` is not asked for."""
    from torch.autograd import forward_ad

    A, v, G, dG = (torch.randn(5, 4, dtype=torch.float64) for _ in range(4))
    A.requires_grad_()
    y = function(A)
    G, dG = G[: len(y)], dG[: len(y)]

    gradient = torch.func.grad(lambda A: (function(A) * G).sum())
    expected = torch.func.jvp(gradient, (A.detach(),), (v,))[1]
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(A, v)
        (found,) = torch.autograd.grad((function(dual) * G).sum(), A)
        torch.testing.assert_close(forward_ad.unpack_dual(found).tangent, expected)
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(G, dG)
        (found,) = torch.autograd.grad(y, A, moving, retain_graph=True)
        tangent = forward_ad.unpack_dual(found).tangent
    torch.testing.assert_close(tangent, torch.autograd.grad(y, A, dG)[0])


@pytest.mark.parametrize("p", [0.5, 1.5, 3.0])
@pytest.mark.parametrize("shape", [(5, 4, 3), (70, 65), (2, 0, 3), (0, 3, 2)])
def test_a_norm_without_gradient_is_that_with_it(p, shape):
    A = matrices(shape)
    A[..., 1:, :] *= 0
    for M in (A, 1e200 * A, 0 * A):
        with_it = svdinv.torch.schatten_norm(M.clone().requires_grad_(), p)
        found = svdinv.torch.schatten_norm(M, p)
        torch.testing.assert_close(found, with_it.detach(), rtol=1e-12, atol=0)


def test_a_function_without_gradient_is_called_for_the_singular_values_alone():
    """Its slopes, at eight points for each pair of them, would be for nothing."""
    A = matrices((200, 150))
    theta = torch.ones((), dtype=A.dtype, requires_grad=True)
    shapes = []

    def f(s):
        shapes.append(tuple(s.shape))
        return torch.tanh(theta * s)

    with torch.no_grad():
        expected = svdinv.torch.spectral_map(A, f)
    assert shapes == [(150,)]
    found = svdinv.torch.spectral_map(A, f)
    assert len(shapes) > 2
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=0)
    (slope,) = torch.autograd.grad(found.sum(), theta)
    assert slope != 0


@pytest.mark.parametrize("slots", [False, True])
def test_only_tau_of_a_function_is_learned(slots):
    """A tensor among its fields would get no gradient, without a word."""

    @dataclass(frozen=True, slots=slots)
    class Own(Threshold):
        """Hard threshold at gamma tau."""

        gamma: Any
        has_tau = True

        def kept(self, s, tau, xp):
            return s > self.gamma * tau

    A, gamma = torch.eye(3, dtype=torch.float64), torch.tensor(2.5)

    def of(gamma, A=A):
        return svdinv.torch.spectral_operator(A, Own(gamma), 0.5)

    for fixed in (np.float64(2.5), gamma):
        run = partial(of, fixed)
        assert torch.equal(run(), 0 * A)
        assert torch.equal(torch.func.vmap(run)(A[None])[0], 0 * A)
        found = torch.func.grad(lambda A, run=run: run(A).trace())(2 * A)
        assert torch.equal(found, A)
    with pytest.raises(TypeError, match="gamma of Own must be a number"):
        of(gamma.requires_grad_())
