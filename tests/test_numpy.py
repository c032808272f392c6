"""The tape of NumPy, CuPy and any other namespace."""

from __future__ import annotations

import copy
import doctest
import importlib
import inspect
import pickle
from functools import partial
from typing import NamedTuple

import array_api_compat
import numpy as np
import pytest
import scipy.sparse
from frameworks import FRAMEWORKS, params
from operator_cases import CASES, as_tuple, bound, difference, inner, matrices, problem
from oracle import FUNCTIONS, draw, relative_error

import svdinv
import svdinv.numpy as svn
from svdinv.backends.arrays import ArrayBackend
from svdinv.core.backend import Backend
from svdinv.core.namespace import array_namespace
from svdinv.core.thresholds import Firm
from svdinv.operators import OPERATORS

taped = pytest.mark.parametrize(
    "framework", params("numpy", "array_api_strict", "cupy"), indirect=True
)
OWN = {"svd", "vjp", "jvp", "linear", "svd_vjp", "svd_jvp", "svt_vjp", "svt_jvp"}
REAL = [name for name in CASES if "float64" in name]


def test_forward_is_that_of_numpy():
    A = matrices((3, 5, 4))
    U, S, Vh = svn.svd(A)
    U0, S0, Vh0 = np.linalg.svd(A, full_matrices=False)
    sign = np.sign((U * U0).sum(axis=-2))  # kernels choose another than LAPACK
    np.testing.assert_allclose(S, S0, rtol=1e-14)
    np.testing.assert_allclose(U * sign[:, None, :], U0, atol=1e-14)
    np.testing.assert_allclose(Vh * sign[..., None], Vh0, atol=1e-14)
    for ours, theirs in zip(svn.svd(A, True), np.linalg.svd(A), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(svn.svdvals(A), svn.svd(A).S)
    np.testing.assert_array_equal(svn.svd(A, compute_uv=False), svn.svd(A).S)
    H = A @ A.swapaxes(1, 2)
    size = np.abs(H).max()
    np.testing.assert_allclose(svn.eigh(H)[0], np.linalg.eigh(H)[0], atol=1e-14 * size)


def namespace_of(x):
    """Of a traced array or a plain one; CuPy's have no such method."""
    if hasattr(x, "__array_namespace__"):
        return x.__array_namespace__()
    return array_api_compat.array_namespace(x)


def whole(a):
    """The array as a complex one."""
    xp = namespace_of(a)
    return xp.astype(a, xp.complex128)


# What the tape knows: functions of one or two arrays of numbers between 0 and 1.
ARRAY_FUNCTIONS = {
    "add": lambda xp, a, b: a + b + 1.0,
    "subtract": lambda xp, a, b: 2.0 - (a - b),
    "multiply": lambda xp, a, b: a * b * 3.0,
    "divide": lambda xp, a, b: a / b + 1.0 / b,
    "negative": lambda xp, a, b: -a,
    "power": lambda xp, a, b: a**3 + b**0.5,
    "power of arrays": lambda xp, a, b: xp.real(a) ** xp.real(b),
    "exp": lambda xp, a, b: xp.exp(a) + xp.expm1(b),
    "log": lambda xp, a, b: xp.log(a) + xp.log1p(b),
    "sqrt": lambda xp, a, b: xp.sqrt(a) + xp.square(b),
    "sin": lambda xp, a, b: xp.sin(a) * xp.cos(b),
    "tanh": lambda xp, a, b: xp.tanh(a * b),
    "maximum": lambda xp, a, b: xp.maximum(xp.real(a), xp.real(b)),
    "minimum": lambda xp, a, b: xp.minimum(xp.real(a), 0.5 * xp.real(b)),
    "where": lambda xp, a, b: xp.where(xp.real(a) > xp.real(b), a, b * b),
    "abs": lambda xp, a, b: xp.abs(a),
    "conj": lambda xp, a, b: xp.conj(a) * b,
    "real and imag": lambda xp, a, b: xp.real(a) * xp.imag(whole(b) * whole(b)),
    "matmul": lambda xp, a, b: a @ b[..., None, :, :].mT[..., 0, :, :],
    "sum": lambda xp, a, b: xp.sum(a, axis=-1) + xp.sum(b, axis=(0, 2))[None, :],
    "sum of all": lambda xp, a, b: xp.sum(a * b),
    "sum in a dtype": lambda xp, a, b: xp.sum(a, axis=0, dtype=xp.complex128) + b,
    "mean": lambda xp, a, b: xp.mean(a, axis=0),
    "max": lambda xp, a, b: xp.max(xp.real(a), axis=-1),
    "reshape": lambda xp, a, b: xp.reshape(a, (6, 3)) * 2.0,
    "transpose": lambda xp, a, b: xp.permute_dims(a, (2, 0, 1)),
    "broadcast": lambda xp, a, b: xp.broadcast_to(a[0, 0, :], (4, 3)) * 1.0,
    "parts": lambda xp, a, b: a[..., 1:, :] * b[:, :1, ::2][..., :1],
    "concat": lambda xp, a, b: xp.concat([a, b, a], axis=1),
    "stack": lambda xp, a, b: xp.stack([a, b], axis=1),
    "roll": lambda xp, a, b: xp.roll(a, (1, 2), axis=(0, 2)),
    "flip": lambda xp, a, b: xp.flip(a, axis=1) * b,
    "tril": lambda xp, a, b: xp.tril(a) + xp.triu(b, k=1),
    "diagonal": lambda xp, a, b: xp.linalg.diagonal(a),
    "fft": lambda xp, a, b: xp.fft.fft(whole(a)) + xp.fft.ifft(whole(b), axis=0),
    "rfft": lambda xp, a, b: xp.fft.rfft(xp.real(a)),
    "irfft": lambda xp, a, b: xp.fft.irfft(whole(a), n=4)
    + xp.fft.irfft(whole(b), n=5)[..., :4],
    "fftn": lambda xp, a, b: xp.fft.fftn(whole(a), axes=(0, 2))
    + xp.fft.ifftn(whole(b)),
    "vector_norm": lambda xp, a, b: xp.linalg.vector_norm(a, axis=-1) * b[..., 0],
    "fftshift": lambda xp, a, b: xp.fft.fftshift(xp.fft.fft(whole(a)))
    + xp.fft.ifftshift(whole(b), axes=(0, 1)),
    "solve": lambda xp, a, b: xp.linalg.solve(a + 3 * xp.eye(3, dtype=a.dtype), b),
    "solve of a vector": lambda xp, a, b: xp.linalg.solve(
        a[0, ...] + 3 * xp.eye(3, dtype=a.dtype), b[0, 0, :]),
    "solve of one for many": lambda xp, a, b: xp.linalg.solve(
        a[0, ...] + 3 * xp.eye(3, dtype=a.dtype), b),
    "solve of many for one": lambda xp, a, b: xp.linalg.solve(
        a + 3 * xp.eye(3, dtype=a.dtype), b[:1, ...]),
    "inv": lambda xp, a, b: xp.linalg.inv(a + 3 * xp.eye(3, dtype=a.dtype)),
    "sign": lambda xp, a, b: xp.sign(a) * xp.real(b) if a.dtype == xp.complex128
    else xp.sign(a - 0.1) * b,
    "complex number": lambda xp, a, b: a * 2j + 1j * b,
}  # fmt: skip


@taped
@pytest.mark.parametrize("name", ARRAY_FUNCTIONS)
def test_array_functions(framework, name):
    """Both derivatives against differences, and each other."""
    for dtype in (np.float64, np.complex128):
        check_array_function(framework, name, dtype)


def check_array_function(framework, name, dtype):
    rng = np.random.default_rng(0)
    x = [rng.uniform(0.2, 0.9, (2, 3, 3)).astype(dtype) for _ in range(2)]
    if dtype == np.complex128:
        x = [a + 1j * rng.uniform(0.1, 0.4, a.shape) for a in x]
    d = [0.1 * matrices(a.shape, dtype, i) for i, a in enumerate(x)]

    def f(a, b):
        return ARRAY_FUNCTIONS[name](namespace_of(a), a, b)

    (value,) = framework.value(f, *x)
    moved = difference(lambda *x: framework.value(f, *x), x, d)
    g = matrices(value.shape, value.dtype, 7).reshape(value.shape)
    along = framework.jvp(f, x, d)
    np.testing.assert_allclose(along[0], moved[0], atol=1e-11)
    _, pullback = framework.vjp(f, *x)
    assert abs(inner(pullback(g), d) - inner([g], along)) < 1e-12
    bent = difference(lambda *x: framework.vjp(f, *x)[1](g), x, d)
    for one, other in zip(framework.hvp(f, x, d, [g]), bent, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


def test_functions_of_numpy_and_methods_on_traced_arrays():
    A = matrices((3, 3))

    def plain(A):
        B = np.concatenate([A, np.tanh(A).T, np.swapaxes(A, 0, 1)])
        B = B - np.mean(B, axis=0) + np.sum(A * A) / A.shape[0] + np.max(np.abs(A))
        return np.where(B > 0, np.power(np.abs(B), 1.5), np.exp(B)).reshape(-1)[2:]

    plain_value = plain(A)
    value, pullback = svn.vjp(plain, A)
    np.testing.assert_array_equal(value, plain_value)
    d = 0.1 * matrices((3, 3), seed=1)
    (moved,) = difference(lambda A: [plain(A)], [A], [d], 1e-3)
    (gA,) = pullback(np.cos(np.arange(len(value))))
    np.testing.assert_allclose(
        np.sum(gA * d), np.sum(moved * np.cos(np.arange(len(value)))), rtol=1e-10
    )
    with pytest.raises(TypeError, match="no derivative of"):
        svn.vjp(np.linalg.qr, A)
    with pytest.raises(TypeError, match="no derivative of"):
        svn.vjp(lambda A: np.median(A), A)
    with pytest.raises(TypeError, match=r"numpy\.diagonal with these"):
        svn.vjp(lambda A: np.diagonal(A, 1), A)
    with pytest.raises(TypeError, match=r"numpy\.dot of batches"):
        svn.vjp(lambda A: np.dot(A, np.ones((2, 3, 3))), A)
    capped, pullback = svn.vjp(lambda A: np.clip(A, None, 0.1) * np.dot(A, 2.0), A)
    np.testing.assert_allclose(capped, np.minimum(A, 0.1) * 2 * A)
    np.testing.assert_allclose(
        pullback(np.ones((3, 3)))[0], np.where(A < 0.1, 4 * A, 0.2), rtol=1e-12
    )
    with pytest.raises(AttributeError, match="no 'prod'; take Python's operators"):
        svn.vjp(lambda A: A.prod(), A)


# Functions and methods of NumPy that the array API lacks, or has otherwise.
OF_NUMPY = {
    "fft2": lambda A: np.fft.fft2(A, norm="ortho") + np.fft.ifft2(A, axes=(0, 1)),
    "norm": lambda A: np.linalg.norm(A, axis=-1) * np.linalg.norm(A),
    "Frobenius norm": lambda A: np.linalg.norm(A[0], "fro") * A,
    "shifts by position": lambda A: (
        np.fft.fftshift(np.fft.fftn(A, None, (0, 1)), (0, 1)) + np.fft.ifftshift(A, 2)
    ),
    "norm of vectors": lambda A: np.linalg.norm(A[0, 0], 2) * np.linalg.norm(A, 2, -1),
    "clip": lambda A: np.clip(A.real, a_min=-0.5, a_max=0.5) + A.real.clip(-0.3),
    "vdot": lambda A: np.vdot(A, np.cos(np.arange(18).reshape(A.shape)) * A),
    "moveaxis": lambda A: np.moveaxis(A, (0, 2), (-1, 0)),
    "squeeze": lambda A: np.squeeze(A[:1], axis=0) + A[:1, :1].squeeze(),
    "sums and differences": lambda A: (
        np.cumsum(A)
        + np.cumsum(A, axis=-1).ravel()
        + np.repeat(np.diff(A).ravel(), 3)[::2]
        - np.repeat(np.diff(A, 2, axis=1), (1, 2), axis=0).repeat(2)
    ),
    "pad": lambda A: (
        np.pad(A, 1, constant_values=2.0)
        + np.pad(A, ((1, 1), (2, 0), (0, 2)), mode="edge")
        + sum(np.pad(A, (1, 1), mode) for mode in ("reflect", "symmetric", "wrap"))
    ),
    "integer indices": lambda A: (
        A[[0, 1, 0]]
        + A[1, ..., [2, 2, 0]] * A[None, :, [1, 1, 0]][0, :1]
        + np.take(A, [[0], [5], [0]])
        + A.take(np.array([1, 1, 0]), axis=2)[0]
    ),
    "masks": lambda A: A[A.real > 0] * A[:, np.eye(3) == 1].sum(),
    "slopes": lambda A: np.tan(A / 5) + np.arctan(A / 5) * np.sinh(A) - np.cosh(A),
    "logarithms": lambda A: np.log2(A + 4) * np.log10(A + 5) + np.reciprocal(A - 6),
    "angles": lambda A: (
        np.angle(A + 0.2j)
        + np.angle(1j * A + 2, deg=True) * np.angle(-2 - abs(A))
        + np.arctan2(A.real, abs(A) + 1) * np.hypot(A.real - 2, 3.0)
    ),
    "diagonal matrices": lambda A: A @ np.diag(A[0, 1]) + np.diag(A[1]),
    "Kronecker products": lambda A: (
        np.kron(A, A[0, :2])[:, :3, :3]
        + np.kron(A[0, 0], 2.0) * np.tile(A[0], (2, 1, 1))
    ),
    "inner products": lambda A: np.inner(A, A[0]) + np.inner(A[0, 0], A[0, 1]) * A,
    "methods": lambda A: (
        A.copy().swapaxes(0, 2).ravel() + A.transpose(2, 1, 0).flatten()
    ),
    "order": lambda A: (
        np.sort(A.real, axis=1) * A
        + np.take_along_axis(A, np.array([[[2], [0], [1]], [[1], [1], [0]]]), 2)
        + np.sort(abs(A), axis=None)[4] * np.fliplr(A)
    ),
    "columns and parts": lambda A: np.column_stack(
        [
            *np.split(np.flipud(A)[0], [1], axis=1),
            np.split(A[1], 3)[1][0],
            A[:, 0, 0].sum() * A[0],
        ]
    ),
    "averages": lambda A: (
        np.average(A, axis=1)
        + np.average(A, weights=A.real**2 + 1, keepdims=True)[0]
        + np.average(A, axis=2, weights=[1, 2, 3])
        + np.average(A, axis=(2, 0), weights=np.arange(6.0).reshape(3, 2))
    ),
    "sums of some": lambda A: np.sum(A, axis=1, where=A.real > 0) * np.amin(abs(A)),
    "norms 1 and inf": lambda A: (
        np.linalg.norm(A, 1, axis=2) * np.linalg.norm(A[0, 0], np.inf)
        + np.linalg.matrix_norm(A)[:, None] * np.linalg.vecdot(A[0], A)
    ),
    "products of vectors": lambda A: (
        np.vecdot(A[0, 0], A[1], axis=0) * np.vecdot(A[1], A) + np.vecdot([1, 2, 3], A)
    ),
    "inverse sines": lambda A: (
        np.arcsin(A / 5) * np.arccos(A / 4)
        + np.arccos((A + 4j) * (1 + 0j)) * np.arcsin(3 - 2j + A)
    ),
    "Fourier transforms of real arrays": lambda A: (
        np.fft.irfft2(np.fft.rfft2(A.real, norm="ortho") * A[0, 0, 0], s=(3, 3))
        + np.fft.irfftn(np.fft.rfftn(A[:, :, :2].real, norm="forward") * A[:, :, :2])
        * np.fft.rfft(A.real, axis=0, norm="ortho")[:, :, :2]
        @ np.ones((2, 3))
    ),
    "transposed": lambda A: (
        A.transpose() + A.transpose(None) - A.transpose((2, 1, 0)) ** 2
    ),
}


@pytest.mark.parametrize("name", OF_NUMPY)
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_functions_that_only_numpy_has(name, dtype):
    f, A, d = OF_NUMPY[name], matrices((2, 3, 3), dtype), matrices((2, 3, 3), dtype, 1)
    value, pullback = svn.vjp(f, A)
    np.testing.assert_allclose(value, f(A), atol=1e-14)
    (moved,) = difference(lambda A: [f(A)], [A], [d], 1e-3)
    along = svn.jvp(f, (A,), (d,))[1]
    np.testing.assert_allclose(along, moved, atol=1e-9)
    g = matrices(value.shape, value.dtype, 2).reshape(value.shape)
    assert abs(inner(pullback(g), [d]) - inner([g], [along])) < 1e-12


def test_what_is_a_number_in_numpy_is_one_on_the_tape():
    """Arrays without axes are changed in place, numbers are not."""

    def f(x):
        first = total = np.einsum("i,i->", x, x) + np.inner(x, x)
        inner = second = np.inner(x, x)
        total += np.sum(x)
        inner += np.sum(x)
        return total / first + inner / second

    check_against_differences(f, np.arange(1.0, 5.0))
    x = np.ones(3, np.float32)
    for other in (2.0, np.float64(2), [1.0, 2.0, 3.0], np.ones(3, bool)):
        found = svn.vjp(lambda x, other=other: np.hypot(x, other), x)[0]
        assert found.dtype == np.hypot(x, other).dtype
    assert svn.vjp(lambda x: np.sum(np.sum(x), axis=0), x)[0] == 3


def test_tolerances_of_comparisons_may_be_traced():
    def f(x, tol):
        return np.sum(x) * np.allclose(x, 1, atol=tol)

    _, pullback = svn.vjp(f, np.ones(3), 0.1)
    np.testing.assert_array_equal(pullback(1.0)[0], np.ones(3))


def test_linear_functions_that_write_into_their_argument():
    def doubled(x):
        x *= 2
        return x

    A, g = svn.linear(doubled, doubled), np.ones(3)

    def f(x):
        y = 3 * x
        return np.sum(y * y) + A(y) + x

    x = np.arange(3.0)
    value, pullback = svn.vjp(f, x)
    np.testing.assert_allclose(value, 9 * np.sum(x * x) + 7 * x)
    np.testing.assert_allclose(pullback(g)[0], 54 * x + 7)
    np.testing.assert_array_equal(g, 1)


def test_functions_of_the_namespace_of_traced_arrays():
    """Those that NumPy and the array API call alike, as in operators of users."""

    def f(A):
        xp = array_namespace(A)
        wide = xp.tile(xp.clip(A, -0.5, 0.5), (1, 2))
        tall = xp.moveaxis(xp.squeeze(xp.expand_dims(A, axis=1), axis=1), 0, 1)
        other = xp.asarray(tall, copy=True)
        other *= 2
        assert xp.asarray(A, dtype=xp.float32).dtype == xp.float32
        return xp.tensordot(tall, wide, axes=1)

    check_against_differences(f, matrices((3, 3)))


@taped
def test_elements_of_what_does_not_move(framework):
    def f(x):
        xp = namespace_of(x)
        return x * xp.take(xp.sign(x), xp.asarray([0, 0, 1]), axis=0)

    x = np.array([-1.0, 2.0, 3.0])
    (g,) = framework.vjp(f, x)[1](np.ones(3))
    np.testing.assert_array_equal(g, [-1, -1, 1])


def test_functions_of_numpy_with_arguments_that_have_no_derivative():
    for f, message in (
        (lambda A: np.linalg.norm(A, 1), "ord=1"),
        (lambda A: np.fft.fft2(A, s=(2, 2)), "with s"),
        (lambda A: np.linalg.det(A), r"numpy\.linalg\.det"),
        (
            lambda A: np.sum(A, initial=1.0),
            r"numpy\.sum with these arguments .*'initial'",
        ),
        (lambda A: np.add(A, 1, dtype=complex), r"numpy\.add with these arguments"),
        (lambda A: np.max(A, 0, None, True), r"numpy\.max with these arguments"),
        (lambda A: np.sum(A, where=np.ones((3, 3))), "a mask of bool"),
        (lambda A: sum(A.sum()), "without axes"),
        (lambda A: len(A.sum()), "without axes"),
    ):
        with pytest.raises(TypeError, match=message):
            svn.vjp(f, np.eye(3))
    for f in (
        lambda A: np.sum(A, where=np.ones((2, 3, 3), bool)),
        lambda A: np.split(A, 2)[0],
        lambda A: np.average(A, weights=np.ones(3)),
        lambda A: np.average(A, axis=0, weights=np.ones((1, 3))),
        lambda A: np.vecdot(A, A[:, :1]),
        lambda A: np.take_along_axis(A, np.zeros(3, int), 0),
    ):
        for evaluate in (f, lambda A, f=f: svn.vjp(f, A)):
            with pytest.raises((TypeError, ValueError)):
                evaluate(np.eye(3))
    with pytest.raises(ZeroDivisionError):
        svn.vjp(lambda A: np.average(A, weights=np.diag([1.0, -1, 0])), np.eye(3))
    with pytest.raises(ValueError, match="axis 0 of shape"):
        svn.vjp(lambda A: np.squeeze(A, 0), np.eye(3))
    with pytest.raises(ValueError, match="axis 5 is out of bounds"):
        svn.vjp(lambda A: np.squeeze(A, 5), np.eye(3))
    with pytest.raises(ValueError, match="one or two axes"):
        svn.vjp(np.diag, np.ones((2, 2, 2)))
    solved, _ = svn.vjp(lambda A: np.linalg.solve(A, [1.0, 2.0]), np.eye(2))
    np.testing.assert_array_equal(solved, [1, 2])
    norm, pullback = svn.vjp(np.linalg.norm, np.zeros((2, 2)))
    assert norm == 0
    assert not pullback(1.0)[0].any()


@taped
@pytest.mark.parametrize(
    "f", [lambda xp, x: x + xp.eye(3), lambda xp, x: x - xp.sum(x) * xp.eye(3)]
)
def test_tangents_with_fewer_axes_than_results(framework, f):
    x, d = np.arange(3.0) + 1, np.ones(3)

    def function(x):
        return f(namespace_of(x), x)

    along = framework.jvp(function, [x], [d])
    moved = difference(lambda x: framework.value(function, x), [x], [d])
    np.testing.assert_allclose(along[0], moved[0], atol=1e-10)


def test_tangents_of_points_in_batches_that_broadcast():
    P, Q = matrices((2, 4, 3)), matrices((4, 3), seed=1)
    rmsd, along = svn.jvp(lambda P, Q: svn.kabsch(P, Q).rmsd, (P, Q), (P, Q))
    np.testing.assert_allclose(along, rmsd)  # homogeneous


def test_derivatives_at_edges_of_functions():
    def hessian(f, x, d):
        return svn.jvp(lambda x: svn.vjp(f, x)[1](1.0)[0], (x,), (d,))[1]

    x, d = np.array([2.0, 0.0]), np.array([0.0, 1.0])
    np.testing.assert_allclose(hessian(np.linalg.norm, x, d), [0, 0.5])
    total, pullback = svn.vjp(lambda x: np.sum(x[:, None] ** np.arange(3)), x[::-1])
    np.testing.assert_array_equal(pullback(1.0)[0], [1, 5])
    assert total == 1 + 1 + 2 + 4
    _, pullback = svn.vjp(lambda x, t: np.sum(np.full_like(x, t) * x), np.ones(2), 1.0)
    np.testing.assert_array_equal(pullback(1.0)[1], 2)
    base = -1 + 2j
    _, pullback = svn.vjp(
        lambda p: np.sum(np.real(np.array([base]) ** p)), np.array(2.0)
    )
    np.testing.assert_allclose(pullback(1.0)[0], (base**2 * np.log(base)).real)
    with pytest.raises(TypeError, match="3 frequencies"):
        svn.vjp(lambda x: np.fft.irfft(x, n=7), np.ones(3, complex))
    with pytest.raises(TypeError, match="scimath"):
        svn.vjp(np.emath.sqrt, np.ones(3))
    value, _ = svn.vjp(lambda x: x[np.argmax(x)] + x[np.int64(1)], x)
    assert value == 2
    _, pullback = svn.vjp(np.max, np.array([1, np.nan]))
    np.testing.assert_array_equal(pullback(1.0)[0], [0, 1])
    tiny = np.array([1e-39 + 1e-39j, -3e-39j], np.complex64)  # subnormal
    _, pullback = svn.vjp(lambda x: np.sum(np.abs(x)), tiny)
    expected = [(1 + 1j) / np.sqrt(2), -1j]
    np.testing.assert_allclose(pullback(np.float32(1))[0], expected, rtol=1e-5)


def test_numbers_beside_arrays_that_are_put_together():
    x = np.arange(6.0).reshape(2, 3)
    y, pullback = svn.vjp(lambda x: np.stack([x[0, 1], 2.0, x[1, 2]]), x)
    np.testing.assert_array_equal(y, [1, 2, 5])
    np.testing.assert_array_equal(pullback(y)[0], [[0, 1, 0], [0, 0, 5]])
    y, pullback = svn.vjp(lambda x: np.concatenate([x, [7.0], x[0]], axis=None), x)
    np.testing.assert_array_equal(y, np.concatenate([x, [7.0], x[0]], axis=None))
    np.testing.assert_array_equal(pullback(y)[0], [[0, 2, 4], [3, 4, 5]])


@pytest.mark.parametrize("least", [0.0, 1e-17, 1e-15])
def test_tangents_of_a_complex_null_vector(least):
    """The common phase of both vectors of a value of 0 is nothing that moves."""
    rng = np.random.default_rng(0)
    U, V = (
        np.linalg.qr(rng.standard_normal(s) + 1j * rng.standard_normal(s))[0]
        for s in ((6, 4), (4, 4))
    )
    s = np.array([3, 2, 1, least])
    A, dA = (U * s) @ V.conj().T, matrices((6, 4), np.complex128)
    v, found = svn.jvp(svn.null_vector, (A,), (dA,))
    exact = -V[:, :3] @ ((U.conj().T @ dA @ V[:, 3])[:3] / s[:3])
    pivot = np.argmax(np.abs(v) > np.abs(v).max() / 2)
    exact = exact * v[pivot] / V[pivot, 3]
    exact = exact - 1j * v * (exact[pivot] / v[pivot]).imag
    np.testing.assert_allclose(found, exact, atol=1e-12)


def test_second_derivatives_of_residuals_that_are_zero():
    A, d = np.diag([1.0, 2.0]), np.array([[0.0, 0.0], [1.0, 0.0]])
    e = np.eye(2)

    def bound(A):
        return np.sum(svn.svd_residual(A, e[:, :1], np.array([0.5]), e[:1]))

    bent = svn.jvp(lambda A: svn.vjp(bound, A)[1](1.0)[0], (A,), (d,))[1]
    np.testing.assert_allclose(bent[1, 0], 1.0)


def test_traced_numbers_are_printed():
    shown = []
    svn.vjp(lambda A: (shown.append(f"{A.sum():.2f}"), A)[1], np.eye(2))
    assert shown == ["2.00"]


@taped
def test_a_linear_function_with_its_adjoint(framework):
    """It is called with plain arrays, and has derivatives of any order."""
    W = matrices((3, 4), np.complex128)

    def times(matrix):
        array = framework.array(matrix)

        def product(x):
            assert type(x) is type(array)
            return array @ x

        return product

    linear = framework.module.linear(times(W), times(W.conj().T))

    def f(x, y):
        return linear(x * x) * y

    x = [matrices((4, 2), np.complex128, 1), matrices((3, 2), np.complex128, 2)]
    d = [0.1 * matrices(a.shape, a.dtype, 3 + i) for i, a in enumerate(x)]
    moved = difference(lambda *x: framework.value(f, *x), x, d)
    along = framework.jvp(f, x, d)
    np.testing.assert_allclose(along[0], moved[0], atol=1e-10)
    g = matrices((3, 2), np.complex128, 7)
    assert abs(inner(framework.vjp(f, *x)[1](g), d) - inner([g], along)) < 1e-12
    bent = difference(lambda *x: framework.vjp(f, *x)[1](g), x, d)
    for one, other in zip(framework.hvp(f, x, d, [g]), bent, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
    with pytest.raises(TypeError, match="adjoint must be a function"):
        framework.module.linear(times(W), W)
    wrong = framework.module.linear(times(W), times(W.conj()[:, :3].T))
    with pytest.raises(ValueError, match=r"adjoint must return the shape \(4, 2\)"):
        framework.vjp(wrong, x[0])[1](g)


@pytest.mark.parametrize("wrong", [lambda x: None, lambda x: x.astype(int)])
def test_a_linear_function_that_returns_no_floating_point_array(wrong):
    """As where `return` was forgotten: its derivative was 0."""
    with pytest.raises(
        TypeError, match="forward must return an array that is floating"
    ):
        svn.vjp(svn.linear(wrong, lambda y: y), np.ones(3))
    pullback = svn.vjp(svn.linear(lambda x: x, wrong), np.ones(3))[1]
    with pytest.raises(
        TypeError, match="adjoint must return an array that is floating"
    ):
        pullback(np.ones(3))


def test_arrays_of_the_other_byte_order():
    A, B = matrices((2, 5, 3)), matrices((2, 5, 3), seed=1)
    swapped = A.astype(A.dtype.newbyteorder())
    for f in (svn.svdvals, lambda A: svn.cca(A, B).correlations, svn.nuclear_norm):
        expected, pullback = svn.vjp(f, A)
        found, swapped_pullback = svn.vjp(f, swapped)
        np.testing.assert_array_equal(found, expected)
        g = np.ones_like(expected)
        np.testing.assert_array_equal(swapped_pullback(g)[0], pullback(g)[0])


def test_the_adjoint_of_a_real_argument_may_be_complex():
    W = matrices((3, 4), np.complex128)

    def forward(x):
        assert not np.iscomplexobj(x)
        return W @ x

    linear = svn.linear(forward, lambda y: W.conj().T @ y)

    def loss(x):
        return np.sum(np.abs(linear(x)) ** 2)

    def gradient(x):
        return svn.vjp(loss, x)[1](1.0)[0]

    x, d = matrices((4,)), matrices((4,), seed=1)
    normal = 2 * (W.conj().T @ W).real
    np.testing.assert_allclose(gradient(x), normal @ x)
    np.testing.assert_allclose(svn.vjp(gradient, x)[1](d)[0], normal @ d)


def test_svt_without_a_threshold_warns_of_nothing():
    """Nor where the square of the threshold is 0."""
    for dtype, tau in ((np.float64, 0.0), (np.float64, 1e-200), (np.float32, 1e-30)):
        A = matrices((300, 100), dtype)
        np.testing.assert_allclose(svn.svt(A, tau), A, atol=1e-4)


class Pair(NamedTuple):
    first: object
    second: object


@taped
def test_trees_of_arguments_and_results(framework):
    A, b, c = matrices((4, 3)), np.array(0.3), matrices((2, 2), seed=1)
    module = framework.module
    given = {"A": framework.array(A), "rest": [framework.array(b), framework.array(c)]}

    def f(tree, other):
        X = module.svt(tree["A"], tree["rest"][0])
        return Pair({"X": X}, (other * tree["rest"][1], None))

    value, pullback = module.vjp(f, given, framework.array(c))
    assert isinstance(value, Pair)
    assert value.second[1] is None
    G = framework.array(matrices((4, 3), seed=2))
    tree, gc = pullback(Pair({"X": G}, (None, None)))
    assert set(tree) == {"A", "rest"}
    expected = svn.svt_vjp(A, b)[1](framework.numpy(G))
    np.testing.assert_allclose(framework.numpy(tree["A"]), expected[0], atol=1e-14)
    np.testing.assert_allclose(framework.numpy(tree["rest"][0]), expected[1])
    assert not framework.numpy(tree["rest"][1]).any()
    assert not framework.numpy(gc).any()
    everything = pullback(None)
    assert not framework.numpy(everything[0]["A"]).any()
    _, moved = module.jvp(f, (given, framework.array(c)), (None, framework.array(c)))
    np.testing.assert_allclose(framework.numpy(moved.second[0]), c * c)
    assert not framework.numpy(moved.first["X"]).any()


def test_nested_derivatives_are_those_of_both_orders():
    A = matrices((4, 3))
    d, e = matrices((4, 3), seed=1), matrices((4, 3), seed=2)

    def loss(A):
        return np.sum(np.sin(svn.svt(A, 0.4)))

    def gradient(A):
        return svn.vjp(loss, A)[1](1.0)[0]

    def along(A):
        return svn.jvp(loss, (A,), (d,))[1]

    forward_over_reverse = svn.jvp(gradient, (A,), (d,))[1]
    reverse_over_reverse = svn.vjp(gradient, A)[1](d)[0]
    reverse_over_forward = svn.vjp(along, A)[1](1.0)[0]
    for product in (reverse_over_reverse, reverse_over_forward):
        np.testing.assert_allclose(product, forward_over_reverse, atol=1e-13)
    twice = svn.jvp(along, (A,), (e,))[1]
    np.testing.assert_allclose(twice, np.sum(forward_over_reverse * e), rtol=1e-12)


@pytest.mark.parametrize("order", ["vjp", "jvp"])
def test_third_derivatives_are_refused(order):
    A = matrices((3, 2))

    def first(A):
        return svn.vjp(svn.polar, A)[1](np.ones((3, 2)))[0]

    def second(A):
        return svn.vjp(first, A)[1](np.ones((3, 2)))[0]

    assert np.isfinite(second(A)).all()
    third = {
        "vjp": lambda: svn.vjp(second, A)[1](np.ones((3, 2))),
        "jvp": lambda: svn.jvp(second, (A,), (np.ones((3, 2)),)),
    }
    with pytest.raises(NotImplementedError, match="two derivatives, not three"):
        third[order]()


def test_results_that_do_not_depend_on_an_argument():
    A, B = matrices((3, 2)), matrices((3, 2), seed=1)
    value, pullback = svn.vjp(lambda A, B: (svn.polar(A), np.ones(2)), A, B)
    gA, gB = pullback((B, np.ones(2)))
    assert not gB.any()
    np.testing.assert_array_equal(gA, svn.vjp(svn.polar, A)[1](B)[0])
    value, tangent = svn.jvp(lambda A: 3.0, (A,), (A,))
    assert value == 3.0
    assert tangent == 0


@pytest.mark.parametrize("name", REAL)
def test_arguments_and_results_may_be_changed_afterwards(name):
    inputs, _, cotangents = problem(name)
    function = bound(name, FRAMEWORKS["numpy"])
    given = [np.array(x) for x in inputs]
    results, pull = svn.vjp(function, *given)
    g = cotangents if isinstance(results, tuple) else cotangents[0]
    before = pull(g)
    for x in (*given, *as_tuple(results)):
        if np.shape(x):
            x[...] = np.nan
    for one, other in zip(before, pull(g), strict=True):
        np.testing.assert_array_equal(one, other)


def test_pullback_can_be_called_again_and_changes_nothing():
    problem = draw("triple", (7, 6), draws=2, dtype=np.complex128, seed=2)
    A = problem.A.copy()
    A.flags.writeable = False
    factors, pullback = svn.svd_vjp(A)
    given = problem.cotangents(factors, FUNCTIONS["tanh"])
    copies = [g.copy() for g in given]
    np.testing.assert_array_equal(pullback(*given), pullback(*given))
    for g, before in zip(given, copies, strict=True):
        np.testing.assert_array_equal(g, before)


def test_arrays_that_outlive_their_function_are_refused():
    kept, X = [], np.arange(6.0).reshape(2, 3)

    def loss(x, y):
        kept.extend([x, np.sin(x), np.ones_like(x)])
        return (x * y).sum()

    def broken(x, y):
        raise ValueError(str(loss(x, y)))

    svn.vjp(loss, X, X)
    svn.jvp(loss, (X, X), (X, X))
    with pytest.raises(ValueError, match="Traced"):
        svn.vjp(broken, X, X)
    assert len(kept) == 9
    uses = [lambda x: 2 * x, np.sum, np.sign, np.zeros_like, lambda x: x > 0]
    uses += [lambda x: x[0], lambda x: svn.svt(x, 1.0)]
    for x in kept:
        for use in uses:
            with pytest.raises(RuntimeError, match="return it from the function"):
                use(x)
    with pytest.raises(RuntimeError, match="return it from the function"):
        np.asarray(kept[0])

    # One of an outer function is not over while an inner one is.
    def outer(x):
        _, pullback = svn.vjp(lambda y: (x * y**2).sum(), x)
        return (pullback(np.array(1.0))[0] * x).sum()

    value, pullback = svn.vjp(outer, X)
    np.testing.assert_allclose(value, 2 * (X**3).sum())
    np.testing.assert_allclose(pullback(np.array(1.0))[0], 6 * X**2)


def test_missing_cotangents_are_zero():
    problem = draw("pair", (7, 6), draws=2, seed=1)
    (U, S, Vh), pullback = svn.svd_vjp(problem.A)
    gU, gS, gVh = problem.cotangents((U, S, Vh), FUNCTIONS["tanh"])
    zeros = [np.zeros_like(x) for x in (U, S, Vh)]
    for given in [(gU, None, None), (None, gS, None), (None, None, gVh),
                  (gU, gS, None), (None, gS, gVh), (gU, None, gVh)]:  # fmt: skip
        filled = [z if g is None else g for g, z in zip(given, zeros, strict=True)]
        np.testing.assert_allclose(
            pullback(*given), pullback(*filled), rtol=1e-13, atol=1e-14
        )
    np.testing.assert_array_equal(pullback(None, None, None), np.zeros_like(problem.A))
    np.testing.assert_array_equal(pullback(gS=gS), pullback(None, gS, None))


def test_the_pairs_of_svt_are_those_of_the_tape():
    A, G, dA = (matrices((2, 5, 4), seed=seed) for seed in range(3))
    for tau in (0.6, np.array([0.4, 0.6]), np.array([[0.1, 0.2, 0.3, 0.4]])):
        for options in ({}, {"relative": True}, {"method": "svd"}):
            if np.ndim(tau) == 2 and options.get("relative"):
                continue
            given = np.asarray(tau, float)
            value, pull = svn.vjp(lambda A, t, o=options: svn.svt(A, t, **o), A, given)
            ours, pullback = svn.svt_vjp(A, tau, **options)
            np.testing.assert_array_equal(ours, value)
            for one, other in zip(pullback(G), pull(G), strict=True):
                np.testing.assert_array_equal(one, other)
            dtau = np.ones_like(given)
            _, moved = svn.svt_jvp(A, tau, dA, dtau, **options)
            slope = inner(pull(G), [dA, dtau])
            np.testing.assert_allclose(np.sum(G * moved), slope, rtol=1e-12)


@pytest.mark.parametrize("tau", [1, 1.0, np.int64(1)])
def test_tau_as_a_number(tau):
    A = matrices((5, 4), np.float32)
    X, pullback = svn.svt_vjp(A, tau)
    gA, gtau = pullback(X)
    assert isinstance(gtau, np.ndarray)
    assert gtau.shape == ()
    assert gtau.dtype == gA.dtype == np.float32
    np.testing.assert_allclose(gtau, -np.sum(np.linalg.svd(X)[1]), 1e-5)
    _, tangent = svn.svt_jvp(A, tau, None, 1)
    np.testing.assert_allclose(np.sum(tangent * X), gtau, rtol=1e-5)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ((np.ones((7, 7)), None, None), ValueError, r"must have shape \(7, 6\)"),
        ((None, np.ones(5), None), ValueError, r"must have shape \(6,\)"),
        ((None, None, np.ones((6, 7))), ValueError, r"must have shape \(6, 6\)"),
        ((None, 1j * np.ones(6), None), TypeError, "must be real"),
        ((None, None), ValueError, "must have 3 parts, got"),
    ],
)
def test_bad_cotangents_are_named(bad, error, message):
    _, pullback = svn.vjp(svn.svd, matrices((7, 6)))
    with pytest.raises(error, match=rf"cotangent\S* {message}"):
        pullback(bad)


def test_bad_tangents_and_arguments_are_named():
    A = np.eye(4)
    with pytest.raises(ValueError, match=r"tangents\[0\] must have shape \(4, 4\)"):
        svn.svt_jvp(A, 1.0, np.ones(4))
    with pytest.raises(ValueError, match=r"tangents\[1\] must have shape \(\)"):
        svn.svt_jvp(A, 1.0, A, np.ones(4))
    with pytest.raises(ValueError, match=r"tangents\[0\] must have shape \(3, 2\)"):
        svn.svd_jvp(np.ones((3, 2)), np.ones((2, 3)))
    with pytest.raises(TypeError, match=r"tangents\[0\] must be real"):
        svn.jvp(svn.polar, (A,), (1j * A,))
    with pytest.raises(ValueError, match="tangents must have 2 parts"):
        svn.jvp(svn.svt, (A, np.array(1.0)), (A,))
    with pytest.raises(TypeError, match=r"primals must be a tuple .* got ndarray"):
        svn.jvp(svn.polar, A, (A,))
    with pytest.raises(TypeError, match=r"tangents must be a tuple .* got ndarray"):
        svn.jvp(svn.polar, (A,), A)
    with pytest.raises(ValueError, match=r"tangents\[0\] .* among \['a'\], got {'b'"):
        svn.jvp(lambda d: 2 * d["a"], ({"a": A},), ({"b": A},))
    _, pullback = svn.vjp(lambda A: {"x": 2 * A, "y": A}, A)
    np.testing.assert_array_equal(pullback({"x": A})[0], 2 * A)
    for given in ({"X": A}, [A, A]):
        with pytest.raises(ValueError, match=r"cotangent must be a dict with keys"):
            pullback(given)
    for bad in (np.eye(3, dtype=int), None, [None]):
        with pytest.raises(TypeError, match="argument 0 must be floating point"):
            svn.vjp(svn.polar, bad)
    with pytest.raises(TypeError, match="with mode='mean'"):
        svn.vjp(lambda A: np.pad(A, 1, mode="mean"), A)
    with pytest.raises(IndexError, match="out of bounds"):
        svn.vjp(lambda A: A[[4]], A)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (np.matrix, "numpy.matrix"),
        (scipy.sparse.csr_array, "scipy.*csr_array"),
        (partial(np.ma.array, mask=np.eye(3)), "numpy.ma.MaskedArray"),
    ],
)
def test_arrays_with_operators_of_their_own_are_refused(kind, name):
    A = np.arange(9.0).reshape(3, 3)
    other = kind(A)
    for f in (np.multiply, np.matmul, lambda x, y: x - y, lambda x, y: x @ y):
        with pytest.raises(TypeError, match=f"beside .* must not be {name}"):
            svn.vjp(lambda x, f=f: f(x, other), A)
    with pytest.raises(TypeError, match=f"argument 0 .* must not be {name}"):
        svn.vjp(lambda x: x * x, other)
    with pytest.raises(TypeError, match=f"A must not be {name}"):
        svn.svt(other, 0.1)


