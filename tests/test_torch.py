"""PyTorch's own modes: gradcheck, functorch, compile, autocast."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import FUNCTIONS, draw, relative_error

torch = pytest.importorskip("torch")

from torch.autograd import gradcheck, gradgradcheck

import svdinv.torch
from svdinv.torch import svd, svdvals

# Raised by PyTorch's own forward mode, on its first use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

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


# PyTorch's own code generation is the source of these.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_at_repeated_values(dtype):
    """The factors are rounded, and the cotangents with them: that must be known."""
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(100, 6, 6, generator=generator)).Q
    G = torch.randn(100, 6, 6, generator=generator)
    A = Q.to(dtype).requires_grad_()
    U, S, Vh = (x.float() for x in svd(A))
    loss = (((U * torch.relu(S - 0.5)[..., None, :]) @ Vh) * G).sum()
    (gA,) = torch.autograd.grad(loss, A)
    exact = A.detach().double().requires_grad_()
    U, S, Vh = svd(exact)
    loss = (((U * torch.relu(S - 0.5)[..., None, :]) @ Vh) * G).sum()
    (expected,) = torch.autograd.grad(loss, exact)
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


def test_meta_tensors():
    A = torch.empty(2, 4, 3, device="meta", requires_grad=True)
    U, S, Vh = svd(A)
    (gA,) = torch.autograd.grad((U, S, Vh), A, (U, S, Vh))
    assert gA.shape == A.shape


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
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
    monkeypatch.setattr(svdinv.backends.torch, "look", lambda mask: None)
    for dtype in (torch.float32, torch.complex64):
        A = torch.eye(5, 4, dtype=dtype).requires_grad_()
        for full in (False, True):
            factors = svd(A, full)
            with NoValues():
                (gA,) = torch.autograd.grad(factors, A, factors)
            assert gA.isfinite().all()


def test_not_a_tensor():
    with pytest.raises(TypeError, match=r"A must be a torch\.Tensor, got ndarray"):
        svd(np.eye(3))


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


@pytest.mark.gpu
class TestOnAGPU:
    @pytest.fixture(autouse=True)
    def _gpu(self):
        if not torch.cuda.is_available():
            pytest.skip("no CUDA GPU")

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

    def test_backward_never_synchronises(self):
        A = torch.eye(64, 32, device="cuda").expand(4, 64, 32).clone().requires_grad_()
        factors = svd(A)
        given = tuple(torch.ones_like(x) for x in factors)
        torch.autograd.grad(factors, A, given, retain_graph=True)
        torch.cuda.set_sync_debug_mode("error")
        try:
            torch.autograd.grad(factors, A, given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
