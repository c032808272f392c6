"""The truncated SVD of what is known by its products, and the bound on its error."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg
from frameworks import FRAMEWORKS, params
from operator_cases import adjoint, with_values

from svdinv.unroll.operators import Blur, Dense, Wrapped

numpy = FRAMEWORKS["numpy"].module
DECAY = 0.6 ** np.arange(12)


@pytest.fixture(params=params(without=("mlx",)))
def f(request):
    return request.param.require()


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("shape", [(30, 20), (14, 33)])
def test_functions_give_the_factors_of_the_array(f, dtype, shape):
    A = with_values(DECAY, shape, dtype)
    with f.context():
        xp, matrix = f.namespace, f.array(A)
        turned = f.array(adjoint(A))

        def times(M):
            return lambda v: (M @ v[:, None])[:, 0]

        found = f.module.svd_lowrank(
            (times(matrix), times(turned)), 4, power=4, seed=0,
            like=xp.zeros_like(matrix[0, :]),
        )  # fmt: skip
        U, S, Vh = f.shown(found)
    np.testing.assert_allclose(S, DECAY[:4], rtol=1e-12)
    best = np.linalg.norm((U * S) @ Vh - A, 2)
    assert best < DECAY[4] * (1 + 1e-8)
    np.testing.assert_allclose(adjoint(U) @ U, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(Vh @ adjoint(Vh), np.eye(4), atol=1e-12)


def test_the_random_numbers_are_those_of_the_array():
    A = with_values(DECAY, (14, 33))
    array = numpy.svd_lowrank(A, 3, seed=7, power=0)
    functions = (lambda v: A @ v, lambda u: A.T @ u)
    products = numpy.svd_lowrank(functions, 3, seed=7, power=0, like=A[0])
    np.testing.assert_allclose(products.S, array.S, rtol=1e-13)

    def worst(seed):
        return numpy.svd_lowrank(
            functions, 3, oversampling=0, power=0, seed=seed, like=A[0]
        ).S

    assert abs(worst(7) - worst(8)).max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64"])
@pytest.mark.parametrize("kind", ["linear operator", "csr_array", "coo_matrix"])
@pytest.mark.parametrize("framework", ["numpy", "jax", "tensorflow"])
def test_matrices_of_scipy(framework, kind, dtype):
    f = FRAMEWORKS[framework].require()
    A = with_values(DECAY, (25, 18)).astype(dtype)
    operator = (
        scipy.sparse.linalg.aslinearoperator(scipy.sparse.csr_array(A))
        if kind == "linear operator"
        else getattr(scipy.sparse, kind)(A)
    )
    with f.context():
        U, S, Vh = f.shown(f.module.svd_lowrank(operator, 3, power=4, seed=0))
        with pytest.raises(ValueError, match="like must have the 18 elements"):
            f.module.svd_lowrank(operator, 3, like=f.array(A[:, 0]))
    rtol = 1e-5 if dtype != "float64" else 1e-12
    np.testing.assert_allclose(S, DECAY[:3], rtol=rtol)
    np.testing.assert_allclose((U * S) @ Vh, A, atol=1.1 * DECAY[3])
    assert U.dtype == Vh.dtype == A.dtype
    assert S.dtype == A.real.dtype


def test_operators_of_images_take_their_batch_at_once():
    image = np.zeros((6, 5))
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    blur = Blur(kernel)
    eye = np.eye(30).reshape(30, 6, 5)
    dense = blur(eye).reshape(30, 30).T
    U, S, Vh = numpy.svd_lowrank(blur, 5, power=30, seed=0, like=image)
    np.testing.assert_allclose(S, np.linalg.svd(dense)[1][:5], rtol=1e-8)
    np.testing.assert_allclose(
        numpy.svd_residual(blur, U, S, Vh, like=image),
        numpy.svd_residual(dense, U, S, Vh),
        atol=1e-12,
    )
    counted = []
    wrapped = Wrapped(lambda x: counted.append(0) or 2 * x, lambda y: 2 * y, (3,), (3,))
    np.testing.assert_allclose(
        numpy.svd_lowrank(wrapped, 2, power=0, like=np.zeros(3)).S, [2, 2]
    )
    assert len(counted) == 3


def test_oversampling_takes_part_in_the_small_svd():
    """Cut to the rank before, the range of the sketch would be the result's."""
    values = np.linspace(1, 0.5, 20)
    A = with_values(values, (40, 30))

    def error(**options):
        S = numpy.svd_lowrank(A, 2, power=1, seed=0, **options).S
        return abs(S - values[:2]).max()

    assert error(oversampling=12) < 0.2 * error(oversampling=0)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("shape", [(40, 30), (25, 50)])