def test_shifts_may_change_before_a_tangent_is_computed():
    def f(x):
        shift, both, y = np.array(0), [0, 0], x * 0
        for _ in range(3):
            y = y + np.roll(x, shift, axis=1) * np.roll(x, both, axis=(0, 1))
            shift += 1
            both[0] += 1
        return y

    x, d = np.random.default_rng(0).standard_normal((2, 4, 4))
    value, tangent = svn.jvp(f, (x,), (d,))
    np.testing.assert_allclose(tangent, f(x + d / 2) - f(x - d / 2), atol=1e-13)
    _, pullback = svn.vjp(f, x)
    assert np.sum(pullback(value)[0] * d) == pytest.approx(np.sum(value * tangent))


# Products of factors that a loss forms in half precision are no more exact than that.
OF_ONE_CALL = [x for x in REAL if "gram" not in x and "function" not in x]


@pytest.mark.parametrize("name", OF_ONE_CALL)
def test_half_precision_is_computed_in_single(name):
    numpy = FRAMEWORKS["numpy"]
    function = bound(name, numpy)
    half = [np.asarray(x, np.float16) for x in problem(name)[0]]
    single = [x.astype(np.float32) for x in half]
    results, pullback = numpy.vjp(function, *half)
    exact, exactly = numpy.vjp(function, *single)
    g = [np.ones(x.shape, np.float16) for x in results]
    pairs = [(results, exact), (pullback(*g), exactly(*g))]
    pairs.append((numpy.jvp(function, half, half), numpy.jvp(function, single, single)))
    for found, expected in pairs:
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == np.float16
            np.testing.assert_allclose(
                one.astype(np.float32), other, rtol=2e-3, atol=2e-3
            )


