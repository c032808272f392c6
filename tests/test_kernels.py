"""The compiled kernels: accuracy, independence of lanes, threads and layouts."""

from __future__ import annotations

import functools
import math
import os
import re
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from oracle import FUNCTIONS, Problem, random_unitary

from svdinv import kernels
from svdinv.core.functions import SpectralFunction

pytestmark = pytest.mark.skipif(
    not kernels.variants(), reason=f"no kernels: {kernels.status()}"
)
if kernels.variants():
    from svdinv.backends import numpy_namespace as xp
    from svdinv.backends.numpy_memory import NumPyMemory
    from svdinv.core.alignment_operations import AlignPull, FindMotion
    from svdinv.core.functions import (
        Polar,
        ProperRotation,
        Reciprocal,
        Tikhonov,
        TopSubgradient,
        Whitening,
    )
    from svdinv.core.hermitian import InverseSquareRoot, Power, SquareRoot
    from svdinv.core.hermitian_operations import (
        Eigh,
        HermitianDerivative,
        HermitianMap,
    )
    from svdinv.core.product_operations import Product
    from svdinv.core.product_operations import product as matrix_product
    from svdinv.core.spectral_operations import (
        Apply,
        Factorise,
        Map,
        Pull,
        Push,
        RelativePull,
    )
    from svdinv.core.svd_operations import SVD, Pullback, RecomposePull
    from svdinv.core.thresholds import Hard, Rank, Soft
    from svdinv.kernels import memory as by_memory
    from svdinv.kernels.rules import Decompose, Tall

    DECOMPOSITIONS = {kind: by_memory.RULES[kind] for kind in (Decompose, Tall)}

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


class Threads(NumPyMemory):
    def __init__(self, count):
        self.count = count

    def threads(self):
        return self.count


@pytest.fixture(params=kernels.variants())
def variant(request):
    kernels._kernels.select(request.param)
    yield request.param
    kernels._kernels.select("")


def svd(A, threads=1):
    return by_memory.decomposition("svd", A, Threads(threads))


def eigh(A, threads=1):
    return by_memory.decomposition("eigh", A, Threads(threads))


def alone(decompose):
    """Decompose the matrices of a batch one by one, with their columns in the lanes."""

    def decomposed(A):
        batch = A.shape[:-2]
        parts = [decompose(A[i]) for i in np.ndindex(batch)]
        arrays = map(np.stack, zip(*parts, strict=True))
        return [x.reshape(*batch, *x.shape[1:]) for x in arrays]

    return decomposed


def normal(rng, shape, dtype):
    x = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