@pytest.mark.parametrize("power", [0, 2])
def test_the_residual_bounds_the_error(f, dtype, shape, power):
    values = np.linspace(1, 0.2, 25)
    A = with_values(values, shape, dtype)
    found = numpy.svd_lowrank(A, 5, oversampling=3, power=power, seed=0)
    bound = f.value(f.module.svd_residual, A, *found)[0]
    assert np.isrealobj(bound)
    assert bound.shape == (5,)
    near = abs(found.S[:, None] - values).min(axis=1)
    assert np.all(near <= bound)
    assert np.all(values[:5] * (1 + 1e-14) >= found.S)  # as the docstring says
    assert np.any(abs(found.S - values[:5]) > 1e-4) or power  # there is something


def test_the_residual_is_that_of_its_formula():
    A = np.array([[3.0, 0], [0, 1], [0, 0]])
    U, S, Vh = np.array([[0.8], [0.6], [0]]), np.array([2.0]), np.array([[1.0, 0]])
    expected = np.sqrt(((3 - 1.6) ** 2 + 1.2**2 + (2.4 - 2) ** 2 + 0.6**2) / 2)
    np.testing.assert_allclose(numpy.svd_residual(A, U, S, Vh), [expected])
    exact = numpy.svd_residual(A[None], *np.linalg.svd(A[None], full_matrices=False))
    np.testing.assert_allclose(exact, np.zeros((1, 2)), atol=1e-14)


@pytest.mark.parametrize(
    ("rows", "rank"), [(1, 1), (3, 3)], ids=["one row", "all rows"]
)
def test_fewer_rows_than_columns_of_the_sketch(rows, rank):
    A = with_values(DECAY[:rows], (rows, 20))
    functions = (lambda v: A @ v, lambda u: A.T @ u)
    found = numpy.svd_lowrank(functions, rank, seed=0, like=A[0])
    np.testing.assert_allclose(found.S, DECAY[:rows], rtol=1e-13)
    assert found.U.shape == (rows, rank)


def test_nothing_but_zeros():
    nothing = (lambda v: np.zeros(4), lambda u: np.zeros(6))
    found = numpy.svd_lowrank(nothing, 2, like=np.zeros(6), seed=0)
    np.testing.assert_array_equal(found.S, [0, 0])
    residual = numpy.svd_residual(nothing, *found, like=np.zeros(6))
    np.testing.assert_array_equal(residual, [0, 0])


def test_half_precision_is_computed_in_single():
    torch = pytest.importorskip("torch")
    import svdinv.torch

    A = torch.diag(torch.tensor([4.0, 2, 1, 0.5])).to(torch.bfloat16)
    seen = set()

    def times(v):
        seen.add(v.dtype)
        return A @ v

    found = svdinv.torch.svd_lowrank((times, times), 2, like=A[0], seed=0)
    assert seen == {torch.bfloat16} == {x.dtype for x in found}
    torch.testing.assert_close(
        found.S.float(), torch.tensor([4.0, 2]), rtol=0.01, atol=0
    )


def test_functions_are_not_recorded():
    torch = pytest.importorskip("torch")
    import svdinv.torch

    A = torch.eye(5, dtype=torch.float64, requires_grad=True)
    operator = Dense(A, (5,))
    found = svdinv.torch.svd_lowrank(operator, 2, like=A[0], seed=0)
    assert not any(x.requires_grad for x in found)


A = np.arange(12.0).reshape(3, 4)
PAIR = (lambda v: A @ v, lambda u: A.T @ u)


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        (PAIR, {}, TypeError, "like must be given"),
        (PAIR, {"like": np.arange(4)}, TypeError, "like must be floating point"),
        (PAIR, {"like": A[0], "rank": 4}, ValueError, "rank must be at most .* = 3"),
        (PAIR, {"like": A[0], "rank": 5}, ValueError, "rank must be at most"),
        ((PAIR[0], lambda u: 2 * A.T @ u), {"like": A[0]}, ValueError,
         "second function must be the adjoint"),
        ((PAIR[0], lambda u: u), {"like": A[0]}, ValueError, "must give the shape"),
        ((lambda v: 1j * (A @ v), PAIR[1]), {"like": A[0]}, TypeError,
         "keep the dtype of like"),
        ((PAIR[0], lambda u: (A.T @ u).astype("f")), {"like": A[0]}, TypeError,
         "keep the dtype of like"),
        (Wrapped(*PAIR, (4,), (3,)), {"like": A[:, 0]}, ValueError, "images must be"),
    ],
)  # fmt: skip
def test_bad_products(given, options, error, message):
    with pytest.raises(error, match=message):
        numpy.svd_lowrank(given, **{"rank": 2, **options})