def test_half_precision_of_the_factors():
    A = matrices((4, 3)).astype(np.float16)
    (U, S, Vh), pullback = svn.svd_vjp(A)
    assert U.dtype == S.dtype == Vh.dtype == np.float16
    gA = pullback(np.zeros_like(U), 2 * S, np.zeros_like(Vh))
    assert gA.dtype == np.float16
    np.testing.assert_allclose(gA.astype(float), 2 * A.astype(float), rtol=5e-3,
                               atol=5e-3)  # fmt: skip
    _, tangents = svn.svd_jvp(A, A)
    assert all(x.dtype == np.float16 for x in tangents)


def test_tau_that_is_broadcast_has_a_cotangent_of_its_own_shape():
    A = matrices((2, 3, 5, 4))
    X = matrices((2, 3, 4, 4, 4))
    for tau in (np.ones((1, 3)), np.ones((2, 1)), np.array(1.0)):
        for f, x in (
            (svn.svt, A),
            (svn.svt_divergence, A),
            (svn.tsvt, X),
            (lambda x, t: svn.local_low_rank(x, t, 2), X),
        ):
            value, pullback = svn.vjp(f, x, tau)
            G = matrices(value.shape, seed=1)
            gx, gtau = pullback(G)
            assert (gx.shape, gtau.shape) == (x.shape, tau.shape)
            full = np.broadcast_to(tau, (2, 3)).copy()
            whole = svn.vjp(f, x, full)[1](G)[1]
            axes = tuple(range(2 - tau.ndim))
            summed = whole.sum(axes)
            for axis, size in enumerate(tau.shape):
                if size == 1:
                    summed = summed.sum(axis, keepdims=True)
            np.testing.assert_allclose(gtau, summed, rtol=1e-12)