def spectra(k, rng):
    yield "random", None
    yield "equal", np.ones(k)
    yield "pairs", np.repeat(np.arange(k, 0.0, -1), 2)[:k]
    yield "nearly equal", 1 + 1e-9 * rng.random(k)
    yield "graded", 10.0 ** -np.linspace(0, 20, k)
    yield "graded the other way", np.sort(10.0 ** -np.linspace(0, 20, k))
    yield "low rank", np.where(np.arange(k) < (k + 1) // 2, 1 + rng.random(k), 0)
    yield "zero", np.zeros(k)


SHAPES = [(1, 1), (5, 1), (1, 4), (2, 2), (3, 3), (7, 4), (4, 9), (8, 8), (33, 17)]
SHAPES += [(32, 32), (64, 64)]


@functools.cache
def problems(dtype, batch=21):
    """Names and batches of matrices, drawn once."""
    return [*draw_problems(dtype, batch)]


@functools.cache
def exact_values(dtype):
    """LAPACK's singular values of the problems, in double precision."""
    return [np.linalg.svd(*double(A), compute_uv=False) for _, A in problems(dtype)]


def draw_problems(dtype, batch):
    rng = np.random.default_rng(0)
    for m, n in SHAPES:
        k = min(m, n)
        for name, s in spectra(k, rng):
            A = normal(rng, (batch, m, n), dtype)
            if s is not None:
                U, _, Vh = np.linalg.svd(A.astype(complex), full_matrices=False)
                A = (U * s) @ Vh
                A = A if np.dtype(dtype).kind == "c" else A.real
            if name == "random":
                A[3] = 0  # a lane of its own
                A[5] = np.diag(np.ones(max(m, n)))[:m, :n]
            A = A.astype(dtype)
            A.flags.writeable = False
            yield f"{name} {m}x{n}", A


def double(*arrays):
    return [
        x.astype(np.complex128 if x.dtype.kind == "c" else np.float64) for x in arrays
    ]


@pytest.mark.parametrize("svd", [svd, alone(svd)], ids=["together", "alone"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_svd_is_accurate(variant, dtype, svd):
    """Residual, orthonormality and values in units of eps s_1, as LAPACK's."""
    eps = np.finfo(dtype).eps
    for (name, A), exact in zip(problems(dtype), exact_values(dtype), strict=True):
        U, S, Vh = double(*svd(A))
        A = double(A)[0]
        k = S.shape[-1]
        top = np.maximum(S[:, :1, None], np.finfo(np.float64).tiny)
        assert (np.diff(S) <= 0).all(), name
        assert (S >= 0).all(), name
        residual = np.abs((U * S[:, None, :]) @ Vh - A) / top
        assert residual.max() < 30 * eps, name
        assert np.abs(U.conj().mT @ U - np.eye(k)).max() < 25 * eps, name
        assert np.abs(Vh @ Vh.conj().mT - np.eye(k)).max() < 25 * eps, name
        assert (np.abs(exact - S) / top[..., 0]).max() < 120 * eps, name
        assert not S[~A.any(axis=(1, 2))].any(), name


@pytest.mark.parametrize("eigh", [eigh, alone(eigh)], ids=["together", "alone"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_eigh_is_accurate_and_reads_the_lower_triangle(variant, dtype, eigh):
    eps = np.finfo(dtype).eps
    for name, A in problems(dtype):
        if A.shape[-1] != A.shape[-2]:
            continue
        H = A + A.conj().mT
        w, V = double(*eigh(np.tril(H) + 7 * np.triu(A, 1)))
        H = double(H)[0]
        size = np.maximum(np.abs(w).max(axis=-1), np.finfo(np.float64).tiny)
        assert (np.diff(w) >= 0).all(), name
        residual = np.abs((V * w[:, None, :]) @ V.conj().mT - H).max(axis=(1, 2)) / size
        assert residual.max() < 30 * eps, name
        assert np.abs(V.conj().mT @ V - np.eye(w.shape[-1])).max() < 25 * eps, name


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_lane_knows_its_neighbours(variant, dtype):
    """Bit for bit the same alone, in any company and by any number of threads."""
    everything = {}
    for _, A in problems(dtype, batch=7):
        everything.setdefault(A.shape[1:], []).append(A)
    for shape, parts in everything.items():
        A = np.concatenate(parts)
        order = np.random.default_rng(1).permutation(len(A))
        for decompose in (svd, eigh) if shape[0] == shape[1] else (svd,):
            together = decompose(A)
            for other in (
                decompose(A, threads=4),
                [x[np.argsort(order)] for x in decompose(A[order])],
                [
                    np.concatenate(x)
                    for x in zip(decompose(A[:5]), decompose(A[5:]), strict=True)
                ],
            ):
                for x, y in zip(together, other, strict=True):
                    assert x.tobytes() == y.tobytes(), shape


@pytest.mark.parametrize("svd", [svd, alone(svd)], ids=["together", "alone"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_size_of_number(variant, dtype, svd):
    info = np.finfo(dtype)
    A = normal(np.random.default_rng(2), (40, 6, 5), dtype)
    U, S, Vh = svd(A)
    powers = np.linspace(info.minexp + 4, info.maxexp - 8, 40).astype(int)
    scale = np.ldexp(np.ones(40, S.dtype), powers)
    Us, Ss, Vhs = svd(A * scale[:, None, None])
    np.testing.assert_array_equal(Us, U)
    np.testing.assert_array_equal(Vhs, Vh)
    np.testing.assert_array_equal(Ss, S * scale[:, None])
    tiny = A * info.smallest_subnormal
    assert np.isfinite(svd(tiny)[1]).all()


@pytest.mark.parametrize("count", [1, 20])
def test_vectors_of_graded_matrices_have_no_subnormal_elements(variant, count):
    """Each would take a hundred cycles; outside the kernels they are what they were."""
    tiny = np.finfo(np.float32).smallest_normal
    s = 10.0 ** -np.linspace(0, 6, 48)
    above = np.diag(0.1 * s[1:], 1)
    A = np.repeat((np.diag(s) + above).astype(np.float32)[None], count, axis=0)
    for x in (*svd(A), *eigh(A + np.swapaxes(above, 0, 1).astype(np.float32))):
        assert not ((x != 0) & (np.abs(x) < tiny)).any()
    assert np.float32(tiny) * np.float32(0.5) > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_matrix_that_is_not_finite_fails(variant, dtype, bad):
    A = np.eye(5, dtype=dtype)[None]
    A[0, 3, 1] = bad
    assert svd(A) is None
    assert eigh(A) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_matrix(variant, bad):
    A = normal(np.random.default_rng(3), (30, 5, 5), np.float32)
    sound = svd(A)
    A[11, 2, 3] = bad
    assert svd(A) is None  # the framework's own then says what it always says
    U, V = np.empty((2, 30, 5, 5), "f")
    S = np.empty((30, 5), "f")
    strides = [(25, 5, 1), (5, 0, 1), (25, 5, 1), (25, 5, 1), *[(0, 0, 0)] * 8]
    call = kernels.packed("svd", "float32", (30, 5, 5), (0.0, 0.0), strides)
    addresses = [x.ctypes.data for x in (A, S, U, V)] + [0] * 8
    assert kernels.run(call, addresses, 1) == 1
    assert np.isnan(S[11]).all()
    assert np.isnan(U[11]).all()
    others = np.arange(30) != 11
    np.testing.assert_array_equal(S[others], sound[1][others])
    np.testing.assert_array_equal(U.mT[others], sound[0][others])


@pytest.mark.parametrize("decompose", [svd, alone(svd)], ids=["together", "alone"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_of_any_kind(variant, dtype, decompose):
    big = normal(np.random.default_rng(4), (6, 5, 12, 14), dtype)
    views = [
        big[:, :, ::2, ::3],
        big.mT,
        big[::-1, :, :, ::-1],
        np.broadcast_to(big[0], (6, 5, 12, 14)),
        np.moveaxis(big, 0, -1)[..., :3],
        np.asfortranarray(big),
    ]
    for A in views:
        for x, y in zip(decompose(A), decompose(A.copy()), strict=True):
            np.testing.assert_array_equal(x, y)


def test_random_shapes_and_scales():
    """A fuzz over what no list of cases thinks of."""
    rng = np.random.default_rng(5)
    for _ in range(150):
        dtype = DTYPES[rng.integers(4)]
        m, n = rng.integers(1, 41, 2)
        batch = int(rng.integers(1, 40)) if min(m, n) <= 8 else int(rng.integers(4, 40))
        A = normal(rng, (batch, m, n), dtype)
        A *= rng.choice([1, 1, 1e-8, 0], size=(batch, m, 1)).astype(dtype)
        A *= 10.0 ** rng.integers(-20, 20)
        U, S, Vh = double(*svd(A, threads=2))
        top = np.maximum(S[:, :1, None], 1e-300)
        error = np.abs((U * S[:, None, :]) @ Vh - double(A)[0]) / top
        assert error.max() < 30 * np.finfo(dtype).eps


def test_threads_of_the_caller_and_forks():
    A = normal(np.random.default_rng(6), (2000, 16, 16), np.float32)
    expected = svd(A)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: svd(A, threads=3), range(12)):
            for x, y in zip(result, expected, strict=True):
                np.testing.assert_array_equal(x, y)
    if hasattr(os, "fork"):
        code = (
            "import os, numpy as np, svdinv.numpy as s\n"
            "A = np.random.default_rng(0).standard_normal((3000, 16, 16))\n"
            "before = s.svd(A)[1]\n"
            "child = os.fork()\n"
            "same = (s.svd(A)[1] == before).all()\n"
            "if child == 0: os._exit(0 if same else 1)\n"
            "assert same and os.waitpid(child, 0)[1] == 0\n"
        )
        environment = {**os.environ, "OMP_NUM_THREADS": "3"}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)


WITHOUT_MEMORY = """
import resource, numpy as np
from svdinv import kernels
A = np.ones((99, 64, 64))
arrays = A, np.empty((99, 64)), np.empty_like(A), np.empty_like(A)
strides = [(4096, 64, 1), (64, 0, 1), (4096, 64, 1), (4096, 64, 1), *[(0, 0, 0)] * 8]
addresses = [x.ctypes.data for x in arrays] + [0] * 8
def run(batch, n, threads):
    call = kernels.packed("svd", "float64", (batch, n, n), (0.0, 0.0), strides)
    return kernels.run(call, addresses, threads)
run(99, 2, 2)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (size, limits[1]))
try:
    run(99, 64, 2)
except MemoryError:
    resource.setrlimit(resource.RLIMIT_AS, limits)
    print(run(99, 64, 2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_missing_memory_is_an_error_and_not_the_end():
    run = partial(subprocess.run, capture_output=True, text=True, check=True)
    assert run([sys.executable, "-c", WITHOUT_MEMORY]).stdout == "0\n"


# How many matrices, and of which shape: those that LAPACK decomposes faster.
WASTE = [(1, 150, 15), (2, 300, 20), (1, 4096, 2), (4, 512, 16), (100, 4096, 2)]


@pytest.mark.parametrize("shape", [*WASTE, (1, 2, 4096)])
def test_lapack_decomposes_what_would_leave_lanes_empty(shape):
    for dtype in DTYPES:
        assert svd(normal(np.random.default_rng(20), shape, dtype)) is None


@pytest.mark.parametrize("name", ["none", "sse9"])
def test_environment_variable(name):
    code = (
        "from svdinv import kernels; import numpy as np, svdinv.numpy as s\n"
        "assert not kernels.variants() and 'SVDINV_ISA' in kernels.status()\n"
        "assert np.allclose(s.svd(np.eye(4)).S, 1)\n"
    )
    environment = {**os.environ, "SVDINV_ISA": name}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_rules_of_operations_agree_with_their_array_functions(variant, monkeypatch):
    """Maps, derivatives and pullbacks against the same without kernels for them."""
    torch = pytest.importorskip("torch")
    import svdinv.torch as st
    from svdinv.backends.torch import TorchBackend

    xp, call = TorchBackend.xp, TorchBackend.call

    def reduced(A):
        U, S, Vh = st.svd(A)
        return (U * (S / (1 + S))[..., None, :]) @ Vh

    def hermitian(A):
        w, V = st.eigh(A @ A.mH)
        return (V * torch.cos(w)[..., None, :]) @ V.mH @ A

    def by_tau(A):
        tau = A.abs().mean(dim=(-2, -1))
        return st.svt(A, tau)

    def rotation(A):  # one reflection or the other
        function = ProperRotation()
        factors = xp.linalg.svd(A.detach(), full_matrices=False)
        signs = torch.ones_like(factors[1])
        signs[::2, ..., -1] = -1
        return call(Map(function), A, signs, *factors)[0]

    functions = [reduced, hermitian, by_tau, lambda A: st.svt(A, 0.0), st.polar]
    functions.append(lambda A: st.svt(A, 0.3, relative=True))
    functions += [rotation, lambda A: st.pinv(A.mH), lambda A: st.pinv(A.mH, 0.3)]
    functions += [lambda A: st.low_rank(A, 2), lambda A: st.svht(A, 0.4)]
    functions.append(lambda A: st.svht(A, 0.3, relative=True))
    functions += [st.nuclear_norm, st.spectral_norm, st.svdvals]
    functions.append(lambda A: st.ky_fan_norm(A, min(2, *A.shape[-2:])))
    functions.append(lambda A: st.spectral_map(A, torch.tanh))
    functions.append(lambda A: st.lstsq(A, 2 * A.detach(), damping=A.abs().mean()))
    functions.append(lambda A: st.expm(A @ A.mH / A.abs().square().sum()) @ A)
    functions.append(lambda A: st.inv_sqrtm(A @ A.mH + torch.eye(A.shape[-2])) @ A)
    shapes = [(7, 5, 5), (3, 4, 9, 6), (20, 6, 9), (5, 1, 4), (5, 4, 1), (70, 16, 16)]
    large = [(2, 300, 40), (2, 40, 300), (1, 120, 90), (1, 40, 300)]  # most of the time
    two_ways = False
    dtypes = torch.float64, torch.complex64, torch.float32, torch.complex128
    for i, dtype in enumerate(dtypes):
        for shape in shapes + large[i % 2 :: 2]:
            torch.manual_seed(7)
            A, G = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
            # A gap behind the second value: the error of low_rank is in proportion to
            # 1 / gap, and LAPACK's ten times as large as the kernels'.
            A[..., :2, :] *= 3
            if shape[0] > 1:
                A[0] = 0  # all values alike
            if shape[-1] > 3:
                A[min(1, len(A) - 1), ..., -2:] = A[min(1, len(A) - 1), ..., :2]
                A[-1, ..., -1] = A[-1, ..., 0]

            def both(f, A=A, G=G):
                A = A.clone().requires_grad_()
                y = f(A)
                y.backward(G if y.shape == G.shape else torch.ones_like(y))
                return y.detach(), A.grad

            for f in functions:
                kernel = both(f)
                with monkeypatch.context() as patch:
                    patch.setattr(by_memory, "_RULES", DECOMPOSITIONS)
                    plain = both(f)
                for x, y in zip(kernel, plain, strict=True):
                    limit = 400 * torch.finfo(dtype).eps * y.abs().max()
                    assert (x - y).abs().max() <= limit, (shape, dtype, f.__name__)
                    two_ways |= not torch.equal(x, y)
    assert two_ways


HERMITIAN_FUNCTIONS = (
    {}
    if not kernels.variants()
    else {
        "sqrt": (SquareRoot(), None),
        "sqrt, cut": (SquareRoot(cut=True), None),
        "1 / sqrt": (InverseSquareRoot(), None),
        **{
            f"power {p}": (Power(), p)
            for p in (-2.5, -0.3, 0, 1e-3, 0.5, 1, 1.7, 2, 30)
        },
    }
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", HERMITIAN_FUNCTIONS)
def test_functions_of_hermitian_matrices_are_those_of_the_core(variant, name, dtype):
    """At distinct, near, equal, zero and negative eigenvalues, and at any scale."""
    function, p = HERMITIAN_FUNCTIONS[name]
    rng = np.random.default_rng(3)
    single, eps = np.finfo(dtype).bits == 32, np.finfo(dtype).eps
    scale = 1e-6 if single else 1e-30
    w = np.sort(rng.random((40, 5)) + 0.01, axis=-1)
    w[1:5, 1] = w[1:5, 0] * (1 + np.array([0, 1e-6, 1e-3, 0.3]))
    w[5:8, :2], w[8, :], w[9, :3] = 0, 0, 0.5
    w[6, 0], w[7, 0], w[10] = -eps, -0.1, w[10] * scale
    w[11, 0] = w[11, 4] * 1e-4
    Q = np.linalg.qr(rng.standard_normal((40, 5, 5)))[0].astype(dtype)
    X = rng.standard_normal((40, 5, 5)).astype(dtype)
    w = w.astype(X.real.dtype)
    A = (Q * w[:, None, :]) @ Q.swapaxes(-1, -2)
    given = None if p is None else np.full(40, p, w.dtype)
    for operation, x in (
        (HermitianMap(function), (A, given, w, Q)),
        (HermitianDerivative(function), (A, given, X, w, Q)),
    ):
        (found,) = by_memory.by_kernel(operation, x, Threads(1), xp)
        # In double precision; the larger exponents are ill-conditioned.
        wide = [
            y if y is None else y.astype(complex if y.dtype.kind == "c" else float)
            for y in x
        ]
        wide[-2][6, 0] = 0  # what is a rounding error in single precision alone
        (expected,) = operation.value(wide, xp)
        size = np.abs(expected).max(axis=(-2, -1), keepdims=True)
        assert (np.isnan(found) == np.isnan(expected)).all()
        sound = ~np.isnan(expected).any(axis=(-2, -1))
        limit = (40 + 4 * abs(p or 0)) * eps * np.broadcast_to(size, found.shape)
        limit = limit + np.finfo(dtype).tiny
        wrong = np.abs(found - expected)[sound] > limit[sound]
        assert not wrong.any(), (operation, np.argwhere(wrong)[:4])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(3, 3, 3), (4, 16, 4), (16, 1, 2), (1, 5, 1), (2, 7, 9)]
)
def test_products(variant, shape, dtype):
    m, k, n = shape
    rng = np.random.default_rng(4)
    A, B = (rng.standard_normal((37, *s)).astype(dtype) for s in ((m, k), (n, k)))
    B = B.swapaxes(-1, -2)
    for left in (A, A[::-1], A.swapaxes(-1, -2).copy().swapaxes(-1, -2)):
        (found,) = by_memory.by_kernel(Product(), (left, B), Threads(1), xp)
        assert np.abs(found - left @ B).max() < 50 * np.finfo(dtype).eps


def test_products_of_tiny_matrices_in_pytorch(monkeypatch):
    """Values, gradients and second derivatives are those of PyTorch's products."""
    torch = pytest.importorskip("torch")
    from svdinv.backends.torch import TorchBackend

    xp, call = TorchBackend.xp, TorchBackend.call
    for dtype in (torch.float64, torch.complex64):
        A, B = (
            torch.randn(3000, 4, 3, dtype=dtype),
            torch.randn(3000, 3, 5, dtype=dtype),
        )
        A, B = A.requires_grad_(), B.requires_grad_()
        assert xp.multiplies_quickly(A, B)

        def derivatives(times, A=A, B=B):
            y = times(times(A, B), times(A, B).mH)
            gA, gB = torch.autograd.grad(
                y.abs().square().sum(), (A, B), create_graph=True
            )
            return y, gA, gB, *torch.autograd.grad((gA.real**2).sum(), (A, B))

        found = derivatives(lambda A, B: matrix_product(A, B, call, xp))
        for x, y in zip(found, derivatives(torch.matmul), strict=True):
            limit = 300 * torch.finfo(dtype).eps * y.abs().max()
            assert (x - y).abs().max() <= limit
    # What traces, transforms or spreads it keeps the framework's own.
    asked = []
    torch.func.vmap(lambda A, B: asked.append(xp.multiplies_quickly(A, B)) or A @ B)(
        A[None], B[None]
    )
    assert asked == [False]
    with torch.autograd.forward_ad.dual_level():
        assert not xp.multiplies_quickly(A, B)
    assert not xp.multiplies_quickly(A[:10], B[:10])
    assert not xp.multiplies_quickly(A, B[:1])


class Single(Threads):
    in_double = False


@pytest.mark.parametrize("dtype", DTYPES)
def test_decomposition_and_map_in_one_call(variant, dtype):
    """The same factors and the same map as in two calls, for any spectrum and tau."""
    memory, eps = Single(2), np.finfo(dtype).eps
    for name, A in problems(dtype)[::3]:  # all shapes, all spectra
        if not kernels.supports("spectral", np.dtype(dtype).name, 21, *A.shape[-2:]):
            continue
        A = A.mT.copy().mT if "equal" in name else A  # in the order of Fortran
        taus = np.linspace(-0.5, 2, 21).astype(A.real.dtype)[:, None]
        taus[4] = np.nan
        same = np.broadcast_to(taus[9], taus.shape)
        for function, tau, relative in (
            *((Soft(), taus, False), (Soft(), same, True), (Polar(), None, False)),
            *((Reciprocal(), None, False), (Reciprocal(0.4), None, False)),
            *((Hard(), taus, False), (Hard(), same, True), (Rank(2), None, False)),
            *((TopSubgradient(1), None, False), (TopSubgradient(None), None, False)),
            *((Tikhonov(), taus, False), (Tikhonov(0.4), taus, False)),
            (Whitening(), abs(taus), False),
        ):
            (found,) = by_memory.by_kernel(
                Apply(function, relative), (A, tau), memory, xp
            )
            factors = by_memory.by_kernel(Factorise(function), (A, tau), memory, xp)
            level = tau * factors.largest(A, xp) if relative else tau
            plain = factors.map(function, A, level, xp)
            # Of a NaN tau alone the result is NaN.
            assert (np.isnan(found) == np.isnan(plain)).all(), name
            size = factors.S.max() + 1 if tau is not None else np.abs(plain).max()
            limit = 8 * A.shape[-1] * eps * size
            assert np.nanmax(np.abs(found - plain)) <= limit, (name, function)


@pytest.mark.parametrize("dtype", DTYPES)
def test_derivatives_of_functions_of_singular_values(variant, dtype):
    """As by array functions: the largest repeated, all zero, a tau of 0 and NaN."""
    memory, eps = Single(2), np.finfo(dtype).eps
    rng = np.random.default_rng(8)
    of_tau = [RelativePull(Soft()), RelativePull(Hard()), Pull(Hard()), Pull(Soft())]
    of_tau += [Pull(Tikhonov()), Pull(Tikhonov(0.4)), Pull(Whitening())]
    alone = Rank(2), Rank(4), TopSubgradient(1), TopSubgradient(None), Reciprocal(0.4)
    for name, A in problems(dtype)[::3]:  # all shapes, all spectra
        factors = by_memory.by_kernel(Factorise(Soft()), (A, None), memory, xp)
        if factors is None:
            continue
        tau = np.linspace(0, 1.3, len(A)).astype(A.real.dtype)[:, None]
        tau[7] = np.nan
        X, dtau = normal(rng, A.shape, dtype), normal(rng, tau.shape, tau.dtype)
        many = min(A.shape[-2:]) > 4
        alone = (*alone[:5], TopSubgradient(3)) if many else alone[:5]
        calls = [(operation, (A, tau, X, *factors)) for operation in of_tau]
        calls += [(Pull(f), (A, None, X, *factors)) for f in alone]
        calls += [
            (Push(f), (A, tau, X, dtau, *factors))
            for f in (Soft(), Hard(), Tikhonov(), Whitening())
        ]
        y = np.sin(factors.S)
        D = normal(rng, (*y.shape, y.shape[-1]), y.dtype)
        calls.append((RecomposePull(), (X, y, D + D.mT, *factors)))
        for (operation, x), where in product(calls, (slice(None), slice(5, 6))):
            x = [y if y is None else y[where] for y in x]
            found = by_memory.by_kernel(operation, x, memory, xp)
            if found is None:
                assert math.prod(A.shape[-2:]) > 1024 * len(X[where])
                continue
            with np.errstate(all="ignore"):  # of NaN, and of a tau of 0 beside zeros
                plain = operation.value(x, xp)
            for y, expected in zip(found, plain, strict=True):
                if expected is None:
                    assert y is None
                    continue
                assert (np.isnan(y) == np.isnan(expected)).all(), (name, operation)
                known = np.nan_to_num(expected)
                size = np.abs(known).max(
                    axis=tuple(range(1, known.ndim)), keepdims=True
                )
                limit = 40 * max(A.shape) * eps * (size + 1 + factors.S.max())
                assert (np.abs(np.nan_to_num(y) - known) <= limit).all(), (
                    name,
                    operation,
                )


def test_one_call_is_left_where_a_derivative_may_be_asked_for():
    torch = pytest.importorskip("torch")
    import svdinv.torch as st

    A = torch.randn(5, 4, 3, dtype=torch.float64)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert st.svt(A, tau).requires_grad
    assert not st.svt(A, 0.3).requires_grad
    batched = torch.func.vmap(lambda A: st.svt(A, 0.3))(A)
    torch.testing.assert_close(batched, st.svt(A, 0.3))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(A, torch.ones_like(A))
        moved = torch.autograd.forward_ad.unpack_dual(st.svt(dual, 0.3)).tangent
    torch.testing.assert_close(
        moved, torch.func.jvp(lambda A: st.svt(A, 0.3), (A,), (torch.ones_like(A),))[1]
    )
    for bad in (np.nan, np.inf):
        with pytest.raises(torch.linalg.LinAlgError):
            st.svt(A * bad, 0.3)
    with torch.no_grad():
        torch.testing.assert_close(st.polar(A), st.polar(A.requires_grad_()).detach())


def repeated_values(k, eps, rng):
    """Scaled values with all that the consistent rule tells apart, sorted downwards."""
    distinct = np.linspace(1, 0.3, k)
    yield "distinct", distinct
    yield "all equal", np.ones(k)
    for gap in (eps, 30 * eps, eps**0.75, 0.3 * eps**0.5, 0.9 * eps**0.5):
        s = distinct.copy()
        s[1], s[3:] = s[0] * (1 - gap), s[3] * (1 - gap * np.arange(k - 3))
        yield f"gap {gap:.1e}", s
    yield "one zero", np.where(np.arange(k) == k - 1, 0, distinct)
    yield "zeros", np.where(np.arange(k) < 3, distinct, 0)
    yield "rounding level", np.where(np.arange(k) < 3, distinct, 40 * eps * distinct)
    yield "small", np.where(np.arange(k) < 3, distinct, 0.5 * eps**0.5 * distinct)
    near = 0.3 * eps**0.5 * (1 - 0.1 * eps**0.5 * np.arange(k))
    yield "small cluster", np.where(np.arange(k) < 3, distinct, near)
    yield "nothing", np.zeros(k)
    yield "random cluster", 1 - 0.9 * eps**0.5 * np.sort(rng.random(k))


def losses_in_values(s, K, rng):
    """Middle parts U^H gU and gV V^H, and gS, of losses of all kinds."""
    kh = K.conj().mT
    last = np.maximum(s[..., -1:], np.finfo(s.dtype).eps)
    # Bent among small values; elsewhere the same as linear.
    small = s < np.minimum(2 * last, 0.1)
    for name, f, df in (
        ("bent", np.where(small, s * (s / last) ** 2, s), np.where(small, 3, 1)),
        ("tanh", np.tanh(s), 1 / np.cosh(s) ** 2),
        ("kink", np.maximum(s - s[..., 2:3], 0), (s > s[..., 2:3]) * 1.0),
        ("polar", np.ones_like(s), np.zeros_like(s)),
        ("linear", s, np.ones_like(s)),
    ):
        diagonal = np.real(np.linalg.diagonal(K))
        for penalty in (0, 0.5):
            yield (
                name,
                K * f[..., None, :],
                f[..., :, None] * K,
                df * diagonal + penalty,
            )
    yield "of the gauge", K, rng.standard_normal(K.shape) * kh, s * 0
    yield "of the values alone", K * 0, K * 0, s


def core_problems(k, dtype, hermitian=False):
    """A batch of all of them: names, values, and the cotangents of each loss.

    The factors are to be the identity, so that both sides see the same cotangents.
    """
    rng = np.random.default_rng(9)
    eps, real = np.finfo(dtype).eps, np.finfo(dtype).dtype
    names, problems = [], []
    count = 19  # groups of lanes are of one problem, or of two
    for name, s in repeated_values(k, float(eps), rng):
        if hermitian:
            s = np.sort(s * np.where(np.arange(k) % 5 == 0, -1, 1))
        s = np.tile(s, (count, 1)).astype(real)
        K = normal(rng, (count, k, k), dtype)
        for loss, M, N, gS in losses_in_values(s, K, rng):
            size = 10.0 ** rng.integers(-12, 12, (count, 1))
            M, N = M * size[..., None], N * size[..., None]
            names += [f"{name}, {loss}"] * count
            problems.append(
                (s, M.astype(dtype), N.astype(dtype), (gS * size).astype(real))
            )
    # Without the last, some group of lanes is not full.
    arrays = map(np.concatenate, zip(*problems, strict=True))
    return np.array(names[:-1]), *(x[:-1] for x in arrays)


OPTIONS = [{}, {"rtol": 1e-2}, {"rtol": 0.0}, {"epsilon": 1e-3}]


def apart(x, y, s):
    """Where gradients differ by more than rounding errors, at values s."""
    eps = np.finfo(y.dtype).eps
    size = np.abs(y).max(axis=(-2, -1))
    limit = np.full(len(s), 300 * eps)
    if y.dtype.kind == "c":  # NumPy divides by multiplying, which a quotient enlarges
        gaps = np.abs(np.diff(s))  # of values up to 1
        limit += 4 * eps / gaps.min(axis=-1, where=gaps > 0, initial=1)
    return ~(np.abs(x - y).max(axis=(-2, -1)) <= limit * size)


def agree(operation, x, s, names):
    """Compare a pullback by the kernels of every instruction set with core's own."""
    (plain,) = operation.value(x, xp)
    for variant in kernels.variants():
        kernels._kernels.select(variant)
        (found,) = by_memory.by_kernel(operation, x, Threads(1), xp)
        kernels._kernels.select("")
        wrong = set(names[apart(found, plain, s)])
        assert not wrong, (variant, operation)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*product([(6, 6)], DTYPES), *zip([(8, 5), (5, 8)] * 2, DTYPES, strict=True)],
)
def test_consistent_rule_agrees_with_its_array_functions(dtype, shape):
    k = min(shape)
    names, s, M, N, gS = core_problems(k, dtype)
    U, Vh = (np.eye(*n, dtype=dtype) for n in ((shape[0], k), (k, shape[1])))
    U, Vh = (np.tile(x, (len(s), 1, 1)) for x in (U, Vh))
    outside = normal(np.random.default_rng(10), (len(s), *shape), dtype)
    outside *= s[:, -1:, None]
    gU, gVh = outside[..., :k].copy(), outside[..., :k, :].copy()
    gU[:, :k], gVh[..., :k] = M, N
    anywhere, no_values = slice(None), ~gS.any(axis=-1)
    for options in OPTIONS:
        operation = Pullback(SVD(**options))
        for gone, where in ((None, anywhere), (3, anywhere), (4, no_values),
                            (5, anywhere)):  # fmt: skip
            x = [t[where] for t in (U, s, Vh, gU, gS, gVh)]
            if gone:
                x[gone] = None
            agree(operation, x, s[where], names[where])


def rank_deficient(k, rng):
    """Singular values with every kind of zero that an SVD returns."""
    for rank in sorted({1, 2, k // 2, k - 1} - {0, k}):
        zeros = k - rank
        for top in (np.ones(rank), np.linspace(1, 0.4, rank)):
            for rest in (
                np.zeros(zeros),
                np.sort(rng.random(zeros) * 1e-16)[::-1],
                10.0 ** -np.linspace(20, 300, zeros),
                np.where(np.arange(zeros) < zeros // 2, 1e-17, 0),
                np.full(zeros, 1e-9),
            ):
                yield np.concatenate([top, rest])


@pytest.mark.parametrize("f", ["tanh", "cube", "identity", "soft threshold"])
@pytest.mark.parametrize("shape", [(2, 2), (5, 5), (8, 4), (4, 9), (16, 12), (40, 16)])
def test_zeros_have_one_gradient_with_kernels_and_without(shape, f):
    """All of it, but for what passes through values of which nothing is left."""
    m, n = shape
    k, rng, f = min(shape), np.random.default_rng(12), FUNCTIONS[f]
    for s, is_complex in product(rank_deficient(k, rng), (False, True)):
        U, V = (random_unitary((3, size, k), rng, is_complex) for size in (m, n))
        s = np.tile(s, (3, 1))
        G = normal(rng, (3, m, n), U.dtype)
        problem = Problem((U * s[:, None]) @ V.conj().mT, U, s, V, G)
        factors = U, s, V.conj().mT
        x = *factors, *problem.cotangents(factors, f)
        (plain,) = Pullback(SVD()).value(x, xp)
        lost = s[:, None] <= 3e-103  # `vanishing`
        left, right = U * ~lost, V * ~lost
        gone = G - left @ (left.conj().mT @ G)
        gone -= gone @ right @ right.conj().mT
        diagonal = np.linalg.diagonal(U.conj().mT @ G @ V).real * lost[:, 0]  # in gS
        gone -= (U * diagonal[:, None]) @ V.conj().mT
        exact = problem.exact_gradient(f)
        expected = exact - f.derivative(np.zeros(1)) * gone
        size = np.linalg.norm(exact)
        for name in kernels.variants():
            kernels._kernels.select(name)
            (found,) = by_memory.by_kernel(Pullback(SVD()), x, Threads(1), xp)
            kernels._kernels.select("")
            assert np.linalg.norm(found - plain) <= 1e-14 * size, (name, s)
        assert np.linalg.norm(plain - expected) <= 1e-13 * size, s


@pytest.mark.parametrize("dtype", DTYPES)
def test_consistent_rule_of_eigenvalues(dtype):
    k = 6
    names, w, M, _, gw = core_problems(k, dtype, hermitian=True)
    V = np.tile(np.eye(k, dtype=dtype), (len(w), 1, 1))
    for options in OPTIONS:
        operation = Pullback(Eigh(**options))
        for x in ([w, V, gw, M], [w, V, None, M]):
            agree(operation, x, w, names)


def test_pullbacks_of_any_company_and_scale():
    """A lane whose values repeat changes none of its neighbours."""
    rng = np.random.default_rng(11)
    for dtype in DTYPES:
        A = normal(rng, (40, 7, 6), dtype)
        A[::3, :, 3:] = 0
        A[5], A[6] = np.eye(7, 6), 0
        A *= (10.0 ** rng.integers(-30, 30, (40, 1, 1))).astype(dtype)
        factors = svd(A)
        g = [normal(rng, x.shape, x.dtype) for x in factors]
        x = (*factors, *g)
        operation = Pullback(SVD())
        (together,) = by_memory.by_kernel(operation, x, Threads(2), xp)
        for i in range(40):
            one = tuple(t[i : i + 1] for t in x)
            (alone,) = by_memory.by_kernel(operation, one, Threads(1), xp)
            assert alone.tobytes() == together[i : i + 1].tobytes()
            assert np.isfinite(alone).all()
        A = A[:, :6]
        H = A + A.conj().mT
        w, V = eigh(H)
        x = w, V, g[1], normal(rng, V.shape, V.dtype)
        (together,) = by_memory.by_kernel(Pullback(Eigh()), x, Threads(2), xp)
        for i in range(40):
            one = tuple(t[i : i + 1] for t in x)
            (alone,) = by_memory.by_kernel(Pullback(Eigh()), one, Threads(1), xp)
            assert alone.tobytes() == together[i : i + 1].tobytes()


POINTS = [(40, 8, 3), (5, 7, 6, 3), (21, 4, 2), (30, 5, 1), (20, 1, 3), (6, 3)]


@pytest.mark.parametrize("shape", [*POINTS, (12, 40, 9), (9, 2, 3), (4, 2, 20)])
def test_alignment_agrees_with_its_array_functions(variant, shape, monkeypatch):
    torch = pytest.importorskip("torch")
    import svdinv.torch as st

    for dtype in (torch.float64, torch.float32):
        eps = torch.finfo(dtype).eps
        torch.manual_seed(3)
        P, Q = torch.randn(2, *shape, dtype=dtype)
        if len(shape) > 2:
            P[0], P[1, ..., -1], Q[2] = 0, 0, P[2]  # the last has a distance of 0
            Q[3] = P[3] * torch.tensor([*[1] * (shape[-1] - 1), -1])
            P[-1], Q[-1] = P[-1] * eps**8, Q[-1] * eps**8
        w = torch.rand(shape[:-1], dtype=dtype)
        G = [torch.randn(n, dtype=dtype) for n in (shape[-1], shape[-1], 1)]

        def results(which, P=P, Q=Q, w=w, G=G):
            x = [t.clone().requires_grad_() for t in (P, Q, w)]
            y = st.kabsch(*x)
            loss = sum((y[i] * G[i]).sum() for i in which)
            # Of points on a line only the distance is known.
            known = y if shape[-2] > 2 or shape[-1] < 3 else y[2:]
            return [*known, *torch.autograd.grad(loss, x, allow_unused=True)]

        undetermined = 2 == shape[-2] < shape[-1]
        for which in [(2,)] if undetermined else [(0, 1, 2), (0,), (1,), (2,)]:
            kernel = results(which)
            with monkeypatch.context() as patch:
                patch.setattr(by_memory, "_RULES", DECOMPOSITIONS)
                plain = results(which)
            allowed = max(100, 30 * shape[-1]) * eps  # rounding grows with the size
            for x, y in zip(kernel, plain, strict=True):
                assert (x - y).abs().max() <= allowed * y.abs().max(), which


def test_alignment_in_any_company():
    rng = np.random.default_rng(12)
    size = 10.0 ** rng.integers(-90, 90, (37, 1, 1))
    P, Q = rng.standard_normal((2, 37, 5, 3)) * size
    P[3], P[4, :, 2], Q[5] = 0, 0, P[5]
    w = rng.random((37, 5))
    cotangents = [rng.standard_normal(s) for s in ((37, 3, 3), (37, 3), (37,))]

    def run(which, threads):
        x = P[which], Q[which], w[which]
        motion = by_memory.by_kernel(FindMotion(), x, Threads(threads), xp)
        g = [t[which] for t in cotangents]
        pull = AlignPull(True), (*x, *motion, *g, None)
        return *motion, *by_memory.by_kernel(*pull, Threads(threads), xp)

    together = run(slice(None), 2)
    for i in range(37):
        for one, all_of_them in zip(run(slice(i, i + 1), 1), together, strict=True):
            assert one.tobytes() == all_of_them[i : i + 1].tobytes()
            assert np.isfinite(one).all()
    P[7, 1, 1] = np.nan
    assert by_memory.by_kernel(FindMotion(), (P, Q, w), Threads(1), xp) is None


TALL = [(1, 40, 1), (3, 1023, 3), (2, 1024, 18), (2, 2500, 7), (4, 200, 64), (4, 3, 90)]
TALL += [(1, 130, 64), (1, 33, 70), (1, 2100, 9)]


def tall(step, memory, *x):
    return by_memory.by_kernel(Tall(step), x, memory, None)


def by_gram_matrix(A, threads=1):
    memory = Threads(threads)
    S, V, W = tall("eigen", memory, A, *tall("gram", memory, A))
    (image,) = tall("product", memory, A, W)
    wide = A.shape[-2] < A.shape[-1]
    return (V, S, image) if wide else (image, S, V.conj().mT)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_tall_matrices_by_their_gram_matrix(variant, dtype):
    """As accurate as an SVD down to 1e-4 of the largest, in any memory and company."""
    rng = np.random.default_rng(15)
    eps = np.finfo(dtype).eps
    for batch, m, n in TALL:
        k = min(m, n)
        for s in (None, np.ones(k), 10.0 ** -np.linspace(0, 4, k)):
            A = normal(rng, (batch, m, n), dtype)
            if s is not None:
                U, _, Vh = np.linalg.svd(*double(A), full_matrices=False)
                A = ((U * s) @ Vh).astype(dtype)
            A *= np.float32(rng.choice([1, 1e-15, 1e15]))
            factors = by_gram_matrix(A)
            U, S, Vh = double(*factors)
            (exact,) = double(A)
            top = S[:, :1, None]
            assert (np.diff(S) <= 0).all()
            assert np.abs((U * S[:, None, :]) @ Vh - exact).max() < 5 * eps * top.max()
            assert np.abs(U.conj().mT @ U - np.eye(k)).max() < 10 * eps
            assert np.abs(Vh @ Vh.conj().mT - np.eye(k)).max() < 10 * eps
            values = np.linalg.svd(exact, compute_uv=False)
            assert (np.abs(values - S) / top[..., 0]).max() < 2 * eps
            step = np.zeros((batch, 2 * m, 3 * n), dtype)[:, ::2, 3 * n - 1 :: -3]
            step[...] = A
            in_company = []
            if batch > 2:  # one or two are decomposed in another way
                more = by_gram_matrix(np.concatenate([0 * A, A]))
                in_company.append([x[batch:] for x in more])
            for other in (
                by_gram_matrix(A, threads=3),
                by_gram_matrix(step),
                by_gram_matrix(A.mT.copy().mT),
                *in_company,
            ):
                for x, y in zip(factors, other, strict=True):
                    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("function", ["svt", "polar"])
def test_what_the_gram_matrix_cannot_tell_is_left_to_the_svd(function):
    """NaN is told of, and a zero matrix has a polar factor with orthonormal columns."""
    torch = pytest.importorskip("torch")
    import svdinv.torch as st

    f = partial(st.svt, tau=0.5) if function == "svt" else st.polar
    A = torch.randn(2, 3000, 14)
    A[0] = 0
    F = f(A)[0]
    gram = torch.eye(14) if function == "polar" else torch.zeros(14, 14)
    assert (F.mT @ F - gram).abs().max() < 1e-5
    A[1, 5, 3] = torch.nan
    with pytest.raises(torch.linalg.LinAlgError):
        f(A)


@pytest.mark.parametrize("shape", [(20, 9, 6), (6, 6), (500, 16)])
def test_maps_without_a_gradient_leave_no_svd_to_the_framework(shape, monkeypatch):
    """Kernels compute the factors for any function, where they do with a gradient."""
    torch = pytest.importorskip("torch")
    import svdinv.torch as st

    A = torch.randn(shape)
    k, largest = min(shape[-2:]), torch.linalg.matrix_norm(A, 2).max().item()
    functions = [
        partial(st.svt, tau=0.3 * largest),
        partial(st.svt, tau=torch.linspace(0.1, 0.6, k).expand(*shape[:-2], k)),
        partial(st.svht, tau=0.3 * largest),
        partial(st.firm_threshold, tau=0.2 * largest, gamma=3.0),
    ]
    with_gradient = [f(A.clone().requires_grad_()) for f in functions]
    monkeypatch.setattr(torch.linalg, "svd", None)
    for f, expected in zip(functions, with_gradient, strict=True):
        torch.testing.assert_close(f(A), expected.detach(), rtol=1e-5, atol=1e-5)


def test_parameters_and_tensors_without_memory():
    """A torch.nn.Parameter goes to the kernels; what has no address does not."""
    torch = pytest.importorskip("torch")
    import svdinv.torch as st
    from svdinv.backends import torch_kernels

    A = torch.nn.Parameter(torch.randn(6, 5, 4))
    with torch.no_grad():
        assert torch_kernels.decomposes_quickly(A)
    assert torch.equal(st.svt(A, 0.5), st.svt(A.detach(), 0.5))
    nothing = torch._efficientzerotensor((6, 5, 4))
    assert not st.svd(nothing).S.any()
    assert not st.svt(nothing, 0.5).any()


def test_tall_matrices_at_the_edges(variant):
    A = normal(np.random.default_rng(16), (3, 1500, 5), np.float32)
    A[0], A[1, 7, 2] = 0, np.nan
    U, S, Vh = by_gram_matrix(A)
    assert not U[0].any()
    assert not S[0].any()
    np.testing.assert_array_equal(Vh[0] @ Vh[0].T, np.eye(5))
    assert np.isnan(S[1]).all()
    np.testing.assert_array_equal(S[2], by_gram_matrix(A[2:])[1][0])
    low = A[2:, :, [0, 1, 1, 0, 0]]  # what is lost neither overflows nor is it noise
    U, S, Vh = by_gram_matrix(low)
    assert (S[0, 2:] < 1e-6 * S[0, 0]).all()
    assert (np.abs(U) <= 1).all()
    for refused in (A.astype(np.float64), A[:0], A[:, :9], A[..., :0], A[:, :0]):
        assert tall("gram", Threads(1), refused) is None


@pytest.mark.parametrize(
    "shape",
    [
        *[(3000, 18), (18, 3000), (11, 12000, 2), (5, 150, 64)],
        *[(500, 16), (50, 300), (128, 64), (1, 4000, 3)],
    ],
)
def test_svt_takes_the_gram_matrix_of_tall_matrices(shape):
    """The gradient is that of double precision, whatever is kept."""
    torch = pytest.importorskip("torch")
    import svdinv.torch as st
    from svdinv.core.gram import GramFactors
    from svdinv.core.spectral import SVDFactors
    from svdinv.core.spectral_operations import Factorise
    from svdinv.core.thresholds import Soft

    rng = np.random.default_rng(17)
    for dtype in (np.float32, np.complex64):
        A = normal(rng, shape, dtype)
        k = min(shape[-2:])
        U, _, Vh = np.linalg.svd(A.astype(complex), full_matrices=False)
        for smallest, tau in ((0.3, 0.15), (2e-3, 1e-3), (1e-6, 1e-10), (0, 0.4)):
            s = np.linspace(1, smallest, k)
            A = (U * s) @ Vh
            A = torch.from_numpy(A.real if dtype == np.float32 else A)
            G = torch.from_numpy(normal(rng, shape, dtype))
            small = A.to(G.dtype)
            tau_like = torch.full((*shape[:-2], 1), tau)
            found = st._backend.evaluate(
                Factorise(Soft()), small, tau_like.to(small.real.dtype)
            )
            kinds = {0.3: GramFactors, 2e-3: SVDFactors}
            if shape[-1] == 64 or small.numel() < 2**15:
                kinds[0.3] = SVDFactors  # not that tall, or small
            assert type(found) is kinds.get(smallest, type(found))
            if smallest == 2e-3:
                last = found.S.amin() / found.S.amax()
                assert last == pytest.approx(smallest, rel=1e-5)
            results = []
            # Where the Gram matrix does not do, the SVD is as good as it is.
            exact = small if smallest == 1e-6 else small.to(A.dtype)
            for x, method in ((small, "auto"), (exact, "svd")):
                t = torch.tensor(tau, dtype=x.real.dtype, requires_grad=True)
                x = x.clone().requires_grad_()
                y = st.svt(x, t, method=method)
                results.append((y, *torch.autograd.grad(y, (x, t), G.to(x.dtype))))
            # That by tau is a sum over all of G, and may be far less than its terms.
            eps = torch.finfo(torch.float32).eps
            rounding = [0, 0, eps * k**0.5 * float(G.abs().square().sum()) ** 0.5]
            if smallest == 1e-6:  # in single precision its vectors have but one digit
                rounding[2] = float("inf")
            for x, y, least in zip(*results, rounding, strict=True):
                assert (x - y).abs().max() <= max(1e-5 * max(1, y.abs().max()), least)


def test_jax_by_a_custom_call(monkeypatch):
    jax = pytest.importorskip("jax")
    import svdinv.jax as sj
    from svdinv.backends import jax_kernels

    rng = np.random.default_rng(8)
    for shape in ((5, 4, 4), (2, 6, 4, 7), (40, 9, 3)):
        A, G = (jax.numpy.asarray(normal(rng, shape, np.complex64)) for _ in range(2))

        def loss(A, tau, G=G):
            U, S, Vh = sj.svd(A)
            Y = sj.svt(A, tau) + (U * (S / (1 + S))[..., None, :]) @ Vh
            return jax.numpy.sum(jax.numpy.real(G * Y))

        gradient = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1)), (0, None)))
        text = jax.jit(jax.grad(loss)).lower(A, 0.5).as_text()
        assert "svdinv_kernels" in text
        found = gradient(A, 0.5) if len(shape) == 3 else jax.grad(loss)(A, 0.5)
        with monkeypatch.context() as patch:
            patch.setattr(jax_kernels, "_handler", None)
            jax.clear_caches()
            plain = gradient(A, 0.5) if len(shape) == 3 else jax.grad(loss)(A, 0.5)
        jax.clear_caches()
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-4)


def test_jax_aligns_by_a_custom_call(monkeypatch):
    """Jitted, mapped, with weights, few points, one NaN; twice differentiated too."""
    jax = pytest.importorskip("jax")
    import svdinv.jax as sj
    import svdinv.numpy
    from svdinv.backends import jax_kernels

    rng = np.random.default_rng(18)
    batch, m, n = 5, 7, 3
    P, Q = rng.standard_normal((2, batch, m, n)).astype(np.float32)
    P[0], P[1], w = 0, Q[1], rng.random((batch, m)).astype(np.float32)
    GR, Gt, Gr = (
        rng.standard_normal(size).astype(np.float32)
        for size in ((batch, n, n), (batch, n), (batch,))
    )

    def loss(P, Q, w):
        R, t, rmsd = sj.kabsch(P, Q, w)
        return (R * GR).sum() + (t * Gt).sum() + (rmsd * Gr).sum()

    def one(P, Q, w):
        R, t, rmsd = sj.kabsch(P, Q, w)
        return (R * GR[0]).sum() + (t * Gt[0]).sum() + rmsd

    def bent(P, Q, w):
        return (jax.grad(loss)(P, Q, w) ** 2).sum()

    def everything():
        gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        mapped = jax.jit(jax.vmap(jax.grad(one, argnums=(0, 1, 2))))
        bad = P.copy()
        bad[2, 0, 0] = np.nan
        return (
            jax.tree.leaves(jax.jit(sj.kabsch)(P, Q, w)),
            gradient(P, Q, w),
            mapped(P, Q, w),
            jax.jit(jax.grad(bent))(P, Q, w),
            [np.delete(x, 2, 0) for x in gradient(bad, Q, w)],
            np.isnan(gradient(bad, Q, w)[0][2]),
        )

    text = jax.jit(jax.grad(loss)).lower(P, Q, w).as_text()
    assert text.count("custom_call @svdinv_kernels") >= 2
    assert "dot_general" not in text  # the derivative, too
    found = everything()
    with monkeypatch.context() as patch:
        patch.setattr(jax_kernels, "_handler", None)
        jax.clear_caches()
        plain = everything()
    jax.clear_caches()
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(plain), strict=True):
        size = max(1, np.abs(np.asarray(y, np.float64)).max(initial=0))
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-5 * size)
    P, Q = rng.standard_normal((2, 4, 2, 5)).astype(np.float32)  # few points
    rmsd = sj.kabsch(P, Q).rmsd
    np.testing.assert_allclose(rmsd, svdinv.numpy.kabsch(P, Q).rmsd, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@pytest.mark.parametrize("shape", [(100, 100), (3, 3), (2, 90, 70), (300, 5), (7, 1)])
def test_values_without_a_derivative_need_no_vectors(monkeypatch, shape, dtype):
    torch = pytest.importorskip("torch")
    import svdinv.numpy
    import svdinv.torch as st

    A = normal(np.random.default_rng(3), shape, dtype)
    S = np.linalg.svd(A.astype(np.complex128), compute_uv=False)
    first = S[..., :1].sum(axis=-1)
    expected = {"svdvals": S, "nuclear_norm": S.sum(axis=-1), "spectral_norm": first}
    x, recorded = torch.from_numpy(A), torch.from_numpy(A).requires_grad_()
    for name, y in expected.items():
        f, size = getattr(st, name), max(1, S.max(initial=0))
        with_gradient = f(recorded)
        assert with_gradient.requires_grad
        with monkeypatch.context() as patch:
            patch.delattr(torch.linalg, "svd")
            patch.setattr(np.linalg, "svd", _values_of)
            found = f(x), with_gradient.detach(), getattr(svdinv.numpy, name)(A)
        for z in found:
            assert z.shape == y.shape
            limit = 100 * np.finfo(dtype).eps * size * max(S.shape[-1], 1)
            np.testing.assert_allclose(z, y, rtol=0, atol=limit)
    if shape == (100, 100):
        for bad, numbers in ((np.nan, 0), (np.inf, 100)):
            x = torch.from_numpy(A).clone()
            x[1, 2] = bad
            if numbers:
                assert st.svdvals(x).isnan().all()
            else:
                with pytest.raises(torch.linalg.LinAlgError):
                    st.svdvals(x)


def _values_of(A, *, compute_uv, _svd=np.linalg.svd):
    """NumPy's, which has the values alone as an option."""
    assert not compute_uv
    return _svd(A, compute_uv=False)


@pytest.mark.parametrize(
    "name", ["svd", "svt", "polar", "eigh", "sqrtm", "logm", "expm", "nuclear_norm"]
)
def test_gradients_of_batches_in_jax_leave_no_product_to_xla(name):
    jax = pytest.importorskip("jax")
    import svdinv.jax as sj

    f = getattr(sj, name)
    A = np.stack([np.diag([3, 2, 1]).astype(np.float32)] * 20)

    def gradient(A, g):
        y, pullback = jax.vjp(lambda A: f(A, 0.5) if name == "svt" else f(A), A)
        return pullback(jax.tree.map(lambda t: g * jax.numpy.ones_like(t), y))

    text = jax.jit(gradient).lower(A, np.float32(1)).as_text()
    assert "custom_call @svdinv_kernels" in text
    assert "dot_general" not in text


@pytest.mark.parametrize("shape", [(3000, 14), (2, 40, 400)])
def test_jax_takes_the_gram_matrix_of_tall_matrices_under_jit(shape):
    """Where it does, and the SVD where a kept value is too small for it."""
    jax = pytest.importorskip("jax")
    import svdinv.jax as sj
    import svdinv.numpy

    rng = np.random.default_rng(19)
    dtype, k = np.complex64, min(shape[-2:])
    A, G = normal(rng, shape, dtype), normal(rng, shape, dtype)
    U, _, Vh = np.linalg.svd(A.astype(complex), full_matrices=False)

    def pulled(method):
        def both(A, tau):
            y, back = jax.vjp(lambda A, t: sj.svt(A, t, method=method), A, tau)
            return y, *back(G.conj())

        return jax.jit(both)

    auto, plain = pulled("auto"), pulled("svd")
    assert "svdinv_kernels" in auto.lower(A, 0.5).as_text()
    for smallest, tau in ((0.3, 0.15), (2e-3, 1e-3), (1e-6, 1e-10), (0, 0.4)):
        A = ((U * np.linspace(1, smallest, k)) @ Vh).astype(dtype)
        found = auto(A, np.float32(tau))
        if smallest == 1e-6:
            expected = plain(A, np.float32(tau))
            limit = 1e-6
        else:
            exact = partial(svdinv.numpy.svt, method="svd")
            given = A.astype(complex), np.float64(tau)
            y, back = svdinv.numpy.vjp(exact, *given)
            gA, gtau = back(G.astype(complex))
            expected, limit = (y, gA.conj(), gtau), 1e-5
        for x, y in zip(found, expected, strict=True):
            assert np.abs(x - y).max() <= limit * max(1, np.abs(y).max())
    A[..., 0, 0] = np.nan
    assert np.isnan(auto(A, np.float32(0.1))[0]).any()
    # Mapped, it is decided for all matrices together.
    two = np.zeros((2, *shape), dtype)
    two[0] = normal(rng, shape, dtype)
    mapped = jax.jit(jax.vmap(lambda A: sj.svt(A, np.float32(2.0))))(two)
    for x, y in zip(mapped, two, strict=True):
        expected = svdinv.numpy.svt(y.astype(complex), 2.0)
        assert np.abs(x - expected).max() < 2e-5 * max(1, np.abs(expected).max())


def test_info_names_the_kernels(capsys):
    from svdinv.cli import main

    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "kernels" in text
    assert kernels.variants()[-1] in text


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_operations_of_traced_graphs():
    """Custom operations keep what they promise to torch.compile and torch.export."""
    torch = pytest.importorskip("torch")
    import svdinv.torch as st
    from svdinv.core.hermitian_operations import Eigh
    from svdinv.core.operation_text import to_text
    from svdinv.core.svd_operations import SVD

    operation = torch.ops.svdinv.operation.default
    for shape in ((6, 4, 3), (5, 5), (2, 3, 4, 6), (1, 80, 70)):
        for dtype in (torch.float32, torch.complex128):
            A = torch.randn(shape, dtype=dtype)
            tests = ("test_schema", "test_faketensor")
            for rule, x in ((SVD(), A), (Eigh(), A @ A.mH)):
                arguments = [x], f"1  {to_text(rule, [])}", []
                torch.library.opcheck(operation, arguments, test_utils=tests)
    A = torch.randn(20, 7, 5, requires_grad=True)

    def loss(A):
        U, S, Vh = st.svd(A)
        return (st.svt(A, 0.5) + (U * (S / (1 + S))[..., None, :]) @ Vh).square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(A), A)
    (expected,) = torch.autograd.grad(loss(A), A)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


SANITIZED = """
import sys
from itertools import product
from pathlib import Path
import numpy as np
import svdinv.kernels as kernels
kernels._LIBRARY = Path(sys.argv[1])
kernels._kernels = kernels._Kernels()
assert kernels.variants() == ("baseline",), kernels.status()
import svdinv.numpy
from svdinv.backends import numpy_namespace as xp
from svdinv.core.product_operations import Product
from svdinv.kernels import memory as by_memory
from svdinv.kernels.rules import Tall
rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64, np.complex64, np.complex128):
    for shape in ((5, 3, 3), (9, 2, 7), (4, 17, 6), (6, 1, 1), (5, 33, 33), (4, 64, 9)):
        A = rng.standard_normal(shape).astype(dtype)
        A[0] = 0
        A[1] = np.eye(*shape[1:])
        A[2, :, 0] = np.nan
        if A.dtype.kind == "c":
            A = A * np.exp(1j * rng.random(shape)).astype(dtype)
        sound = [0, 1, 3]
        for x in (A[sound], A[sound].mT, A[sound][:, ::-1]):
            (U, S, Vh), back = svdinv.numpy.vjp(svdinv.numpy.svd, x)
            back((U, S, Vh))
            y, back = svdinv.numpy.vjp(svdinv.numpy.svt, x, 0.1)
            back(y)
            svdinv.numpy.svt(x, 0.1, relative=True), svdinv.numpy.polar(x)
            if x.dtype == np.float64 and x.shape[-1] < 9:
                motion, back = svdinv.numpy.vjp(svdinv.numpy.kabsch, x, x[::-1])
                back(motion)
            if x.shape[-1] == x.shape[-2]:
                (w, V), back = svdinv.numpy.vjp(svdinv.numpy.eigh, x)
                back((w, V))
                H = x @ x.conj().mT
                for function in (svdinv.numpy.sqrtm, svdinv.numpy.inv_sqrtm):
                    y, back = svdinv.numpy.vjp(function, H)
                    back(y)
                y, back = svdinv.numpy.vjp(svdinv.numpy.powm, H, -0.3)
                back(y)
            by_memory.by_kernel(Product(), (x, x.mT), xp.memory, xp)
        assert by_memory.decomposition("svd", A, xp.memory) is None  # one is not finite
    alone = [(1, 5, 3), (1, 3, 5), (2, 9, 9), (1, 33, 31), (2, 40, 40), (1, 70, 70)]
    for shape in [*alone, (1, 130, 80)]:
        A = rng.standard_normal(shape).astype(dtype)
        A[..., 1:] = A[..., :1]
        for x in (A, A.mT, A[:, ::-1]):
            by_memory.decomposition("svd", x, xp.memory)
            (U, S, Vh), back = svdinv.numpy.vjp(svdinv.numpy.svd, x)
            back((U, S, Vh))
            y, back = svdinv.numpy.vjp(svdinv.numpy.svt, x, 0.1)
            back(y)
            by_memory.by_kernel(Product(), (x, x.mT), xp.memory, xp)
            if x.shape[-1] == x.shape[-2]:
                H = x @ x.conj().mT
                by_memory.decomposition("eigh", H, xp.memory)
                (w, V), back = svdinv.numpy.vjp(svdinv.numpy.eigh, H)
                back((w, V))
                y, back = svdinv.numpy.vjp(svdinv.numpy.sqrtm, H)
                back(y)
    for shape in ((2, 1500, 5), (3, 18, 40), (1, 9, 1), (1, 1100, 35), (2, 90, 40)):
        A = rng.standard_normal(shape).astype(dtype)
        for x in (A, A.mT, A.repeat(2, axis=-1)[..., 1::2]):
            sums = by_memory.by_kernel(Tall("gram"), (x,), xp.memory, xp)
            if dtype in (np.float32, np.complex64):
                values = by_memory.by_kernel(Tall("eigen"), (x, *sums), xp.memory, xp)
                by_memory.by_kernel(Tall("product"), (x, values[2]), xp.memory, xp)
print("sound")
"""


def test_nothing_is_read_or_written_out_of_bounds(tmp_path):
    """Under AddressSanitizer and UBSan, where the compiler has them."""
    from svdinv.kernels import build

    found = build.compiler()
    run = partial(subprocess.run, capture_output=True, text=True, check=False)
    named = run([*(found or ["cc"]), "-print-file-name=libasan.so"]).stdout.strip()
    if not os.path.isabs(named):
        pytest.skip("the compiler has no AddressSanitizer")
    # Memory of its own for each call, not that of an earlier one, which may be larger.
    # To optimise takes twice as long as to compile and run what is not.
    flags = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    flags += ("-DMOST_KEPT=0",)
    library, _ = build.build(tmp_path / "libsvdinv.so", flags, ("baseline",))
    script = tmp_path / "run.py"
    script.write_text(SANITIZED)
    # Python itself and NumPy leave memory to the system when they end.
    around = {"LD_PRELOAD": named, "ASAN_OPTIONS": "detect_leaks=0"}
    env = os.environ | around | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "2"}
    done = run([sys.executable, str(script), str(library)], env=env)
    assert done.stdout == "sound\n", done.stderr[-4000:]


