"""Problems, data fidelities, and operators of other libraries."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import array_api_compat as compat
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
import torch

import svdinv.numpy
from svdinv.unroll.algorithms import ADMM, ISTA, PDHG, objective_value, solve
from svdinv.unroll.arrays import namespace
from svdinv.unroll.fidelity import L2, DataFidelity, PoissonKL
from svdinv.unroll.networks import LS
from svdinv.unroll.operators import (
    MRI,
    Dense,
    Fourier,
    Identity,
    Operator,
    Sampling,
    Stack,
    Wrapped,
    dot_test,
    from_matrix,
    operator_norm,
)
from svdinv.unroll.priors import HuberVariation, Nuclear, Sparse, Tikhonov
from svdinv.unroll.problem import Problem, batch
from svdinv.unroll.tasks.colour.task import Colour
from svdinv.unroll.torch import Network, load

WRITTEN = Path(__file__).parent / "written"
FIDELITIES = {
    "L2": L2(),
    "L2, weight": L2(0.3),
    "L2, weights": L2(np.linspace(0.2, 2, 12).reshape(3, 4)),
    "Poisson": PoissonKL(0.5),
    "Poisson, background": PoissonKL(np.linspace(0.1, 1, 12).reshape(3, 4)),
}
fidelities = pytest.mark.parametrize("fidelity", FIDELITIES.values(), ids=FIDELITIES)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def counts(rng):
    """Positive z, and counts of which some are 0."""
    return rng.uniform(0.5, 4, (3, 4)), rng.poisson(1.5, (3, 4)).astype(float)


@fidelities
def test_slope_is_the_derivative_of_the_distance(fidelity, counts, rng):
    z, y = counts
    direction, h = rng.standard_normal(z.shape), 1e-6
    ahead, behind = (fidelity.distance(z + s * h * direction, y) for s in (1, -1))
    slope = np.sum(fidelity.slope(z, y) * direction)
    assert (ahead - behind) / (2 * h) == pytest.approx(slope, rel=1e-7)


@fidelities
@pytest.mark.parametrize("step", [1e-3, 0.7, 50.0])
def test_prox_is_where_the_slope_and_the_distance_balance(fidelity, counts, step):
    z, y = counts
    w = fidelity.prox(z, y, step)
    balance = step * fidelity.slope(w, y) + w - z
    where = y > 0 if isinstance(fidelity, PoissonKL) else np.ones(z.shape, dtype=bool)
    np.testing.assert_allclose(balance[where], 0, atol=1e-9 * (1 + step))


@pytest.mark.parametrize("weight", [None, 0.3, np.linspace(0.2, 2, 12).reshape(3, 4)])
def test_slope_has_the_lipschitz_constant_that_it_says(weight, counts, rng):
    fidelity, (_, y) = L2(weight), counts
    one, other = rng.uniform(0, 5, (2, 200, 3, 4))
    ratio = abs(fidelity.slope(one, y) - fidelity.slope(other, y)) / abs(one - other)
    assert ratio.max() == pytest.approx(fidelity.lipschitz(y))


def test_counts_as_integers(counts):
    z, y = counts
    for fidelity in (PoissonKL(0.5), L2()):
        for step in (0.5, np.float64(0.5)):
            found = fidelity.prox(z, y.astype(int), step)
            np.testing.assert_array_equal(found, fidelity.prox(z, y, step))


@pytest.mark.parametrize("prior", [Tikhonov(0.1), Sparse(0.1)])
def test_counts_with_a_background_are_solved_for(prior):
    """Going down the slope, images would leave what counts can come from."""
    problem = Problem(np.array([[0.0, 1], [5, 9]]), Identity(), PoissonKL(1.0))
    how = {"iterations": 5000, "rtol": 1e-9}
    free = solve(problem, prior, algorithm=PDHG(), **how)
    assert -1 <= free.image.min() < -0.5
    assert free.objective[-1] < 3
    found = solve(problem, prior, **how)
    assert found.image.min() == 0
    clipped = {"x": np.maximum(free.image, 0)}
    assert found.objective[-1] < objective_value(clipped, problem, prior) + 1e-6


def test_what_an_algorithm_lacks_is_said():
    @dataclass(frozen=True)
    class Bare(DataFidelity):
        def distance(self, z, y):
            return abs(z - y).sum()

        def slope(self, z, y):
            return np.sign(z - y)

    with pytest.raises(TypeError, match="finite lipschitz"):
        solve(Problem(np.ones(3), Identity(), Bare()), Sparse(0.1))
    counts = Problem(np.ones((4, 4)), Identity(), PoissonKL())
    with pytest.raises(TypeError, match="has no prox"):
        solve(counts, HuberVariation(0.1, 0.1))
    with pytest.raises(TypeError, match="the data fidelity L2"):
        solve(counts, Nuclear(0.1), algorithm=ADMM())
    with pytest.raises(TypeError, match="no Lipschitz constant"):
        solve(counts, Nuclear(0.1), algorithm=ISTA())


@fidelities
def test_dual_step_is_that_of_moreau(fidelity, counts, rng):
    z, y = counts
    dual, sigma = rng.standard_normal(z.shape), 0.6
    found = fidelity.dual_step(dual, z, y, sigma, Identity())
    plain = DataFidelity.dual_step(fidelity, dual, z, y, sigma, Identity())
    np.testing.assert_allclose(found, plain, atol=1e-12)


def test_divergence_is_zero_where_the_mean_is_the_count():
    y = np.array([0.0, 1.0, 7.0])
    assert PoissonKL().distance(y, y) == 0
    assert PoissonKL().distance(np.array([1.0, 0.0, 1.0]), y) == np.inf
    np.testing.assert_array_equal(
        PoissonKL().slope(np.zeros(3), y), [1, -np.inf, -np.inf]
    )


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e7])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_divergence_of_any_counts(kind, size):
    """It is positive and accurate, with its slope, whatever the difference."""
    powers = 10.0 ** np.arange(-15, 25)
    close = np.concatenate([10.0 ** np.arange(-7, 0), [1 / 7, 1 / 8, 1 / 9]])
    z = (size * np.concatenate([powers, 1 + close, 1 - close])).astype(kind)
    y = np.full(z.shape, size, kind)
    for mean, count in zip(z, y, strict=True):
        m, c = (Decimal(float(x)) for x in (mean, count))
        expected = float(m - c + c * (c / m).ln())
        mean, count = np.array([mean]), np.array([count])
        found = PoissonKL().distance(mean, count)
        assert found >= 0
        assert found == pytest.approx(expected, rel=100 * float(np.finfo(kind).eps))
        count, mean = torch.tensor(count), torch.tensor(mean, requires_grad=True)
        PoissonKL().distance(mean, count).backward()
        slope = PoissonKL().slope(mean.detach(), count)
        torch.testing.assert_close(mean.grad, slope)


@pytest.mark.parametrize(
    ("algorithm", "iterations"),
    [(ISTA(), 20000), (PDHG(), 20000), (ADMM(cg_iterations=20), 500)],
)
@pytest.mark.parametrize(
    "weight", [0.25, np.linspace(0.2, 2, 7), np.array([1.0, 2, 0, 1, 1, 0.5, 2])]
)
def test_weighted_least_squares_by_every_algorithm(algorithm, iterations, weight, rng):
    """Without a prior, x solves ``A^T W A x = A^T W y``; of no weight is no number."""
    matrix, y = rng.standard_normal((7, 4)), rng.standard_normal(7)
    given = np.where(np.broadcast_to(weight, 7) > 0, y, np.nan)
    problem = Problem(given, Dense(matrix, (4,)), L2(weight))
    found = solve(
        problem, Nothing(), algorithm=algorithm, iterations=iterations, rtol=1e-12
    ).image
    W = np.diag(np.broadcast_to(weight, 7))
    expected = np.linalg.solve(matrix.T @ W @ matrix, matrix.T @ W @ y)
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("fidelity", "error", "message"),
    [
        (L2(np.array([1.0, -1, 1])), ValueError, "weight must contain finite"),
        (L2(np.array([1.0, np.nan, 1])), ValueError, "weight must contain finite"),
        (L2(np.array([1.0, np.inf, 1])), ValueError, "weight must contain finite"),
        (L2(np.zeros(3)), ValueError, "weight must be positive for some of the data"),
        (L2(np.ones(3) + 0j), TypeError, "weight must be real, got complex128"),
        (L2(np.ones(4)), ValueError, r"weight \(4,\) does not broadcast to data"),
        (L2(torch.ones(3)), TypeError, "weight must be an array of NumPy, or of the"),
        (PoissonKL(np.array([0.0, -1, 1])), ValueError, "background must"),
        (PoissonKL(np.ones((2, 3))), ValueError, r"background \(2, 3\) does not"),
    ],
)
def test_a_fidelity_that_does_not_go_with_the_data(fidelity, error, message):
    problem = Problem(np.ones(3), Identity(), fidelity)
    with pytest.raises(error, match=message):
        problem.only_measured()
    with pytest.raises(error, match=message):
        solve(problem, Nothing())


class Nothing:
    def value(self, x):
        return 0.0

    def prox(self, x, step):
        return x


def test_poisson_data_by_the_primal_dual_algorithm(rng):
    """The most likely image of independent counts are the counts themselves."""
    y = rng.poisson(5, (4, 5)).astype(float)
    found = solve(
        Problem(y, Identity(), PoissonKL()), Nothing(), iterations=5000, rtol=1e-10
    )
    np.testing.assert_allclose(found.image, y, atol=1e-6)


def test_a_network_takes_the_fidelity_from_the_problem(rng):
    """Half the weight, half the step."""
    series = rng.standard_normal((1, 3, 8, 8)) + 0j
    mask = rng.random(series.shape) < 0.5
    A = MRI(torch.from_numpy(mask))
    y = A(torch.from_numpy(series))
    network = Network(LS(cells=1, features=2), seed=0).double()
    whole = network(Problem(y, A))
    half = network(Problem(y, A, L2(0.5)))
    none = network(Problem(y, A, L2(1e-30)))
    torch.testing.assert_close(half, (whole + none) / 2)
    assert not torch.allclose(half, whole)


def test_a_problem_is_what_a_call_with_a_mask_is(rng):
    image = rng.random((2, 3, 16, 16), dtype=np.float32)
    mask = rng.random(image.shape) < 0.4
    network = load(WRITTEN / "tlr.safetensors")
    y, m = torch.from_numpy(image * mask), torch.from_numpy(mask)
    one = network(y, m)
    assert torch.equal(one, network(Problem(y, Sampling(m))))
    assert torch.equal(one, network(y, Sampling(m)))
    with pytest.raises(TypeError, match="a problem has its operator"):
        network(Problem(y, Sampling(m)), m)
    with pytest.raises(TypeError, match="must be the only argument after y"):
        network(y, m, Sampling(m))


def test_batches_that_do_not_go_together():
    one = Problem(np.ones(3), Identity())
    for other, message in (
        (Problem(np.ones(4), Identity()), "one shape"),
        (Problem(np.ones(3), Identity(), truth=np.ones(3)), "have their truth"),
        (Problem(np.ones(3), Identity(), L2(2.0)), "one data fidelity"),
        (Problem(np.ones(3), Sampling(np.ones(3, dtype=bool))), "cannot form a batch"),
    ):
        with pytest.raises(ValueError, match=message):
            batch([one, other])
    with pytest.raises(ValueError, match="at least one"):
        batch([])


# Files of earlier versions


@pytest.mark.parametrize(
    "path", sorted(WRITTEN.glob("*.safetensors")), ids=lambda p: p.stem
)
def test_networks_of_older_files_give_the_same_images(path):
    """Weights and images were written when networks took masks and maps alone.

    On another processor, where the last bits of each iteration are others.
    """
    outputs, network = np.load(WRITTEN / "outputs.npz"), load(path)

    def image(truth, *measurement):
        y = network.recipe.operator(*measurement)(truth)
        with torch.no_grad():
            return network(*map(torch.from_numpy, (y, *measurement))).numpy()

    if network.recipe.axes == "B C H W":
        found = image(outputs["image"], outputs["imask"])
    else:
        found = image(outputs["series"], outputs["smask"])
        both = image(outputs["series"], outputs["smask"], outputs["maps"])
        expected = outputs[f"{path.stem}, coils"]
        np.testing.assert_allclose(both, expected, atol=1e-5 * abs(expected).max())
    expected = outputs[path.stem]
    np.testing.assert_allclose(found, expected, atol=1e-5 * abs(expected).max())


# Operators of other libraries

MATRIX = np.random.default_rng(1).standard_normal((5, 6))


def wrapped(arrays="numpy"):
    return Wrapped(
        lambda x: (MATRIX.astype(x.dtype) @ x.reshape(6)).reshape(5),
        lambda y: (MATRIX.T.astype(y.dtype) @ y).reshape(2, 3),
        (2, 3),
        (5,),
        arrays=arrays,
    )


WRAPPED = {
    "functions": wrapped(),
    "sparse": from_matrix(scipy.sparse.csr_array(MATRIX), (2, 3)),
    "linear operator": from_matrix(
        scipy.sparse.linalg.aslinearoperator(MATRIX), (2, 3)
    ),
    "dense": from_matrix(MATRIX, (2, 3)),
}


@pytest.mark.parametrize("A", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_wrapped_operators_are_their_matrix(A, dtype, rng):
    x = rng.standard_normal((4, 2, 3)).astype(dtype)
    dense = Dense(MATRIX.astype(dtype), (2, 3))
    eps = np.finfo(dtype).eps
    assert A(x).dtype == dtype
    np.testing.assert_allclose(A(x), dense(x), atol=100 * eps)
    np.testing.assert_allclose(A.H(A(x)), dense.H(dense(x)), atol=1000 * eps)
    assert dot_test(A, x) < 10 * eps


@pytest.mark.parametrize("A", WRAPPED.values(), ids=WRAPPED)
def test_derivatives_of_wrapped_operators_on_every_framework(A, rng):
    x, g = rng.standard_normal((2, 3)), rng.standard_normal(5)
    expected = A.H(g)

    t = torch.tensor(x, requires_grad=True)
    (A(t) * torch.tensor(g)).sum().backward()
    np.testing.assert_allclose(t.grad, expected, atol=1e-12)
    assert torch.autograd.gradcheck(A, (t,))
    assert torch.autograd.gradgradcheck(A, (t,))

    with jax.enable_x64(True):
        found = jax.jit(jax.grad(lambda x: jnp.sum(A(x) * g)))(jnp.asarray(x))
        np.testing.assert_allclose(found, expected, atol=1e-12)
        _, tangent = jax.jvp(A, (jnp.asarray(x),), (jnp.asarray(x),))
        np.testing.assert_allclose(tangent, A(x), atol=1e-12)

    for graph in (False, True):
        function = tf.function(A) if graph else A
        v = tf.Variable(x)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(function(tf.convert_to_tensor(v)) * g)
        np.testing.assert_allclose(tape.gradient(loss, v), expected, atol=1e-12)

    _, pullback = svdinv.numpy.vjp(
        lambda x: svdinv.numpy._backend.call(A._forward, x)[0], x
    )
    np.testing.assert_allclose(pullback(g)[0], expected, atol=1e-12)


@pytest.mark.parametrize("flag", ["tight", "unitary"])
def test_flags_of_an_operator_are_tested_with_its_adjoint(flag, rng):
    A = Dense(np.linalg.qr(rng.standard_normal((6, 6)))[0], (6,))
    setattr(A, flag, True)
    assert dot_test(A, np.zeros(6)) < 1e-14
    A = Dense(MATRIX, (6,))
    assert dot_test(A, np.zeros(6)) < 1e-14
    setattr(A, flag, True)
    assert dot_test(A, np.zeros(6)) > 0.1


def test_real_images_of_complex_data_in_tensorflow():
    assert dot_test(Fourier(), tf.ones((8, 6))) < 1e-6
    assert operator_norm(Fourier(), tf.ones((8, 6))) == pytest.approx(1, rel=1e-6)


def test_a_trace_that_would_hold_a_constant_is_refused():
    A, x = WRAPPED["sparse"], torch.ones(2, 3)
    tracers = (
        lambda f: torch.jit.trace(f, (x,)),
        lambda f: torch.fx.experimental.proxy_tensor.make_fx(f)(x),
    )
    for trace in tracers:
        with (
            torch.no_grad(),  # with which it is refused for another reason
            pytest.raises(ValueError, match="cannot be part of an exported"),
            warnings.catch_warnings(action="ignore"),  # `torch.jit` is deprecated
        ):
            trace(lambda x: A(x))


def test_functions_of_the_frameworks_own_arrays():
    seen = []

    def forward(x):
        seen.append(compat.is_torch_array(x))
        return x[0]

    A = Wrapped(forward, lambda y: torch.stack([y, 0 * y]), (2, 3), (3,), arrays="own")
    x = torch.ones(4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(A, (x,))
    assert seen
    assert all(seen)


@pytest.mark.parametrize("arrays", ["numpy", "own"])
def test_half_precision_and_nothing_at_all(arrays):
    def forward(x):
        return 2.0 * x[0]

    def adjoint(y):
        return 2 * (np.stack if arrays == "numpy" else torch.stack)([y, 0 * y])

    A = Wrapped(forward, adjoint, (2, 3), (3,), arrays=arrays)
    x = torch.ones(4, 2, 3, dtype=torch.bfloat16, requires_grad=True)
    y = A(x)
    assert (y.dtype, y.shape) == (torch.bfloat16, (4, 3))
    y.sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert (x.grad == torch.tensor([[2.0] * 3, [0.0] * 3])).all()
    none = torch.ones(0, 5, 2, 3, requires_grad=True)
    assert A(none).shape == (0, 5, 3)
    A(none).sum().backward()
    assert none.grad.shape == none.shape


@pytest.mark.parametrize("arrays", ["numpy", "own"])
def test_functions_may_write_into_arrays(arrays, rng):
    """A result where it wrote the last one, or into its argument."""
    result = np.empty(3) if arrays == "numpy" else torch.empty(3, dtype=torch.float64)

    def forward(x):
        result[:] = 2 * x
        return result

    def adjoint(y):
        y *= 2
        return y

    A = Wrapped(forward, adjoint, (3,), (3,), arrays=arrays)
    x = torch.from_numpy(rng.standard_normal((2, 3)))
    torch.testing.assert_close(A(x), 2 * x, rtol=0, atol=0)
    if arrays == "numpy":
        before = x.clone()
        torch.testing.assert_close(A.adjoint(x), 2 * before, rtol=0, atol=0)
        torch.testing.assert_close(x, before, rtol=0, atol=0)
    negative = torch.complex(x, x).conj().imag  # a view whose sign is turned
    torch.testing.assert_close(A(negative), -2 * x, rtol=0, atol=0)


def test_a_function_of_own_arrays_may_be_of_another_precision():
    A = Wrapped(torch.Tensor.double, torch.Tensor.double, (3,), (3,), arrays="own")
    x = torch.ones(2, 3, requires_grad=True)
    assert A(x).dtype == torch.float32
    A(x).sum().backward()
    assert (x.grad == 1).all()
    twisted = Wrapped(lambda x: 1j * x, abs, (3,), (3,), arrays="own")
    with pytest.raises(TypeError, match="real data for real images"):
        twisted(x)


@pytest.mark.parametrize("own", ["numpy", "own"])
def test_functions_of_whole_batches(own, arrays, rng):
    """They get all of its images, and are not called for a batch of none."""
    counts = []

    def forward(x):
        counts.append(x.shape[0])
        return 2 * x[:, 0, :]

    def adjoint(y):
        xp = namespace(y)
        return 2 * xp.stack([y, 0 * y], axis=1)

    A = Wrapped(forward, adjoint, (2, 3), (3,), arrays=own, batched=True)
    for several in ((), (5,), (1,), (2, 0), (2, 9)):
        x = rng.standard_normal((*several, 2, 3)).astype(np.float32)
        counts.clear()
        y = A(arrays.array(x))
        assert set(counts) == ({math.prod(several)} if x.size else set())
        np.testing.assert_array_equal(arrays.numpy(y), 2 * x[..., 0, :])
        expected = np.stack([4 * x[..., 0, :], 0 * x[..., 1, :]], axis=-2)
        np.testing.assert_array_equal(arrays.numpy(A.H(y)), expected)
    short = Wrapped(lambda x: x[:-1], adjoint, (3,), (3,), arrays=own, batched=True)
    with pytest.raises(ValueError, match=r"must return the shape \(4, 3\), got \(3, 3"):
        short(np.ones((4, 3)))


def test_derivatives_through_functions_of_whole_batches(rng):
    def forward(x):
        return (x.reshape(len(x), 6) @ MATRIX.T.astype(x.dtype)).reshape(-1, 5)

    def adjoint(y):
        return (y @ MATRIX.astype(y.dtype)).reshape(-1, 2, 3)

    A = Wrapped(forward, adjoint, (2, 3), (5,), batched=True)
    x, g = rng.standard_normal((4, 2, 3)), rng.standard_normal((4, 5))
    expected = wrapped().H(g)
    t = torch.tensor(x, requires_grad=True)
    (A(t) * torch.tensor(g)).sum().backward()
    np.testing.assert_allclose(t.grad, expected, atol=1e-12)
    mapped = torch.func.vmap(torch.func.grad(lambda x, g: (A(x) * g).sum()))
    np.testing.assert_allclose(
        mapped(t.detach(), torch.tensor(g)), expected, atol=1e-12
    )
    with jax.enable_x64(True):
        loss = jax.grad(lambda x, g: jnp.sum(A(x) * g))
        found = jax.jit(jax.vmap(loss))(jnp.asarray(x), jnp.asarray(g))
        np.testing.assert_allclose(found, expected, atol=1e-12)
    given = tf.TensorSpec((None, 2, 3), tf.float64)

    @tf.function(input_signature=[given])
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(A(x) * g)
        return tape.gradient(loss, x)

    np.testing.assert_allclose(gradient(tf.constant(x)), expected, atol=1e-12)


@pytest.mark.parametrize("count", [1, 7, 8, 16, 17, 40])
def test_products_with_many_rows_at_once(count, rng):
    matrix = scipy.sparse.random_array((30, 20), density=0.3, rng=rng)
    x = rng.standard_normal((count, 20))

    class Operator:  # as of other libraries
        shape, dtype = matrix.shape, matrix.dtype

        def matvec(self, x):
            return matrix @ x

        def rmatvec(self, y):
            return matrix.T @ y

    kinds = (
        Operator(),
        matrix.toarray(),
        matrix.tocsr(),
        matrix.tocsc(),
        matrix.tocoo(),
        scipy.sparse.linalg.aslinearoperator(matrix.tocsr()),
    )
    for kind in kinds:
        A = from_matrix(kind, (20,))
        np.testing.assert_allclose(A(x), x @ matrix.toarray().T, atol=1e-13)
        np.testing.assert_allclose(A.H(A(x)), A(x) @ matrix.toarray(), atol=1e-12)


def test_complex_products_with_many_rows_at_once(rng):
    matrix = scipy.sparse.random_array((30, 20), density=0.3, rng=rng) * (1 + 2j)
    x = (rng.standard_normal((9, 20)) * (1 - 1j)).astype(np.complex64)
    for kind in (matrix.toarray(), matrix.tocsr()):
        A = from_matrix(kind, (20,))
        assert A(x).dtype == np.complex64
        np.testing.assert_allclose(A(x), x @ matrix.toarray().T, atol=1e-5)
        assert dot_test(A, x.astype(np.complex128)) < 1e-14


@pytest.mark.parametrize("algorithm", [ADMM(), PDHG()], ids=["ADMM", "PDHG"])
def test_operators_that_are_not_linear_are_refused_by_name(algorithm):
    problem = Problem(np.ones(3), Square())
    said = f"{type(algorithm).__name__} needs a linear operator, .* ISTA, FISTA"
    with pytest.raises(TypeError, match=said):
        solve(problem, Tikhonov(0.1), algorithm=algorithm, x0=np.ones(3))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Wrapped(3, abs, (2,), (2,)), TypeError, "forward must be a function"),
        (lambda: Wrapped(abs, abs, (), (2,)), ValueError, "at least one axis"),
        (lambda: Wrapped(abs, abs, (2,), (2,), arrays="x"), ValueError, "'numpy' or"),
        (lambda: Wrapped(abs, abs, (2,), (3,))(np.ones(2)), ValueError, "must return"),
        (lambda: wrapped()(np.ones((3, 2))), ValueError, r"must be \(..., 2, 3\)"),
        (
            lambda: Wrapped(lambda x: 1j * x, abs, (2,), (2,))(np.ones(2)),
            TypeError,
            "real data for real images",
        ),
        (lambda: from_matrix(MATRIX, (4,)), ValueError, "must have 6 elements"),
        (
            lambda: from_matrix(
                scipy.sparse.linalg.LinearOperator((5, 6), matvec=MATRIX.__matmul__),
                (2, 3),
            ),
            ValueError,
            "with rmatvec",
        ),
        (lambda: Stack([]), ValueError, "must not be empty"),
        (lambda: Stack([np.eye(3)]), TypeError, "must be Operators, got ndarray"),
        (lambda: Stack([Identity()], axis=0), ValueError, "must be negative"),
        (lambda: Problem(1, abs), TypeError, "A must be an Operator"),
        (lambda: Problem(1, Identity(), abs), TypeError, "fidelity must be"),
        (lambda: L2(-1.0), ValueError, "weight must be finite and positive"),
        (lambda: L2([1.0, 2.0]), TypeError, "weight must be a number or an array, got"),
        (lambda: PoissonKL("0.1"), TypeError, "background must be a number or an"),
        (lambda: PoissonKL(-1.0), ValueError, "background must be finite and not neg"),
        (lambda: Square().H, TypeError, "not linear"),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@dataclass(frozen=True)
class Square(Operator):
    """x -> x^2, to test the chain rule by."""

    linear = False

    def forward(self, x):
        return x**2

    def derivative(self, x):
        return Diagonal(2 * x)


class Diagonal(Operator):
    def __init__(self, d):
        self.d = d

    def forward(self, x):
        return self.d * x

    def adjoint(self, y):
        return self.d.conj() * y


COMPOUND = {
    "alone": Square(),
    "product": Dense(MATRIX, (6,)) * Square(),
    "twice": Square() * Square(),
    "behind": Square() * Diagonal(np.arange(6.0)),
    "sum": Square() + Identity(),
    "multiple": 3 * Square(),
    "stack": Stack([Square(), Dense(MATRIX, (6,)), 2 * Square()], lengths=(6, 5, 6)),
    "weighted": Dense(MATRIX, (6,)) * (Square() - Identity()),
}


@pytest.mark.parametrize("A", COMPOUND.values(), ids=COMPOUND)
def test_derivatives_of_what_is_not_linear(A, rng):
    x, dx, h = rng.standard_normal(6), rng.standard_normal(6), 1e-6
    J = A.derivative(x)
    assert J.linear
    assert not A.linear
    np.testing.assert_allclose(
        J(dx), (A(x + h * dx) - A(x - h * dx)) / (2 * h), rtol=1e-6, atol=1e-7
    )
    assert dot_test(J, x) < 1e-13
    problem = Problem(A(x) + 1, A)
    ahead, behind = problem.value(x + h * dx), problem.value(x - h * dx)
    assert np.sum(problem.gradient(x) * dx) == pytest.approx(
        (ahead - behind) / (2 * h), rel=1e-5
    )


def test_a_stack_measures_one_image_several_times(rng):
    parts = [Dense(rng.standard_normal((n, 6)), (6,)) for n in (2, 5)]
    A, x = Stack(parts), rng.standard_normal((3, 6))
    np.testing.assert_array_equal(A(x), np.concatenate([p(x) for p in parts], -1))
    np.testing.assert_allclose(Stack(parts).H(A(x)), A.H(A(x)))
    assert dot_test(A, x) < 1e-14
    again = A.replace_arrays(torch.from_numpy)
    np.testing.assert_allclose(again(torch.from_numpy(x)), A(x))
    with pytest.raises(ValueError, match="length 9 do not fit"):
        A.adjoint(np.ones(9))
    with pytest.raises(ValueError, match="does not define data_length"):
        Stack([Diagonal(np.ones(6)), parts[0]])
    told = Stack([Diagonal(np.ones(6)), parts[0]], lengths=(6, 2))
    assert dot_test(told, x) < 1e-14
    with pytest.raises(ValueError, match="have the lengths"):
        Stack([Diagonal(np.ones(6)), parts[0]], lengths=(4, 4))(x)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy, jnp.asarray])
def test_a_problem_is_described_without_its_values(convert):
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    A = Sampling(x > 5)
    problem = Problem(A(x), A, L2(x + 1), name="steps").replace_arrays(convert)
    array = f"{convert(x).dtype} (1, 3, 4)"
    assert repr(problem) == (
        f"Problem(y={array}, A=Sampling(mask (1, 3, 4)), fidelity=L2(weight={array}), "
        "truth=None, name='steps', setting='', scale=1.0, phase_known=True)"
    )
    assert repr(PoissonKL(np.float32(2))) == "PoissonKL(background=np.float32(2.0))"


class Counted(Diagonal):
    """A diagonal that counts how often it is applied."""

    def __init__(self, d):
        super().__init__(d)
        self.count = 0

    def forward(self, x):
        self.count += 1
        return super().forward(x)

    def adjoint(self, y):
        self.count += 1
        return super().adjoint(y)


def test_what_a_stack_is_composed_with_is_applied_once(rng):
    stack = Stack([Dense(rng.standard_normal((n, 6)), (6,)) for n in (2, 5, 3)])
    B, C = Counted(rng.standard_normal(6)), Square()
    x, y = rng.standard_normal((3, 6)), rng.standard_normal((3, 10))
    A = stack * B
    np.testing.assert_allclose(A(x), stack(B.d * x))
    np.testing.assert_allclose(A.H(y), B.d * stack.H(y))
    assert B.count == 2
    for part, (begin, end) in zip(A.operators, [(0, 2), (2, 7), (7, 10)], strict=True):
        np.testing.assert_allclose(part(x), A(x)[:, begin:end])
    J, B.count = (A * C).derivative(x[0]), 0
    np.testing.assert_allclose(J(x[1]), stack(B.d * 2 * x[0] * x[1]))
    assert B.count == 1
    assert isinstance(J, Stack)
    several = A.stacked([Stack(stack.operators) * B], A(x[0]))
    np.testing.assert_allclose(several(x[:2]), A(x[:2]))
    tensors = A.replace_arrays(torch.from_numpy)
    B.d = torch.from_numpy(B.d)
    np.testing.assert_allclose(tensors(torch.from_numpy(x)), stack(B.d.numpy() * x))


def test_a_stack_of_masks_of_any_size(rng):
    masks = rng.random((2, 8, 8)) < 0.5
    A = Stack([Sampling(mask) for mask in masks], axis=-2)
    for shape in ((8, 8), (3, 8, 8)):
        x = rng.standard_normal(shape)
        assert A(x).shape == (*shape[:-2], 16, 8)
        assert dot_test(A, x) < 1e-14


BATCHES = {
    "masks of all channels": lambda rng: Sampling(rng.random((4, 5)) < 0.5),
    "masks of each": lambda rng: Sampling(rng.random((3, 4, 5)) < 0.5),
    "denoising": lambda rng: Identity(),
    "k-space": lambda rng: Sampling(rng.random((4, 5)) < 0.5) * Fourier(),
    "half": lambda rng: 0.5 * Sampling(rng.random((3, 4, 5)) < 0.5),
    "static MRI": lambda rng: MRI(rng.random((4, 5)) < 0.5, maps(rng)),
    "MRI": lambda rng: MRI(rng.random((3, 4, 5)) < 0.5),
    "MRI, coils": lambda rng: MRI(rng.random((3, 4, 5)) < 0.5, maps(rng)),
    "shared mask": lambda rng: MRI(rng.random((4, 5)) < 0.5),
}


def maps(rng):
    return rng.standard_normal((2, 4, 5)) + 0j


@pytest.mark.parametrize("name", BATCHES)
def test_each_of_a_batch_is_measured_by_its_own_operator(name, rng):
    shape = (4, 5) if name == "static MRI" else (3, 4, 5)
    problems = []
    for _ in range(3):
        A, x = BATCHES[name](rng), rng.standard_normal(shape) + 0j
        problems.append(Problem(A(x), A, L2(2.0), truth=x))
    whole = batch(problems)
    np.testing.assert_allclose(whole.A(whole.truth), whole.y)
    zero = 0 * whole.truth
    for i, problem in enumerate(problems):
        np.testing.assert_allclose(whole.gradient(zero)[i], problem.gradient(zero[i]))


def test_weights_are_turned_with_the_data(rng):
    mask, weight = rng.random((2, 3, 6, 6)) < 0.5, rng.uniform(0.5, 2, (3, 6, 6))
    image, y = rng.random((2, 3, 6, 6))
    problem = Problem(y * mask[0], Sampling(mask[0]), L2(weight))
    for view, undo in Colour().views(problem):
        turned = view.gradient(0 * view.y)
        np.testing.assert_allclose(undo(turned), problem.gradient(0 * y))
    window = (slice(1, 4), slice(2, 6))
    part = Colour().part(problem, window)
    np.testing.assert_allclose(
        part.gradient(image[..., *window]), problem.gradient(image)[..., *window]
    )
    moved = problem.replace_arrays(torch.from_numpy)
    assert isinstance(moved.fidelity.weight, torch.Tensor)