def test_lists_are_taken_as_numpy_takes_them():
    np.testing.assert_allclose(svn.svdvals([[3.0, 0.0], [0.0, 4.0]]), [4.0, 3.0])
    X, pullback = svn.svt_vjp([[3.0, 0.0], [0.0, 4.0]], [1.0, 1.0])
    np.testing.assert_allclose(X, [[2, 0], [0, 3]])
    assert pullback(X)[1].shape == (2,)


@pytest.mark.parametrize("scale", [1e-150, 1e-60, 1e60, 1e150])
@pytest.mark.parametrize("name", ["svt_divergence", "polar", "nuclear_norm",
                                  "low_rank", "schatten_norm, 3"])  # fmt: skip
def test_very_small_and_very_large_values(name, scale):
    numpy = FRAMEWORKS["numpy"]
    function = bound(f"{name}, float64", numpy)
    inputs, _, cotangents = problem(f"{name}, float64")
    result, pullback = numpy.vjp(function, *inputs)
    scaled, back = numpy.vjp(function, *(scale * x for x in inputs))
    growth = 0 if name in ("svt_divergence", "polar") else 1
    np.testing.assert_allclose(scaled[0] / scale**growth, result[0], rtol=1e-12)
    for one, other in zip(back(*cotangents), pullback(*cotangents), strict=True):
        size = 1 + np.abs(other).max()
        np.testing.assert_allclose(
            one / scale ** (growth - 1), other, rtol=0, atol=1e-12 * size
        )