@pytest.mark.parametrize(
    ("age", "wish", "kept"), [(1, "", True), (-1, "", False), (1, "require", False)]
)
def test_libraries_that_are_up_to_date_stay(tmp_path, monkeypatch, age, wish, kept):
    pytest.importorskip("hatchling")
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    import hatch_build
    from svdinv.kernels import build

    if (command := build.compiler()) is None:
        pytest.skip("there is no compiler")
    source = tmp_path / "batch.c"
    source.write_text("int any;")
    (tmp_path / "build.py").touch()
    libraries = [tmp_path / library.name for library in build.LIBRARIES]
    for library in libraries:
        build._run([*command, "-shared", "-fPIC", str(source), "-o", str(library)])
    made = min(library.stat().st_mtime for library in libraries)
    for path in (source, tmp_path / "build.py"):
        os.utime(path, (made - age, made - age))
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "LIBRARY", libraries[0])
    monkeypatch.setattr(build, "LIBRARIES", tuple(libraries))
    monkeypatch.setattr(build, "build", lambda: (tmp_path / "anew.so",))
    monkeypatch.setattr(hatch_build, "_kernels", lambda root: build)
    monkeypatch.setenv("SVDINV_KERNELS", wish)
    data = {"artifacts": []}
    hook = hatch_build.KernelHook(str(tmp_path), {}, None, None, "", "wheel")
    hook.initialize("editable", data)
    names = [library.name for library in libraries]
    assert data["artifacts"] == (names if kept else ["anew.so"])


