"""The operators in every mode of PyTorch."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from operator_cases import CASES, as_tuple, case, matrices

torch = pytest.importorskip("torch")

import svdinv.torch
from svdinv.backends import torch_spectral
from svdinv.core.thresholds import Firm

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_both_orders(name):
    function, inputs, _ = case(name)
    given = [torch.tensor(x, requires_grad=True) for x in inputs]

    def call(*arrays):
        return as_tuple(function(svdinv.torch, *arrays))

    assert torch.autograd.gradcheck(
        call, given, check_forward_ad=True, check_batched_grad=True
    )
    # The vectors that a function of the user's goes through have no forward mode twice.
    assert torch.autograd.gradgradcheck(
        call, given, check_fwd_over_rev="spectral_map" not in name
    )


def loss(A):
    Y = svdinv.torch.svt(A, 0.3) + svdinv.torch.svt(A, 0.2, relative=True)
    return Y.abs().square().sum() + Y.real.sin().sum()


REPEATED = {
    "repeated": [1.0, 1.0, 0.5],
    "all equal": [1.0, 1.0, 1.0],
    "zeros": [1.0, 0.0, 0.0],
    "nearly repeated": [1.0, 1.0 - 1e-9, 0.5],
}


def with_values(s, shape, dtype=torch.float64):
    U = torch.linalg.qr(torch.tensor(matrices((shape[0], 3), np.complex128, 1)))[0]
    V = torch.linalg.qr(torch.tensor(matrices((shape[1], 3), np.complex128, 2)))[0]
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


@pytest.mark.parametrize("spectrum", REPEATED)
@pytest.mark.parametrize("operator", ABSOLUTE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(5, 3), (3, 3), (3, 4)])
def test_second_derivative_where_values_repeat(shape, dtype, operator, spectrum):
    A = with_values(REPEATED[spectrum], shape, dtype)
    X = torch.tensor(matrices(shape, np.complex128 if dtype.is_complex else float, 3))

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


LOSSES = {
    "svt": loss,
    "norms": lambda A: (
        svdinv.torch.nuclear_norm(A).sin() + svdinv.torch.spectral_norm(A) ** 2
    ),
    "map": lambda A: svdinv.torch.spectral_map(A, torch.sin).square().sum(),
    "svd": lambda A: svdinv.torch.svdvals(A).sin().sum(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_ways_to_the_hessian_agree(loss):
    A = torch.tensor(matrices((4, 3)))
    ways = (
        torch.func.hessian(loss),
        torch.func.jacrev(torch.func.jacrev(loss)),
        torch.func.jacfwd(torch.func.jacfwd(loss)),
        torch.func.jacrev(torch.func.jacfwd(loss)),
    )
    first, *others = (way(A) for way in ways)
    for other in others:
        assert (first - other).abs().max() < 1e-11


def test_third_derivatives_are_refused():
    A = torch.tensor(matrices((4, 3)))
    with pytest.raises(NotImplementedError, match="two derivatives, not three"):
        torch.func.jacrev(torch.func.hessian(loss))(A)


def test_vmap_is_the_batch():
    A = torch.tensor(matrices((5, 4, 3)))
    tau = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    batch = svdinv.torch.svt(A, tau)
    assert (torch.func.vmap(svdinv.torch.svt)(A, tau) - batch).abs().max() < 1e-14
    per_matrix = torch.func.vmap(torch.func.grad(loss))(A)
    for a, g in zip(A, per_matrix, strict=True):
        assert (torch.func.grad(loss)(a) - g).abs().max() < 1e-13


@pytest.mark.parametrize("relative", [False, True])
def test_compiled_whole(relative):
    def call(A, tau):
        return svdinv.torch.svt(A, tau, relative=relative)

    A = torch.tensor(matrices((3, 5, 4))).requires_grad_()
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
        A = torch.tensor(matrices(shape)).requires_grad_()
        found, expected = (
            torch.autograd.grad(f(A).square().sum(), A)[0]
            for f in (compiled, lambda A: svdinv.torch.svt(A, 0.4))
        )
        assert (found - expected).abs().max() < 1e-12


def test_a_perfect_fit_has_no_distance():
    P = torch.tensor(matrices((10, 3))).requires_grad_()
    found = svdinv.torch.kabsch(P, P.detach() + 1)
    assert found.rmsd == 0
    assert torch.all(torch.autograd.grad(found.rmsd, P)[0] == 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    A = torch.tensor(matrices((4, 3))).to(dtype).requires_grad_()
    Y = svdinv.torch.svt(A, 0.3)
    assert Y.dtype == dtype
    exact = svdinv.torch.svt(A.detach().double(), 0.3)
    assert (Y.double() - exact).abs().max() < 0.02
    assert torch.autograd.grad(Y.sum(), A)[0].dtype == dtype


def test_autocast_leaves_the_precision_alone():
    A = torch.tensor(matrices((4, 3), np.float32)).requires_grad_()

    def gradient():
        return torch.autograd.grad(svdinv.torch.svt(A, 0.3).square().sum(), A)[0]

    expected = gradient()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (gradient() - expected).abs().max() < 1e-5


def test_functions_pickle_and_copy():
    restored = pickle.loads(pickle.dumps(svdinv.torch.svt))
    A = torch.eye(3)
    assert torch.equal(restored(A, 0.5), svdinv.torch.svt(A, 0.5))
    assert torch.equal(copy.deepcopy(svdinv.torch.polar)(A), A)


def test_a_function_of_ones_own():
    A = torch.tensor(matrices((4, 3)))
    own = svdinv.torch.spectral_operator(A, Firm(2.5), 0.6)
    assert torch.equal(own, svdinv.torch.firm_threshold(A, 0.6, 2.5))
    with pytest.raises(TypeError, match="function must be a SpectralFunction"):
        svdinv.torch.spectral_operator(A, torch.relu)
    with pytest.raises(ValueError, match="has a parameter tau"):
        svdinv.torch.spectral_operator(A, Firm(2.5))


@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0), (0, 3, 4)])
def test_nothing_to_do(shape):
    A = torch.zeros(shape, requires_grad=True)
    for f in (
        lambda A: svdinv.torch.svt(A, 0.1),
        lambda A: svdinv.torch.svt(A, 0.1, relative=True),
        svdinv.torch.polar,
        svdinv.torch.nuclear_norm,
        svdinv.torch.spectral_norm,
        lambda A: svdinv.torch.schatten_norm(A, 3),
    ):
        Y = f(A)
        assert Y.shape in (A.shape, A.shape[:-2])
        assert torch.autograd.grad(Y.sum(), A)[0].shape == A.shape


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda A: svdinv.torch.svt(A[0], 1), RuntimeError, "at least 2 dimensions"),
        (lambda A: svdinv.torch.svt(A.int(), 1), TypeError, "floating point"),
        (lambda A: svdinv.torch.svt(A.numpy(), 1), TypeError, r"torch\.Tensor"),
        (lambda A: svdinv.torch.svt(A, -1), ValueError, "tau must be >= 0"),
        (lambda A: svdinv.torch.svt(A, float("nan")), ValueError, "tau must be >= 0"),
        (lambda A: svdinv.torch.svt(A, 1j), TypeError, "tau must be"),
        (lambda A: svdinv.torch.svt(A, torch.ones(5)), RuntimeError, "tau must broad"),
        (lambda A: svdinv.torch.svht(A, torch.ones(3)), RuntimeError, "only svt"),
        (lambda A: svdinv.torch.svt(A, 1, method="qr"), ValueError, "method must be"),
        (
            lambda A: svdinv.torch.svht(A, 1, method="matmul"),
            ValueError,
            "matmul",
        ),
        (lambda A: svdinv.torch.low_rank(A, 1.5), TypeError, "rank must be an int"),
        (lambda A: svdinv.torch.low_rank(A, -1), ValueError, "rank must be at least"),
        (lambda A: svdinv.torch.schatten_prox(A, 1, 0.3), ValueError, "p must be"),
        (lambda A: svdinv.torch.schatten_norm(A, 0), ValueError, "p must be positive"),
        (lambda A: svdinv.torch.ky_fan_norm(A, 4), ValueError, "k must be at most"),
        (lambda A: svdinv.torch.firm_threshold(A, 1, 1), ValueError, "gamma must be"),
        (lambda A: svdinv.torch.log_sum_threshold(A, 1, 0), ValueError, "epsilon must"),
        (lambda A: svdinv.torch.procrustes(A, A[:2]), RuntimeError, "same shape"),
        (lambda A: svdinv.torch.kabsch(A, A * 1j), TypeError, "must be real"),
        (lambda A: svdinv.torch.tsvt(A, 1), RuntimeError, "at least 3 dimensions"),
        (
            lambda A: svdinv.torch.local_low_rank(A[None], 1, 2, stride=3),
            ValueError,
            "stride must divide block",
        ),
        (lambda A: svdinv.torch.svd_lowrank(A, 9), ValueError, "rank must be at most"),
        (lambda A: svdinv.torch.spectral_map(A, 1), TypeError, "f must be callable"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.eye(4)[:, :3])


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e-30, 1e30, 1e150])
@pytest.mark.parametrize("method", ["auto", "svd", "gram"])
def test_scale_does_not_matter(scale, method):
    A = torch.tensor(matrices((7, 3)))
    G = torch.tensor(matrices((7, 3), seed=1))

    def gradient(scale):
        x = (A * scale).requires_grad_()
        Y = svdinv.torch.svt(x, 0.8 * scale, method=method)
        return Y.detach() / scale, torch.autograd.grad(Y, x, G)[0]

    for found, expected in zip(gradient(scale), gradient(1.0), strict=True):
        assert (found - expected).abs().max() < 1e-13


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("shape", [(4, 3), (40, 3)])
def test_scale_in_single_precision(shape, scale):
    A = torch.tensor(matrices(shape, np.float32))
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
        decompose = getattr(torch_spectral.xp.linalg, name)

        def call(*arguments, **options):
            called.append(name)
            return decompose(*arguments, **options)

        return call

    for name in ("svd", "eigh"):
        monkeypatch.setattr(torch_spectral.xp.linalg, name, watched(name))
    return called


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_guard_falls_back(dtype, decomposed):
    """A kept singular value that squaring loses must not come from a Gram matrix."""
    U = torch.linalg.qr(torch.randn(32, 16, dtype=torch.float64))[0]
    V = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64))[0]

    def matrix(least):
        s = torch.linspace(1.0, 0.6, 16, dtype=torch.float64)
        s[-1] = least
        return ((U * s) @ V.mT).to(dtype).expand(400, 32, 16).contiguous()

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

    G = torch.tensor(matrices((32, 16), seed=4)).to(dtype).expand_as(trap)
    trap.requires_grad_()
    (gA,) = torch.autograd.grad(svdinv.torch.svt(trap, 1e-9), trap, G)
    exact = trap.detach().double().requires_grad_()
    Y = svdinv.torch.svt(exact, 1e-9, method="svd")
    (expected,) = torch.autograd.grad(Y, exact, G.double())
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}[dtype]
    assert (gA - expected).norm() < tolerance * expected.norm()


def test_one_bad_matrix_in_a_batch_is_noticed(decomposed):
    batch = torch.eye(32, 16).repeat(400, 1, 1)
    svdinv.torch.svt(batch, 1e-6)
    assert "svd" not in decomposed
    batch[123, 0, 0] = 1e-5
    svdinv.torch.svt(batch, 1e-6)
    assert "svd" in decomposed


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
            results.append(svdinv.torch.svd(A))
    finally:
        torch.set_num_threads(threads)
    for one, several in zip(*results, strict=True):
        assert torch.equal(one, several)