@pytest.mark.parametrize("scale", [1e-200, 1e-150, 1e150, 1e200])
def test_very_small_and_very_large_values_by_gram(scale):
    A = matrices((4, 6, 5))
    expected = svn.svt(A, 1.0, method="gram")
    found = svn.svt(scale * A, scale, method="gram")
    np.testing.assert_allclose(found / scale, expected, atol=1e-13)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("shape", [(12, 3), (3, 12), (5, 4)])
def test_gram_matrices_of_long_and_short_sides(shape, dtype, relative):
    """Those of long matrices need no U: what they give is that of the SVD."""
    A, G, dA = (matrices((2, *shape), dtype, seed) for seed in range(3))
    tau, dtau = np.array([0.4, 0.5]), np.array([1.0, -2.0])

    def soft(method, A, tau):
        return svn.svt(A, tau, relative=relative, method=method)

    def best(method, A, tau):
        return tau[:, None, None] * svn.low_rank(A, 2, method=method)

    for f in (soft, best):
        results = []
        for method in ("gram", "svd"):
            value, pullback = svn.vjp(partial(f, method), A, tau)
            tangent = svn.jvp(partial(f, method), (A, tau), (dA, dtau))[1]
            results.append((value, *pullback(G), tangent))
        for found, expected in zip(*results, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-11)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (20, 20)])