@pytest.mark.slow
def test_pip_builds_kernels_for_every_framework(tmp_path):
    """In isolation, where there is no framework whose headers could be compiled in."""
    from svdinv.kernels import build

    run = partial(subprocess.run, capture_output=True, text=True, check=False)
    pip = [sys.executable, "-m", "pip", "--retries", "1", "--timeout", "20"]
    root = Path(__file__).parents[1]
    made = run([*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(root)])
    if "No matching distribution found for hatchling" in made.stderr:
        pytest.skip("pip cannot fetch hatchling, which builds the package")
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("svdinv-*.whl")
    unpacked = tmp_path / "unpacked"
    with ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    sources = {path.name for path in build.HERE.glob("*.[ch]")}
    shipped = {path.name for path in (unpacked / "svdinv" / "kernels").iterdir()}
    assert sources | {library.name for library in build.LIBRARIES} <= shipped
    env = {**os.environ, "PYTHONPATH": str(unpacked), "SVDINV_ISA": ""}
    done = run([sys.executable, "-m", "svdinv", "info"], env=env, cwd=unpacked)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines())
    for name in ("numpy", "torch", "tensorflow", "jax"):
        if lines[name] != "not installed":
            assert lines[name].endswith(f"kernels {kernels.variants()[-1]}"), name