def test_triplets_of_a_truncated_svd(shape, dtype):
    """As the whole SVD with cotangents for the leading triplets alone."""
    A = matrices(shape, dtype) @ np.diag(0.6 ** np.arange(shape[1]))
    A = A / np.linalg.norm(A, 2)
    W = matrices(shape, dtype, seed=1)

    def triplets(A):
        return svn.svd_lowrank(A, 4, power=20, seed=0)

    def cotangents(U, S, Vh):  # of Re <W, U S^2 Vh>
        image = W @ np.conj(Vh.T)
        gS = 2 * S * np.sum(np.conj(U) * image, axis=0).real
        return image * S**2, gS, (S**2)[:, None] * (np.conj(U.T) @ W)

    factors, pullback = svn.vjp(triplets, A)
    (gA,) = pullback(cotangents(*factors))
    whole, expected = svn.svd_vjp(A)
    given = cotangents(whole.U[:, :4], whole.S[:4], whole.Vh[:4])
    padded = [np.zeros_like(x) for x in whole]
    padded[0][:, :4], padded[1][:4], padded[2][:4] = given
    np.testing.assert_allclose(gA, expected(*padded), atol=1e-9)
    dA = matrices(shape, dtype, seed=2)
    _, tangents = svn.jvp(triplets, (A,), (dA,))
    assert tangents.S.shape == (4,)
    moved = np.linalg.svd(A + 1e-6 * dA)[1][:4] - np.linalg.svd(A - 1e-6 * dA)[1][:4]
    np.testing.assert_allclose(tangents.S, moved / 2e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("shape", [(6, 6), (9, 6), (6, 9)])
def test_pushforward_against_finite_differences(shape, full, dtype):
    problem = draw("distinct", shape, draws=3, dtype=dtype, seed=4)
    (U, S, Vh), (dU, dS, dVh) = svn.svd_jvp(problem.A, problem.G.astype(dtype), full)
    step = 1e-6
    plus, minus = (svn.svd(problem.A + t * problem.G, full) for t in (step, -step))
    np.testing.assert_allclose((plus.S - minus.S) / (2 * step), dS, atol=1e-8)

    def product(U, Vh):  # U f(1..k) V^H is free of phases and of null-space bases
        k = S.shape[-1]
        return (U[..., :k] * np.arange(1.0, k + 1)) @ Vh[..., :k, :]

    moved = (product(plus.U, plus.Vh) - product(minus.U, minus.Vh)) / (2 * step)
    tangent = product(dU, Vh) + product(U, dVh)
    assert relative_error(tangent, moved).max() < 1e-7
    identity = np.swapaxes(U.conj(), -1, -2) @ dU
    np.testing.assert_allclose(identity, -np.swapaxes(identity.conj(), -1, -2),
                               atol=1e-12)  # fmt: skip


def test_a_function_of_ones_own():
    A, G = matrices((5, 4)), matrices((5, 4), seed=1)
    own = svn.vjp(lambda A, t: svn.spectral_operator(A, Firm(2.5), t), A, 0.6)
    named = svn.vjp(lambda A, t: svn.firm_threshold(A, t, 2.5), A, 0.6)
    np.testing.assert_array_equal(own[0], named[0])
    for found, wanted in zip(own[1](G), named[1](G), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_every_function_is_there_and_has_help():
    assert set(svn.__all__) == {*OPERATORS, *OWN}
    public = {n for n in vars(svdinv.for_namespace(np)) if not n.startswith("_")}
    assert public == set(svn.__all__)
    assert svdinv.for_namespace(np) is svdinv.for_namespace(np)
    for name, module in (
        ("array_api_compat.torch", "svdinv.torch"),
        ("jax.numpy", "svdinv.jax"),
        ("torch", "svdinv.torch"),
        ("dask.array", "svdinv.dask"),
        ("mlx.core", "svdinv.mlx"),
    ):
        xp = pytest.importorskip(name)
        with pytest.raises(TypeError, match=f"those of {module}"):
            svdinv.for_namespace(xp)  # whose own SVD would be differentiated
    for name in svn.__all__:
        function = getattr(svn, name)
        assert pickle.loads(pickle.dumps(function)) == function
        assert function.__name__ == name
        text = inspect.getdoc(function)
        for heading in ("Parameters", "Returns", "Raises"):
            assert f"\n{heading}\n---" in text
        for parameter in inspect.signature(function).parameters:
            assert parameter in text


@pytest.mark.parametrize(
    "module",
    ["backends.arrays", "operators.thresholds", "operators.hermitian",
     "operators.alignment", "operators.norms", "operators.risk", "operators.tensors",
     "operators.decompositions"],
)  # fmt: skip
def test_examples(module):
    assert not doctest.testmod(importlib.import_module(f"svdinv.{module}")).failed


class TestCuPy:
    """What can be told without a GPU."""

    @pytest.fixture(autouse=True)
    def _cupy(self):
        pytest.importorskip("cupy")

    def test_same_functions_as_numpy(self):
        import svdinv.cupy

        assert svdinv.cupy.__all__ == svn.__all__
        for name in svdinv.cupy.__all__:
            function = getattr(svdinv.cupy, name)
            assert pickle.loads(pickle.dumps(function)) == function
            ours, theirs = (
                [(p.name, p.kind, p.default) for p in
                 inspect.signature(f).parameters.values()]
                for f in (function, getattr(svn, name))
            )  # fmt: skip
            assert ours == theirs

    def test_memory_of_what_is_no_array_is_not_shared(self):
        """CuPy's own function ends the process."""
        from svdinv.backends.cupy_namespace import may_share_memory

        assert not may_share_memory(None, None)
        assert not may_share_memory(np.ones(3), np.ones(3))

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
        # For unknown shapes, kernels for the CPU, and a default that `ArrayBackend`
        # overrides: CuPy has none of these.
        used -= {"choose", "dynamic_shape", "tall_vectors", "stop_gradient"}
        assert ArrayBackend.stop_gradient is not Backend.stop_gradient
        assert {"where", "linalg.svd"} <= used
        for name in used:
            namespace = xp
            for part in name.split("."):
                namespace = getattr(namespace, part)


def check_against_differences(f, x):
    """The value is that of the plain function, both derivatives those of it."""
    d = 0.1 * matrices(x.shape, seed=1).reshape(x.shape)
    value, pullback = svn.vjp(f, x)
    np.testing.assert_allclose(value, f(x.copy()), atol=1e-13)
    (moved,) = difference(lambda x: [f(x.copy())], [x], [d], 1e-3)
    np.testing.assert_allclose(svn.jvp(f, (x,), (d,))[1], moved, atol=1e-9)
    g = np.cos(np.arange(np.size(value))).reshape(np.shape(value))
    pulled = np.vdot(pullback(g)[0], d).real
    np.testing.assert_allclose(pulled, np.vdot(g, moved).real, atol=1e-9)


def halve(x):
    x *= 0.5


def in_a_helper(a):
    x = a * 1.0
    halve(x)
    return x


def by_two_names(a):
    x = a * 1.0
    kept = [x, x.conj(), x.real, np.asarray(np.ones(3)) * x]
    x *= 2
    return np.concatenate([*kept, x])


def sums_from_zero(a):
    total = np.zeros_like(a)
    same = total
    for i in range(3):
        total += a**i
    return same * total


def numbers_are_replaced(a):
    total = a[0]
    first, size = total, np.linalg.norm(a)
    before, least = size, a.min()
    for x in a[1:]:
        total += x
    size *= 2
    least -= size
    return first * total * before * size * least * a


def arrays_without_axes(a):
    x = np.where(True, a[0], 1.0)
    y, z = x, x.copy()
    x += 1
    x *= 2
    z -= 1
    return a * x * y * z


def copies_are_other_arrays(a):
    x = a * 1.0
    others = [+x, x.copy(), np.copy(x), x.flatten(), np.clip(x, None, None)]
    others += [copy.copy(x), copy.deepcopy(x)]
    for y in others:
        y += 1
    x **= 2
    return np.stack([x, *others])


def parts_that_are_gone(a):
    x = (np.stack([a, a]) * 2).reshape(-1)
    x += x[0] * np.sum(x[1:])
    x /= np.linalg.norm(x.reshape(2, 3).T @ x.reshape(2, 3))
    x @= np.arange(36.0).reshape(6, 6)
    return x


def descent_within(a):
    def step(x):
        value, pullback = svn.vjp(lambda z: np.sum(np.exp(z) * x), x)
        old = value * 1.0
        value *= 3
        x -= 0.1 * pullback(1.0)[0]
        x += pullback(value)[0] - pullback(3 * old)[0]

    x = a * 1.0
    step(x)
    step(x)
    return x


@pytest.mark.parametrize(
    "f",
    [in_a_helper, by_two_names, sums_from_zero, numbers_are_replaced,
     arrays_without_axes, copies_are_other_arrays, parts_that_are_gone, descent_within],
)  # fmt: skip
def test_updates_in_place(f):
    """They change the array for all names that it has, as in NumPy."""
    check_against_differences(f, np.array([0.7, 1.3, 0.4]))


VIEWS = [
    lambda x: x[0], lambda x: x[:, 1:], lambda x: x[None], lambda x: x.T,
    lambda x: x.mT, lambda x: x.reshape(-1), np.ravel, np.transpose,
    lambda x: np.swapaxes(x, 0, 1), lambda x: np.moveaxis(x, 0, 1),
    lambda x: np.expand_dims(x, 1), lambda x: x[:, :1].squeeze(), np.flip,
    lambda x: np.broadcast_to(x, (2, 3, 3)), np.diagonal, np.real, np.imag,
    lambda x: x[:, 1].reshape(-1)[2:], lambda x: x[0, 0, ...],
]  # fmt: skip


@pytest.mark.parametrize("view", VIEWS)
def test_updates_of_what_shares_memory_are_refused(view):
    def of_a_view(A):
        whole = A * 1.0
        part = view(whole)
        part += 1.0
        return whole

    def of_a_whole(A):
        whole = A * 1.0
        part = view(whole)
        whole -= 1.0
        return part

    def of_another_part(A):
        whole = A * 1.0
        part, other = view(whole), whole[:]
        del whole
        other *= 2.0
        return part

    for f in (of_a_view, of_a_whole, of_another_part):
        with pytest.raises(TypeError, match=r"write x = x [+*-] y"):
            svn.vjp(f, matrices((3, 3), np.complex128))


def test_updates_in_place_are_refused_where_numpy_refuses_them():
    def updated(change, x):
        x = x * 1.0
        x += change
        return x

    for change, error, message in (
        (1j, TypeError, "must keep x real"),
        (np.ones((2, 3)), ValueError, r"must keep the shape \(3,\)"),
    ):
        with pytest.raises(error, match=message):
            svn.vjp(partial(updated, change), np.ones(3))
    single, _ = svn.vjp(partial(updated, np.ones(3)), np.ones(3, np.float32))
    assert single.dtype == np.float32
    given = np.ones(3)
    with pytest.raises(TypeError, match="is an argument"):
        svn.vjp(halve, given)
    np.testing.assert_array_equal(given, 1)

    def inner(A):
        whole = A * 1.0

        def f(b):
            nonlocal whole
            whole += b
            return whole

        return svn.vjp(f, A)[1](A)[0]

    with pytest.raises(TypeError, match=r"write x = x \+ y"):
        svn.vjp(inner, np.ones(3))

    def smaller(A, t):
        t *= 0.5  # a number
        return A * t

    np.testing.assert_allclose(svn.vjp(smaller, np.ones(3), 0.5)[1](given)[1], 1.5)


def test_updates_in_place_where_sharing_is_unknown():
    xp = pytest.importorskip("array_api_strict")

    def f(part, x):
        y = x * 1.0
        y += 1.0
        z = part(y)
        z *= 2.0
        return y

    vjp = svdinv.for_namespace(xp).vjp
    value, _ = vjp(partial(f, lambda y: y * 1.0), xp.ones(3))
    np.testing.assert_array_equal(np.asarray(value), 2)
    for part in (lambda y: y[1:], lambda y: y.reshape(3, 1)):
        with pytest.raises(TypeError, match=r"write x = x \* y"):
            vjp(partial(f, part), xp.ones(3))


LIST = [3.0, 4.0, 2.0]
WITH_LISTS = {
    "operators": lambda a: (
        (a * LIST - LIST + tuple(LIST)) / LIST + LIST / (LIST * a - [1, 2, 9])
    ),
    "powers": lambda a: a ** [2, 3, 0] + LIST**a,
    "functions": lambda a: np.maximum(np.multiply(a, LIST), tuple(LIST)),
    "products": lambda a: (a @ LIST) * (LIST @ np.stack([a, a, a])),
    "dot": lambda a: np.dot(a, LIST) + np.dot(LIST, a) + a.dot(LIST) * np.vdot(LIST, a),
    "dot of matrices": lambda a: np.dot([LIST, LIST], a) + np.dot(a, [[1, 2]] * 3),
    "outer": lambda a: np.outer(a, LIST) + np.outer(LIST, a),
    "linalg": lambda a: (
        np.linalg.diagonal(np.linalg.outer(a, LIST))
        * (np.linalg.trace(np.outer(a, LIST)[None]))
    ),
    "concatenate": lambda a: np.concatenate([a, LIST, (1, 2)]),
    "hstack": lambda a: np.hstack([LIST, a]) * np.hstack((a, a)),
    "hstack of matrices": lambda a: np.hstack(([LIST, LIST], np.outer([1, 2], a))),
    "vstack": lambda a: np.vstack([a, LIST, [LIST, LIST]]),
    "tensordot": lambda a: np.tensordot(LIST, a, np.int64(1)) * a,
    "numbers": lambda a: (
        np.hstack([a.sum(), 2.0, a[0]]) * np.vstack([a[0], a[1] * a[2]])[:, 0].sum()
    ),
    "einsum": lambda a: np.einsum(",i,i->i", 2.0, LIST, a),
    "stack": lambda a: np.stack([LIST, a], axis=1),
    "where": lambda a: np.where([True, False, True], a, LIST),
    "clip": lambda a: np.clip(a, [0.5] * 3, [1.0] * 3),
    "solve": lambda a: np.linalg.solve([[2, 0, 1], [0, 1, 0], [0, 0, 3]], a),
}


@pytest.mark.parametrize("name", WITH_LISTS)
def test_lists_beside_traced_arrays(name):
    check_against_differences(WITH_LISTS[name], np.array([0.7, 1.3, 0.4]))


SUMS = (
    "ij,jk->ik", "ij,jk", "ij,ij->", "bij,bjk->bik", "bij,jk->kbi", "ij->ji", "ij->i",
    "ij->", "ji", "ij,kl->ijkl", "ij,jk,kl->il", "ir,jr,kr->ijk", "ij,i->j", "i,i",
    "i,j->ji", "ijk,jil->kl", "ij,ik->jk", "ij,kl->i", "ijk,k->ji", " i j, jk -> ",
    "ii", "ii->i", "ijji->j", "iij,jk->ik", "iii,ij->j", "...i,ij->...j", "...ij,...jk",
    "...,...->...", "i...,j...->...", "k...j,...->j...", "...ii->...",
)  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("subscripts", SUMS)
def test_einsum(subscripts, dtype):
    rng = np.random.default_rng(0)
    sizes = {name: 2 + i for i, name in enumerate("ijklbr")}

    def draw(shape):
        parts = rng.standard_normal((2, *shape))
        return parts[0] + 1j * parts[1] if dtype == np.complex128 else parts[0]

    inputs = subscripts.replace(" ", "").partition("->")[0].split(",")
    lengths = [[sizes[i] for i in term.replace("...", "bl")] for term in inputs]
    x, d = ([draw(shape) for shape in lengths] for _ in range(2))
    f = partial(np.einsum, subscripts)
    y, pullback = svn.vjp(f, *x)
    np.testing.assert_allclose(y, f(*x), rtol=1e-13, atol=1e-13)
    assert np.shape(y) == np.shape(f(*x))
    _, moved = svn.jvp(f, tuple(x), tuple(d))
    exact = sum(f(*x[:i], d[i], *x[i + 1 :]) for i in range(len(x)))
    np.testing.assert_allclose(moved, exact, rtol=1e-12, atol=1e-12)
    g = draw(np.shape(y))
    pulled = sum(np.vdot(a, b).real for a, b in zip(pullback(g), d, strict=True))
    np.testing.assert_allclose(pulled, np.vdot(g, exact).real, rtol=1e-11)


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [("ij,jk", [(3, 1), (4, 2)]), ("ij,ij->i", [(1, 4), (3, 1)]), ("ij->j", [(1, 1)]),
     ("...i,...i", [(2, 1, 3), (4, 3)]), ("i...,...", [(3, 4), ()]),
     ("ii,i->i", [(1, 1), (4,)]), ("ij,i", [(0, 3), (1,)])],
)  # fmt: skip
def test_einsum_broadcasts_axes(subscripts, shapes):
    rng = np.random.default_rng(0)
    x = [rng.standard_normal(shape) for shape in shapes]
    f = partial(np.einsum, subscripts)
    y, pullback = svn.vjp(f, *x)
    np.testing.assert_allclose(y, f(*x), rtol=1e-13, atol=1e-14)
    assert np.shape(y) == np.shape(f(*x))
    g = rng.standard_normal(np.shape(y))
    for i, (one, pulled) in enumerate(zip(x, pullback(g), strict=True)):
        assert pulled.shape == one.shape
        d = rng.standard_normal(one.shape)
        moved = np.vdot(g, f(*x[:i], d, *x[i + 1 :]))
        np.testing.assert_allclose(np.vdot(pulled, d), moved, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "subscripts",
    ["ij", "ij,jk->ikk", "ij,jkl", "ij,jk->il", "i1,jk", "...ij,jk->ik", "ii,jk"],
)
def test_einsum_of_wrong_subscripts(subscripts):
    A = np.ones((3, 3)), np.ones((1, 3, 3) if "..." in subscripts else (1, 4))
    with pytest.raises(ValueError, match=r"subscript|dimension"):
        np.einsum(subscripts, *A[::-1])
    with pytest.raises(ValueError, match=r"subscript|Output|symbol|operand"):
        svn.vjp(partial(np.einsum, subscripts), *A[::-1])


def test_einsum_of_lists_of_axes_is_refused():
    with pytest.raises(TypeError, match="lists of axes"):
        svn.vjp(lambda A: np.einsum(A, [0, 1]), np.eye(3))


@pytest.mark.parametrize(
    "axes", [0, 1, 2, (2, 0), ([0, 1], [1, 0]), ([0], 1), np.array([[0], [1]])]
)
def test_tensordot(axes):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 3, 3))
    check_against_differences(
        lambda a: np.tensordot(a, b, axes) * np.tensordot(b, a, axes), a
    )


def test_tensordot_broadcasts_no_axis():
    with pytest.raises(ValueError, match=r"axis 1 of a of shape \(2, 1\) and"):
        svn.vjp(lambda a: np.tensordot(a, np.ones((3, 2)), 1), np.ones((2, 1)))


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize(
    "options", [{}, {"axis": 0}, {"axis": (0, -1), "keepdims": True}, {"ddof": 1}]
)
def test_variance_and_standard_deviation(options, dtype):
    x = np.random.default_rng(0).standard_normal((3, 4, 2, 2)).view(dtype)
    check_against_differences(
        lambda a: a.var(**options) * np.std(a, **options) + a.std(**options), x
    )


@pytest.mark.parametrize("function", [np.mean, np.var, np.std])
def test_moments_of_half_precision_are_summed_in_single(function):
    x = (1 + np.random.default_rng(0).random((4096, 2))).astype(np.float16)
    for f in (function, partial(function, axis=0)):
        y, pullback = svn.vjp(f, x)
        value, exactly = svn.vjp(f, x.astype(np.float64))
        np.testing.assert_allclose(y, value, rtol=2e-3)
        (g,) = pullback(np.ones_like(y))
        assert g.dtype == y.dtype == np.float16
        (exact,) = exactly(np.ones(np.shape(y)))
        np.testing.assert_allclose(g, exact, rtol=0.01, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Degrees of freedom|invalid value|divide by zero")
def test_variance_of_fewer_numbers_than_degrees_of_freedom():
    x = np.arange(3.0)
    assert svn.vjp(lambda a: np.var(a, ddof=5), x)[0] == np.var(x, ddof=5)


def test_variance_by_the_names_of_the_array_api():
    def f(x):
        xp = namespace_of(x)
        return xp.var(x, axis=0, correction=1) * xp.std(x, axis=0, keepdims=True)

    check_against_differences(f, np.random.default_rng(0).standard_normal((4, 3)))


def test_standard_deviation_of_equal_values_has_the_derivative_0():
    y, pullback = svn.vjp(lambda a: np.std(a, 0), np.ones((3, 2)))
    np.testing.assert_array_equal(y, [0.0, 0.0])
    np.testing.assert_array_equal(pullback(np.ones(2))[0], np.zeros((3, 2)))


def test_functions_that_ask_without_a_derivative():
    def f(a):
        assert np.isrealobj(a)
        assert not np.iscomplexobj(a)
        assert np.allclose(a, a)
        assert np.isclose(a, a).all()
        assert np.array_equal(a, a)
        assert np.array_equal(np.argsort(a, kind="stable"), np.argsort(a, stable=True))
        return a[np.argsort(a, 0)[1]] ** 2

    y, pullback = svn.vjp(f, np.array([3.0, 1.0, 2.0]))
    np.testing.assert_array_equal(pullback(1.0)[0], [0, 0, 4])
    assert y == 4


@pytest.mark.parametrize("name", ["svd", "svdvals", "eigh", "pinv"])
def test_decompositions_of_numpy_are_refused_by_the_name_of_ones_own(name):
    with pytest.raises(TypeError, match=f"svdinv has its own {name}"):
        svn.vjp(getattr(np.linalg, name), np.eye(3))


def test_lists_of_traced_arrays_are_refused():
    with pytest.raises(TypeError, match="with stack or concat"):
        svn.vjp(lambda a: a * [a[0], 1.0, 2.0], np.ones(3))


def in_a_buffer(step):
    """A function that fills its constant again for every step."""

    def f(x):
        w = np.empty((3, 3))
        for i in range(3):
            w[:] = np.arange(9.0).reshape(3, 3) / 9 + i + 0.5 + 2 * np.eye(3)
            x = step(x, w)
            w[:] = -7.0
        return x

    return f


BUFFER = np.empty(3)
BUFFERED = svn.linear(
    lambda x: np.multiply(x, 2.0, out=BUFFER), lambda y: np.multiply(y, 2.0, out=BUFFER)
)
STEPS = {
    "multiply": lambda x, w: x * w[0],
    "divide": lambda x, w: x / w[1] + w[1] / x,
    "power": lambda x, w: x ** w[0],
    "base": lambda x, w: w[0] ** x,
    "maximum": lambda x, w: np.maximum(x * x, w[0]),
    "matmul": lambda x, w: w.T @ x,
    "solve": lambda x, w: np.linalg.solve(w, x) + np.linalg.solve(w.T, x),
    "read-only view": lambda x, w: np.sum(np.broadcast_to(w[0], (2, 3)) * x, axis=0),
    "operation": lambda x, w: svn.kabsch(x * w, w.T).rmsd * x,
    "linear": lambda x, w: BUFFERED(BUFFERED(x) ** 2) ** 2 * w[0] / 100,
    "nested": lambda x, w: svn.jvp(lambda z: z**2 * w[0], (x,), (w[1],))[1],
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_constants_that_change_before_the_pullback(name):
    check_against_differences(in_a_buffer(STEPS[name]), np.array([0.7, 1.3, 0.4]))


def test_masks_that_change_before_the_pullback():
    def f(x):
        mask = np.empty(3, bool)
        for i in range(3):
            mask[:] = np.arange(3) >= i
            x = np.where(mask, x * x, x)
        return x

    check_against_differences(f, np.array([0.7, 1.3, 0.4]))


def test_large_constants_are_copied_once_unless_they_change():
    B, shares = matrices((60, 60)), []

    def f(x):
        for _ in range(10):
            x = x - 0.01 * (B.T @ (B @ x))
        shares.append(len(x.tape._copies))
        B[...] = 0
        return x

    x, same = matrices((60,)), B.copy()
    gradient = svn.vjp(f, x)[1](x)[0]
    step = np.eye(60) - 0.01 * same.T @ same
    np.testing.assert_allclose(gradient, np.linalg.matrix_power(step, 10) @ x)
    assert shares == [2]


def test_types_and_places_of_traced_arrays():
    dtypes = []

    def f(a):
        dtypes.append(np.result_type(a, np.float32))
        return a[a.argmax()] * a.argmin()

    value, _ = svn.vjp(f, np.array([2.0, 3.0, 1.0]))
    assert value == 6
    assert dtypes == [np.float64]


def test_powers_of_zero_to_zero():
    x, p = np.array([0.0, 0.0, 2.0, 2.0]), np.array([0.0, 1.0, 0.0, 3.0])
    gx, gp = svn.vjp(lambda x, p: x**p, x, p)[1](np.ones(4))
    np.testing.assert_array_equal(gx, [0, 1, 0, 12])
    np.testing.assert_allclose(gp, [0, 0, np.log(2), 8 * np.log(2)])
    assert svn.vjp(lambda x, p: x**p, 0.0, 0.0)[1](1.0) == (0, 0)


@pytest.mark.parametrize(
    "f",
    [lambda a, b: a + b, lambda a, b: a.T * 1.0, lambda a, b: np.sum(a + b), np.add],
)
def test_derivatives_share_no_memory_and_may_be_changed(f):
    A, B = np.arange(9.0).reshape(3, 3), np.eye(3)
    y, pullback = svdinv.numpy.vjp(f, A, B)
    G = np.ones_like(y)
    expected = pullback(np.ones_like(y))
    found = pullback(G)
    for x in found:
        x += 1  # which changes none of the others
    for x, exact in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, exact + 1)
    np.testing.assert_array_equal(G, np.ones_like(y))
    D = np.ones((3, 3))
    _, tangent = svdinv.numpy.jvp(f, (A, B), (D, D))
    tangent *= 5
    np.testing.assert_array_equal(D, np.ones((3, 3)))


def test_numbers_are_on_the_device_of_the_matrix():
    xp = pytest.importorskip("array_api_strict")
    functions, device = svdinv.for_namespace(xp), xp.Device("device1")
    A = xp.asarray(matrices((5, 4)), device=device)
    for found in (
        functions.svt(A, 0.3),
        functions.whiten(A, 0.1).white,
        functions.svd_lowrank(A, 2, seed=0).S,
    ):
        assert found.device == device


def _filled(x):
    b = np.zeros(3)
    b[0] = x[0]
    return b


def _changed(x):
    b = 2 * x
    b[0] = 1.0
    return b


def _added_into(x):
    b = 2 * x
    return np.add(b, 1.0, out=b)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (_filled, "cannot become a Python number"),
        (_changed, "elements of a traced array cannot be set; put elements together"),
        (_added_into, "out must not be a traced array"),
        (np.add.reduce, r"no derivative of numpy\.add\.reduce is known"),
        (
            lambda x: x.__array_namespace__().linalg.qr(x[:, None]),
            r"no derivative of linalg\.qr is known",
        ),
    ],
)
def test_what_a_tape_cannot_follow_is_a_type_error(f, message):
    with pytest.raises(TypeError, match=message):
        svdinv.numpy.vjp(f, np.arange(3.0))