OFFSETS = """
#include <stdio.h>
#include "xla.h"
#include "xla/ffi/api/c_api.h"
#define SAME(a, x, b, y) \\
  _Static_assert(offsetof(a, x) == offsetof(b, y) && \\
                 sizeof(((a *)0)->x) == sizeof(((b *)0)->y), #b "." #y);
SAME(XlaExtension, type, XLA_FFI_Extension_Base, type)
SAME(XlaVersion, major_version, XLA_FFI_Api_Version, major_version)
SAME(XlaVersion, minor_version, XLA_FFI_Api_Version, minor_version)
SAME(XlaMetadata, api_version, XLA_FFI_Metadata, api_version)
SAME(XlaMetadataExtension, metadata, XLA_FFI_Metadata_Extension, metadata)
SAME(XlaBuffer, data, XLA_FFI_Buffer, data)
SAME(XlaBuffer, rank, XLA_FFI_Buffer, rank)
SAME(XlaBuffer, dims, XLA_FFI_Buffer, dims)
SAME(XlaArray, size, XLA_FFI_Array, size)
SAME(XlaArray, data, XLA_FFI_Array, data)
SAME(XlaBuffers, size, XLA_FFI_Args, size)
SAME(XlaBuffers, buffers, XLA_FFI_Args, args)
SAME(XlaBuffers, buffers, XLA_FFI_Rets, rets)
SAME(XlaAttrs, attrs, XLA_FFI_Attrs, attrs)
SAME(XlaError, message, XLA_FFI_Error_Create_Args, message)
SAME(XlaError, errc, XLA_FFI_Error_Create_Args, errc)
SAME(XlaApi, error_create, XLA_FFI_Api, XLA_FFI_Error_Create)
SAME(XlaCallFrame, extension_start, XLA_FFI_CallFrame, extension_start)
SAME(XlaCallFrame, api, XLA_FFI_CallFrame, api)
SAME(XlaCallFrame, args, XLA_FFI_CallFrame, args)
SAME(XlaCallFrame, rets, XLA_FFI_CallFrame, rets)
SAME(XlaCallFrame, attrs, XLA_FFI_CallFrame, attrs)
_Static_assert(XLA_METADATA == XLA_FFI_Extension_Metadata, "metadata");
_Static_assert(XLA_RESOURCE_EXHAUSTED == XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "code");
_Static_assert(XLA_MAJOR == XLA_FFI_API_MAJOR && XLA_MINOR <= XLA_FFI_API_MINOR, "");
"""