def test_extensions_of_the_namespace_have_what_numpy_has():
    def outer(x):
        xp = x.__array_namespace__()
        assert not hasattr(xp.linalg, "no_such_function")
        return xp.linalg.outer(x, 2 * x)

    x = np.arange(3.0)
    y, pullback = svdinv.numpy.vjp(outer, x)
    np.testing.assert_array_equal(y, 2 * np.outer(x, x))
    np.testing.assert_array_equal(pullback(np.eye(3))[0], 4 * x)


def test_masked_arrays_are_refused_wherever_arrays_are_taken():
    masked = np.ma.array(np.ones(3), mask=[1, 0, 0])
    points = np.arange(9.0).reshape(3, 3)
    _, pullback = svdinv.numpy.vjp(lambda x: 2 * x, np.ones(3))
    for call in (
        lambda: svdinv.numpy.kabsch(points, points, masked),
        lambda: svdinv.numpy.svt(np.ones((3, 2, 2)), masked),
        lambda: pullback(masked),
        lambda: svdinv.numpy.jvp(np.exp, (np.ones(3),), (masked,)),
    ):
        with pytest.raises(TypeError, match=r"must not be numpy\.ma\.MaskedArray"):
            call()


def test_an_axis_of_a_norm_may_be_a_number_of_numpy():
    A = np.arange(1.0, 7).reshape(2, 3)
    norm = lambda axis: svdinv.numpy.vjp(  # noqa: E731
        lambda x: np.linalg.norm(x.conjugate(), 2, axis=axis), A
    )[1](np.ones(2))[0]
    np.testing.assert_array_equal(norm(np.int64(1)), norm(1))