def test_structures_of_xla_are_those_of_its_header(tmp_path):
    jaxlib = pytest.importorskip("jaxlib")
    from svdinv.kernels import build

    folder = Path(jaxlib.__file__).parent / "include"
    command = build.compiler()
    if command is None or not (folder / "xla/ffi/api/c_api.h").exists():
        pytest.skip("there is no compiler, or no header")
    source = tmp_path / "offsets.c"
    source.write_text(OFFSETS)
    include = f"-I{build.HERE}", f"-isystem{folder}"
    build._run([*command, *include, "-c", str(source), "-o", str(tmp_path / "o")])


# Graphs are traced for seconds, and most hold no kernels anyway.
GRAPHS = ("jax", "tensorflow", "compile", "graph", "traced", "kept", "unknown")
EAGER = " and ".join(f"not {word}" for word in GRAPHS)


def test_the_same_tests_pass_without_kernels():
    """As for those who have no compiler."""
    chosen = f"test_small_values and (numpy or torch) or test_regressions and {EAGER}"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "-k", chosen, "test_small_values.py", "test_regressions.py"],
        cwd=Path(__file__).parent,
        env=os.environ | {"SVDINV_ISA": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert re.search(r"\n\d{3} passed", done.stdout)


@dataclass(frozen=True)
class Multiple(SpectralFunction):
    """f(s) = c s, as a user may write it: in another precision, or as one number."""

    factor: object
    short: bool = False
    needs_unitary = False
    has_tau = False

    def value(self, s, tau, xp):
        return self.factor * (s[..., :1] if self.short else s)

    difference = second_difference = value


@pytest.mark.parametrize("short", [False, True])
def test_values_of_any_precision_and_shape_go_to_the_kernels(short):
    import svdinv.numpy

    A = normal(np.random.default_rng(30), (8, 4, 3), np.float32)
    U, S, Vh = np.linalg.svd(A, full_matrices=False)
    y = 0.5 * (S[..., :1] if short else S) * np.ones_like(S)
    found = svdinv.numpy.spectral_operator(A, Multiple(np.float64(0.5), short))
    np.testing.assert_allclose(found, (U * y[..., None, :]) @ Vh, rtol=0, atol=1e-5)


def test_a_function_that_has_no_hash_is_refused():
    import svdinv.numpy

    with pytest.raises(TypeError, match="function must be hashable"):
        svdinv.numpy.spectral_operator(np.eye(3), Multiple([0.5]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 5, 33, 64, 65, 150])
@pytest.mark.parametrize("hermitian", [False, True])
def test_clusters_of_any_matrices_are_a_kernel(
    variant, k, dtype, hermitian, monkeypatch
):
    """Beside the array functions, where close values are some, all or none."""
    from svdinv.backends.arrays import _Extended
    from svdinv.core.degenerate import vector_block
    from svdinv.core.eigh import eigh_pullback

    class Arrays(_Extended):
        clusters = None

    rng, eps = np.random.default_rng(31), np.finfo(dtype).eps
    s = np.sort(rng.random((5, k)))[:, ::-1]
    s[1] = 1
    s[2] = 1 - 0.3 * eps**0.5 * np.arange(k)
    s[3, (k + 2) // 3 :] = 0
    s[4, k // 2 :] = s[4, k // 2]
    s = (s / s[:, :1]).astype(np.finfo(dtype).dtype)
    # Of Re<G, U S^2 V^H>: of random ones the rule takes what rounding decides.
    G, g = normal(rng, (5, k, k), dtype), 2 * s
    if hermitian:
        G, s = G + G.conj().mT, s[:, ::-1].copy()
        g = 2 * s
    M, N = G * s[:, None, :] ** 2, s[:, :, None] ** 2 * G
    g = g * np.linalg.diagonal(G).real
    calls = []
    run = kernels.run
    monkeypatch.setattr(
        kernels,
        "run",
        lambda *x: calls.append(struct.unpack("q", x[0][:8])[0]) or run(*x),
    )

    def block(xp, M=M, N=N, s=s, g=g):
        if hermitian:
            V = np.broadcast_to(np.eye(k, dtype=dtype), M.shape)
            return eigh_pullback(s, V, g, M, xp=xp)
        return vector_block(s, M, N, g, "consistent", None, None, xp)

    expected = block(Arrays(xp, True))
    calls.clear()
    found = block(_Extended(xp, True))
    assert k == 1 or calls == [kernels.KINDS.index("clusters")]
    alone = [
        block(_Extended(xp, True), *(x[i : i + 1] for x in (M, N, s, g)))
        for i in range(5)
    ]
    views = np.asfortranarray(M), np.repeat(N, 2, 0)[::2], s[:, ::-1].copy()[:, ::-1], g
    limit = np.full(5, 1e3 * eps * np.abs(M).max())
    # Of two estimates with the same predicted error rounding decides.
    limit[2] = 20 * eps**0.5 * np.abs(M).max()
    for other in (found, np.concatenate(alone), block(_Extended(xp, True), *views)):
        assert (np.abs(other - expected).max(axis=(1, 2)) <= limit).all()


def test_clusters_of_unlike_arrays_are_for_the_array_functions():
    s, M = np.ones((2, 3)), np.ones((2, 3, 3))
    assert xp.clusters(s, M, M, s, M, 1e-8, 1e-16) is not None
    single = np.float32
    for x in (
        (s.astype(single), M, M, s, M),
        (s, M, M.astype(single), s, M),
        (s, M, M, s.astype(single), M),
        (s, M, M, s, M[:1]),
        (s[0], M, M, s, M),
    ):
        assert xp.clusters(*x, 1e-8, 1e-16) is None


def test_limits_of_the_kernels():
    assert kernels.supports("align", "float64", 8, 50, 3)
    assert not kernels.supports("align", "float64", 8, 2, 100)
    with pytest.raises(ValueError, match="no kernel 'eig'"):
        kernels.supports("eig", "float64", 8, 3, 3)


# Where in a plan for one operand and two results, and what is not valid there: another
# version, buffers that do not exist, and more axes than there are.
DAMAGES = [(0, 99), (5, -1), (5, 1), (5, 20), (6, 3), (8, 20), (41, -1), (41, 100)]
DAMAGES += [(41, 0)]


@pytest.mark.parametrize(("where", "number"), DAMAGES)
def test_tensorflow_refuses_a_plan_that_is_not_of_this_version(where, number):
    tf = pytest.importorskip("tensorflow")
    from svdinv.backends import tensorflow_kernels

    arrays = [(i, i, axes, False, True, False) for i, axes in enumerate((2, 1, 2))]
    numbers = kernels.plan("eigh", "float32", (0.0, 0.0), arrays)
    numbers += [1, -3, 0, 0, 2, -1, -2, 0]
    call = partial(tensorflow_kernels._operation, x=[tf.eye(3)], Tout=["float32"] * 2)
    np.testing.assert_array_equal(call(plan=numbers)[0], np.ones(3))
    numbers[where] = number
    with pytest.raises(tf.errors.InvalidArgumentError, match="another version"):
        call(plan=numbers)


def test_arrays_that_are_not_aligned_are_left_to_the_framework():
    memory = np.zeros(5 * 16 * 16 * 8 + 1, np.uint8)
    A = memory[1:].view(np.float64).reshape(5, 16, 16)
    A[...] = normal(np.random.default_rng(0), A.shape, A.dtype)
    assert xp.memory.key((A,)) is None
    assert xp.memory.key((A.copy(),)) is not None
    assert svd(A) is None
    torch = pytest.importorskip("torch")
    from svdinv.backends.torch_kernels import memory as torch_memory

    assert torch_memory.key((torch.from_numpy(A),)) is None
    assert torch_memory.key((torch.from_numpy(A.copy()),)) is not None


def test_products_of_nothing_are_left_to_the_framework():
    x = np.ones((8, 3, 0)), np.ones((8, 0, 2))
    assert by_memory.by_kernel(Product(), x, Threads(1), xp) is None


def test_parameters_of_functions_that_are_computed_without_a_gradient():
    """The same whether a kernel serves or not: refused where it would be recorded."""
    torch = pytest.importorskip("torch")
    import svdinv.torch as st

    factor = torch.tensor(0.5, requires_grad=True)
    for size in (4, 70):
        A = torch.eye(size)
        with torch.no_grad():
            y = st.spectral_operator(A, Multiple(factor))
        torch.testing.assert_close(y, 0.5 * A)
        with pytest.raises(TypeError, match="factor of Multiple must be a number"):
            st.spectral_operator(A, Multiple(factor))


def test_numbers_of_functions_that_no_matrix_has():
    """What the array functions make of them does not depend on the size of a matrix."""
    import svdinv.numpy as svn

    A = normal(np.random.default_rng(31), (20, 5, 3), np.float64)
    for rank in (2**31, 10**400):
        np.testing.assert_allclose(svn.spectral_operator(A, Rank(rank)), A, atol=1e-13)
    for count, words in ((-1, "at least 1"), (0, "at least 1"), (4, "broadcast")):
        with pytest.raises(ValueError, match=words):
            svn.spectral_operator(A, TopSubgradient(count))
    for shape in ((20, 4, 3), (300, 200)):
        zero = np.zeros(shape)
        np.testing.assert_array_equal(svn.svt(zero, np.inf, relative=True), zero)


@pytest.mark.parametrize("shape", [(20000, 16), (16, 20000), (4, 9000, 8)])
def test_a_gram_matrix_in_vain_is_not_computed_again(shape, monkeypatch):
    """Of singular values below 1e-4 s_1 the first attempt tells nothing."""
    torch = pytest.importorskip("torch")
    import svdinv.torch
    from svdinv.core import factors

    def refused(*x):
        raise AssertionError("a second attempt")

    monkeypatch.setattr(factors, "tall_values", refused)
    k = min(shape[-2:])
    U, _, Vh = np.linalg.svd(np.random.default_rng(0).standard_normal(shape), False)
    A = torch.from_numpy(((U * np.logspace(0, -5, k)) @ Vh).astype(np.float32))
    due = torch.from_numpy(U @ Vh).float()
    torch.testing.assert_close(svdinv.torch.polar(A), due, rtol=0, atol=2e-2)
